"""Ollama's chat and generate: one JSON object a line, streaming unless told otherwise; and embed.

The last line has the reason, the counts and the times in nanoseconds. A tool call is one line, whole. `created_at` is
the time of the request in every line.
"""

import time
from collections.abc import Hashable
from typing import Any

from loadgen.simulator.answer import CONTENT, REASONING, TOOL, Answer, Part
from loadgen.simulator.ask import (
    Call,
    Refusal,
    Rules,
    Wants,
    check_model,
    flag,
    image,
    mapping,
    template,
    whole,
    wrong,
)
from loadgen.simulator.dialects import openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import LINES, Event, Style, Wording, to_json


def check_name(wants: dict[str, Any], rules: Rules) -> None:
    """Refusal unless the model's name is ours, with or without the tag that Ollama gives by default."""
    given = wants.get("model")
    check_model(given.removesuffix(":latest") if isinstance(given, str) else given, rules)


def images(holder: dict[str, Any], rules: Rules) -> list[Hashable]:
    """The tokens of the images that stand beside a prompt."""
    given = holder.get("images") or []
    if not isinstance(given, list):
        raise wrong("images", "images must be a list")
    return [token for source in given for token in image(source, rules)]


def read_chat(wants: dict[str, Any], _: Call, rules: Rules) -> Wants:
    """POST /api/chat."""
    check_name(wants, rules)
    messages = wants.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "messages must be a list of at least one message")
    prompt: list[Hashable] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else 0
        if content is not None and not isinstance(content, str):
            raise wrong("messages", "a message must be an object whose content is a string")
        prompt += template(rules) + (content or "").split()
        prompt += images(message, rules)
    names, may_call, _must_call = openai.tools(wants)
    may_call = may_call and messages[-1].get("role") != "tool"
    return _read(wants, prompt, names, may_call=may_call, chat=True)


def read_generate(wants: dict[str, Any], _: Call, rules: Rules) -> Wants:
    """POST /api/generate."""
    check_name(wants, rules)
    given = wants.get("prompt")
    if given is not None and not isinstance(given, str):
        raise wrong("prompt", "prompt must be a string")
    system = wants.get("system")
    prompt: list[Hashable] = [*(system or "").split()] if isinstance(system, str) else []
    prompt += (given or "").split()
    prompt += images(wants, rules)
    return _read(wants, prompt, (), may_call=False, chat=False)


def _read(
    wants: dict[str, Any], prompt: list[Hashable], names: tuple[str, ...], *, may_call: bool, chat: bool
) -> Wants:
    limit = whole(mapping(wants, "options"), "num_predict", least=-2)
    return Wants(
        flag(wants, "stream", default=True),
        prompt,
        limit if limit is not None and limit > 0 else None,
        reasoning="none" if wants.get("think") is False else "shown",
        tools=names,
        may_call=may_call,
        own={"chat": chat},
    )


def refused(refusal: Refusal, _: int) -> bytes:
    message = refusal.message
    if refusal.code == "model_not_found":
        message = "model not found, try pulling it first"
    return to_json({"error": message})


class OllamaWording(Wording):
    """A line an event; `own["chat"]` says which of the two routes it is."""

    form = LINES

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._chat: bool = answer.own["chat"]
        self._head = b'{"model":%b,"created_at":"%b",' % (to_json(style.model), _now().encode())
        self.steady = not self.calls

    def fixed(self) -> tuple[bytes, bytes] | None:
        if self._chat:
            return self._head + b'"message":{"role":"assistant","content":"', b'"},"done":false}'
        return self._head + b'"response":"', b'","done":false}'

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        if part.kind == TOOL:
            if first + count < part.end:
                return []
            called = [{"function": {"name": self.answer.tool, "arguments": self.call_arguments()}}]
            said = b'"message":{"role":"assistant","content":"","tool_calls":' + to_json(called) + b"}"
            return [Event(self._head + said + b',"done":false}')]
        text, thought = (b"", self.text(first, count)) if part.kind == REASONING else (self.text(first, count), b"")
        thinking = b',"thinking":"' + thought + b'"' if thought else b""
        if self._chat:
            said = b'"message":{"role":"assistant","content":"' + text + b'"' + thinking + b"}"
        else:
            said = b'"response":"' + text + b'"' + thinking
        return [Event(self._head + said + b',"done":false}')]

    def closing(self) -> list[Event]:
        said = b'"message":{"role":"assistant","content":""}' if self._chat else b'"response":""'
        return [Event(self._head + said + b"," + to_json(self._end())[1:])]

    def error(self, message: str) -> list[Event]:
        return [Event(to_json({"error": message}))]

    def whole(self) -> dict[str, Any]:
        head = {"model": self.style.model, "created_at": _now()}
        thought, said = self.said(REASONING), self.said(CONTENT) + self.said("refusal")
        thinking = {"thinking": thought} if thought else {}
        if not self._chat:
            return head | {"response": said} | thinking | self._end()
        message: dict[str, Any] = {"role": "assistant", "content": said, **thinking}
        if self.calls:
            message["tool_calls"] = [{"function": {"name": self.answer.tool, "arguments": self.call_arguments()}}]
        return head | {"message": message} | self._end()

    def _end(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "done": True,
            "done_reason": "length" if answer.finish == "length" else "stop",
            "total_duration": answer.queue_ns + answer.prefill_ns + answer.decode_ns,
            "load_duration": answer.queue_ns,
            "prompt_eval_count": answer.prompt_tokens,
            "prompt_eval_duration": answer.prefill_ns,
            "eval_count": answer.output_tokens,
            "eval_duration": answer.decode_ns,
        }


def _now() -> str:
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"


OLLAMA_CHAT = Dialect("ollama chat", read_chat, OllamaWording, refused)
OLLAMA_GENERATE = Dialect("ollama generate", read_generate, OllamaWording, refused)
