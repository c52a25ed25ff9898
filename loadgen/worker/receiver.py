"""The kernel transport: empty every ready socket, keep (bytes, kernel stamp, time of the read), parse nothing meanwhile.

Why: lock-step engines answer all streams in one instant. A client that parses each token before it reads the next
smears that instant over the time it needs for all of them, and once it falls a whole tick behind, two tokens share one
read and one stamp. So the worker owns an epoll set (hung into the loop by its descriptor) and `_drain` empties it
in one plain loop; the HTTP framing comes behind it, the decoding of events behind that, in slices, each with a
look at the sockets in between. The stamp is the kernel's, so a late loop costs no precision, only, in the end, merged reads.

`_drain` is the part to be swapped for a faster one: it touches the sockets, `Connection.reads`, `_fresh` and nothing else.

Not known: whether one epoll set still holds at 20,000 streams (benchmarks/ ends at 8,000).
"""

import asyncio
import select
import socket
import ssl
from array import array
from collections import deque
from collections.abc import Callable
from typing import Final

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.plan import Limits, Target
from loadgen.wire.http1 import BadResponse
from loadgen.worker.connection import Address, ConnectError, Connection, Read, resolve, tls_context
from loadgen.worker.exchange import Exchange, Segment
from loadgen.worker.stamps import NO_STAMP

# A token's event is some 200 bytes; a larger read only costs the allocation, a smaller one a second call.
READ_BYTES: Final = 4096
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 32

READY_AT_ONCE: Final = 256
# A server that floods us must not keep the loop from its timers: 64 * 256 reads are some 100 ms.
MAX_POLLS: Final = 64

# A burst of sends must not delay the reads: 1,000 in one go are 15 ms.
SENDS_BEFORE_DRAIN: Final = 16

# Long enough to be worth a clock read and a turn of the loop, shorter than any tick. Not a knob.
SLICE_NS: Final = 300_000

# What a stream may pile up before it is decoded in its middle. All streams together stay below BUFFER_BYTES, none gets
# less than MIN_SEGMENT_BYTES, or decoding in bulk would lose its point.
BUFFER_BYTES: Final = 96 * 1024 * 1024
MIN_SEGMENT_BYTES: Final = 8 * 1024
MAX_SEGMENT_BYTES: Final = 256 * 1024

CONNECTING_AT_ONCE: Final = 128


class Receiver:
    """The kernel transport; see transport.Transport."""

    stamp_source = "kernel"

    def __init__(self, target: Target, limits: Limits) -> None:
        self._target = target
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._context = tls_context(target)
        self._addresses: list[Address] = []
        self._epoll = select.epoll()
        self._connections: list[Connection] = []  # by slot
        self._by_fd: dict[int, Connection] = {}
        self._fresh: deque[Connection] = deque()  # have reads that nobody has framed
        self._sends = 0
        self._scheduled = False
        self._segment_bytes = MAX_SEGMENT_BYTES
        self.reads = 0
        self.reopened = 0
        self.on_end: Callable[[Exchange], None] = lambda _: None
        self.on_segment: Callable[[Exchange], None] = lambda _: None
        self.decode_one: Callable[[], bool] = lambda: False
        self._loop.add_reader(self._epoll.fileno(), self._readable)

    # connections

    async def open(self, slots: int) -> None:
        """Have the slots connected; failures are left to submit, which reports them with the request that meets them."""
        while len(self._connections) < slots:
            self._connections.append(Connection(len(self._connections)))
        self._segment_bytes = min(max(BUFFER_BYTES // slots, MIN_SEGMENT_BYTES), MAX_SEGMENT_BYTES)
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def open_one(connection: Connection) -> None:
            async with gate:
                try:
                    await self._connect(connection)
                except ConnectError:
                    return
            connection.used = True  # it will have stood idle when its first request comes

        await asyncio.gather(*(open_one(c) for c in self._connections[:slots] if c.sock is None))

    async def _connect(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_ns / NS_PER_S):
                if not self._addresses:
                    self._addresses = await resolve(self._target)
                await connection.open(self._addresses, self._context, self._target.host)
        except TimeoutError:
            raise ConnectError(
                "timeout-connect", f"no connection within {self._limits.connect_ns / NS_PER_S:g} s"
            ) from None
        self._by_fd[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _close(self, connection: Connection) -> None:
        if connection.sock is not None:
            if self._by_fd.pop(connection.fd, None) is not None:
                self._epoll.unregister(connection.fd)
            connection.close()

    def close(self) -> None:
        """Close everything."""
        for connection in self._connections:
            if connection.connecting is not None:
                connection.connecting.cancel()
            self._close(connection)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # sending

    def submit(self, exchange: Exchange) -> None:
        """Send on the slot's connection, connecting first where there is none."""
        connection = self._connections[exchange.slot]
        connection.exchange = exchange
        if connection.sock is None:
            connection.connecting = self._loop.create_task(self._connect_and_send(connection, exchange))
            return
        self._send(connection, exchange)
        self._sends += 1
        if self._sends >= SENDS_BEFORE_DRAIN:
            self._sends = 0
            self._drain()

    async def _connect_and_send(self, connection: Connection, exchange: Exchange) -> None:
        began_ns = monotonic_ns()
        try:
            await self._connect(connection)
        except ConnectError as error:
            connection.connecting = None
            exchange.sent_ns = exchange.sent_ns or began_ns
            self._end(connection, exchange, error.error, str(error))
            return
        connection.connecting = None
        exchange.connect_ns = monotonic_ns() - began_ns
        self._send(connection, exchange)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        connection.reader.begin()
        try:
            connection.send(exchange)
        except OSError as error:
            self._lost(connection, exchange, error.strerror or str(error))
            return
        if connection.unsent is not None:
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    # receiving

    def _readable(self) -> None:
        self._drain()
        self._work()

    def _drain(self) -> None:
        """Take what every ready socket holds. The hot loop: nothing is parsed, nothing is looked up twice."""
        poll, by_fd, fresh, now = self._epoll.poll, self._by_fd, self._fresh, monotonic_ns
        for _ in range(MAX_POLLS):
            ready = poll(0, READY_AT_ONCE)
            self.reads += len(ready)
            for fd, mask in ready:
                connection = by_fd[fd]
                if mask != select.EPOLLIN:
                    self._go_on_sending(connection)
                data: bytes | None
                try:
                    data, ancillary, _, _ = connection.recvmsg(READ_BYTES, ANCILLARY_BYTES)
                except BlockingIOError:  # it was ready to send only
                    continue
                except OSError:
                    data, ancillary = None, []
                reads = connection.reads
                if not reads:
                    fresh.append(connection)
                reads.append((now(), ancillary, data))
                if not data:
                    # Out of the set, or a socket that has ended would be ready for ever.
                    self._epoll.unregister(fd)
                    del by_fd[fd]
            if len(ready) < READY_AT_ONCE:
                return

    def _go_on_sending(self, connection: Connection) -> None:
        if connection.unsent is None:
            return
        try:
            connection.send_rest()
        except OSError:
            connection.unsent = None  # the read that follows tells the story
        if connection.unsent is None:
            self._epoll.modify(connection.fd, select.EPOLLIN)

    def _work(self) -> None:
        """One slice: framing first, since it frees slots, then decoding; what is left waits for the loop's next turn."""
        until_ns = monotonic_ns() + SLICE_NS
        fresh, now = self._fresh, monotonic_ns
        more = True
        while now() < until_ns:
            if fresh:
                self._frame(fresh.popleft())
            elif not (more := self.decode_one()):
                break
        if more:
            self.wake()

    def wake(self) -> None:
        """Have a slice of work done soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work_later)

    def _work_later(self) -> None:
        self._scheduled = False
        self._drain()
        self._work()

    # framing

    def _frame(self, connection: Connection) -> None:
        """Run what was read through TLS and HTTP; ends the exchange where the response ends."""
        reads, connection.reads = connection.reads, []
        exchange = connection.exchange
        if not reads:  # closed since
            return
        if exchange is None:
            if not self._may_stay_open(connection, reads):
                self._close(connection)
            return
        reader, encrypted = connection.reader, connection.encrypted
        read_times_ns, stamps = exchange.read_ns, exchange.stamps
        for i, (read_ns, ancillary, data) in enumerate(reads):
            if not data:
                self._peer_closed(connection, exchange, was_reset=data is None)
                return
            exchange.response_bytes += len(data)
            try:
                if encrypted:
                    # A record that is not whole yet leaves nothing: the read that completes it is the one that stamps it.
                    data = connection.decrypt(data)
                    if not data:
                        continue
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
                if i + 1 < len(reads) and not self._may_stay_open(connection, reads[i + 1 :]):
                    reader.keep_alive = False
                self._end(connection, exchange)
                return
        exchange.last_read_ns = reads[-1][0]
        if exchange.response_bytes - exchange.handed_bytes > self._segment_bytes:
            self._hand_over(connection, exchange)
            self.on_segment(exchange)

    def _may_stay_open(self, connection: Connection, reads: list[Read]) -> bool:
        """Whether what came outside of a response is harmless: TLS session tickets are, data or the end are not."""
        try:
            return all(data and connection.encrypted and not connection.decrypt(data) for _, _, data in reads)
        except ssl.SSLError:
            return False

    def _peer_closed(self, connection: Connection, exchange: Exchange, *, was_reset: bool) -> None:
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

    def _lost(self, connection: Connection, exchange: Exchange, words: str) -> None:
        """The connection broke before a byte came back: once, on a connection that has stood open, that is no failure."""
        if connection.used and not exchange.reconnected:
            exchange.reconnected = True
            self.reopened += 1
            self._close(connection)
            self.submit(exchange)
        else:
            self._end(connection, exchange, "connect-reset", words)

    def _hand_over(self, connection: Connection, exchange: Exchange) -> None:
        reader = connection.reader
        exchange.status = reader.status
        exchange.content_type = reader.content_type
        exchange.content_encoding = reader.content_encoding
        exchange.segments.append(Segment(*reader.take(), exchange.stamps, exchange.read_ns))
        exchange.stamps = bytearray()
        exchange.read_ns = array("q")
        exchange.handed_bytes = exchange.response_bytes

    def _end(self, connection: Connection, exchange: Exchange, error: str | None = None, words: str = "") -> None:
        exchange.error, exchange.words, exchange.ended = error, words, True
        if connection.sock is not None:
            self._hand_over(connection, exchange)
            if error or not connection.reader.keep_alive or connection.unsent is not None:
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

    def in_flight(self) -> list[Exchange]:
        """The exchanges that have not ended."""
        return [connection.exchange for connection in self._connections if connection.exchange is not None]
