"""OpenAI chat completions, with vLLM's extensions; Azure's and Databricks' differences are turned on by `own`.

own: include_usage, continuous_usage, token_ids; "azure" (a first event with the filter's results, and results in every
choice); "databricks" (usage in every event, null until the last one; reasoning as a list in `content`).
"""

from collections.abc import Mapping
from typing import Any

from loadgen.simulator.answer import CONTENT, REASONING, REFUSAL, Answer, Part
from loadgen.simulator.ask import Call, Rules, Wants, check_model, flag, whole
from loadgen.simulator.dialects import openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Style, Wording, to_json, token_ids

FILTER_RESULTS = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


def read_as(wants: dict[str, Any], call: Call, rules: Rules, more: Mapping[str, Any]) -> Wants:
    """A request; the model may be named by the path. `more` goes into `own`."""
    check_model(call.names.get("model", wants.get("model")), rules)
    prompt = openai.messages_tokens(wants, rules)
    openai.one_choice(wants)
    stream, include_usage, continuous_usage = openai.stream_and_options(wants, rules)
    names, may_call, must_call = openai.tools(wants)
    limit = whole(wants, "max_tokens")
    newer_limit = whole(wants, "max_completion_tokens")
    answers_a_call = wants["messages"][-1].get("role") in ("tool", "function")
    return Wants(
        stream,
        prompt,
        newer_limit if newer_limit is not None else limit,
        least=whole(wants, "min_tokens", least=0) or 0,
        ignore_eos=flag(wants, "ignore_eos"),
        reasoning="shown" if flag(wants, "include_reasoning", default=True) else "hidden",
        tools=names,
        may_call=may_call and not answers_a_call,
        must_call=must_call,
        may_refuse=True,
        salt=str(wants.get("cache_salt") or ""),
        own={
            "include_usage": include_usage,
            "continuous_usage": continuous_usage,
            "token_ids": flag(wants, "return_token_ids"),
            **more,
        },
    )


def read(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    return read_as(wants, call, rules, {})


class ChatWording(Wording):
    """A role, the deltas, a finish event, usage where it was asked for, [DONE]."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._head = b'{"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            answer.response_id.encode(),
            style.created_s,
            to_json(style.model),
        )
        self._azure: bool = answer.own.get("azure", False)
        self._databricks: bool = answer.own.get("databricks", False)
        self._continuous: bool = answer.own["continuous_usage"] and not self._databricks
        self._ids: bool = answer.own["token_ids"]
        self._choice_tail = b',"logprobs":null,"finish_reason":null'
        if self._azure:
            self._choice_tail = b',"content_filter_results":' + to_json(FILTER_RESULTS) + self._choice_tail
        self._unfinished_usage = b""
        if self._databricks:
            empty = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": None, "total_tokens": None}
            self._unfinished_usage = b',"usage":' + to_json(empty)

    def early(self) -> list[Event]:
        events = []
        if self._azure:
            results = [{"prompt_index": 0, "content_filter_results": FILTER_RESULTS}]
            events.append(
                Event(
                    b'{"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":'
                    + to_json(results)
                    + b"}"
                )
            )
        return [*events, self._role()] if self.style.role_event == "early" else events

    def late(self) -> list[Event]:
        return [self._role()] if self.style.role_event == "first" else []

    def fixed(self) -> tuple[bytes, bytes] | None:
        if self._continuous or self._ids:
            return None
        return (
            self._head + b'{"index":0,"delta":{"content":"',
            b'"}' + self._choice_tail + b"}]" + self._unfinished_usage + b"}",
        )

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        text = self.text(first, count)
        match part.kind:
            case "reasoning" if self._databricks:
                delta = b'"content":[{"type":"reasoning","summary":[{"type":"summary_text","text":"' + text + b'"}]}]'
            case "reasoning":
                delta = b'"%b":"%b"' % (self.style.reasoning_field.encode(), text)
            case "tool":
                delta = b'"tool_calls":[{"index":0,%b"function":{%b"arguments":"%b"}}]' % (
                    *self._named(part, first),
                    self.arguments(part, first, count),
                )
            case "refusal":
                delta = b'"refusal":"' + text + b'"'
            case _:
                delta = b'"content":"' + text + b'"'
        tail = self._choice_tail
        if self._ids:
            tail += b',"token_ids":' + to_json(token_ids(first, count))
        return [self._event(b'{"index":0,"delta":{' + delta + b"}" + tail + b"}", first + count)]

    def closing(self) -> list[Event]:
        answer = self.answer
        choice = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}' % openai.FINISH[answer.finish].encode()
        if not (self._databricks or answer.own["include_usage"]):
            return [self._event(choice, answer.output_tokens), Event(b"[DONE]")]
        told = b'],"usage":' + to_json(openai.usage(answer, answer.output_tokens)) + b"}"
        if self._databricks:
            return [Event(self._head + choice + told), Event(b"[DONE]")]
        return [self._event(choice, answer.output_tokens), Event(self._head + told), Event(b"[DONE]")]

    def error(self, message: str) -> list[Event]:
        return [Event(openai.error_body(message, "internal_server_error", 500)), Event(b"[DONE]")]

    def whole(self) -> dict[str, Any]:
        answer, style = self.answer, self.style
        thought, said = self.said(REASONING), self.said(CONTENT)
        message: dict[str, object] = {"role": "assistant", "content": said}
        if thought and self._databricks:
            summary = [{"type": "summary_text", "text": thought}]
            message["content"] = [{"type": "reasoning", "summary": summary}, {"type": "text", "text": said}]
        elif thought:
            message[style.reasoning_field] = thought
        if self.calls:
            function = {"name": answer.tool, "arguments": to_json(self.call_arguments()).decode()}
            message["content"] = None
            message["tool_calls"] = [{"id": f"call_{self.number}", "type": "function", "function": function}]
        if refused := self.said(REFUSAL):
            message |= {"content": None, "refusal": refused}
        choice: dict[str, object] = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": openai.FINISH[answer.finish],
        }
        if self._azure:
            choice["content_filter_results"] = FILTER_RESULTS
        if self._ids:
            choice["token_ids"] = token_ids(0, answer.output_tokens)
        return {
            "id": answer.response_id,
            "object": "chat.completion",
            "created": style.created_s,
            "model": style.model,
            "choices": [choice],
            "usage": openai.usage(answer, answer.output_tokens),
        }

    def _named(self, part: Part, first: int) -> tuple[bytes, bytes]:
        """Id and name, which the first fragment of a call carries."""
        if first != part.first:
            return b"", b""
        return (
            b'"id":"call_%b","type":"function",' % self.number.encode(),
            b'"name":' + to_json(self.answer.tool) + b",",
        )

    def _role(self) -> Event:
        return self._event(
            b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}', 0
        )

    def _event(self, choice: bytes, output_tokens: int) -> Event:
        told = self._unfinished_usage
        if self._continuous:
            told = b',"usage":' + to_json(openai.usage(self.answer, output_tokens))
        return Event(self._head + choice + b"]" + told + b"}")


CHAT = Dialect("chat", read, ChatWording, openai.refused, id_prefix="chatcmpl-")
