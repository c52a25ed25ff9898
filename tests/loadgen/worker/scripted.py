"""A real server that plays a script on each connection, and a client that drives a transport the way a worker does."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from asked import PATIENCE_S

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.dialects import chat
from loadgen.dialects.dialect import EVENT_LINES, Dialect
from loadgen.errors import ERROR_CLASSES
from loadgen.plan import Endpoint, Limits
from loadgen.worker.decoding import Decoder
from loadgen.worker.exchange import Exchange
from loadgen.worker.pacer import Pacer
from loadgen.worker.portable import Portable
from loadgen.worker.receiver import Receiver
from loadgen.worker.stamps import StampClock

TRANSPORTS = {"kernel": Receiver, "aiohttp": Portable}
LIMITS = Limits(*[int(PATIENCE_S) * NS_PER_S] * 4)


def request(body: bytes = b'{"prompt": "Say something."}') -> bytes:
    """One request, head and body."""
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def delta(**fields: Any) -> bytes:
    """A chat event that carries this delta."""
    return b"data: " + json.dumps({"id": "c1", "choices": [{"index": 0, "delta": fields}]}).encode() + b"\n\n"


ROLE = delta(role="assistant", content="")
FINISH = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
DONE = b"data: [DONE]\n\n"

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = EVENT_STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def tokens(n: int) -> list[bytes]:
    """The events of a whole stream with n tokens."""
    return [ROLE, *(delta(content=f"word{i} ") for i in range(n)), FINISH, DONE]


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(n: int) -> bytes:
    """A whole chunked response with n tokens, a chunk an event."""
    return CHUNKED + b"".join(map(chunk, tokens(n))) + LAST_CHUNK


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.sent_ns: list[int] = []
        self.request_read_ns = 0
        self.told = False  # the test says when

    async def request(self) -> bytes:
        """Read one whole request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.request_read_ns = monotonic_ns()
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await self.reader.readexactly(int(length[0].split(b":")[1]) if length else 0)

    async def send(self, *pieces: bytes) -> None:
        """Write pieces, each with the time just before it was written, each in a turn of the loop of its own."""
        for piece in pieces:
            if self.writer.is_closing():  # the client is gone; uvloop would raise a RuntimeError
                raise ConnectionResetError
            self.sent_ns.append(monotonic_ns())
            self.writer.write(piece)
            await asyncio.sleep(0)
        await self.writer.drain()

    async def answer(self, n: int = 3) -> bytes:
        """Read a request and send a whole stream for it."""
        data = await self.request()
        await self.send(whole(n))
        return data

    def close(self) -> None:
        """An orderly end."""
        self.writer.close()

    def reset(self) -> None:
        """An end by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> bytes:
        """What else the client sends until it closes."""
        rest = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self.reader.read(65536):
                rest += data
        return rest


Script = Callable[[Peer], Awaitable[object]]


class Server:
    """Plays scripts[i] on connection i; the last one on every connection behind it."""

    def __init__(
        self, *scripts: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", receive_bytes: int = 0
    ) -> None:
        self.scripts = scripts
        self.receive_bytes = receive_bytes
        self.tls = tls
        self.host = host
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self._playing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._connected, self.host, 0, ssl=self.tls)
        if self.receive_bytes:  # accepted sockets inherit it
            self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)
        assert not self.failures, self.failures

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._play(peer, len(self.peers) - 1))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)

    async def _play(self, peer: Peer, index: int) -> None:
        try:
            await self.scripts[min(index, len(self.scripts) - 1)](peer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client hung up: for the test to judge
        except Exception as error:
            self.failures.append(error)

    def endpoint(self, host: str | None = None, **fields: Any) -> Endpoint:
        """Where this server is."""
        return Endpoint(host or self.host, self.port, self.tls is not None, "/v1/chat/completions", **fields)


class Client:
    """A transport with a decoder behind it; counts what it is told."""

    def __init__(
        self, transport: str, endpoint: Endpoint, limits: Limits = LIMITS, dialect: Dialect = chat.DIALECT
    ) -> None:
        self.clock = StampClock()
        self.decoder = Decoder([dialect], self.clock, self._decoded)
        self.pacer = Pacer()
        self.transport = TRANSPORTS[transport]([endpoint], limits, self.pacer)
        self._event_lines = EVENT_LINES[dialect.framing]
        self.transport.on_end = self._ended
        self.transport.on_segment = self._segment
        self.transport.decode_one = self.decoder.decode_one
        self.transport.decode_now = self.decoder.decode_now
        self.ends: list[Exchange] = []
        self.segments = 0
        self.callback_failures: list[dict[str, Any]] = []
        self._decodings: dict[int, asyncio.Future[Exchange]] = {}

    async def __aenter__(self) -> "Client":
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pacer.close()
        self.transport.close()
        await asyncio.sleep(0)
        assert not self.callback_failures, self.callback_failures

    def _callback_failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """In a worker this ends the run."""
        self.callback_failures.append(context)

    def received_bytes(self, exchange: Exchange) -> int:
        """What has come of a response so far, framed or not."""
        connection = self.transport._connections[exchange.slot]
        pending = connection.reads if connection.exchange is exchange else []
        return exchange.response_bytes + sum(len(data or b"") for _, _, data in pending)

    def _ended(self, exchange: Exchange) -> None:
        assert exchange.ended
        self.ends.append(exchange)

    def _segment(self, exchange: Exchange) -> None:
        assert exchange.ended == (exchange in self.ends), "on_end goes before the last on_segment"
        self.segments += 1
        self.decoder.on_segment(exchange)

    def _decoded(self, exchange: Exchange) -> None:
        self._decodings[exchange.request_id].set_result(exchange)

    def submit(self, slot: int = 0, data: bytes | None = None, **fields: Any) -> Exchange:
        """Submit a request, without waiting; `fields` are the exchange's."""
        exchange = Exchange(len(self._decodings), 0, slot, data or request(), monotonic_ns())
        exchange.event_lines = self._event_lines
        for name, value in fields.items():
            setattr(exchange, name, value)
        self._decodings[exchange.request_id] = asyncio.get_running_loop().create_future()
        self.transport.submit(exchange)
        return exchange

    async def decoded(self, exchange: Exchange) -> Exchange:
        """Wait until an exchange is done with."""
        async with asyncio.timeout(PATIENCE_S):
            await self._decodings[exchange.request_id]
        assert self.ends.count(exchange) == 1
        return exchange

    async def ask(self, slot: int = 0, data: bytes | None = None, **fields: Any) -> Exchange:
        """Submit a request and wait until it is done with."""
        return await self.decoded(self.submit(slot, data, **fields))


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def play(
    transport: str,
    *scripts: Script,
    ask: Callable[[Client, Server], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
    server_host: str = "127.0.0.1",
    receive_bytes: int = 0,
    slots: int = 1,
    opened: bool = True,
    dialect: Dialect = chat.DIALECT,
    run: Callable[[Any], None] = uvloop.run,
    **endpoint: Any,
) -> None:
    """Run `ask` with a client of this transport against a server with these scripts.

    `opened`: the slots are connected beforehand, as they are in a run. `receive_bytes`: what the server's kernel may hold.
    """

    async def both() -> None:
        async with (
            Server(*scripts, tls=tls, host=server_host, receive_bytes=receive_bytes) as server,
            Client(transport, server.endpoint(**endpoint), dialect=dialect) as client,
        ):
            if opened:
                await client.transport.open([slots])
            else:
                client.transport._connections = [client.transport._closed_slot(i, 0) for i in range(slots)]
            await ask(client, server)

    run(both())


def answer_with(*pieces: bytes, end: Callable[[Peer], None] | None = None) -> Script:
    """A script: read the request, send the pieces, then `end` (Peer.close, Peer.reset), or wait for the client's end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)
        if end is not None:
            end(peer)
        await peer.gone()

    return script


async def serve_for_ever(peer: Peer) -> None:
    while True:
        await peer.answer()


def outcome(transport: str, *scripts: Script, quoted: bool = False, **options: Any) -> tuple[Exchange, int]:
    """Ask once: (exchange, reopened connections). `quoted`: the texts of the answer are kept."""
    seen: list[tuple[Exchange, int]] = []

    async def ask(client: Client, _server: Server) -> None:
        seen.append((await client.ask(texts=[] if quoted else None), client.transport.reopened))
        error = seen[0][0].error
        assert error is None or error in ERROR_CLASSES or error.startswith("http-")

    play(transport, *scripts, ask=ask, **options)
    return seen[0]


def play_at(transport: str, endpoint: Endpoint, ask: Callable[[Client], Awaitable[None]]) -> None:
    """Run `ask` with an opened client of this transport, wherever the endpoint is."""

    async def with_client() -> None:
        async with Client(transport, endpoint) as client:
            await client.transport.open([1])
            await ask(client)

    uvloop.run(with_client())
