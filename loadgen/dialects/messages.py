"""Anthropic messages, as Anthropic, vLLM and gateways stream it.

Output are non-empty deltas of text, thinking and tool input; signatures, pings and block borders are none. Usage comes in
two parts, the prompt's at the start and the output's (the total so far) near the end; what comes later wins.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import calls_of, data_of, functions_of, messages_of, parts_of, system_of
from loadgen.dialects.dialect import Dialect, Listing, names_of_data

# type of a delta: (the kind of output, the key that it stands under)
DELTAS: Final = {
    "text_delta": (CONTENT, "text"),
    "thinking_delta": (REASONING, "thinking"),
    "input_json_delta": (TOOL, "partial_json"),
}


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    system, messages = system_of(messages_of(ask))
    body: dict[str, Any] = {"model": ask.model, "messages": [_message(message) for message in messages]}
    if system:
        body["system"] = system
    if ask.tools:
        body["tools"] = [_tool(function) for function in functions_of(ask.tools)]
    return body | {"max_tokens": ask.output_tokens, "stream": True}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("role") == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id", ""), "content": _blocks(message)}
        return {"role": "user", "content": [result]}
    blocks = _blocks(message)
    for call in calls_of(message):
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.values})
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return {"role": message.get("role"), "content": blocks[0]["text"]}
    return {"role": message.get("role"), "content": blocks}


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in parts_of(message):
        if part.kind == "text":
            blocks.append({"type": "text", "text": part.value})
        elif (data := data_of(part.value)) is not None:
            source = {"type": "base64", "media_type": data[0], "data": data[1]}
            blocks.append({"type": "image", "source": source})
        else:
            blocks.append({"type": "image", "source": {"type": "url", "url": part.value}})
    return blocks


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    tool = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    return tool | ({"description": function["description"]} if function.get("description") else {})


def text(payload: bytes) -> str:
    """What a content event said."""
    said: str = orjson.loads(payload)["delta"]["text"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    event = orjson.loads(payload)
    kind = event["type"]
    if kind == "content_block_delta":
        delta = event["delta"]
        carried, key = DELTAS.get(delta["type"], (NOTHING, ""))
        return carried if delta.get(key) else NOTHING
    if kind == "message_start":
        message = event["message"]
        answer.response_id = short_text(message.get("id"))
        _take_usage(message.get("usage") or {}, answer)
        answer.output_tokens = None  # 1, or 0: nothing has been generated yet
    elif kind == "message_delta":
        if reason := (event.get("delta") or {}).get("stop_reason"):
            answer.finish_reason = short_text(reason)
        _take_usage(event.get("usage") or {}, answer)
    elif kind == "message_stop":
        answer.end_seen = True
    elif kind == "error":
        answer.error_words = words_of_error(payload)
    return NOTHING


def _take_usage(usage: dict[str, Any], answer: Answer) -> None:
    parts = [
        count(usage.get(key)) for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    ]
    if parts[0] is not None:
        answer.prompt_tokens = count(sum(part for part in parts if part is not None))
    if parts[1] is not None:
        answer.cached_tokens = parts[1]
    if (output_tokens := count(usage.get("output_tokens"))) is not None:
        answer.output_tokens = output_tokens


DIALECT: Final = Dialect(
    name="messages",
    route="/v1/messages",
    home=r"^api\.anthropic\.com(/v1)?$",
    whole="/messages$",
    write=write,
    read=read,
    text=text,
    texts=("text", "thinking"),
    auth=("x-api-key", "{key}"),
    headers=(("anthropic-version", "2023-06-01"),),
    key_variables=("ANTHROPIC_API_KEY",),
    takes=frozenset({"images", "tools", "messages"}),
    listing=Listing("/v1/models", names_of_data),
)
