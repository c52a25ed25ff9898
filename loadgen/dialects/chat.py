"""OpenAI chat completions, as OpenAI, vLLM, SGLang, llama.cpp and many gateways stream it.

Output is a non-empty content, refusal, reasoning (`reasoning_content`, or `reasoning` in newer vLLM) or tool
call delta.
A role-only chunk, an empty delta and the usage chunk are no output.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask
from loadgen.dialects.conversation import messages_of
from loadgen.dialects.dialect import Dialect
from loadgen.dialects.openai import MODELS, VARYING, choice_of, frame


def write(ask: Ask, *, names_model: bool = True) -> dict[str, Any]:
    """The request's JSON."""
    tools = {"tools": list(ask.tools)} if ask.tools else {}
    return {"messages": messages_of(ask), **tools, **frame(ask, names_model=names_model)}


def text(payload: bytes) -> str:
    """What a content event said; raises as choice_of does."""
    delta = orjson.loads(payload)["choices"][0]["delta"]
    said = delta.get("content") or delta["refusal"]
    if isinstance(said, list):
        return "".join(part["text"] for part in said if part["type"] == "text")
    return str(said)


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried; raises as choice_of does."""
    choice = choice_of(payload, answer)
    if choice is None:
        return NOTHING
    delta = choice.get("delta")
    if not delta:
        return NOTHING
    content = delta.get("content")
    if content and isinstance(content, list):  # Databricks, where a model reasons
        return _kind_of_parts(content)
    if content or delta.get("refusal"):
        return CONTENT
    if delta.get("reasoning_content") or delta.get("reasoning"):
        return REASONING
    if delta.get("tool_calls") or delta.get("function_call"):
        return TOOL
    return NOTHING


def _kind_of_parts(parts: list[dict[str, Any]]) -> int:
    if any(part["type"] == "text" and part.get("text") for part in parts):
        return CONTENT
    summaries = [summary for part in parts if part["type"] == "reasoning" for summary in part.get("summary") or ()]
    return REASONING if any(summary.get("text") for summary in summaries) else NOTHING


DIALECT: Final = Dialect(
    name="chat",
    route="/chat/completions",
    root="/v1",
    home=r"^api\.openai\.com(/v1)?$",
    write=write,
    read=read,
    text=text,
    texts=("content", "reasoning_content", "reasoning"),
    varying=VARYING,
    takes=frozenset({"ignore_eos", "images", "tools", "messages", "usage", "return_token_ids"}),
    listing=MODELS,
)
