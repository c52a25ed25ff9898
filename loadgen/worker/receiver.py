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
from collections import deque
from collections.abc import Sequence
from typing import Final

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.plan import Endpoint, Limits
from loadgen.worker.connection import Address, ConnectError, Connection, resolve, tls_context
from loadgen.worker.exchange import Exchange
from loadgen.worker.framing import MOST_UNFRAMED_BYTES, SLICE_NS, FramedSlots
from loadgen.worker.pacer import Pacer

# A token's event is some 250 bytes. With its header a bytes object of this size is the largest that Python takes from its
# own pools, which is worth 3 % of a token's cost; where events turn out to be larger, the large size saves the second read.
SMALL_READ_BYTES: Final = 448
LARGE_READ_BYTES: Final = 16 * 1024
# Where one read in so many is cut short by the small size, the events are larger: each then costs a second read, and being
# framed at once, for the end of a cut read does not tell what follows.
MOST_CUT: Final = 8
FEWEST_CUT: Final = 64
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 32

# The end of an event, or of a line of JSON, and of the chunk around it. A chunked body never ends so (its last bytes
# are a zero, or a trailer, and CR LF CR LF), so what ends so need not be framed at once, and framing several reads
# together is cheaper than framing each.
MORE_TO_COME: Final = (b"\n\n\r\n", b"}\n\r\n", b"\n\r\n\r\n")
MANY_READS: Final = 16

READABLE: Final = select.EPOLLIN
READY_AT_ONCE: Final = 64
# A server that floods us must not keep the loop from its timers: 256 * 64 reads are some 100 ms.
MAX_POLLS: Final = 256

# A burst of sends must not delay the reads: 1,000 in one go are 15 ms.
SENDS_BEFORE_DRAIN: Final = 16


class Receiver(FramedSlots[Connection]):
    """The kernel transport; see transport.Transport."""

    stamp_source = "kernel"

    def __init__(self, origins: Sequence[Endpoint], limits: Limits, pacer: Pacer) -> None:
        super().__init__(origins, limits, pacer)
        self._contexts = [tls_context(origin) for origin in origins]
        self._addresses: list[list[Address]] = [[] for _ in origins]
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._fresh: deque[Connection] = deque()  # have reads that nobody has framed
        self._sends = 0
        self._read_bytes = SMALL_READ_BYTES
        self._cut_reads = 0
        self._scheduled = False
        self._loop.add_reader(self._epoll.fileno(), self.poll)

    # connections

    def _closed_slot(self, slot: int, origin: int) -> Connection:
        return Connection(slot, origin)

    async def _connect(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_ns / NS_PER_S):
                number = connection.origin
                where = self._origins[number]
                if not self._addresses[number]:
                    self._addresses[number] = await resolve(where)
                await connection.open(self._addresses[number], self._contexts[number], where.host)
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
        if connection.reads:
            self._frame(connection)  # whatever came while it stood idle is no answer to what is sent now
        connection.exchange = exchange
        if connection.sock is None:
            connection.connecting = self._loop.create_task(self._connect_and_send(connection, exchange))
            return
        self._send(connection, exchange)
        self._sends += 1
        if self._sends >= SENDS_BEFORE_DRAIN:
            self._drain(polls=1)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        connection.reader.begin()
        connection.urgent = True
        try:
            connection.send(exchange)
        except OSError as error:
            self._lost(connection, exchange, error.strerror or str(error))
            return
        # Out of the set it is where the peer's end was read already; framing that comes next.
        if connection.unsent is not None and connection.fd in self._by_fd:
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    # receiving

    def _drain(self, polls: int = MAX_POLLS) -> None:
        """Take what every ready socket holds. The hot loop: nothing is parsed, nothing is looked up twice."""
        self._sends = 0
        poll, by_fd, fresh, now = self._epoll.poll, self._by_fd, self._fresh, monotonic_ns
        read_bytes, pacer = self._read_bytes, self._pacer
        most_fresh = MOST_UNFRAMED_BYTES // read_bytes
        for _ in range(polls):
            ready = poll(0, READY_AT_ONCE)
            due_ns, n_reads = pacer.due_ns, 0
            for fd, mask in ready:
                connection = by_fd[fd]
                if mask != READABLE:
                    self._go_on_sending(connection)
                data: bytes | None
                try:
                    data, ancillary, _, _ = connection.recvmsg(read_bytes, ANCILLARY_BYTES)
                except BlockingIOError:  # it was ready to send only
                    continue
                except OSError:
                    data, ancillary = None, []
                reads = connection.reads
                reads.append((read_ns := now(), ancillary, data))
                n_reads += 1
                if not data:
                    fresh.append(connection)
                    # Out of the set, or a socket that has ended would be ready for ever.
                    self._epoll.unregister(fd)
                    del by_fd[fd]
                elif connection.urgent or not data.endswith(MORE_TO_COME) or len(reads) >= MANY_READS:
                    fresh.append(connection)
                    if len(data) == read_bytes:  # a whole event at the end of a full read is luck
                        self._cut_reads += 1
                if read_ns >= due_ns:  # what is left is ready again at the next poll
                    break
            self.reads += n_reads
            if now() >= pacer.due_ns:
                pacer.look()
            elif len(ready) < READY_AT_ONCE or len(fresh) > most_fresh:
                return

    def _hand_over(self, connection: Connection, exchange: Exchange) -> None:
        if self._cut_reads > FEWEST_CUT and self._cut_reads * MOST_CUT > self.reads:
            self._read_bytes = LARGE_READ_BYTES
        super()._hand_over(connection, exchange)

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
        fresh, now, pacer = self._fresh, monotonic_ns, self._pacer
        more = True
        while (now_ns := now()) < until_ns or self._is_flooded():
            if now_ns >= pacer.due_ns:
                pacer.look()
            elif fresh:
                self._frame(fresh.popleft())
            elif not (more := self.decode_one()):
                break
        if more:
            self.wake()

    def poll(self) -> None:
        """One look at the sockets and a slice of work."""
        self._drain()
        self._work()

    def wake(self) -> None:
        """Have a slice of work done soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work_later)

    def _work_later(self) -> None:
        self._scheduled = False
        if not self._epoll.closed:
            self.poll()
