"""The portable transport: aiohttp connects, asyncio's protocol stamps, our own framing reads.

aiohttp serves for what its reach is worth: resolving, happy eyeballs, TLS, proxies, CONNECT. From there on the
connection is ours: `transport.set_protocol` (asyncio's own interface) puts a Wire in the place of aiohttp's parser. A
subclass of aiohttp's ResponseHandler would hang on its private state, parse every byte a second time and send through a
writer that does not say when; here data_received stamps first, a request is one transport.write right behind its stamp,
and HTTP means the same as over the kernel transport, being the same code. Of aiohttp are touched: ClientRequest,
TCPConnector.connect, and protocol, transport and close() of the connection it returns; the tests of this file name them.

A stamp is the time of the read. How long the bytes lay there before is estimated, see `_begin_turn`.
"""

import asyncio
import base64
import resource
import ssl
import time
import traceback
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import aiohttp
from yarl import URL

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.plan import Endpoint, Limits
from loadgen.wire.http1 import ResponseReader
from loadgen.worker.connection import ConnectError, Read, tls_context, tls_words, unconnected
from loadgen.worker.exchange import Exchange
from loadgen.worker.framing import MOST_UNFRAMED_BYTES, SLICE_NS, FramedSlots
from loadgen.worker.pacer import Pacer

if TYPE_CHECKING:
    from aiohttp.connector import Connection as Opened

# A burst of sends must not delay the reads: 1,000 in one go are tens of ms, and here the read is the stamp.
SENDS_A_TURN: Final = 16

# Whose voluntary switches count: a poll that waits is one. Where a thread has no count of its own, the process's will do.
_WHOSE: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)

_NO_ANCILLARY: Final[list[tuple[int, int, bytes]]] = []


class Wire(asyncio.Protocol):
    """One open connection's ears: they outlive it by a turn of the loop, and then no longer know where it belonged."""

    __slots__ = ("connection", "opened", "portable", "transport")

    def __init__(self, portable: "Portable", connection: "PortableConnection", opened: "Opened") -> None:
        assert opened.transport is not None
        self.portable = portable
        self.connection: PortableConnection | None = connection
        self.opened = opened
        self.transport = opened.transport

    def data_received(self, data: bytes) -> None:
        read_ns = monotonic_ns()
        if self.connection is not None:
            self.portable.take(self.connection, read_ns, data)

    def eof_received(self) -> None:
        if self.connection is not None:
            self.portable.take(self.connection, monotonic_ns(), b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.connection is None:
            return
        if isinstance(exc, ssl.SSLError):
            self.portable.tls_broke(self.connection, str(exc))
        else:
            self.portable.take(self.connection, monotonic_ns(), b"" if exc is None else None)

    def close(self) -> None:
        """Close at once: what is still to be sent is dropped."""
        # The collector is off in a worker: transport, protocol and slot point at each other and are let go by hand.
        self.connection = None
        self.transport.abort()
        self.opened.close()
        del self.portable, self.opened, self.transport


class PortableConnection:
    """A slot's connection. Closed at first; see framing.Framed."""

    __slots__ = ("connecting", "exchange", "origin", "reader", "reads", "slot", "urgent", "used", "wire")

    reader: ResponseReader  # while it is open
    # TLS is undone before the bytes come here, its goodbye included.
    encrypted = False
    tls_ended = False

    def __init__(self, slot: int, origin: int = 0) -> None:
        self.slot = slot
        self.origin = origin
        self.exchange: Exchange | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.reads: list[Read] = []
        self.urgent = True  # kept up for the framing; here every read is framed when its turn comes
        self.used = False
        self.wire: Wire | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self.wire is not None

    @property
    def is_sent(self) -> bool:
        """Whether the whole request has left. Over TLS the transport does not know what the socket still holds back."""
        return self.wire is None or self.wire.transport.get_write_buffer_size() == 0

    def decrypt(self, data: bytes) -> bytes:
        """Nothing to do: TLS is undone already."""
        return data


class Portable(FramedSlots[PortableConnection]):
    """The transport over aiohttp; see transport.Transport."""

    stamp_source = "read"

    def __init__(self, origins: Sequence[Endpoint], limits: Limits, pacer: Pacer) -> None:
        super().__init__(origins, limits, pacer)
        # The thread resolver is getaddrinfo, as everywhere else here; every slot has its connection, so there is no limit.
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=None, resolver=aiohttp.ThreadedResolver())
        self._requests: list[aiohttp.ClientRequest] = []
        self._proxied_heads: list[tuple[bytes, bytes] | None] = []
        for where in origins:
            url = URL.build(scheme="https" if where.tls else "http", host=where.host, port=where.port)
            proxy = URL(where.proxy) if where.proxy else None
            # Where to connect to, in aiohttp's terms. It is never sent.
            self._requests.append(
                aiohttp.ClientRequest("GET", url, loop=self._loop, ssl=tls_context(where) or True, proxy=proxy)
            )
            self._proxied_heads.append(_proxied_head(url, proxy) if proxy is not None and not where.tls else None)
        self._fresh: deque[PortableConnection] = deque()  # have reads that nobody has framed
        self._to_send: deque[tuple[PortableConnection, Exchange, Wire]] = deque()
        self._sends = 0  # in this turn
        self._unframed_bytes = 0  # at most
        self._scheduled = False
        # For the lag's estimate: whether this turn has read, since when its bytes may have lain there, and the last poll.
        self._is_reading = False
        self._lain_since_ns = 0
        self._polled_ns = monotonic_ns()
        self._rest()

    # connections

    def _closed_slot(self, slot: int, origin: int) -> PortableConnection:
        return PortableConnection(slot, origin)

    async def _connect(self, connection: PortableConnection) -> None:
        limit_s = self._limits.connect_ns / NS_PER_S
        try:
            async with asyncio.timeout(limit_s):
                opened = await self._connector.connect(self._requests[connection.origin], [], aiohttp.ClientTimeout())
        except TimeoutError as error:
            forget_frames(error)
            raise ConnectError("timeout-connect", f"no connection within {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            forget_frames(error)
            raise _connect_error(error, self._origins[connection.origin]) from None
        protocol, transport = opened.protocol, opened.transport
        # What came before the first request is asked for by nobody; aiohttp's protocol has put it by.
        if protocol is None or transport is None or protocol.should_close or transport.is_closing():
            opened.close()
            raise ConnectError("connect-failed", "the connection broke as soon as it was made")
        wire = Wire(self, connection, opened)
        transport.set_protocol(wire)
        if not self._origins[connection.origin].tls:
            # Some loops keep small writes for the end of the turn unless the buffer has to stay empty.
            transport.set_write_buffer_limits(high=0)
        connection.reader = ResponseReader()
        connection.used = False
        connection.wire = wire

    def _close(self, connection: PortableConnection) -> None:
        if connection.wire is not None:
            connection.wire.close()
            connection.wire = None
            connection.reader.close()
            del connection.reader
            connection.reads = []

    def close(self) -> None:
        """Close everything. The connector pools nothing and has nothing to close of its own."""
        for connection in self._connections:
            if connection.connecting is not None:
                connection.connecting.cancel()
            self._close(connection)

    # sending

    def submit(self, exchange: Exchange) -> None:
        """Send on the slot's connection, connecting first where there is none."""
        connection = self._connections[exchange.slot]
        if connection.reads and connection.exchange is None:
            self._frame(connection)  # whatever came while it stood idle is no answer to what is sent now
        connection.exchange = exchange
        if connection.wire is None:
            connection.connecting = self._loop.create_task(self._connect_and_send(connection, exchange))
        else:
            self._send(connection, exchange)

    def _send(self, connection: PortableConnection, exchange: Exchange) -> None:
        """Send now, or in a later turn if this one has sent enough."""
        assert connection.wire is not None
        self.wake()
        if self._sends < SENDS_A_TURN:
            self._write(connection, exchange, connection.wire)
        else:
            self._to_send.append((connection, exchange, connection.wire))

    def _write(self, connection: PortableConnection, exchange: Exchange, wire: Wire) -> None:
        if connection.exchange is not exchange or connection.wire is not wire:  # ended or reopened while it waited
            return
        if connection.reads or wire.transport.is_closing():
            exchange.sent_ns = monotonic_ns()
            self._lost(connection, exchange, "the server gave the connection up before the request was sent")
            return
        self._sends += 1
        data = exchange.data
        if (proxied := self._proxied_heads[connection.origin]) is not None:
            data = _for_proxy(data, *proxied)
        connection.reader.begin()
        # Stamp, then send; see connection.Connection.send.
        exchange.sent_ns = monotonic_ns()
        wire.transport.write(data)

    # receiving

    def take(self, connection: PortableConnection, read_ns: int, data: bytes | None) -> None:
        """Keep what one read brought; b"" is the peer's end, None a reset. Nothing is parsed."""
        if not self._is_reading:
            self._begin_turn(read_ns)
        self.reads += 1
        reads = connection.reads
        if not reads:
            self._fresh.append(connection)
        reads.append((read_ns, _NO_ANCILLARY, data))
        self._unframed_bytes += len(data or b"")
        exchange = connection.exchange
        if exchange is not None:
            lag_ns = read_ns - self._lain_since_ns
            if lag_ns > exchange.max_lag_ns:
                exchange.max_lag_ns = lag_ns

    def _begin_turn(self, read_ns: int) -> None:
        """Estimate since when the bytes of this turn's reads may have lain in their sockets.

        No clock tells: this is an estimate, made to err upwards. If the thread gave up the CPU by itself since it came to
        rest, its poll waited, nothing lay there then, and only what it has done since counts. If it did not, the poll
        came back at once, and the bytes may have come at any time since the poll before. It errs downwards where the
        thread waited for something else (the disk), or was pushed aside by another process behind its wait.
        """
        if resource.getrusage(_WHOSE).ru_nvcsw == self._rested_switches:
            self._lain_since_ns = self._polled_ns
        else:
            self._lain_since_ns = read_ns - (time.thread_time_ns() - self._rested_cpu_ns)
        self._polled_ns = read_ns
        self._is_reading = True
        self.wake()

    def _is_flooded(self) -> bool:
        if not self._fresh:
            self._unframed_bytes = 0
        return self._unframed_bytes > MOST_UNFRAMED_BYTES or super()._is_flooded()

    def tls_broke(self, connection: PortableConnection, words: str) -> None:
        """The TLS layer gave up on an open connection."""
        self._frame(connection)
        if connection.wire is not None and (exchange := connection.exchange) is not None:
            self._end(connection, exchange, "tls", words)
            self.wake()
        else:
            self._close(connection)

    def poll(self) -> None:
        """Nothing: the sockets are the loop's to look at."""

    def wake(self) -> None:
        """Have a slice of work done soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """One slice: sends that waited, or framing and decoding; then the loop polls again."""
        began_ns = monotonic_ns()
        if not self._is_reading:
            self._polled_ns = began_ns
        self._is_reading = self._scheduled = False
        self._sends = 0
        fresh, to_send, now, pacer = self._fresh, self._to_send, monotonic_ns, self._pacer
        if to_send:
            for _ in range(min(len(to_send), SENDS_A_TURN)):
                self._write(*to_send.popleft())
            self.wake()
        else:
            until_ns = began_ns + SLICE_NS
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
        self._rest()

    def _rest(self) -> None:
        self._rested_switches = resource.getrusage(_WHOSE).ru_nvcsw
        self._rested_cpu_ns = time.thread_time_ns()


def forget_frames(error: BaseException) -> None:
    """Let go of what an exception's frames hold: some of them hold the exception itself, and no collector would come."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


def _connect_error(error: Exception, endpoint: Endpoint) -> ConnectError:
    """aiohttp's exceptions in the terms of errors.ERROR_CLASSES."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    where = "the proxy: " if endpoint.proxy and not isinstance(cause, ssl.SSLError) else ""
    match error:
        case aiohttp.ClientConnectorDNSError() | aiohttp.InvalidURL():
            return ConnectError("dns", f"{where}{endpoint.host}: {getattr(cause, 'strerror', None) or cause}")
        case aiohttp.ClientConnectorCertificateError():
            certificate_error = error.certificate_error
            return ConnectError("tls-certificate", getattr(certificate_error, "verify_message", str(certificate_error)))
        case aiohttp.ClientConnectorSSLError():
            return ConnectError("tls", tls_words(cause) if isinstance(cause, ssl.SSLError) else _words(cause))
        case aiohttp.ClientHttpProxyError():
            return ConnectError("connect-failed", f"the proxy answered {error.status} {error.message}")
    if not isinstance(cause, OSError):
        return ConnectError("connect-failed", f"{where}{_words(cause)}")
    told = unconnected(cause)
    return ConnectError(told.error, f"{where}{told}")


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _proxied_head(url: URL, proxy: URL) -> tuple[bytes, bytes]:
    """What a request through a proxy has more than others: before the path, and behind the request line."""
    header = b""
    if proxy.raw_user is not None:
        user = f"{unquote(proxy.raw_user)}:{unquote(proxy.raw_password or '')}"
        header = b"Proxy-Authorization: Basic %b\r\n" % base64.b64encode(user.encode())
    # With the port even where it is the default, or str() would leave it out.
    return f"http://{url.host_subcomponent}:{url.port}".encode(), header


def _for_proxy(data: bytes, origin: bytes, header: bytes) -> bytes:
    """The request in absolute form (RFC 9112, 3.2.2)."""
    line_end = data.index(b"\r\n") + 2
    method, _, rest_of_line = data[:line_end].partition(b" ")
    return b"%b %b%b%b%b" % (method, origin, rest_of_line, header, data[line_end:])
