"""OpenAI chat completions, as OpenAI, vLLM, SGLang, llama.cpp and many gateways stream it.

Output is a non-empty content, refusal, reasoning (`reasoning_content`, or `reasoning` in newer vLLM) or tool
call delta.
A role-only chunk, an empty delta and the usage chunk are no output.
"""

import re
from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask
from loadgen.dialects.openai import choice_of, frame

PATH: Final = "/chat/completions"
TEXT_MARK: Final = re.compile(rb'"content"\s*:\s*"')


def body(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": ask.system}] if ask.system else []
    for said, answered in ask.history:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    if ask.messages:
        messages += ask.messages
    elif ask.images:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in ask.images]
        messages.append({"role": "user", "content": [{"type": "text", "text": ask.prompt}, *parts]})
    else:
        messages.append({"role": "user", "content": ask.prompt})
    tools = {"tools": list(ask.tools)} if ask.tools else {}
    return {"messages": messages, **frame(ask), **tools, **ask.extra}


def text(payload: bytes) -> str:
    """What a content event said; raises as choice_of does."""
    delta = orjson.loads(payload)["choices"][0]["delta"]
    said: str = delta.get("content") or delta["refusal"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried; raises as choice_of does."""
    choice = choice_of(payload, answer)
    if choice is None:
        return NOTHING
    delta = choice.get("delta")
    if not delta:
        return NOTHING
    if delta.get("content") or delta.get("refusal"):
        return CONTENT
    if delta.get("reasoning_content") or delta.get("reasoning"):
        return REASONING
    if delta.get("tool_calls") or delta.get("function_call"):
        return TOOL
    return NOTHING
