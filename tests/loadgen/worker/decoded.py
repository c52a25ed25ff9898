"""Responses as the decoder makes something of them, without a transport."""

import itertools
from array import array

import numpy as np

from loadgen.dialects import chat
from loadgen.dialects.dialect import Dialect
from loadgen.worker.decoding import Decoder
from loadgen.worker.exchange import Exchange, Segment
from loadgen.worker.stamps import NO_STAMP, StampClock


def ended(
    *reads: bytes,
    status: int = 200,
    content_type: str = "text/event-stream",
    content_encoding: str = "",
    error: str | None = None,
    segment_ends: tuple[int, ...] = (),
    dialect: Dialect = chat.DIALECT,
    quoted: bool = False,
) -> Exchange:
    """Decode a response whose body came in these reads, read i at (i + 1) * 1,000 ns; a segment ends behind each of
    `segment_ends` (numbers of reads), and at the end."""
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.status, exchange.content_type, exchange.content_encoding = status, content_type, content_encoding
    exchange.texts = [] if quoted else None
    done: list[Exchange] = []
    decoder = Decoder([dialect], StampClock(), done.append)
    borders = [0, *sorted(set(segment_ends)), len(reads)]
    for first, last in itertools.pairwise(borders):
        parts = list(reads[first:last])
        times = array("q", [(i + 1) * 1_000 for i in range(first, last)])
        segment = Segment(parts, list(range(1, len(parts) + 1)), bytearray(NO_STAMP * len(parts)), times)
        exchange.segments.append(segment)
        exchange.ended = last == len(reads)
        exchange.error = error if exchange.ended else None
        decoder.on_segment(exchange)
        assert not decoder.decode_one()
    assert done == [exchange]
    return exchange


def stamps(exchange: Exchange) -> list[int]:
    """The stamps of its events."""
    return np.concatenate(exchange.event_ns).tolist() if exchange.event_ns else []


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces."""
    places = [0, *sorted({min(place, len(stream)) for place in cuts}), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(places) if a < b]
