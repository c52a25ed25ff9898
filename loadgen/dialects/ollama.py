"""Ollama's chat and generate: a JSON document a line, the last one with `done` and the counts.

The key `done` is what all but errors have; durations are ns, and for the server's own report. Images go as base64 alone.
"""

from dataclasses import replace
from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import calls_of, data_of, messages_of, parts_of, plain_text
from loadgen.dialects.dialect import Dialect, Listing, Varying
from loadgen.errors import UsageError


def write(ask: Ask) -> dict[str, Any]:
    """A chat request's JSON."""
    body: dict[str, Any] = {"messages": [_message(message) for message in messages_of(ask)]}
    if ask.tools:
        body["tools"] = list(ask.tools)
    return body | _frame(ask)


def write_prompt(ask: Ask) -> dict[str, Any]:
    """A generate request's JSON."""
    body: dict[str, Any] = {"prompt": plain_text(replace(ask, images=(), shown=()))}
    if images := (*ask.shown, *ask.images):
        body["images"] = [_base64(url) for url in images]
    return body | _frame(ask)


def _frame(ask: Ask) -> dict[str, Any]:
    return {"model": ask.model, "stream": True, "options": {"num_predict": ask.output_tokens, "temperature": 0}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    parts = parts_of(message)
    made: dict[str, Any] = {"role": message.get("role"), "content": "".join(p.value for p in parts if p.kind == "text")}
    if images := [_base64(part.value) for part in parts if part.kind == "image"]:
        made["images"] = images
    if calls := calls_of(message):
        made["tool_calls"] = [{"function": {"name": call.name, "arguments": call.values}} for call in calls]
    return made


def _base64(url: str) -> str:
    if (data := data_of(url)) is None:
        raise UsageError("--image: the ollama API takes images themselves, no URLs; give a file or a size")
    return data[1]


def text(payload: bytes) -> str:
    """What a content event of a chat said."""
    said: str = orjson.loads(payload)["message"]["content"]
    return said


def text_of_prompt(payload: bytes) -> str:
    """What a content event of a generate request said."""
    said: str = orjson.loads(payload)["response"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one line of a chat carried."""
    line = _line(payload, answer)
    if line is None:
        return NOTHING
    message = line["message"]
    if message.get("content"):
        return CONTENT
    if message.get("thinking"):
        return REASONING
    return TOOL if message.get("tool_calls") else NOTHING


def read_prompt(payload: bytes, answer: Answer) -> int:
    """What one line of a generate request carried."""
    line = _line(payload, answer)
    if line is None:
        return NOTHING
    if line.get("response"):
        return CONTENT
    return REASONING if line.get("thinking") else NOTHING


def _line(payload: bytes, answer: Answer) -> dict[str, Any] | None:
    line: dict[str, Any] = orjson.loads(payload)
    if line.get("error"):
        answer.error_words = words_of_error(payload)
        return None
    if line["done"]:
        answer.end_seen = True
        answer.finish_reason = short_text(line.get("done_reason"))
        answer.prompt_tokens = count(line.get("prompt_eval_count"))
        answer.output_tokens = count(line.get("eval_count"))
    return line


def _names(listed: Any) -> list[str]:
    return [str(row["name"]) for row in listed["models"]]


CHAT: Final = Dialect(
    name="ollama",
    route="/api/chat",
    framing="ndjson",
    write=write,
    read=read,
    text=text,
    texts=("content", "thinking"),
    varying=Varying(strings=("created_at",)),
    key_variables=("OLLAMA_API_KEY",),
    takes=frozenset({"images", "tools", "messages"}),
    max_tokens_field="options.num_predict",
    listing=Listing("/api/tags", _names),
)

GENERATE: Final = replace(
    CHAT,
    name="ollama-generate",
    route="/api/generate",
    write=write_prompt,
    read=read_prompt,
    text=text_of_prompt,
    texts=("response", "thinking"),
    takes=frozenset({"images", "messages"}),
)
