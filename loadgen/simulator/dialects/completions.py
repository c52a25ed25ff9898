"""OpenAI completions: a plain prompt and its continuation."""

from typing import Any

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Rules, Wants, check_model, flag, text_or_ids, whole
from loadgen.simulator.dialects import openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Style, Wording, to_json, token_ids


def read(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """A request; the model may be named by the path."""
    check_model(call.names.get("model", wants.get("model")), rules)
    prompt = text_or_ids(wants.get("prompt"), "prompt")
    openai.one_choice(wants)
    stream, include_usage, continuous_usage = openai.stream_and_options(wants, rules)
    return Wants(
        stream,
        prompt,
        whole(wants, "max_tokens"),
        least=whole(wants, "min_tokens", least=0) or 0,
        ignore_eos=flag(wants, "ignore_eos"),
        salt=str(wants.get("cache_salt") or ""),
        own={
            "include_usage": include_usage,
            "continuous_usage": continuous_usage,
            "token_ids": flag(wants, "return_token_ids"),
        },
    )


class CompletionsWording(Wording):
    """No role, and reasoning has no place of its own."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._head = b'{"id":"%b","object":"text_completion","created":%d,"model":%b,"choices":[' % (
            answer.response_id.encode(),
            style.created_s,
            to_json(style.model),
        )
        self._continuous: bool = answer.own["continuous_usage"]
        self._ids: bool = answer.own["token_ids"]

    def fixed(self) -> tuple[bytes, bytes] | None:
        if self._continuous or self._ids:
            return None
        return self._head + b'{"index":0,"text":"', b'","logprobs":null,"finish_reason":null}]}'

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        ids = b',"token_ids":' + to_json(token_ids(first, count)) if self._ids else b""
        choice = b'{"index":0,"text":"' + self.text(first, count) + b'","logprobs":null,"finish_reason":null%b}' % ids
        return [self._event(choice, first + count)]

    def closing(self) -> list[Event]:
        answer = self.answer
        reason = openai.FINISH[answer.finish].encode()
        events = [
            self._event(b'{"index":0,"text":"","logprobs":null,"finish_reason":"%b"}' % reason, answer.output_tokens)
        ]
        if answer.own["include_usage"]:
            told = to_json(openai.usage(answer, answer.output_tokens))
            events.append(Event(self._head + b'],"usage":' + told + b"}"))
        return [*events, Event(b"[DONE]")]

    def error(self, message: str) -> list[Event]:
        return [Event(openai.error_body(message, "internal_server_error", 500)), Event(b"[DONE]")]

    def whole(self) -> dict[str, Any]:
        answer, style = self.answer, self.style
        choice: dict[str, object] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": openai.FINISH[answer.finish],
            "text": self.spoken,
        }
        if self._ids:
            choice["token_ids"] = token_ids(0, answer.output_tokens)
        return {
            "id": answer.response_id,
            "object": "text_completion",
            "created": style.created_s,
            "model": style.model,
            "choices": [choice],
            "usage": openai.usage(answer, answer.output_tokens),
        }

    def _event(self, choice: bytes, output_tokens: int) -> Event:
        told = b',"usage":' + to_json(openai.usage(self.answer, output_tokens)) if self._continuous else b""
        return Event(self._head + choice + b"]" + told + b"}")


COMPLETIONS = Dialect("completions", read, CompletionsWording, openai.refused, id_prefix="cmpl-")
