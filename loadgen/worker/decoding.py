"""Segments -> events -> rows: everything that nobody waits for, done while the sockets are empty.

One call of `decode_one` decodes one segment (a whole response, mostly): bytes are joined, cut into events and read
by the dialect in one go, and each event's stamp is found through the read that completed it, with NumPy for the
whole segment. A response that is still running is handed over in segments too, so memory stays bounded.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from loadgen.dialects.answer import CONTENT, NOTHING, count, words_of_error
from loadgen.dialects.dialect import MALFORMED, NOT_EVENTS, WANTED, Dialect
from loadgen.wire import MAY_END, SPLITTERS
from loadgen.worker.exchange import MAX_SAVED_BYTES, MAX_WORDS_BYTES, Exchange, Segment
from loadgen.worker.likeness import Alike, Frame, marks_of, text_of
from loadgen.worker.stamps import StampClock

UNKNOWN: Final = -1
"""In `cumulative`: the event did not say how many tokens there are so far."""

# A stamp in its events, or an odd first one, gives a response several frames; where each event has another, comparing would
# only come on top of parsing.
FRAMES_TRIED: Final = 8

# What one response may bring: far above any model's, and small enough that a thousand hostile ones fail by themselves.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_RESPONSE_BYTES: Final = 1 << 30
MAX_EVENTS: Final = 1 << 20

# All events that have begun and not ended, over all streams. Beyond it those that are large themselves are given up.
MAX_HELD_BYTES: Final = 256 * 1024 * 1024
LARGE_BYTES: Final = 64 * 1024


class Reading:
    """How the responses of one target are read."""

    __slots__ = ("dialect", "marks", "may_end", "read", "split", "text")

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.read, self.text = dialect.read, dialect.text
        self.marks = marks_of(dialect)
        self.split, self.may_end = SPLITTERS[dialect.framing], MAY_END[dialect.framing]


class Decoder:
    """Decodes exchanges in the order in which their segments came, and hands the ended ones to `on_decoded`.

    `dialects` are those of each target.
    """

    def __init__(
        self,
        dialects: Sequence[Dialect],
        clock: StampClock,
        on_decoded: Callable[[Exchange], None],
    ) -> None:
        self._readings = [Reading(dialect) for dialect in dialects]
        self._clock = clock
        self._on_decoded = on_decoded
        self._held_bytes = 0
        self.give_up: Callable[[Exchange, str, str], None] = lambda _exchange, _error, _words: None
        """Called with (exchange, error, words) where one that goes on has brought too much."""
        self.keeps_bodies = False
        self.decoded_bytes = 0
        """Of what was handed over, how much is done with."""
        self._waiting: deque[Exchange] = deque()
        self.on_segment = self._waiting.append

    @property
    def waiting(self) -> int:
        """How many segments' turn has not come."""
        return len(self._waiting)

    def decode_one(self) -> bool:
        """Decode one exchange's waiting segments; True while more wait."""
        if not self._waiting:
            return False
        exchange = self._waiting.popleft()
        if exchange.decoded:  # it had ended, and all of it was decoded, by the time an earlier segment's turn came
            return bool(self._waiting)
        segments, exchange.segments = exchange.segments, []
        exchange.decoded = exchange.ended
        self._decode_all(exchange, segments)
        if not exchange.ended:
            if exchange.too_large:
                self.give_up(exchange, "too-large", exchange.too_large)
        else:
            self._held_bytes -= len(exchange.rest)
            exchange.rest = b""
            if exchange.decode_failure:
                exchange.error, exchange.words = "decode-failed", exchange.decode_failure
            else:
                judge(exchange, self._readings[exchange.target].dialect)
            self._on_decoded(exchange)
        return bool(self._waiting)

    def decode_now(self, exchange: Exchange) -> int:
        """Decode what has been handed over of an exchange that goes on; gives the output tokens so far."""
        segments, exchange.segments = exchange.segments, []
        self._decode_all(exchange, segments)
        if exchange.too_large:  # not to be given up from within its own framing
            self._waiting.append(exchange)
        return max(len(exchange.kinds), exchange.answer.cumulative_tokens or 0)

    def _decode_all(self, exchange: Exchange, segments: list[Segment]) -> None:
        try:
            for i, segment in enumerate(segments, 1):
                self._decode(exchange, segment, is_last=exchange.ended and i == len(segments))
        except Exception as error:  # whatever it is, it costs this request and no other
            exchange.decode_failure = exchange.decode_failure or f"{type(error).__name__}: {error}"
        self.decoded_bytes += exchange.handed_bytes - exchange.decoded_bytes
        exchange.decoded_bytes = exchange.handed_bytes

    def _decode(self, exchange: Exchange, segment: Segment, *, is_last: bool) -> None:
        if segment.read_ns:
            stamp_ns, lag_ns, unstamped = self._clock.convert(segment.stamps, np.frombuffer(segment.read_ns, np.int64))
            exchange.unstamped += unstamped
            exchange.n_reads += len(segment.read_ns)
            exchange.max_lag_ns = max(exchange.max_lag_ns, int(lag_ns.max()))
            if exchange.first_byte_ns is None:
                exchange.first_byte_ns = int(stamp_ns[0])
            exchange.last_byte_ns = int(stamp_ns[-1])
        else:
            stamp_ns = np.array([exchange.last_byte_ns or 0], np.int64)
        parts = segment.parts
        if self.keeps_bodies:
            exchange.saved = bytearray() if exchange.saved is None else exchange.saved
            if len(exchange.saved) <= MAX_SAVED_BYTES:
                exchange.saved += b"".join(parts)
        reading = self._readings[exchange.target]
        if not may_be_events(exchange, reading.dialect):
            if len(exchange.other_body) < MAX_WORDS_BYTES:
                exchange.other_body = (exchange.other_body + b"".join(parts))[:MAX_WORDS_BYTES]
            self._hold(exchange, b"")
            if exchange.response_bytes > MAX_EVENT_BYTES:
                exchange.too_large = f"a response of more than {MAX_EVENT_BYTES >> 20} MiB that is no event stream"
            return
        rest = exchange.rest
        if exchange.too_large:
            self._hold(exchange, b"")
            return
        new = b"".join(parts)
        body = rest + new
        if len(rest) > LARGE_BYTES and not is_last and not reading.may_end(rest, new):
            self._hold(exchange, body)  # or every segment would have all of it gone through again
            return
        events = reading.split(body, at_start=not exchange.started, final=is_last)
        exchange.started = exchange.started or events.consumed > 0
        self._hold(exchange, body[events.consumed :])
        if not events.payloads:
            return
        output = self._read_events(exchange, events.payloads)
        if output.any():
            output_ends = np.array(events.ends)[output]
            part_ends = np.fromiter(map(len, parts), np.int64, len(parts)).cumsum()
            part_ends += len(rest)
            part = part_ends.searchsorted(output_ends)  # the part that holds each event's last byte
            read = np.array(segment.part_counts).searchsorted(part, side="right")  # the read that brought that part
            # An event without its blank line ends with the response, whose last segment may hold nothing of it, or no read.
            stamps = stamp_ns[np.minimum(read, len(stamp_ns) - 1)]
            exchange.event_ns.append(stamps)
            exchange.coalesced_events += int(np.count_nonzero(stamps[1:] == stamps[:-1]))

    def _hold(self, exchange: Exchange, rest: bytes) -> None:
        """Keep what belongs to an event that is not whole yet, within limits."""
        self._held_bytes += len(rest) - len(exchange.rest)
        exchange.rest = rest
        if len(rest) > MAX_EVENT_BYTES:
            exchange.too_large = f"an event of more than {MAX_EVENT_BYTES >> 20} MiB"
        elif self._held_bytes > MAX_HELD_BYTES and len(rest) > LARGE_BYTES:
            exchange.too_large = (
                f"events that are not whole yet take more than {MAX_HELD_BYTES >> 20} MiB in this worker"
            )
        elif exchange.response_bytes > MAX_RESPONSE_BYTES:
            exchange.too_large = f"a response of more than {MAX_RESPONSE_BYTES >> 30} GiB"
        elif len(exchange.kinds) > MAX_EVENTS:
            exchange.too_large = f"more than {MAX_EVENTS:,} events of output"
        if exchange.too_large:
            self._held_bytes -= len(exchange.rest)
            exchange.rest = b""

    def _read_events(self, exchange: Exchange, payloads: list[bytes]) -> npt.NDArray[np.bool_]:
        """Have the dialect read the events; which of them carried output."""
        kinds = np.full(len(payloads), CONTENT, np.int8)
        so_far = np.full(len(payloads), UNKNOWN, np.int64)
        done = 0
        while done < len(payloads):
            if (frame := exchange.frame) is None:
                self._read_one(exchange, payloads, done, kinds, so_far)
                done += 1
            else:
                done = self._read_alike(exchange, frame, payloads, done, kinds, so_far)
        output = kinds >= CONTENT
        exchange.kinds += kinds[output].tobytes()
        exchange.cumulative.frombytes(so_far[output].tobytes())
        if exchange.texts is not None:
            said = np.flatnonzero(kinds == CONTENT)
            # Where each event repeats what was said before, the last one says it all.
            text = self._readings[exchange.target].text
            exchange.texts += [_said(text, payloads[i]) for i in (said[-1:] if exchange.answer.is_cumulative else said)]
        return output

    def _read_alike(
        self,
        exchange: Exchange,
        frame: Frame,
        payloads: list[bytes],
        done: int,
        kinds: npt.NDArray[np.int8],
        so_far: npt.NDArray[np.int64],
    ) -> int:
        """Go on behind `done` events, parsing those alone that are unlike the frame, until there is another frame.

        Gives how many are done then.
        """
        alike = frame.compare(payloads[done:], exchange.text_before)
        until = done + alike.looked_at
        kinds[done:until] = frame.kind
        so_far[done:until] = UNKNOWN if alike.so_far is None else alike.so_far  # a frame before may have left its own
        like_before = done
        for i in alike.unlike:
            if done + i > like_before:
                self._catch_up(exchange, frame, alike, i - 1, payloads[done + i - 1])
            so_far[done + i] = UNKNOWN
            self._read_one(exchange, payloads, done + i, kinds, so_far)
            like_before = done + i + 1
            if exchange.frame is not frame:
                return done + i + 1
            if frame.cumulative and exchange.text_before is None:
                exchange.text_before = frame.text_in(payloads[done + i])
        if like_before < until:
            self._catch_up(exchange, frame, alike, alike.looked_at - 1, payloads[until - 1])
            if frame.cumulative:
                exchange.text_before = alike.texts[-1]
        return until

    def _catch_up(self, exchange: Exchange, frame: Frame, alike: Alike, i: int, payload: bytes) -> None:
        """Let the answer know what event i, `payload`, said, which was not parsed."""
        answer = exchange.answer
        if frame.totals and not frame.cumulative:  # its other counts may have been overwritten since the frame was made
            self._readings[exchange.target].read(payload, answer)
            return
        if alike.so_far is not None:
            answer.cumulative_tokens = int(alike.so_far[i])
            if frame.totals:
                answer.output_tokens = count(answer.cumulative_tokens)
        if frame.cumulative:
            answer.text_before = text_of(alike.texts[i])

    def _read_one(
        self,
        exchange: Exchange,
        payloads: list[bytes],
        i: int,
        kinds: npt.NDArray[np.int8],
        so_far: npt.NDArray[np.int64],
    ) -> None:
        payload, answer, reading = payloads[i], exchange.answer, self._readings[exchange.target]
        exchange.text_before = None
        try:
            kinds[i] = kind = reading.read(payload, answer)
        except MALFORMED:
            kinds[i] = NOTHING
            if not exchange.bad_event:
                exchange.bad_event = True
                exchange.other_body = payload[:MAX_WORDS_BYTES]
            return
        if answer.cumulative_tokens is not None:
            so_far[i] = answer.cumulative_tokens
        if kind >= CONTENT and exchange.frames_tried < FRAMES_TRIED and not answer.undecided:
            exchange.frames_tried += 1
            found = Frame.of(payload, kind, answer, reading.dialect, reading.marks)
            if found is not None:
                frame, exchange.text_before = found
                if frame != exchange.frame:
                    exchange.frame = frame


def _said(text: Callable[[bytes], str], payload: bytes) -> str:
    try:
        return str(text(payload))
    except MALFORMED:  # output of some kind, but no text
        return ""


def may_be_events(exchange: Exchange, dialect: Dialect) -> bool:
    """Whether the body is worth reading as the events that were asked for."""
    return (
        200 <= exchange.status < 300
        and exchange.content_type not in NOT_EVENTS[dialect.framing]
        and exchange.content_encoding in ("", "identity")
    )


def judge(exchange: Exchange, dialect: Dialect) -> None:
    """Set `error` and `words` of an exchange whose events have all been read: None only where all is well.

    Success takes a 2xx status, no error event, an end sign or a finish reason (where the API has them), and output; [DONE]
    alone proves nothing, since vLLM and SGLang send it behind an error event too.
    """
    answer = exchange.answer
    if exchange.too_large and exchange.error in (None, "truncated"):
        exchange.error, exchange.words = "too-large", exchange.too_large
    finished = answer.end_seen or answer.finish_reason is not None or dialect.ends_with_response
    # llama-cpp-python says [DONE] to a stream that it breaks off, too: on a broken connection only a finish reason counts.
    if exchange.error == "truncated" and (answer.finish_reason is not None or exchange.status >= 300):
        exchange.error = None  # all that matters was here before the connection broke
    if exchange.error is not None:
        return
    if not 200 <= exchange.status < 300:
        exchange.error = f"http-{exchange.status}"
        exchange.words = words_of_error(exchange.other_body)
    elif not may_be_events(exchange, dialect):
        exchange.error = "not-a-stream"
        what = exchange.content_encoding or exchange.content_type
        wanted = WANTED[dialect.framing]
        exchange.words = f"answered {what} instead of {wanted}: {words_of_error(exchange.other_body)}"
    elif answer.error_words is not None:
        exchange.error, exchange.words = "server-error", answer.error_words
    elif exchange.bad_event:
        exchange.error, exchange.words = "bad-event", words_of_error(exchange.other_body)
    elif not finished:
        exchange.error, exchange.words = "truncated", "the stream ended without its end sign"
    elif not exchange.kinds:
        exchange.error, exchange.words = "empty", "a complete response without any output"
    elif exchange.texts and answer.is_cumulative:
        del exchange.texts[:-1]


def event_tokens(exchange: Exchange) -> list[int] | None:
    """Tokens in each output event where every event said the count so far, else None."""
    if not exchange.cumulative or UNKNOWN in exchange.cumulative:  # in nearly every response it is the first one
        return None
    so_far = np.frombuffer(exchange.cumulative, np.int64)
    tokens = np.diff(so_far, prepend=0)
    return None if int(tokens.min()) < 0 else np.minimum(tokens, 0xFFFF).tolist()
