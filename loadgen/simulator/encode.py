"""HTTP and SSE as this endpoint writes them: plain by default, deliberately awkward on request.

An event is a constant prefix, a word and a constant suffix, so that a token costs a concatenation and no JSON.
Token number i of a response is the word `w<i>`; joined, the text of a response is "w0 w1 w2 ...", so that a reader
can see which token is missing, doubled or out of order. The `unicode` text appends letters of two to four bytes.

The encoder knows neither sockets nor time. What it returns is framed, ready to send.
"""

import json
import random
from dataclasses import dataclass
from typing import Final

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

COMMENT: Final = b": ping\n\n"
COMMENT_EVERY_EVENTS: Final = 4

SPLIT_PARTS: Final = 4
"""An event is cut into at most so many writes."""


@dataclass(frozen=True, slots=True)
class Style:
    """How responses are written; the same for every request of a server.

    framing: "chunked", "content-length" or "close" (the end of the connection ends the body).
    role_event: "first" (in the write of the first token, as vLLM does), "early" (when the request is accepted) or
    "none". reasoning_tokens: so many tokens at the beginning go out as `reasoning_content` (chat only).
    padding_bytes: length of a padding field in each output event. text: "plain" or "unicode".
    """

    model: str = "sim"
    framing: str = "chunked"
    role_event: str = "first"
    tokens_per_event: int = 1
    reasoning_tokens: int = 0
    padding_bytes: int = 0
    text: str = "plain"
    crlf: bool = False
    comments: bool = False
    created_s: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one response says. `dialect` is "chat" or "completions", `finish_reason` "length" or "stop"."""

    response_id: str
    dialect: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str = "length"
    include_usage: bool = False
    continuous_usage: bool = False


_WORDS: Final[dict[str, list[bytes]]] = {"plain": [], "unicode": []}


def words(text: str, count: int) -> list[bytes]:
    """The first `count` tokens (or more) of every response, in UTF-8; none needs escaping in JSON."""
    table = _WORDS[text]
    tail = "" if text == "plain" else "-é✓🙂"
    for index in range(len(table), count):
        table.append(f"{' ' if index else ''}w{index}{tail}".encode())
    return table


def chunk(data: bytes) -> bytes:
    """One chunk of Transfer-Encoding: chunked."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def usage(prompt_tokens: int, output_tokens: int, reasoning_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": min(reasoning_tokens, output_tokens)},
    }


def error_body(message: str, kind: str, code: str | int | None = None, param: str | None = None) -> bytes:
    """An error as OpenAI shapes it."""
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}})


def head(status: int, content_type: str, *fields: str) -> bytes:
    """The status line and the fields of a response, with the blank line behind them."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"content-type: {content_type}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, "server: loadgen-simulate", ""]).encode()


def whole(status: int, content_type: str, body: bytes, *fields: str) -> bytes:
    """A response with Content-Length."""
    return head(status, content_type, f"content-length: {len(body)}", *fields) + body


class StreamEncoder:
    """One streamed response: `head`, `opening`, `output` for every event, `closing`.

    With `framing` "chunked" an event is a chunk, and `trailing_bytes` (2) of what `output` returns come after its
    last byte: the chunk's line end.
    """

    def __init__(self, style: Style, answer: Answer, framing: str) -> None:
        self._style, self._answer, self._framing = style, answer, framing
        chat = answer.dialect == "chat"
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        self._event_head = b'data: {"id":"%b","object":"%b","created":%d,"model":%b,"choices":[' % (
            answer.response_id.encode(),
            kind,
            style.created_s,
            _json(style.model),
        )
        self._end = b"\r\n\r\n" if style.crlf else b"\n\n"
        self.trailing_bytes = 2 if framing == "chunked" else 0
        self.reasoning_tokens = min(style.reasoning_tokens, answer.output_tokens) if chat else 0
        self._text_field = b'"delta":{"content":"' if chat else b'"text":"'
        padding = b'"padding":"%b",' % (b"p" * style.padding_bytes) if style.padding_bytes else b""
        close = b'"}' if chat else b'"'
        self._text_tail = close + b',"logprobs":null,"finish_reason":null}]'
        self._object_end = (b"," + padding[:-1] if padding else b"") + b"}"
        self._words = words(style.text, answer.output_tokens)
        # The common event has nothing that changes but its word.
        self._constant = not (answer.continuous_usage or style.comments or self.reasoning_tokens)
        self._constant_tail = self._text_tail + self._object_end + self._end
        self._prefix = self._event_head + b'{"index":0,' + self._text_field
        self._prefixes: dict[int, bytes] = {}  # by the length of the word, which the chunk's size depends on
        if framing == "chunked":
            self._constant_tail += b"\r\n"

    def head(self, *fields: str) -> bytes:
        """The head of the response; with Content-Length, the whole body is composed once to know its length."""
        lines = ["cache-control: no-cache", f"x-request-id: {self._answer.response_id}", *fields]
        if self._framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif self._framing == "content-length":
            lines.append(f"content-length: {len(self.body())}")
        return head(200, "text/event-stream; charset=utf-8", *lines)

    def body(self) -> bytes:
        """Everything behind the head, as the events would follow each other."""
        count = self._style.tokens_per_event
        total = self._answer.output_tokens
        outputs = (self.output(first, min(count, total - first)) for first in range(0, total, count))
        return b"".join([self.early(), self.late(), *outputs, self.closing()])

    def early(self) -> bytes:
        """What goes out when the request is accepted: a comment and the role-only event, where they are asked for."""
        events = [COMMENT] if self._style.comments else []
        if self._style.role_event == "early":
            events.append(self._role())
        return self._framed(*events)

    def late(self) -> bytes:
        """What goes out in the write of the first token, before it."""
        return self._framed(self._role()) if self._style.role_event == "first" else b""

    def output(self, first: int, count: int) -> bytes:
        """The event that carries `count` tokens from number `first` on; two events where reasoning ends within."""
        if self._constant and count == 1:
            word = self._words[first]
            try:
                return self._prefixes[len(word)] + word + self._constant_tail
            except KeyError:
                return self._first_of_its_length(word)
        reasoning = self.reasoning_tokens
        if first < reasoning < first + count:
            return self.output(first, reasoning - first) + self.output(reasoning, first + count - reasoning)
        text = b"".join(self._words[first : first + count])
        name = b'"delta":{"reasoning_content":"' if first < reasoning else self._text_field
        told = b""
        if self._answer.continuous_usage:
            told = b',"usage":' + self._usage(first + count)
        choice = b'{"index":0,' + name + text + self._text_tail
        event = self._event_head + choice + told + self._object_end + self._end
        if self._style.comments and first // self._style.tokens_per_event % COMMENT_EVERY_EVENTS == 0:
            return self._framed(COMMENT, event)
        return self._framed(event)

    def closing(self) -> bytes:
        """The finish event, usage where it was asked for, [DONE], and the end of the body."""
        answer = self._answer
        chat = answer.dialect == "chat"
        field = b'"delta":{}' if chat else b'"text":""'
        told = b',"usage":' + self._usage(answer.output_tokens) if answer.continuous_usage else b""
        events = [
            self._event(
                b'{"index":0,%b,"logprobs":null,"finish_reason":"%b"}' % (field, answer.finish_reason.encode()), told
            )
        ]
        if answer.include_usage:
            events.append(self._event(b"", b',"usage":' + self._usage(answer.output_tokens)))
        return self._framed(*events, self._done()) + self.end_of_body()

    def error(self) -> bytes:
        """An error event in the middle of the stream, then [DONE] all the same, as vLLM does; and the end of the body."""
        said = (
            b"data: "
            + error_body("the engine gave up (asked for by --fault)", "internal_server_error", 500)
            + self._end
        )
        return self._framed(said, self._done()) + self.end_of_body()

    def end_of_body(self) -> bytes:
        return LAST_CHUNK if self._framing == "chunked" else b""

    def event_end(self, data: bytes) -> int:
        """Offset in `data` (one result of `output`) of the byte that ends its last event.

        That is the second line end of its blank line; with CRLF the CR of it, as a parser may end the line there.
        """
        return len(data) - self.trailing_bytes - (2 if self._style.crlf else 1)

    def _first_of_its_length(self, word: bytes) -> bytes:
        prefix = self._prefix
        if self._framing == "chunked":
            prefix = b"%x\r\n" % (len(prefix) + len(word) + len(self._constant_tail) - 2) + prefix
        self._prefixes[len(word)] = prefix
        return prefix + word + self._constant_tail

    def _role(self) -> bytes:
        if self._answer.dialect != "chat":
            return b""
        told = b',"usage":' + self._usage(0) if self._answer.continuous_usage else b""
        choice = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return self._event(choice, told)

    def _event(self, choice: bytes, told: bytes) -> bytes:
        return self._event_head + choice + b"]" + told + b"}" + self._end

    def _done(self) -> bytes:
        return b"data: [DONE]" + self._end

    def _usage(self, output_tokens: int) -> bytes:
        return _json(usage(self._answer.prompt_tokens, output_tokens, self.reasoning_tokens))

    def _framed(self, *events: bytes) -> bytes:
        if self._framing == "chunked":
            return b"".join([chunk(event) for event in events if event])
        return b"".join(events)


def json_response(style: Style, answer: Answer) -> bytes:
    """The body of a response that was not asked to stream."""
    text = [word.decode() for word in words(style.text, answer.output_tokens)[: answer.output_tokens]]
    reasoning_tokens = min(style.reasoning_tokens, len(text)) if answer.dialect == "chat" else 0
    said = "".join(text[reasoning_tokens:])
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": answer.finish_reason}
    if answer.dialect == "chat":
        message = {"role": "assistant", "content": said}
        if reasoning_tokens:
            message["reasoning_content"] = "".join(text[:reasoning_tokens])
        choice["message"] = message
    else:
        choice["text"] = said
    return _json(
        {
            "id": answer.response_id,
            "object": "chat.completion" if answer.dialect == "chat" else "text_completion",
            "created": style.created_s,
            "model": style.model,
            "choices": [choice],
            "usage": usage(answer.prompt_tokens, answer.output_tokens, reasoning_tokens),
        }
    )


def models_body(style: Style) -> bytes:
    """The answer to GET /v1/models."""
    model = {"id": style.model, "object": "model", "created": style.created_s, "owned_by": "loadgen"}
    return _json({"object": "list", "data": [model]})


def cuts(length: int, draws: random.Random) -> list[int]:
    """Where to cut `length` bytes: 1 to SPLIT_PARTS - 1 offsets inside, rising; none where there is nothing to cut."""
    if length < 2:
        return []
    count = min(draws.randint(1, SPLIT_PARTS - 1), length - 1)
    return sorted(draws.sample(range(1, length), count))
