"""Anthropic messages: a message that starts, content blocks that start and stop, and a message that stops.

Thinking is shown where the request enables it. A message without message_start would be none, so that `role_event`
"none" is the same as "first".
"""

from collections.abc import Hashable
from typing import Any

from loadgen.simulator.answer import CONTENT, REASONING, REFUSAL, Answer, Part
from loadgen.simulator.ask import (
    Call,
    Refusal,
    Rules,
    Wants,
    check_model,
    flag,
    image,
    mapping,
    objects,
    template,
    whole,
    wrong,
)
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Style, Wording, to_json

_FINISH = {"length": "max_tokens", "stop": "end_turn", "tool": "tool_use", "refusal": "refusal"}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def read(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """A request to Anthropic's own route, which wants to know the version."""
    if not call.fields.get("anthropic-version"):
        raise wrong("anthropic-version", "anthropic-version: header is required")
    return read_without_version(wants, call, rules)


def read_without_version(wants: dict[str, Any], _: Call, rules: Rules) -> Wants:
    """The same as other servers take it."""
    check_model(wants.get("model"), rules)
    limit = whole(wants, "max_tokens")
    if limit is None:
        raise wrong("max_tokens", "max_tokens: Field required")
    thinking = mapping(wants, "thinking").get("type") in ("enabled", "adaptive")
    names = []
    for tool in objects(wants, "tools"):
        if not isinstance(tool.get("name"), str):
            raise wrong("tools", "tools: a tool must have a name.")
        names.append(tool["name"])
    choice = mapping(wants, "tool_choice")
    if choice.get("type") == "tool":
        if choice.get("name") not in names:
            raise wrong("tool_choice", f"tool_choice: Tool '{choice.get('name')}' not found in provided tools")
        names = [choice["name"]]
    prompt, answers_a_call = prompt_tokens(wants, rules)
    return Wants(
        flag(wants, "stream"),
        prompt,
        limit,
        reasoning="shown" if thinking else "none",
        tools=tuple(names),
        may_call=choice.get("type") != "none" and not answers_a_call,
        must_call=choice.get("type") in ("any", "tool"),
        may_refuse=True,
    )


def prompt_tokens(wants: dict[str, Any], rules: Rules) -> tuple[list[Hashable], bool]:
    """(the tokens of the system prompt and the messages, whether the last of them holds a tool's result)."""
    messages = wants.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "messages: at least one message is required")
    system = wants.get("system")
    tokens = _content_tokens(system, rules, "system") if system is not None else []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise wrong("messages", "messages: a message must be an object whose role is user or assistant")
        tokens += template(rules) + _content_tokens(message.get("content"), rules, "messages")
    last = messages[-1].get("content")
    return tokens, isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)


def _content_tokens(content: object, rules: Rules, name: str) -> list[Hashable]:
    if isinstance(content, str):
        return list(content.split())
    if not isinstance(content, list):
        raise wrong(name, f"{name}: content must be a string or a list of blocks")
    tokens: list[Hashable] = []
    for block in content:
        if not isinstance(block, dict):
            raise wrong(name, f"{name}: a content block must be an object")
        match block.get("type"):
            case "text" if isinstance(block.get("text"), str):
                tokens += block["text"].split()
            case "image":
                source = mapping(block, "source")
                tokens += image(source.get("data") or source.get("url"), rules)
            case "tool_result" if block.get("content") is not None:
                tokens += _content_tokens(block["content"], rules, name)
    return tokens


def refused(refusal: Refusal, status: int) -> bytes:
    kind = _KINDS.get(status, "invalid_request_error")
    return to_json({"type": "error", "error": {"type": kind, "message": refusal.message}})


class MessagesWording(Wording):
    """Blocks are numbered; what opens one goes out with its first token."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._part: Part | None = None
        self._index = -1

    def early(self) -> list[Event]:
        return [self._start()] if self.style.role_event == "early" else []

    def late(self) -> list[Event]:
        return [] if self.style.role_event == "early" else [self._start()]

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        events = []
        if part is not self._part:
            events = self._stop_block()
            self._part = part
            self._index += 1
            block = to_json(self._block(part, whole=False))
            events.append(_event(b"content_block_start", b'"index":%d,"content_block":%b' % (self._index, block)))
            if self._index == 0:
                events.append(_event(b"ping"))
        match part.kind:
            case "reasoning":
                delta = b'"type":"thinking_delta","thinking":"' + self.text(first, count)
            case "tool":
                delta = b'"type":"input_json_delta","partial_json":"' + self.arguments(part, first, count)
            case _:
                delta = b'"type":"text_delta","text":"' + self.text(first, count)
        events.append(_event(b"content_block_delta", b'"index":%d,"delta":{%b"}' % (self._index, delta)))
        return events

    def closing(self) -> list[Event]:
        told = {
            "delta": {"stop_reason": _FINISH[self.answer.finish], "stop_sequence": None},
            "usage": self._usage(self.answer.output_tokens),
        }
        return [*self._stop_block(), _event(b"message_delta", to_json(told)[1:-1]), _event(b"message_stop")]

    def error(self, message: str) -> list[Event]:
        told = {"error": {"type": "overloaded_error", "message": message}}
        return [_event(b"error", to_json(told)[1:-1])]

    def whole(self) -> dict[str, Any]:
        blocks = [self._block(part, whole=True) for part in self.answer.parts]
        return self._message(blocks, _FINISH[self.answer.finish], self.answer.output_tokens)

    def _start(self) -> Event:
        return _event(b"message_start", b'"message":' + to_json(self._message([], None, 1)))

    def _stop_block(self) -> list[Event]:
        part = self._part
        if part is None:
            return []
        events = []
        if part.kind == REASONING:
            signature = b'"index":%d,"delta":{"type":"signature_delta","signature":"%b"}' % (
                self._index,
                self.number.encode(),
            )
            events.append(_event(b"content_block_delta", signature))
        return [*events, _event(b"content_block_stop", b'"index":%d' % self._index)]

    def _block(self, part: Part, *, whole: bool) -> dict[str, Any]:
        match part.kind:
            case "reasoning":
                signature = self.number if whole else ""
                return {"type": "thinking", "thinking": self.said(REASONING) if whole else "", "signature": signature}
            case "tool":
                called = self.call_arguments() if whole else {}
                return {"type": "tool_use", "id": f"toolu_{self.number}", "name": self.answer.tool, "input": called}
        return {"type": "text", "text": self.said(CONTENT) + self.said(REFUSAL) if whole else ""}

    def _message(self, blocks: list[dict[str, Any]], reason: str | None, output_tokens: int) -> dict[str, Any]:
        return {
            "id": self.answer.response_id,
            "type": "message",
            "role": "assistant",
            "model": self.style.model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": self._usage(output_tokens),
        }

    def _usage(self, output_tokens: int) -> dict[str, int]:
        answer = self.answer
        return {
            "input_tokens": answer.prompt_tokens - answer.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": answer.cached_tokens,
            "output_tokens": output_tokens,
        }


def _event(kind: bytes, more: bytes = b"") -> Event:
    return Event(b'{"type":"%b"%b%b}' % (kind, b"," if more else b"", more), kind)


MESSAGES = Dialect(
    "messages",
    read,
    MessagesWording,
    refused,
    statuses={"busy": 529},
    keys=("x-api-key",),
    id_prefix="msg_",
)
