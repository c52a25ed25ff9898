"""How a dialect says an answer: events without HTTP, and the JSON of an answer that does not stream.

Token number i of a response is the word `w<i>`; joined, the text of a response is "w0 w1 w2 ...", so that a reader
can see which token is missing, doubled or out of order. The `unicode` text appends letters of two to four bytes.
The arguments of a tool call are the JSON object {"text": "w0 w1 ..."}.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from loadgen.simulator.answer import CONTENT, REASONING, REFUSAL, TOOL, Answer, Part

SSE: Final = "sse"
TIGHT_SSE: Final = "tight-sse"
"""Without the space behind `data:`, as TGI writes it."""
CRLF_SSE: Final = "crlf-sse"
LINES: Final = "lines"
ARRAY: Final = "array"
"""One JSON array whose elements come one by one, as Gemini writes it without alt=sse."""

CONTENT_TYPES: Final = {
    SSE: "text/event-stream; charset=utf-8",
    TIGHT_SSE: "text/event-stream",
    CRLF_SSE: "text/event-stream",
    LINES: "application/x-ndjson",
    ARRAY: "application/json; charset=UTF-8",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How responses are written; the same for every request of a server.

    framing: "chunked", "content-length" or "close" (the end of the connection ends the body).
    role_event: what a dialect sends before its first token (OpenAI's role, Anthropic's message_start) goes out "first"
    (in the write of the first token, as vLLM does), "early" (when the request is accepted) or, where a dialect can do
    without it, not at all ("none"). reasoning_field: its name in OpenAI chat. cumulative: whether the text of an event
    is all of the text so far, where a server may do either ("default", "on" or "off"). padding_bytes: length of a padding
    field in each output event. text: "plain" or "unicode".
    """

    model: str = "sim"
    framing: str = "chunked"
    role_event: str = "first"
    tokens_per_event: int = 1
    reasoning_field: str = "reasoning_content"
    cumulative: str = "default"
    padding_bytes: int = 0
    text: str = "plain"
    crlf: bool = False
    comments: bool = False
    created_s: int = 0


class Event(NamedTuple):
    """One event: its data, and the name that SSE may give it."""

    data: bytes
    name: bytes = b""


_WORDS: Final[dict[str, list[bytes]]] = {"plain": [], "unicode": []}


def words(text: str, count: int) -> list[bytes]:
    """The first `count` tokens (or more) of every response, in UTF-8; none needs escaping in JSON."""
    table = _WORDS[text]
    tail = "" if text == "plain" else "-é✓🙂"
    for index in range(len(table), count):
        table.append(f"{' ' if index else ''}w{index}{tail}".encode())
    return table


FIRST_TOKEN_ID: Final = 1000


def token_ids(first: int, count: int) -> list[int]:
    """The ids of tokens number `first` and on."""
    return list(range(FIRST_TOKEN_ID + first, FIRST_TOKEN_ID + first + count))


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8; half of a surrogate pair, which a request may hold, becomes a question mark."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


class Wording(ABC):
    """One response in the words of one API. An object serves one response, once, in order.

    `form` frames its events. `steady`: every call of `output` gives an event that carries its tokens, and no more than
    one that does. `one_token_an_event`: a step's tokens go out as events of their own.
    """

    form: str = SSE
    one_token_an_event: bool = False

    def __init__(self, style: Style, answer: Answer) -> None:
        self.style, self.answer = style, answer
        self.steady = not self.one_token_an_event or style.tokens_per_event == 1
        self.table = words(style.text, answer.output_tokens)

    def early(self) -> list[Event]:
        """What goes out when the request is accepted."""
        return []

    def late(self) -> list[Event]:
        """What goes out in the write of the first token, before it."""
        return []

    @abstractmethod
    def output(self, part: Part, first: int, count: int) -> list[Event]:
        """`count` tokens from number `first` on, all of `part`; the last event carries them.

        Without an event they are held back: the next event carries them too.
        """

    def fixed(self) -> tuple[bytes, bytes] | None:
        """What stands before and behind the word in the data of every event with one content token; None where that
        changes from event to event."""
        return None

    @abstractmethod
    def closing(self) -> list[Event]:
        """What goes out behind the last token."""

    @abstractmethod
    def error(self, message: str) -> list[Event]:
        """An error in the middle of the stream, to its end."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The answer as one JSON object."""

    # What wordings are made of

    def text(self, first: int, count: int) -> bytes:
        """The text of tokens; needs no escaping in JSON."""
        return b"".join(self.table[first : first + count])

    def said(self, kind: str) -> str:
        """All the text of the parts of one kind."""
        return b"".join(self.text(p.first, p.end - p.first) for p in self.answer.parts if p.kind == kind).decode()

    @property
    def spoken(self) -> str:
        """The text of a dialect that has one place for all text: whatever is sent."""
        return "".join(self.said(kind) for kind in (REASONING, CONTENT, REFUSAL))

    @property
    def calls(self) -> bool:
        """Whether the answer calls a tool."""
        return any(part.kind == TOOL for part in self.answer.parts)

    def arguments(self, part: Part, first: int, count: int) -> bytes:
        """The fragment of a tool call's arguments that those tokens are, escaped for a JSON string."""
        opening = b'{\\"text\\":\\"' if first == part.first else b""
        return opening + self.text(first, count) + (b'\\"}' if first + count == part.end else b"")

    def call_arguments(self) -> dict[str, str]:
        """All the arguments of the tool call."""
        return {"text": self.said(TOOL)}

    @property
    def number(self) -> str:
        """The part of the response's id that ids of its parts are made of."""
        return self.answer.response_id.rpartition("-")[2].rpartition("_")[2]
