"""An Ask as one conversation, in the terms of OpenAI's chat API, from which the other dialects translate."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from loadgen.dialects.answer import Ask
from loadgen.errors import UsageError


def messages_of(ask: Ask) -> list[dict[str, Any]]:
    """The conversation as OpenAI's chat API takes it."""
    if ask.messages:
        return list(ask.messages)
    messages: list[dict[str, Any]] = [{"role": "system", "content": ask.system}] if ask.system else []
    for turn, (said, answered) in enumerate(ask.history):
        messages.append({"role": "user", "content": _with_images(said, ask.shown if not turn else ())})
        messages.append({"role": "assistant", "content": answered})
    return [*messages, {"role": "user", "content": _with_images(ask.prompt, ask.images)}]


def _with_images(text: str, images: tuple[str, ...]) -> Any:
    if not images:
        return text
    return [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in images)]


class Part(NamedTuple):
    """A piece of a message: a text, or the URL of an image."""

    kind: str
    value: str


def parts_of(message: dict[str, Any]) -> list[Part]:
    """What a message says, piece by piece. UsageError if it holds anything but texts and images."""
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [Part("text", content)]
    return list(_parts(content))


def _parts(content: Any) -> Iterator[Part]:
    if not isinstance(content, list):
        raise UsageError("--api: the content of a message is neither a text nor a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            yield Part("text", part["text"])
        elif kind == "image_url":
            url = part.get("image_url")
            yield Part("image", str(url.get("url") if isinstance(url, dict) else url))
        else:
            raise UsageError(
                f"--api: a message holds {kind!r}, which this API cannot take; allowed are text and image_url"
            )


def text_of(message: dict[str, Any]) -> str:
    """The texts of a message. UsageError if it holds an image."""
    parts = parts_of(message)
    if any(part.kind == "image" for part in parts):
        raise UsageError("--api: a message holds an image, and this API takes text alone; give another --api")
    return "".join(part.value for part in parts)


def system_of(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """(the system prompt, all other messages), for APIs that keep the two apart."""
    is_system = [message.get("role") in ("system", "developer") for message in messages]
    system = "\n\n".join(text_of(message) for message, yes in zip(messages, is_system, strict=True) if yes)
    return system, [message for message, yes in zip(messages, is_system, strict=True) if not yes]


def plain_text(ask: Ask) -> str:
    """The conversation as one text to go on from: a paragraph for the system, and one for each turn with its answer."""
    paragraphs: list[str] = []
    answered = True
    for message in messages_of(ask):
        is_answer = message.get("role") == "assistant"
        if is_answer and paragraphs and not answered:
            paragraphs[-1] += text_of(message)
        else:
            paragraphs.append(text_of(message))
        answered = is_answer or message.get("role") in ("system", "developer")
    return "\n\n".join(paragraphs)


class Call(NamedTuple):
    """A tool call that stands in a conversation."""

    id: str
    name: str
    arguments: str
    """JSON."""

    @property
    def values(self) -> Any:
        """The arguments, read; an empty object where they are no JSON."""
        try:
            return orjson.loads(self.arguments or "{}")
        except ValueError:
            return {}


def calls_of(message: dict[str, Any]) -> list[Call]:
    """The tool calls of an assistant's message."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        calls.append(Call(str(call.get("id", "")), str(function["name"]), str(function.get("arguments") or "{}")))
    return calls


def functions_of(tools: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The functions of OpenAI-style tools: name, description, parameters."""
    return [tool.get("function", tool) for tool in tools]


def data_of(url: str) -> tuple[str, str] | None:
    """(media type, base64) of a data: URL; None for any other URL."""
    if not url.startswith("data:"):
        return None
    head, _, data = url[5:].partition(",")
    return head.partition(";")[0] or "image/png", data
