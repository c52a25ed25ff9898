"""llama.cpp's native /completion: what was predicted so far in every event, `stop` and the timings in the last one."""

from typing import Any

from loadgen.simulator.answer import Part
from loadgen.simulator.ask import Call, Refusal, Rules, Wants, flag, text_or_ids, whole
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Wording, to_json, token_ids

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    503: "unavailable_error",
}


def read(wants: dict[str, Any], _: Call, __: Rules) -> Wants:
    """A request; it names no model."""
    limit = whole(wants, "n_predict", least=-1)
    return Wants(
        flag(wants, "stream"),
        text_or_ids(wants.get("prompt"), "prompt"),
        limit if limit is not None and limit > 0 else None,
        ignore_eos=flag(wants, "ignore_eos"),
        cacheable=flag(wants, "cache_prompt", default=True),
        own={"tokens": flag(wants, "return_tokens"), "timings": flag(wants, "timings_per_token")},
    )


def refused(refusal: Refusal, status: int) -> bytes:
    return error_body(refusal.message, status)


def error_body(message: str, status: int) -> bytes:
    return to_json({"error": {"code": status, "message": message, "type": _KINDS.get(status, "server_error")}})


class LlamaWording(Wording):
    """No end sign but the last event's `stop`."""

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        answer, own = self.answer, self.answer.own
        ids = to_json(token_ids(first, count)) if own["tokens"] else b"[]"
        timings = b',"timings":' + to_json(self._timings(first + count)) if own["timings"] else b""
        return [
            Event(
                b'{"index":0,"content":"%b","tokens":%b,"stop":false,"id_slot":-1,"tokens_predicted":%d,'
                b'"tokens_evaluated":%d%b}'
                % (self.text(first, count), ids, first + count, answer.prompt_tokens, timings)
            )
        ]

    def closing(self) -> list[Event]:
        return [Event(to_json(self._last("", [])))]

    def error(self, message: str) -> list[Event]:
        return [Event(error_body(message, 500))]

    def whole(self) -> dict[str, Any]:
        count = self.answer.output_tokens
        return self._last(self.spoken, token_ids(0, count) if self.answer.own["tokens"] else [])

    def _last(self, text: str, ids: list[int]) -> dict[str, Any]:
        answer = self.answer
        return {
            "index": 0,
            "content": text,
            "tokens": ids,
            "id_slot": 0,
            "stop": True,
            "model": self.style.model,
            "tokens_predicted": answer.output_tokens,
            "tokens_evaluated": answer.prompt_tokens,
            "has_new_line": False,
            "truncated": False,
            "stop_type": "limit" if answer.finish == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": answer.prompt_tokens + answer.output_tokens,
            "timings": self._timings(answer.output_tokens),
        }

    def _timings(self, predicted: int) -> dict[str, Any]:
        answer = self.answer
        prompt_n = answer.prompt_tokens - answer.cached_tokens
        prompt_ms, predicted_ms = answer.prefill_ns / 1e6, answer.decode_ns / 1e6
        return {
            "cache_n": answer.cached_tokens,
            "prompt_n": prompt_n,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / prompt_n if prompt_n else 0.0,
            "prompt_per_second": prompt_n / prompt_ms * 1e3 if prompt_ms else 0.0,
            "predicted_n": predicted,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": predicted_ms / predicted if predicted else 0.0,
            "predicted_per_second": predicted / predicted_ms * 1e3 if predicted_ms else 0.0,
        }


LLAMACPP = Dialect("llama.cpp completion", read, LlamaWording, refused)
