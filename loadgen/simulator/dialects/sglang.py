"""SGLang's native /generate: each event repeats the text so far, unless the server was told otherwise (`--cumulative off`).

`completion_tokens` counts up in both. The event of the last token holds the reason of its end.
"""

from typing import Any

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Refusal, Rules, Wants, flag, image, mapping, text_or_ids, whole, wrong
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import FIRST_TOKEN_ID, Event, Style, Wording, to_json, token_ids


def read(wants: dict[str, Any], _: Call, rules: Rules) -> Wants:
    """A request; it names no model."""
    given = [name for name in ("text", "input_ids") if wants.get(name) is not None]
    if len(given) != 1:
        raise wrong("text", "Either text or input_ids should be provided.")
    prompt = text_or_ids(wants[given[0]], given[0])
    images = wants.get("image_data")
    for source in images if isinstance(images, list) else [images]:
        if source is not None:
            prompt += image(source, rules)
    sampling = mapping(wants, "sampling_params")
    return Wants(
        flag(wants, "stream"),
        prompt,
        whole(sampling, "max_new_tokens"),
        least=whole(sampling, "min_new_tokens", least=0) or 0,
        ignore_eos=flag(sampling, "ignore_eos"),
    )


def refused(refusal: Refusal, status: int) -> bytes:
    return error_body(refusal.message, status)


def error_body(message: str, status: int) -> bytes:
    kind = "invalid_request_error" if status < 500 else "internal_server_error"
    return to_json({"error": {"message": message, "type": kind, "code": status, "retryable": status in (429, 503)}})


class GenerateWording(Wording):
    """No parts: the model's text as it comes."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._cumulative = style.cumulative != "off"
        self._text = self._ids = b""  # so far
        self._id = to_json(answer.response_id)

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        text = self.text(first, count)
        ids = b"%d" % (FIRST_TOKEN_ID + first) if count == 1 else to_json(token_ids(first, count))[1:-1]
        if self._cumulative:
            text = self._text = self._text + text
            ids = self._ids = self._ids + b"," + ids if self._ids else ids
        return [self._event(text, ids, first + count)]

    def closing(self) -> list[Event]:
        empty = [] if self.answer.output_tokens else [self._event(b"", b"", 0)]
        return [*empty, Event(b"[DONE]")]

    def error(self, message: str) -> list[Event]:
        return [Event(error_body(message, 500)), Event(b"[DONE]")]

    def whole(self) -> dict[str, Any]:
        count = self.answer.output_tokens
        said = {"text": self.spoken, "output_ids": token_ids(0, count)}
        return said | {"meta_info": self._meta(count)}

    def _event(self, text: bytes, ids: bytes, done: int) -> Event:
        if done >= self.answer.output_tokens:
            meta = to_json(self._meta(done))
        else:  # the common one, by hand
            meta = (
                b'{"id":%b,"finish_reason":null,"prompt_tokens":%d,"weight_version":"default","total_retractions":0,'
                b'"completion_tokens":%d,"cached_tokens":%d,"reasoning_tokens":0}'
                % (self._id, self.answer.prompt_tokens, done, self.answer.cached_tokens)
            )
        return Event(b'{"text":"%b","output_ids":[%b],"meta_info":%b}' % (text, ids, meta))

    def _meta(self, done: int) -> dict[str, Any]:
        answer = self.answer
        finish = {"type": "length", "length": answer.output_tokens} if answer.finish == "length" else _STOP
        latency_ns = answer.queue_ns + answer.prefill_ns + answer.decode_ns
        return {
            "id": answer.response_id,
            "finish_reason": finish,
            "prompt_tokens": answer.prompt_tokens,
            "weight_version": "default",
            "total_retractions": 0,
            "completion_tokens": done,
            "cached_tokens": answer.cached_tokens,
            "reasoning_tokens": 0,
            "queue_time": answer.queue_ns / 1e9,
            "e2e_latency": latency_ns / 1e9,
        }


_STOP = {"type": "stop", "matched": 2}

SGLANG = Dialect("sglang generate", read, GenerateWording, refused)
