"""Segments -> events -> rows: everything that nobody waits for, done while the sockets are empty.

One call of `decode_one` decodes one segment (a whole response, mostly): bytes are joined, cut into events and read
by the dialect in one go, and each event's stamp is found through the read that completed it, with NumPy for the
whole segment. A response that is still running is handed over in segments too, so memory stays bounded.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from loadgen.dialects.answer import CONTENT, Answer, words_of_error
from loadgen.wire.sse import split_events
from loadgen.worker.exchange import MAX_WORDS_BYTES, Exchange, Segment
from loadgen.worker.stamps import StampClock

NOT_EVENTS: Final = ("application/json", "text/html")
"""Content types that are certainly no event stream; a missing or odd one gets the benefit of the doubt."""

# What a dialect may raise on an event that is none of its own.
MALFORMED: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)


class Decoder:
    """Decodes exchanges in the order in which their segments came, and hands the ended ones to `on_decoded`."""

    def __init__(
        self, read: Callable[[bytes, Answer], int], clock: StampClock, on_decoded: Callable[[Exchange], None]
    ) -> None:
        self._read = read
        self._clock = clock
        self._on_decoded = on_decoded
        self._waiting: deque[Exchange] = deque()
        self.on_segment = self._waiting.append

    def decode_one(self) -> bool:
        """Decode one exchange's waiting segments; True while more wait."""
        if not self._waiting:
            return False
        exchange = self._waiting.popleft()
        segments, exchange.segments = exchange.segments, []
        try:
            for segment in segments:
                self._decode(exchange, segment)
            if exchange.ended:
                judge(exchange)
        except Exception as error:  # whatever it is, it costs this request and no other
            exchange.error, exchange.words = "decode-failed", f"{type(error).__name__}: {error}"
        if exchange.ended:
            self._on_decoded(exchange)
        return bool(self._waiting)

    def _decode(self, exchange: Exchange, segment: Segment) -> None:
        if segment.read_ns:
            stamp_ns, lag_ns, unstamped = self._clock.convert(segment.stamps, np.frombuffer(segment.read_ns, np.int64))
            exchange.unstamped += unstamped
            exchange.max_lag_ns = max(exchange.max_lag_ns, int(lag_ns.max()))
            if exchange.first_byte_ns is None:
                exchange.first_byte_ns = int(stamp_ns[0])
            exchange.last_byte_ns = int(stamp_ns[-1])
        parts = segment.parts
        if not is_event_stream(exchange):
            if len(exchange.other_body) < MAX_WORDS_BYTES:
                exchange.other_body = (exchange.other_body + b"".join(parts))[:MAX_WORDS_BYTES]
            return
        rest = exchange.rest
        body = rest + b"".join(parts)
        events = split_events(body, at_start=not exchange.started, final=exchange.ended)
        exchange.started = exchange.started or events.consumed > 0
        exchange.rest = body[events.consumed :]
        output_ends = self._read_events(exchange, events.payloads, events.ends)
        if output_ends:
            part_ends = np.fromiter(map(len, parts), np.int64, len(parts)).cumsum()
            part_ends += len(rest)
            part = part_ends.searchsorted(output_ends)  # the part that holds each event's last byte
            read = np.array(segment.part_counts).searchsorted(part, side="right")  # the read that brought that part
            exchange.event_ns.append(stamp_ns[read])
            exchange.coalesced_events += int(np.count_nonzero(read[1:] == read[:-1]))

    def _read_events(self, exchange: Exchange, payloads: list[bytes], ends: list[int]) -> list[int]:
        """Have the dialect read each event; the ends of those that carried output."""
        read, answer = self._read, exchange.answer
        kinds, cumulative = exchange.kinds, exchange.cumulative
        output_ends: list[int] = []
        for payload, end in zip(payloads, ends, strict=True):
            try:
                kind = read(payload, answer)
            except MALFORMED:
                if not exchange.bad_event:
                    exchange.bad_event = True
                    exchange.other_body = payload[:MAX_WORDS_BYTES]
                continue
            if kind >= CONTENT:
                output_ends.append(end)
                kinds.append(kind)
                cumulative.append(answer.cumulative_tokens)
        return output_ends


def is_event_stream(exchange: Exchange) -> bool:
    """Whether the body is worth reading as server-sent events."""
    return (
        200 <= exchange.status < 300
        and exchange.content_type not in NOT_EVENTS
        and exchange.content_encoding in ("", "identity")
    )


def judge(exchange: Exchange) -> None:
    """Set `error` and `words` of an exchange whose events have all been read: None only where all is well.

    Success takes a 2xx status, no error event, an end sign or a finish reason, and output; [DONE] alone proves
    nothing, since vLLM and SGLang send it behind an error event too.
    """
    answer = exchange.answer
    finished = answer.end_seen or answer.finish_reason is not None
    if exchange.error == "truncated" and (finished or exchange.status >= 300):
        exchange.error = None  # all that matters was here before the connection broke
    if exchange.error is not None:
        return
    if not 200 <= exchange.status < 300:
        exchange.error = f"http-{exchange.status}"
        exchange.words = words_of_error(exchange.other_body)
    elif not is_event_stream(exchange):
        exchange.error = "not-a-stream"
        what = exchange.content_encoding or exchange.content_type
        exchange.words = f"answered {what} instead of an event stream: {words_of_error(exchange.other_body)}"
    elif answer.error_words is not None:
        exchange.error, exchange.words = "server-error", answer.error_words
    elif exchange.bad_event:
        exchange.error, exchange.words = "bad-event", words_of_error(exchange.other_body)
    elif not finished:
        exchange.error, exchange.words = "truncated", "the stream ended without its end sign"
    elif not exchange.kinds:
        exchange.error, exchange.words = "empty", "a complete response without any output"


def event_tokens(exchange: Exchange) -> list[int] | None:
    """Tokens in each output event where every event said the count so far, else None."""
    tokens: list[int] = []
    before = 0
    for so_far in exchange.cumulative:
        if so_far is None or so_far < before:
            return None
        tokens.append(min(so_far - before, 0xFFFF))
        before = so_far
    return tokens
