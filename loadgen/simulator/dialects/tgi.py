"""Hugging Face TGI's own routes: one token an event, no space behind `data:`, the end of the body as the only end.

The event of the last token repeats the whole text, and has details where the request asked for them.
"""

from typing import Any

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Refusal, Rules, Wants, flag, mapping, whole, wrong
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import FIRST_TOKEN_ID, TIGHT_SSE, Event, Style, Wording, to_json, token_ids

_FINISH = {"length": "length", "stop": "eos_token"}
_ERRORS = {429: "overloaded", 422: "validation", 424: "generation"}


def read_as(wants: dict[str, Any], *, stream: bool) -> Wants:
    inputs = wants.get("inputs")
    if not isinstance(inputs, str):
        raise wrong("inputs", "Input validation error: `inputs` must be a string")
    if not inputs:
        raise wrong("inputs", "Input validation error: `inputs` cannot be empty")
    parameters = mapping(wants, "parameters")
    return Wants(
        stream,
        list(inputs.split()),
        whole(parameters, "max_new_tokens"),
        own={"details": flag(parameters, "details"), "stream": stream},
    )


def read_stream(wants: dict[str, Any], _: Call, __: Rules) -> Wants:
    """POST /generate_stream."""
    return read_as(wants, stream=True)


def read_whole(wants: dict[str, Any], _: Call, __: Rules) -> Wants:
    """POST /generate."""
    return read_as(wants, stream=False)


def read_either(wants: dict[str, Any], _: Call, __: Rules) -> Wants:
    """POST /, which streams where the body says so."""
    return read_as(wants, stream=flag(wants, "stream"))


def refused(refusal: Refusal, status: int) -> bytes:
    return to_json({"error": refusal.message, "error_type": _ERRORS.get(status, "unknown")})


class TgiWording(Wording):
    """An event a token; nothing before the first and nothing behind the last."""

    form = TIGHT_SSE
    one_token_an_event = True

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._last = answer.output_tokens - 1

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        return [self._event(index) for index in range(first, first + count)]

    def closing(self) -> list[Event]:
        return []

    def error(self, message: str) -> list[Event]:
        return [Event(to_json({"error": message, "error_type": "generation"}))]

    def whole(self) -> dict[str, Any]:
        said: dict[str, Any] = {"generated_text": self.spoken}
        return said | {"details": self._details()} if self.answer.own["details"] else said

    def _event(self, index: int) -> Event:
        tail = b',"generated_text":null,"details":null}'
        if index == self._last:
            details = self._details() if self.answer.own["details"] else None
            tail = b',"generated_text":%b,"details":%b}' % (to_json(self.spoken), to_json(details))
        token = b'"token":{"id":%d,"text":"%b","logprob":-0.5,"special":false}' % (
            FIRST_TOKEN_ID + index,
            self.table[index],
        )
        return Event(b'{"index":%d,' % (index + 1) + token + tail)

    def _details(self) -> dict[str, Any]:
        count = self.answer.output_tokens
        tokens = [
            {"id": token, "text": word.decode(), "logprob": -0.5, "special": False}
            for token, word in zip(token_ids(0, count), self.table[:count], strict=True)
        ]
        told = {
            "finish_reason": _FINISH[self.answer.finish],
            "generated_tokens": count,
            "seed": None,
            "input_length": self.answer.prompt_tokens,
        }
        return told | ({} if self.answer.own["stream"] else {"prefill": [], "tokens": tokens})


def _dialect(name: str, read: Any) -> Dialect:
    return Dialect(name, read, TgiWording, refused, statuses={400: 422, "busy": 429})


TGI_STREAM = _dialect("tgi generate_stream", read_stream)
TGI_WHOLE = _dialect("tgi generate", read_whole)
TGI_EITHER = _dialect("tgi", read_either)
