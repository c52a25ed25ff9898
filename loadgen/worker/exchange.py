"""One request and its response, from the schedule to the row."""

from array import array
from typing import TYPE_CHECKING, NamedTuple

from loadgen.dialects.answer import Answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from loadgen.worker.likeness import Frame
    from loadgen.worker.users import User

# The whole body of an error is read off the wire; this much of it is kept for the server's words.
MAX_WORDS_BYTES = 64 * 1024

MAX_SAVED_BYTES = 1024 * 1024
"""Of a response, where bodies are saved."""


class Segment(NamedTuple):
    """What a run of reads brought: handed from the transport to the decoder, at the end or when much has piled up."""

    parts: list[bytes]
    """The pieces of the body."""
    part_counts: list[int]
    """How many parts were there after each read."""
    stamps: bytearray
    """A kernel timespec (two int64, CLOCK_REALTIME) for each read; zeros where the kernel gave none."""
    read_ns: "array[int]"  # not subscriptable at run time before Python 3.12
    """When each read returned, CLOCK_MONOTONIC."""


class Exchange:
    """One request in flight. The transport fills it until `ended`, the decoder makes a row of it."""

    __slots__ = (
        "answer",
        "bad_event",
        "coalesced_events",
        "connect_ns",
        "content_encoding",
        "content_type",
        "counted_parts",
        "counted_tokens",
        "cumulative",
        "data",
        "decode_failure",
        "decoded",
        "decoded_bytes",
        "due_ns",
        "ended",
        "ended_ns",
        "endpoint",
        "error",
        "event_lines",
        "event_ns",
        "first_byte_ns",
        "frame",
        "frames_tried",
        "handed_bytes",
        "intended_ns",
        "kinds",
        "last_byte_ns",
        "last_read_ns",
        "leave_tokens",
        "line_ends",
        "max_lag_ns",
        "n_reads",
        "other_body",
        "read_ns",
        "reconnected",
        "request_bytes",
        "request_id",
        "response_bytes",
        "rest",
        "retries",
        "retry_after",
        "saved",
        "segments",
        "sent_ns",
        "session_id",
        "slot",
        "stage",
        "stamps",
        "started",
        "status",
        "superseded",
        "target",
        "text_before",
        "texts",
        "too_large",
        "turn",
        "unstamped",
        "user",
        "wanted_input_tokens",
        "wanted_output_tokens",
        "words",
    )

    def __init__(self, request_id: int, stage: int, slot: int, data: bytes, due_ns: int) -> None:
        self.request_id = request_id
        self.stage = stage
        self.slot = slot
        self.data = data
        self.request_bytes = len(data)
        self.due_ns = due_ns  # when it was handed to the transport; limits count from here until it is sent

        # the drive's
        self.user: User | None = None
        self.intended_ns: int | None = None
        self.session_id: int | None = None
        self.turn: int | None = None
        self.retries = 0
        self.superseded = False  # refused and to be tried again: another exchange will be the row
        self.wanted_input_tokens: int | None = None
        self.wanted_output_tokens: int | None = None
        self.leave_tokens = 0  # the user leaves after so many; 0: stays
        self.event_lines = 2  # line ends that an event has at least; looked at where the user leaves so
        self.target = 0  # whose dialect it is
        self.endpoint: int | None = None  # by number; None: it went nowhere

        # the transport's
        self.sent_ns = 0
        self.connect_ns: int | None = None
        self.reconnected = False
        self.last_read_ns = 0
        self.response_bytes = 0
        self.handed_bytes = 0  # of them, those in segments
        self.read_ns: array[int] = array("q")
        self.stamps = bytearray()
        self.segments: list[Segment] = []
        self.status = 0
        self.content_type = ""
        self.content_encoding = ""
        self.retry_after = ""
        self.line_ends = 0  # of the body so far, counted where the user leaves after a number of tokens
        self.counted_parts = 0
        self.error: str | None = None
        self.words = ""
        self.ended = False
        self.ended_ns = 0

        # the decoder's
        self.decoded = False
        self.decoded_bytes = 0  # of those in segments
        self.too_large = ""  # over which limit, in words; what comes behind it is not looked at
        self.decode_failure = ""  # our own, in words
        self.started = False
        self.answer = Answer()
        self.rest = b""
        self.frame: Frame | None = None
        self.text_before: bytes | None = None  # the JSON text of the event before, where a frame has to compare
        self.saved: bytearray | None = None  # what --save-bodies keeps of the response
        self.frames_tried = 0
        self.other_body = b""
        self.event_ns: list[npt.NDArray[np.int64]] = []
        self.texts: list[str] | None = None  # what the content events said, where the next turn quotes it
        self.counted_tokens: int | None = None  # output, by a local tokenizer
        self.kinds = bytearray()  # an int8 for each output event
        self.cumulative: array[int] = array("q")  # for each output event the tokens so far, or UNKNOWN
        self.coalesced_events = 0
        self.bad_event = False
        self.first_byte_ns: int | None = None
        self.last_byte_ns: int | None = None
        self.max_lag_ns = 0
        self.n_reads = 0
        self.unstamped = 0

    def held_bytes(self) -> int:
        """About how much memory the response takes: what is not decoded yet, and the stamps of its events."""
        texts_bytes = self.response_bytes if self.texts else 0
        return self.response_bytes - self.decoded_bytes + len(self.rest) + 17 * len(self.kinds) + texts_bytes

    def body(self) -> bytes:
        """What there is of the body and has not been decoded."""
        return b"".join(part for segment in self.segments for part in segment.parts)
