"""Gemini and Vertex generateContent: usage so far in every chunk, thoughts counted apart, no end sign but the end.

A stream is SSE with `alt=sse`, and otherwise one JSON array whose elements come one by one. The last chunk has the
reason and no parts. Thoughts are sent where the request asks for them, and else only counted. A function call is one
part, whole.
"""

import re
from collections.abc import Hashable
from typing import Any
from urllib.parse import parse_qs

from loadgen.simulator.answer import CONTENT, REASONING, REFUSAL, Answer, Part
from loadgen.simulator.ask import (
    Call,
    Refusal,
    Rules,
    Wants,
    check_model,
    image,
    mapping,
    objects,
    template,
    whole,
    words_of,
    wrong,
)
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import ARRAY, CRLF_SSE, Event, Style, Wording, to_json

_FINISH = {"length": "MAX_TOKENS", "stop": "STOP", "tool": "STOP", "refusal": "SAFETY"}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def read_stream(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST ...:streamGenerateContent."""
    return _read(wants, call, rules, stream=True, sse=parse_qs(call.query).get("alt") == ["sse"])


def read_whole(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """POST ...:generateContent."""
    return _read(wants, call, rules, stream=False, sse=False)


def fields(given: dict[str, Any]) -> dict[str, Any]:
    """An object by its names in camelCase: Google's servers take either, and its own client sends both."""
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in given.items()}


def _read(wants: dict[str, Any], call: Call, rules: Rules, *, stream: bool, sse: bool) -> Wants:
    check_model(call.names.get("model"), rules)
    wants = fields(wants)
    prompt = contents_tokens(wants, rules)
    config = fields(mapping(wants, "generationConfig"))
    thoughts = fields(mapping(config, "thinkingConfig")).get("includeThoughts") is True
    names = [
        function["name"]
        for tool in objects(wants, "tools")
        for function in objects(fields(tool), "functionDeclarations")
        if isinstance(function.get("name"), str)
    ]
    mode = mapping(fields(mapping(wants, "toolConfig")), "functionCallingConfig").get("mode")
    last = wants["contents"][-1].get("parts") or ()
    answers_a_call = any(isinstance(part, dict) and "functionResponse" in fields(part) for part in last)
    return Wants(
        stream,
        prompt,
        whole(config, "maxOutputTokens"),
        reasoning="shown" if thoughts else "hidden",
        tools=tuple(names),
        may_call=mode != "NONE" and not answers_a_call,
        must_call=mode == "ANY" and bool(names),
        may_refuse=True,
        own={"sse": sse},
    )


def contents_tokens(wants: dict[str, Any], rules: Rules) -> list[Hashable]:
    """The tokens of the system instruction and of all contents."""
    wants = fields(wants)
    contents = objects(wants, "contents")
    if not contents:
        raise wrong("contents", "* GenerateContentRequest.contents: contents is not specified")
    system = wants.get("systemInstruction")
    tokens = parts_tokens(system, rules) if system is not None else []
    for content in contents:
        tokens += template(rules) + parts_tokens(content, rules)
    return tokens


def parts_tokens(content: object, rules: Rules) -> list[Hashable]:
    """The tokens of one content: its text and its images."""
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise wrong("contents", "a content must be an object with a list of parts.")
    tokens: list[Hashable] = []
    for part in parts:
        part = fields(part)
        tokens += words_of([part.get("text")])
        source = part.get("inlineData") or part.get("fileData")
        if isinstance(source, dict):
            tokens += image(source.get("data") or fields(source).get("fileUri"), rules)
    return tokens


def refused(refusal: Refusal, status: int) -> bytes:
    return error_body(refusal.message, status)


def error_body(message: str, status: int) -> bytes:
    return to_json({"error": {"code": status, "message": message, "status": _STATUSES.get(status, "UNKNOWN")}})


class GeminiWording(Wording):
    """A chunk an event."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self.form = CRLF_SSE if answer.own["sse"] else ARRAY
        self.steady = not self.calls
        self._tail = b',"modelVersion":%b,"responseId":"%b"}' % (to_json(style.model), answer.response_id.encode())

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        match part.kind:
            case "tool":
                if first + count < part.end:
                    return []
                call = {"name": self.answer.tool, "args": self.call_arguments()}
                said = b'{"functionCall":' + to_json(call) + b"}"
            case "reasoning":
                said = b'{"text":"' + self.text(first, count) + b'","thought":true}'
            case _:
                said = b'{"text":"' + self.text(first, count) + b'"}'
        usage = self._usage(first + count)
        return [
            Event(
                b'{"candidates":[{"content":{"parts":[%b],"role":"model"},"index":0}],"usageMetadata":%b%b'
                % (said, usage, self._tail)
            )
        ]

    def closing(self) -> list[Event]:
        reason = _FINISH[self.answer.finish].encode()
        candidate = b'{"content":{"role":"model"},"finishReason":"%b","index":0}' % reason
        usage = self._usage(self.answer.output_tokens)
        return [Event(b'{"candidates":[%b],"usageMetadata":%b%b' % (candidate, usage, self._tail))]

    def error(self, message: str) -> list[Event]:
        return [Event(error_body(message, 500))]

    def whole(self) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if thought := self.said(REASONING):
            parts.append({"text": thought, "thought": True})
        if said := self.said(CONTENT) + self.said(REFUSAL):
            parts.append({"text": said})
        if self.calls:
            parts.append({"functionCall": {"name": self.answer.tool, "args": self.call_arguments()}})
        reason = _FINISH[self.answer.finish]
        return {
            "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}],
            "usageMetadata": self.usage(self.answer.output_tokens),
            "modelVersion": self.style.model,
            "responseId": self.answer.response_id,
        }

    def usage(self, done: int) -> dict[str, int]:
        """The counts after `done` tokens: thoughts are no candidates' tokens."""
        answer = self.answer
        thoughts = min(answer.reasoning_tokens, done)
        told = {
            "promptTokenCount": answer.prompt_tokens,
            "candidatesTokenCount": done - thoughts,
            "totalTokenCount": answer.prompt_tokens + done,
        }
        if thoughts:
            told["thoughtsTokenCount"] = thoughts
        if answer.cached_tokens:
            told["cachedContentTokenCount"] = answer.cached_tokens
        return told

    def _usage(self, done: int) -> bytes:
        answer = self.answer
        if answer.cached_tokens or answer.reasoning_tokens:
            return to_json(self.usage(done))
        return b'{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d}' % (
            answer.prompt_tokens,
            done,
            answer.prompt_tokens + done,
        )


_KEYS = ("x-goog-api-key",)
GEMINI_STREAM = Dialect("gemini streamGenerateContent", read_stream, GeminiWording, refused, keys=_KEYS)
GEMINI_WHOLE = Dialect("gemini generateContent", read_whole, GeminiWording, refused, keys=_KEYS)
