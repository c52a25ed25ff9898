"""What the two transports share: connections in numbered slots, and reads -> one framed exchange after the other.

A transport takes bytes off its sockets in its own way and leaves them in `connection.reads`; `_frame` runs them through
TLS (where that is not done yet) and HTTP, hands the body over in segments and ends the exchange where the response ends.
"""

import asyncio
import ssl
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from loadgen.clock import monotonic_ns
from loadgen.plan import Endpoint, Limits
from loadgen.wire.http1 import BadResponse, ResponseReader
from loadgen.worker.connection import ConnectError, Read
from loadgen.worker.exchange import Exchange, Segment
from loadgen.worker.pacer import Pacer
from loadgen.worker.stamps import NO_STAMP

# Long enough to be worth a clock read and a turn of the loop, shorter than any tick. Not a knob.
SLICE_NS: Final = 300_000

# What a stream may pile up before it is decoded in its middle. All streams together stay below BUFFER_BYTES, none gets
# less than MIN_SEGMENT_BYTES, or decoding in bulk would lose its point.
BUFFER_BYTES: Final = 96 * 1024 * 1024
MIN_SEGMENT_BYTES: Final = 8 * 1024
MAX_SEGMENT_BYTES: Final = 256 * 1024

# What may wait, read and not framed, or framed and not decoded, before no more is read: a server that is faster than this
# program is then held back by TCP, and the memory stays bounded.
MOST_UNFRAMED_BYTES: Final = 64 * 1024 * 1024
MOST_WAITING_BYTES: Final = 192 * 1024 * 1024

CONNECTING_AT_ONCE: Final = 128


class Framed(Protocol):
    """A slot's connection, as far as the framing looks at it."""

    slot: int
    origin: int
    exchange: Exchange | None
    connecting: asyncio.Task[None] | None
    reads: list[Read]
    urgent: bool
    reader: ResponseReader
    used: bool
    tls_ended: bool

    @property
    def is_open(self) -> bool: ...

    @property
    def is_sent(self) -> bool: ...

    @property
    def encrypted(self) -> bool: ...

    def decrypt(self, data: bytes) -> bytes: ...


C = TypeVar("C", bound=Framed)


class FramedSlots(ABC, Generic[C]):
    """The part of a transport.Transport that knows nothing of sockets."""

    def __init__(self, origins: Sequence[Endpoint], limits: Limits, pacer: Pacer) -> None:
        self._origins = origins
        self._limits = limits
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._connections: list[C] = []  # by slot
        self._segment_bytes = MAX_SEGMENT_BYTES
        self.reads = 0
        self.reopened = 0
        self.on_end: Callable[[Exchange], None] = lambda _: None
        self.on_segment: Callable[[Exchange], None] = lambda _: None
        self.decode_one: Callable[[], bool] = lambda: False
        self.decode_now: Callable[[Exchange], int] = lambda _: 0
        self.decoded_bytes: Callable[[], int] = lambda: self._handed_bytes
        self._handed_bytes = 0

    # the transport's own

    @abstractmethod
    def _closed_slot(self, slot: int, origin: int) -> C:
        """A connection for this slot, not open yet."""

    @abstractmethod
    async def _connect(self, connection: C) -> None:
        """Open it within its time limit. ConnectError if that fails."""

    @abstractmethod
    def _close(self, connection: C) -> None:
        """Close it, at once and for good, if it is open."""

    @abstractmethod
    def _send(self, connection: C, exchange: Exchange) -> None:
        """Send the exchange on its open connection."""

    @abstractmethod
    def submit(self, exchange: Exchange) -> None:
        """Send on the slot's connection, connecting first where there is none."""

    @abstractmethod
    def wake(self) -> None:
        """Have a slice of work done soon."""

    # connections

    @property
    def slots(self) -> int:
        """How many slots there are, connected or not."""
        return len(self._connections)

    def add_slot(self, origin: int = 0) -> int:
        """One more slot, not connected; gives its number."""
        self._connections.append(self._closed_slot(len(self._connections), origin))
        self._share_buffer(len(self._connections))
        return len(self._connections) - 1

    def origin(self, slot: int) -> int:
        """What the slot is, or will be, connected to."""
        return self._connections[slot].origin

    def move(self, slot: int, origin: int) -> None:
        """Let an idle slot belong to an origin; closed if it was connected to another."""
        connection = self._connections[slot]
        if connection.origin != origin:
            self._close(connection)
            connection.origin = origin

    def is_open(self, slot: int) -> bool:
        """Whether the slot has a connection, as far as is known here."""
        connection = self._connections[slot]
        if connection.reads and connection.exchange is None:
            self._frame(connection)  # the server may have closed it meanwhile
        return connection.is_open

    def _share_buffer(self, slots: int) -> None:
        self._segment_bytes = min(max(BUFFER_BYTES // slots, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES)

    async def open(self, wanted: Sequence[int]) -> None:
        """Have so many slots of each origin connected; failures are left to submit, which reports them with the request
        that meets them."""
        # What a stage before was still opening for its next arrivals.
        if opening := [c.connecting for c in self._connections if c.connecting is not None]:
            await asyncio.wait(opening)
        chosen: list[C] = []
        for origin, slots in enumerate(wanted):
            its = [connection for connection in self._connections if connection.origin == origin]
            its += [self._connections[self.add_slot(origin)] for _ in range(slots - len(its))]
            chosen += its[:slots]
        self._share_buffer(max(len(self._connections), 1))
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def open_one(connection: C) -> None:
            async with gate:
                await self._open_idle(connection)

        await asyncio.gather(*(open_one(c) for c in chosen if not c.is_open))

    def prepare(self, slot: int, on_prepared: Callable[[int], None]) -> None:
        """Connect an idle slot beside everything else; `on_prepared(slot)` when that has succeeded or failed."""
        connection = self._connections[slot]

        async def open_it() -> None:
            try:
                await self._open_idle(connection)
            finally:
                connection.connecting = None
            on_prepared(slot)

        connection.connecting = self._loop.create_task(open_it())

    async def _open_idle(self, connection: C) -> None:
        try:
            await self._connect(connection)
        except ConnectError:
            return
        connection.used = True  # it will have stood idle when its first request comes

    async def _connect_and_send(self, connection: C, exchange: Exchange) -> None:
        began_ns = monotonic_ns()
        try:
            await self._connect(connection)
        except ConnectError as error:
            connection.connecting = None
            exchange.sent_ns = exchange.sent_ns or began_ns
            self._end(connection, exchange, error.error, str(error))
            self.wake()  # no read will come to have it decoded
            return
        connection.connecting = None
        exchange.connect_ns = monotonic_ns() - began_ns
        self._send(connection, exchange)

    # framing

    def _is_flooded(self) -> bool:
        """Whether so much waits for the decoder that reading more would only pile it up."""
        return self._handed_bytes - self.decoded_bytes() > MOST_WAITING_BYTES

    def _frame(self, connection: C) -> None:
        """Run what was read through TLS and HTTP; ends the exchange where the response ends."""
        reads, connection.reads = connection.reads, []
        exchange = connection.exchange
        if not reads:  # closed since
            return
        if exchange is None:
            if not self._may_stay_open(connection, reads):
                self._close(connection)
                self.reopened += 1  # by the next request
            return
        reader, encrypted = connection.reader, connection.encrypted
        if reader.head_complete and not encrypted and reads[-1][2]:
            self._frame_body(connection, exchange, reads)
            return
        read_times_ns, stamps = exchange.read_ns, exchange.stamps
        for i, (read_ns, ancillary, data) in enumerate(reads):
            if not data:
                self._peer_closed(connection, exchange, was_reset=data is None)
                return
            try:
                if encrypted:
                    data = connection.decrypt(data)
                    # A record that is not whole yet leaves nothing: the read that completes it is the one that stamps it.
                    if not data and not connection.tls_ended:
                        continue
                if data:
                    exchange.response_bytes += len(data)
                    read_times_ns.append(read_ns)
                    stamps += ancillary[0][2] if ancillary else NO_STAMP
                    reader.feed(data)
            except BadResponse as error:
                self._end(connection, exchange, "bad-http", str(error))
                return
            except ssl.SSLError as error:
                self._end(connection, exchange, "tls", str(error))
                return
            if reader.complete:
                if connection.tls_ended or (i + 1 < len(reads) and not self._may_stay_open(connection, reads[i + 1 :])):
                    reader.keep_alive = False
                self._end(connection, exchange)
                return
            if connection.tls_ended:
                self._peer_closed(connection, exchange, was_reset=False)
                return
        # From here on the end can be told from the bytes, unless they are encrypted or no chunks.
        connection.urgent = encrypted or not reader.chunked or exchange.leave_tokens > 0
        self._framed(connection, exchange, reads[-1][0])

    def _frame_body(self, connection: C, exchange: Exchange, reads: list[Read]) -> None:
        """The common case of _frame, many reads at once: plain bytes behind the head, and no end of the connection."""
        exchange.read_ns.extend([read_ns for read_ns, _, _ in reads])
        exchange.stamps += b"".join([ancillary[0][2] if ancillary else NO_STAMP for _, ancillary, _ in reads])
        pieces: list[bytes] = [data for _, _, data in reads]  # type: ignore[misc]
        exchange.response_bytes += sum(map(len, pieces))
        reader = connection.reader
        try:
            used = reader.feed_many(pieces)
        except BadResponse as error:
            self._end(connection, exchange, "bad-http", str(error))
            return
        if reader.complete:
            if used < len(reads) and not self._may_stay_open(connection, reads[used:]):
                reader.keep_alive = False
            self._end(connection, exchange)
            return
        self._framed(connection, exchange, reads[-1][0])

    def _framed(self, connection: C, exchange: Exchange, last_read_ns: int) -> None:
        exchange.last_read_ns = last_read_ns
        if exchange.leave_tokens:
            self._leave_after_tokens(connection, exchange)
            if exchange.ended:
                return
        if exchange.response_bytes - exchange.handed_bytes > self._segment_bytes:
            self._hand_over(connection, exchange)
            self.on_segment(exchange)

    def _leave_after_tokens(self, connection: C, exchange: Exchange) -> None:
        # An event has a number of line ends at least: where there are not enough of them, nothing need be decoded, once
        # the first output has shown that events do not say how many tokens they bring.
        parts = connection.reader.parts
        exchange.line_ends += sum(part.count(b"\n") for part in parts[exchange.counted_parts :])
        exchange.counted_parts = len(parts)
        says_tokens = not exchange.kinds or exchange.answer.cumulative_tokens is not None
        if exchange.line_ends < exchange.event_lines * exchange.leave_tokens and not says_tokens:
            return
        self._hand_over(connection, exchange)
        if self.decode_now(exchange) >= exchange.leave_tokens:
            self._end(connection, exchange, "cancelled", f"left after {exchange.leave_tokens} tokens")

    def _may_stay_open(self, connection: C, reads: list[Read]) -> bool:
        """Whether what came outside of a response is harmless: TLS session tickets are, data or the end are not."""
        try:
            harmless = all(data and connection.encrypted and not connection.decrypt(data) for _, _, data in reads)
        except ssl.SSLError:
            return False
        return harmless and not connection.tls_ended

    def _peer_closed(self, connection: C, exchange: Exchange, *, was_reset: bool) -> None:
        how = "reset" if was_reset else "closed"
        if exchange.response_bytes == 0:
            self._lost(connection, exchange, f"the server {how} the connection before it answered")
            return
        if not was_reset:
            connection.reader.feed_eof()
        if connection.reader.complete:
            self._end(connection, exchange)
        else:
            self._end(connection, exchange, "truncated", f"the server {how} the connection in mid-response")

    def _lost(self, connection: C, exchange: Exchange, words: str) -> None:
        """The connection broke before a byte came back: once, on a connection that has stood open, that is no failure."""
        if connection.used and not exchange.reconnected:
            exchange.reconnected = True
            self.reopened += 1
            self._close(connection)
            self.submit(exchange)
        else:
            self._end(connection, exchange, "connect-reset", words)

    def _hand_over(self, connection: C, exchange: Exchange) -> None:
        reader = connection.reader
        exchange.status = reader.status
        exchange.content_type = reader.content_type
        exchange.content_encoding = reader.content_encoding
        exchange.retry_after = reader.retry_after
        exchange.counted_parts = 0
        exchange.segments.append(Segment(*reader.take(), exchange.stamps, exchange.read_ns))
        exchange.stamps = bytearray()
        exchange.read_ns = array("q")
        self._handed_bytes += exchange.response_bytes - exchange.handed_bytes
        exchange.handed_bytes = exchange.response_bytes

    def _end(self, connection: C, exchange: Exchange, error: str | None = None, words: str = "") -> None:
        exchange.error, exchange.words, exchange.ended = error, words, True
        exchange.ended_ns = monotonic_ns()
        if connection.is_open:
            self._hand_over(connection, exchange)
            if error or not connection.reader.keep_alive or not connection.is_sent:
                self._close(connection)
        connection.exchange = None
        connection.used = True
        # The next request first, the decoding of this one later.
        self.on_end(exchange)
        self.on_segment(exchange)

    def abort(self, exchange: Exchange, error: str, words: str = "") -> None:
        """End an exchange now; what it has received so far is kept."""
        connection = self._connections[exchange.slot]
        if connection.exchange is exchange and connection.reads:
            self._frame(connection)
        if exchange.ended:
            return
        if connection.connecting is not None:
            connection.connecting.cancel()
            connection.connecting = None
        exchange.sent_ns = exchange.sent_ns or monotonic_ns()
        self._end(connection, exchange, error, words)
        self.wake()

    def in_flight(self) -> list[Exchange]:
        """The exchanges that have not ended."""
        exchanges = []
        for connection in self._connections:
            exchange = connection.exchange
            if exchange is not None:
                if connection.reads:  # not framed yet
                    exchange.last_read_ns = connection.reads[-1][0]
                exchanges.append(exchange)
        return exchanges
