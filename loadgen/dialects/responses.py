"""OpenAI responses: typed events, each with the whole of its type in `type`.

Output are the deltas of text, refusal, reasoning and tool arguments. The `.done` events say all of it once more and are
left out; `response.created` leaves before anything has been generated.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import calls_of, functions_of, messages_of, parts_of, system_of, text_of
from loadgen.dialects.dialect import Dialect, Varying
from loadgen.dialects.openai import MODELS

KINDS: Final = {
    "response.output_text.delta": CONTENT,
    "response.refusal.delta": CONTENT,
    "response.reasoning_text.delta": REASONING,
    "response.reasoning_summary_text.delta": REASONING,
    "response.function_call_arguments.delta": TOOL,
    "response.custom_tool_call_input.delta": TOOL,
    "response.mcp_call_arguments.delta": TOOL,
}
ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    system, messages = system_of(messages_of(ask))
    items = [item for message in messages for item in _items(message)]
    body: dict[str, Any] = {"model": ask.model, "input": items}
    if system:
        body["instructions"] = system
    if ask.tools:
        body["tools"] = [{"type": "function", **function} for function in functions_of(ask.tools)]
    body |= {"max_output_tokens": ask.output_tokens, "temperature": 0, "stream": True, "store": False}
    if ask.ignore_eos:
        body["ignore_eos"] = True
    return body


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    role = message.get("role")
    if role == "tool":
        call = message.get("tool_call_id", "")
        return [{"type": "function_call_output", "call_id": call, "output": text_of(message)}]
    said = "output_text" if role == "assistant" else "input_text"
    content = [
        {"type": said, "text": part.value}
        if part.kind == "text"
        else {"type": "input_image", "image_url": part.value, "detail": "auto"}
        for part in parts_of(message)
    ]
    items: list[dict[str, Any]] = [{"type": "message", "role": role, "content": content}] if content else []
    items += [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in calls_of(message)
    ]
    return items


def text(payload: bytes) -> str:
    """What a content event said."""
    said: str = orjson.loads(payload)["delta"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    if payload == b"[DONE]":  # neither OpenAI nor vLLM sends one
        return NOTHING
    event = orjson.loads(payload)
    kind = event.get("type")
    if kind in KINDS:
        return KINDS[kind] if event["delta"] else NOTHING
    if kind == "error" or (kind is None and event["error"]):
        answer.error_words = words_of_error(payload)
        return NOTHING
    response = event.get("response")
    if response is None:
        return NOTHING
    if answer.response_id is None:
        answer.response_id = short_text(response.get("id"))
    if kind in ENDS:
        _take_end(kind, response, answer)
    return NOTHING


def _take_end(kind: str, response: dict[str, Any], answer: Answer) -> None:
    answer.end_seen = True
    reason = (response.get("incomplete_details") or {}).get("reason")
    answer.finish_reason = short_text("length" if reason == "max_output_tokens" else reason or response.get("status"))
    usage = response.get("usage") or {}
    answer.prompt_tokens = count(usage.get("input_tokens"))
    answer.output_tokens = count(usage.get("output_tokens"))
    answer.cached_tokens = count((usage.get("input_tokens_details") or {}).get("cached_tokens"))
    answer.reasoning_tokens = count((usage.get("output_tokens_details") or {}).get("reasoning_tokens"))
    if kind == "response.failed":
        answer.error_words = words_of_error(orjson.dumps({"error": response.get("error") or "the response failed"}))


DIALECT: Final = Dialect(
    name="responses",
    route="/responses",
    root="/v1",
    write=write,
    read=read,
    text=text,
    texts=("delta",),
    varying=Varying(strings=("obfuscation",), numbers=("sequence_number",)),
    takes=frozenset({"ignore_eos", "images", "tools", "messages"}),
    max_tokens_field="max_output_tokens",
    listing=MODELS,
)
