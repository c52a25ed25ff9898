"""HTTP and event framing as this endpoint writes them: plain by default, deliberately awkward on request.

The common event is a constant prefix, a word and a constant suffix, so that a token costs a concatenation and no JSON.
The encoder knows neither sockets nor time. What it returns is framed, ready to send.
"""

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from loadgen.simulator.answer import HIDDEN, Answer
from loadgen.simulator.wording import ARRAY, CONTENT_TYPES, CRLF_SSE, LINES, SSE, TIGHT_SSE, Event, Style, Wording

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    529: "Site Overloaded",
}

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

COMMENT: Final = b": ping\n\n"
COMMENT_EVERY_EVENTS: Final = 4

SPLIT_PARTS: Final = 4
"""An event is cut into at most so many writes."""


def chunk(data: bytes) -> bytes:
    """One chunk of Transfer-Encoding: chunked."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"


def head(status: int, content_type: str, *fields: str) -> bytes:
    """The status line and the fields of a response, with the blank line behind them."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"content-type: {content_type}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, "server: loadgen-simulate", ""]).encode()


def whole(status: int, content_type: str, body: bytes, *fields: str) -> bytes:
    """A response with Content-Length."""
    return head(status, content_type, f"content-length: {len(body)}", *fields) + body


class Piece(NamedTuple):
    """Framed events, and how many tokens they carry."""

    data: bytes
    tokens: int


class StreamEncoder:
    """One streamed response: `head`, `early`, `late`, `output` or `pieces` for every step of the engine, `closing`.

    `plain`: one call of `output` gives one event with all the tokens of the step, so that one stamp is right for it.
    With `framing` "chunked" an event is a chunk, and `trailing_bytes` (2) of a piece come after its last byte: the
    chunk's line end.
    """

    def __init__(self, word: Callable[[Style, Answer], Wording], style: Style, answer: Answer, framing: str) -> None:
        self._word, self._style, self._answer, self._framing = word, style, answer, framing
        self._wording = wording = word(style, answer)
        self._form = wording.form
        end_of_line = b"\r\n" if style.crlf or wording.form == CRLF_SSE else b"\n"
        self._end_of_line = end_of_line
        self._data = b"data:" if wording.form == TIGHT_SSE else b"data: "
        self._end = {LINES: b"\n", ARRAY: b""}.get(wording.form, end_of_line * 2)
        # A parser may take the event as whole at the CR of its last line end.
        self._behind_last_byte = 1 if len(self._end) > 2 else 0
        self.trailing_bytes = 2 if framing == "chunked" else 0
        self._separator = b"["
        self._held = 0  # tokens that an event to come will carry
        self._comments = style.comments and wording.form in (SSE, TIGHT_SSE, CRLF_SSE)
        self._padding = b',"padding":"%b"}' % (b"p" * style.padding_bytes) if style.padding_bytes else b""
        self.plain = wording.steady and len(answer.parts) == 1 and answer.parts[0].kind != HIDDEN
        # The common event has nothing that changes but its word.
        fixed = wording.fixed() if self.plain and answer.parts[0].kind == "content" and not self._comments else None
        self._constant = fixed is not None and wording.form != ARRAY
        if fixed is not None:
            before, behind = fixed
            self._constant_tail = self._padded(behind) + self._end
            self._prefix = before if wording.form == LINES else self._data + before
            self._prefixes: dict[int, bytes] = {}  # by the length of the word, which the chunk's size depends on
            if framing == "chunked":
                self._constant_tail += b"\r\n"
        self._words = wording.table

    def head(self, *fields: str) -> bytes:
        """The head of the response; with Content-Length, the whole body is composed once to know its length."""
        lines = ["cache-control: no-cache", f"x-request-id: {self._answer.response_id}", *fields]
        if self._framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif self._framing == "content-length":
            lines.append(f"content-length: {len(self.body())}")
        return head(200, CONTENT_TYPES[self._form], *lines)

    def body(self) -> bytes:
        """Everything behind the head, as the events would follow each other."""
        again = StreamEncoder(self._word, self._style, self._answer, "close")
        step = self._style.tokens_per_event
        total = sum(part.end - part.first for part in self._answer.parts)
        said = [again.early(), again.late()]
        for first in range(0, total, step):
            said += [piece.data for piece in again.pieces(first, min(step, total - first))]
        return b"".join([*said, again.closing()])

    def early(self) -> bytes:
        """What goes out when the request is accepted: a comment where they are asked for, and what the dialect says."""
        comment = self._framed(COMMENT) if self._comments else b""
        return comment + self._events(self._wording.early())

    def late(self) -> bytes:
        """What goes out in the write of the first token, before it."""
        return self._events(self._wording.late())

    def output(self, first: int, count: int) -> bytes:
        """The event that carries `count` tokens from number `first` on; only where the encoder is `plain`."""
        if self._constant and count == 1:
            word = self._words[first]
            try:
                return self._prefixes[len(word)] + word + self._constant_tail
            except KeyError:
                return self._first_of_its_length(word)
        return self._output(self._wording.output(self._answer.parts[0], first, count), first)

    def pieces(self, first: int, count: int) -> Iterator[Piece]:
        """What carries `count` tokens from number `first` on: a piece for each event that has its own stamp."""
        step = 1 if self._wording.one_token_an_event else count
        for part in self._answer.parts:
            begin, end = max(first, part.first), min(first + count, part.end)
            if begin >= end or part.kind == HIDDEN:
                continue
            for number in range(begin, end, step):
                tokens = min(step, end - number)
                events = self._wording.output(part, number, tokens)
                if not events:
                    self._held += tokens
                    continue
                held, self._held = self._held, 0
                yield Piece(self._output(events, number), tokens + held)

    def closing(self) -> bytes:
        """What the dialect says behind the last token, and the end of the body."""
        return self._events(self._wording.closing()) + self.end_of_body()

    def error(self, message: str) -> bytes:
        """An error in the middle of the stream, and the end of the body."""
        return self._events(self._wording.error(message)) + self.end_of_body()

    def end_of_body(self) -> bytes:
        rest = self._framed((b"[]" if self._separator == b"[" else b"]") if self._form == ARRAY else b"")
        return rest + (LAST_CHUNK if self._framing == "chunked" else b"")

    def event_end(self, data: bytes) -> int:
        """Offset in `data` (one result of `output`) of the byte that ends its last event.

        That is the second line end of its blank line (with CRLF the CR of it), the line end of a line, or the brace of
        an element of an array.
        """
        return len(data) - self.trailing_bytes - 1 - self._behind_last_byte

    def _first_of_its_length(self, word: bytes) -> bytes:
        prefix = self._prefix
        if self._framing == "chunked":
            prefix = b"%x\r\n" % (len(prefix) + len(word) + len(self._constant_tail) - 2) + prefix
        self._prefixes[len(word)] = prefix
        return prefix + word + self._constant_tail

    def _output(self, events: list[Event], first: int) -> bytes:
        """Events of which the last carries tokens."""
        if len(events) == 1 and not self._comments:
            data, name = events[0]
            return self._framed(self._event(self._padded(data), name))
        told = [self._framed(self._event(data, name)) for data, name in events[:-1]]
        data, name = events[-1]
        if self._comments and first // self._style.tokens_per_event % COMMENT_EVERY_EVENTS == 0:
            told.append(self._framed(COMMENT))
        told.append(self._framed(self._event(self._padded(data), name)))
        return b"".join(told)

    def _padded(self, data: bytes) -> bytes:
        return data[:-1] + self._padding if self._padding else data

    def _events(self, events: list[Event]) -> bytes:
        return b"".join([self._framed(self._event(data, name)) for data, name in events])

    def _event(self, data: bytes, name: bytes) -> bytes:
        if self._form == LINES:
            return data + b"\n"
        if self._form == ARRAY:
            separator, self._separator = self._separator, b",\r\n"
            return separator + data
        if name:
            return b"event: " + name + self._end_of_line + self._data + data + self._end
        return self._data + data + self._end

    def _framed(self, event: bytes) -> bytes:
        return chunk(event) if self._framing == "chunked" and event else event


def cuts(length: int, draws: random.Random) -> list[int]:
    """Where to cut `length` bytes: 1 to SPLIT_PARTS - 1 offsets inside, rising; none where there is nothing to cut."""
    if length < 2:
        return []
    count = min(draws.randint(1, SPLIT_PARTS - 1), length - 1)
    return sorted(draws.sample(range(1, length), count))
