"""What a request asks for: the JSON body of a completions request, checked, or the refusal of it.

Prompt tokens are counted by a plain rule: a string counts its words (runs of characters that are no white space), a
list of token ids its ids; of chat messages the contents count, and nothing else (no role, no template).
"""

import json
import math
import random
from dataclasses import dataclass
from typing import Any, Final

DIALECTS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the server serves. `default_output_tokens` is for a request that names no limit; `eos_share` the chance,
    token by token, that the model ends its answer there (never where `ignore_eos` is asked for)."""

    model: str = "sim"
    default_output_tokens: int = 128
    eos_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid request. `finish_reason` is "length" where the limit ends the answer, else "stop"."""

    dialect: str
    stream: bool
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    include_usage: bool
    continuous_usage: bool


class Refusal(Exception):
    """The request is answered with an error: status and OpenAI's four fields."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param


def _wrong(param: str, message: str) -> Refusal:
    return Refusal(400, message, param=param)


def read_ask(dialect: str, body: bytes, rules: Rules, draws: random.Random) -> Ask:
    """Check the body of a request to `dialect` ("chat" or "completions"); Refusal if it does not hold."""
    try:
        wants = json.loads(body)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(wants, dict):
        raise Refusal(400, "The body of the request must be a JSON object.")
    model = wants.get("model")
    if not isinstance(model, str):
        raise _wrong("model", "you must provide a model parameter")
    if model != rules.model:
        message = f"The model `{model}` does not exist; this endpoint serves `{rules.model}`."
        raise Refusal(404, message, code="model_not_found", param="model")
    prompt_tokens = _chat_tokens(wants) if dialect == "chat" else _prompt_tokens(wants)
    if wants.get("n", 1) not in (1, None):
        raise _wrong("n", "n must be 1 here.")
    stream = wants.get("stream") or False
    if not isinstance(stream, bool):
        raise _wrong("stream", "stream must be true or false.")
    options = wants.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _wrong("stream_options", "stream_options must be an object.")
    if options and not stream:
        raise _wrong("stream_options", "stream_options is only allowed when stream is true.")
    include_usage = options.get("include_usage") is True
    output_tokens, finish_reason = _output(wants, rules, draws)
    return Ask(
        dialect,
        stream,
        prompt_tokens,
        output_tokens,
        finish_reason,
        include_usage,
        include_usage and options.get("continuous_usage_stats") is True,
    )


def _chat_tokens(wants: dict[str, Any]) -> int:
    messages = wants.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "messages must be a list of at least one message.")
    count = 0
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else 0
        if isinstance(content, str):
            count += len(content.split())
        elif isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
            count += sum(len(text.split()) for text in parts if isinstance(text, str))
        elif content is not None:
            raise _wrong("messages", "a message must be an object whose content is a string or a list of parts.")
    return count


def _prompt_tokens(wants: dict[str, Any]) -> int:
    prompt = wants.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return len(prompt)
    raise _wrong("prompt", "prompt must be one string or one list of token ids.")


def _output(wants: dict[str, Any], rules: Rules, draws: random.Random) -> tuple[int, str]:
    limit = rules.default_output_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        value = wants.get(name)
        if value is not None:
            if type(value) is not int or value < 1:
                raise _wrong(name, f"{name} must be a whole number of at least 1.")
            limit = value
    if rules.eos_share == 0 or wants.get("ignore_eos") is True:
        return limit, "length"
    # Geometric: the number of the token behind which the answer ends.
    ends_at = 1 if rules.eos_share == 1 else 1 + int(math.log(1 - draws.random()) / math.log(1 - rules.eos_share))
    least = wants.get("min_tokens") or 0
    if type(least) is int:
        ends_at = max(ends_at, least)
    return (ends_at, "stop") if ends_at < limit else (limit, "length")
