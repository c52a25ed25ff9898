"""Triton's generate extension as TensorRT-LLM's models speak it: text_input, text_output, and nothing that counts.

An event holds the new text, or with `--cumulative on` (TensorRT-LLM's accumulate_tokens) all of the text so far. The
last event may be empty; the end of the body is the only end.
"""

from typing import Any

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Refusal, Rules, Wants, check_model, flag, text_or_ids, whole
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Style, Wording, to_json


def read_stream(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST .../generate_stream: with `stream` false the whole text is one event."""
    return _read(wants, call, rules, stream=True, one_event=not flag(wants, "stream"))


def read_whole(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST .../generate."""
    return _read(wants, call, rules, stream=False, one_event=False)


def _read(wants: dict[str, Any], call: Call, rules: Rules, *, stream: bool, one_event: bool) -> Wants:
    check_model(call.names.get("model"), rules)
    return Wants(
        stream,
        text_or_ids(wants.get("text_input"), "text_input"),
        whole(wants, "max_tokens"),
        least=whole(wants, "min_length", least=0) or 0,
        own={"one_event": one_event, "id": wants.get("id")},
    )


def refused(refusal: Refusal, _: int) -> bytes:
    return to_json({"error": refusal.message})


class TritonWording(Wording):
    """Text, and what Triton says of every response."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._cumulative = style.cumulative == "on"
        self._one_event: bool = answer.own["one_event"]
        self._text = b""
        named = b'"id":%b,' % to_json(answer.own["id"]) if answer.own["id"] is not None else b""
        self._head = (
            b'{%b"model_name":%b,"model_version":"1","sequence_end":false,"sequence_id":0,"sequence_start":false,'
            b'"text_output":"' % (named, to_json(style.model))
        )
        self.steady = not self._one_event

    def fixed(self) -> tuple[bytes, bytes] | None:
        return None if self._cumulative or self._one_event else (self._head, b'"}')

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        text = self.text(first, count)
        if self._cumulative or self._one_event:
            text = self._text = self._text + text
        if self._one_event and first + count < self.answer.output_tokens:
            return []
        return [Event(self._head + text + b'"}')]

    def closing(self) -> list[Event]:
        return [] if self._one_event else [Event(self._head + (self._text if self._cumulative else b"") + b'"}')]

    def error(self, message: str) -> list[Event]:
        return [Event(to_json({"error": message}))]

    def whole(self) -> dict[str, Any]:
        said = {"id": self.answer.own["id"]} if self.answer.own["id"] is not None else {}
        return said | {"model_name": self.style.model, "model_version": "1", "text_output": self.spoken}


TRITON_STREAM = Dialect("triton generate_stream", read_stream, TritonWording, refused)
TRITON_WHOLE = Dialect("triton generate", read_whole, TritonWording, refused)
