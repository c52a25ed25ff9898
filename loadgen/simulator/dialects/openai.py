"""What OpenAI's routes have in common: usage, errors, messages, tools and stream options."""

from collections.abc import Hashable
from typing import Any

from loadgen.simulator.answer import Answer
from loadgen.simulator.ask import (
    Refusal,
    Rules,
    flag,
    image,
    mapping,
    objects,
    template,
    wrong,
)
from loadgen.simulator.wording import to_json

FINISH = {"length": "length", "stop": "stop", "tool": "tool_calls", "refusal": "stop"}


def usage(answer: Answer, output_tokens: int) -> dict[str, object]:
    """The usage after so many output tokens."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": answer.prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": min(answer.reasoning_tokens, output_tokens)},
    }


def refused(refusal: Refusal, status: int) -> bytes:
    """An error as OpenAI shapes it."""
    code: str | int | None = refusal.code
    return error_body(refusal.message, refusal.kind, code, refusal.param)


def error_body(message: str, kind: str, code: str | int | None = None, param: str | None = None) -> bytes:
    return to_json({"error": {"message": message, "type": kind, "param": param, "code": code}})


def stream_and_options(wants: dict[str, Any], rules: Rules) -> tuple[bool, bool, bool]:
    """(stream, include_usage, continuous usage); Refusal where they do not fit together."""
    stream = flag(wants, "stream")
    options = mapping(wants, "stream_options")
    if options and not rules.stream_options:
        raise wrong("stream_options", "Unknown field: stream_options is not supported by this model.")
    if options and not stream:
        raise wrong("stream_options", "stream_options is only allowed when stream is true.")
    include_usage = options.get("include_usage") is True
    return stream, include_usage, include_usage and options.get("continuous_usage_stats") is True


def one_choice(wants: dict[str, Any]) -> None:
    if wants.get("n", 1) not in (1, None):
        raise wrong("n", "n must be 1 here.")


def message_tokens(message: object, rules: Rules, name: str) -> list[Hashable]:
    """The tokens of one chat message: its text and its images, in order."""
    content = message.get("content") if isinstance(message, dict) else 0
    tokens = template(rules)
    if isinstance(content, str):
        tokens += content.split()
    elif isinstance(content, list):
        for part in content:
            if not isinstance(part, dict):
                raise wrong(name, "a part of a message's content must be an object.")
            kind = part.get("type")
            if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
                tokens += part["text"].split()
            elif kind in ("image_url", "input_image"):
                source = part.get("image_url")
                tokens += image(source.get("url") if isinstance(source, dict) else source, rules)
    elif content is not None:
        raise wrong(name, "a message must be an object whose content is a string or a list of parts.")
    return tokens


def messages_tokens(wants: dict[str, Any], rules: Rules) -> list[Hashable]:
    """The tokens of a whole conversation."""
    messages = wants.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "messages must be a list of at least one message.")
    return [token for message in messages for token in message_tokens(message, rules, "messages")]


def tools(wants: dict[str, Any]) -> tuple[tuple[str, ...], bool, bool]:
    """(the names that are offered, may call, must call)."""
    names: list[str] = []
    for tool in objects(wants, "tools"):
        function = tool.get("function", tool)  # Responses has the name one level up
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise wrong("tools", "a tool must be an object with a function that has a name.")
        names.append(name)
    choice = wants.get("tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, dict) else None
        if name not in names:
            raise wrong("tool_choice", f"tool_choice names {name!r}, which is not among the tools.")
        return (str(name),), True, True
    if choice in ("required", "any"):
        if not names:
            raise wrong("tool_choice", "tool_choice wants a call, and there are no tools.")
        return tuple(names), True, True
    return tuple(names), choice != "none", False
