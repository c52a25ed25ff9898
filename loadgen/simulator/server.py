"""The sockets: uvloop protocols that parse requests with httptools, and one engine that all of them share.

What must hold
    The truth log's time of a token is taken just before the system call that sends it. A transport's write() would put
    the bytes off to the end of the loop's turn, which at 1,000 streams on one tick is milliseconds later. So the bytes
    are written to the transport's descriptor directly while the transport has nothing of its own to send, and through
    it when the kernel did not take everything.
    That is safe as long as nobody writes after connection_lost: uvloop closes the descriptor after that call, never before.

    Between two polls of the loop lies one tick, or SLICE_NS of them where they are shorter; a tick that falls due while
    a burst of requests is read is sent between two of them.

    No reference cycle outlives a response or a connection: the collector is off the hot path (see `serve`).
"""

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import httptools

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.errors import RunError
from loadgen.simulator import encode
from loadgen.simulator.ask import DIALECTS, Refusal, Rules, read_ask
from loadgen.simulator.encode import Style
from loadgen.simulator.engine import Engine, EngineParameters, QueueFull
from loadgen.simulator.faults import FAULTS, OF_JSON_TOO, REFUSAL_STATUS
from loadgen.simulator.stream import Reply
from loadgen.simulator.ticker import timer
from loadgen.simulator.tls import TlsSession
from loadgen.simulator.truth import Row, TruthLog

BACKLOG: Final = 8192
BODY_LIMIT_BYTES: Final = 64 * 1024 * 1024
FLUSH_S: Final = 1.0

# Requests are read between two slices; a slice is long enough for tens of events. Not a knob.
SLICE_NS: Final = 1_000_000

# With clocks of their own, 1,000 streams have an event every 20 us; a turn of the loop for each would cost more than the
# event. So it rests between two slices: no event is later for it than this, and the log has the true time. Not a knob.
REST_NS: Final = 100_000

_write = os.write
TCP_CONGESTION: Final = getattr(socket, "TCP_CONGESTION", -1)  # Linux has it
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a server is told; `api_key` None means that no key is asked for."""

    engine: EngineParameters
    style: Style
    rules: Rules
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    truth: Path | None = None
    api_key: str | None = None
    faults: tuple[str, ...] = ()
    fault_share: float = 1.0
    stall_ns: int = 10 * NS_PER_S
    split_writes: bool = False
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did in its life. `slips`: how often the engine's clock started anew because the server was late."""

    requests: int
    tokens: int
    span_ns: int
    slips: int


class Server:
    """Connections, the engine and the log; one an event loop."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.engine: Engine[Reply] = Engine(settings.engine, settings.seed)
        self.log = TruthLog(settings.truth)
        self.connections: set[Connection] = set()
        self.connections_made = 0
        # Each purpose has a stream of its own, so that switching one option on does not change the others' draws.
        self.output_draws = random.Random(f"output {settings.seed}")
        self.fault_draws = random.Random(f"fault {settings.seed}")
        self.id_draws = random.Random(f"id {settings.seed}")
        self.cut_draws = random.Random(f"cut {settings.seed}")
        self._timer = timer(loop, self.send_due)

    def maybe_fault(self) -> str | None:
        faults = self.settings.faults
        if not faults or self.fault_draws.random() >= self.settings.fault_share:
            return None
        return self.fault_draws.choice(faults)

    def submit(self, reply: Reply, now_ns: int) -> None:
        self.engine.submit(reply, now_ns)
        self._timer.arm(self.engine.next_due_ns)

    def cancel(self, reply: Reply) -> None:
        self.engine.cancel(reply, monotonic_ns())
        self._timer.arm(self.engine.next_due_ns)

    def close(self) -> None:
        """End what is under way, log it as stopped, close the log."""
        self._timer.close()
        for connection in list(self.connections):
            connection.stop()
        self.log.close()

    def send_due(self) -> None:
        """Send what is due by now, and set the timer for what is next."""
        engine = self.engine
        now_ns = monotonic_ns()
        until_ns = now_ns + SLICE_NS
        while (due_ns := engine.next_due_ns) is not None and due_ns <= now_ns < until_ns:
            for reply in engine.advance(now_ns):
                reply.emit()
            now_ns = monotonic_ns()
        due_ns = engine.next_due_ns
        if due_ns is not None and not self.settings.engine.lock_step:
            due_ns = max(due_ns, now_ns + REST_NS)
        self._timer.arm(due_ns)


class Connection(asyncio.Protocol):
    """One client: reads requests, answers them one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.connections_made += 1
        self.number = server.connections_made
        self.open = False
        self.deferred_writes = 0
        # Open, without TLS, and the kernel took everything so far: `send` needs to look at nothing else.
        self._direct = False
        self._reply: Reply | None = None
        self._waiting: deque[tuple[str, str, str, bytes, bool, str, int]] = deque()
        self._parser = httptools.HttpRequestParser(self)
        context = server.settings.tls
        self._tls = TlsSession(context) if context is not None else None
        self._closing = False
        self._read_ns = 0
        self.on_message_begin()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket = self._transport.get_extra_info("socket")
        self._fd: int = self._socket.fileno()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # a host whose default paces (BBR) would send later than the log says
            self._socket.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, b"reno")
        self.server.connections.add(self)
        self.open = True
        self._direct = self._tls is None

    def data_received(self, data: bytes) -> None:
        self._read_ns = monotonic_ns()
        if self._tls is not None:
            try:
                data = self._tls.received(data)
            except ssl.SSLError:
                self._hand_over(self._tls.to_send())  # the alert that says why
                self._transport.close()
                return
            self._hand_over(self._tls.to_send())
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no upgrade is offered: the request was answered as it stands
        except httptools.HttpParserError as error:
            if self.open and not self._closing:
                self.refuse(Refusal(400, f"The bytes are no HTTP/1.x request: {error}"), keep_alive=False)
        # A thousand requests at once take the loop 50 ms to read; a tick must not wait for all of them.
        due_ns = self.server.engine.next_due_ns
        if due_ns is not None and due_ns <= self._read_ns:
            self.server.send_due()

    def connection_lost(self, _: Exception | None) -> None:
        self.open = self._direct = False
        self.server.connections.discard(self)
        self._waiting.clear()
        del self._parser  # it holds this object, and this object holds it
        self._end_reply("client-closed")

    # What httptools calls

    def on_message_begin(self) -> None:
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._expects_continue = False
        self._authorization = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        elif name == b"authorization":
            self._authorization = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._expects_continue and self._parser.get_http_version() != "1.0":
            self.send(encode.CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= BODY_LIMIT_BYTES:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closing:
            return
        request = (
            self._parser.get_method().decode("latin-1"),
            self._url.partition(b"?")[0].decode("latin-1"),
            self._parser.get_http_version(),
            b"".join(self._body),
            self._parser.should_keep_alive(),
            self._authorization,
            self._read_ns,
        )
        self._body = []
        if self._reply is not None:  # sent before the answer to the one before it: it waits
            self._waiting.append(request)
        else:
            self._answer(*request)

    # Answers

    def _answer(
        self, method: str, path: str, version: str, body: bytes, keep_alive: bool, authorization: str, read_ns: int
    ) -> None:
        settings = self.server.settings
        keep_alive = keep_alive and settings.style.framing != "close"
        known = {"/health": "GET", "/v1/models": "GET", **dict.fromkeys(DIALECTS, "POST")}
        try:
            if path not in known:
                raise Refusal(404, f"Unknown path {path}; served are {', '.join(known)}.")
            if method != known[path]:
                raise Refusal(405, f"{path} takes {known[path]}, not {method}.")
            if settings.api_key is not None and path != "/health" and authorization != f"Bearer {settings.api_key}":
                raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")
        except Refusal as refusal:
            self.refuse(
                refusal, keep_alive=keep_alive, allow=known.get(path), logged=read_ns if path in DIALECTS else None
            )
            return
        if path == "/health":
            self.send_whole(200, JSON, b"{}", keep_alive)
        elif path == "/v1/models":
            self.send_whole(200, JSON, encode.models_body(settings.style), keep_alive)
        else:
            self._complete(DIALECTS[path], version, body, keep_alive, read_ns)

    def _complete(self, dialect: str, version: str, body: bytes, keep_alive: bool, read_ns: int) -> None:
        server = self.server
        settings = server.settings
        fault = server.maybe_fault()
        try:
            if self._body_bytes > BODY_LIMIT_BYTES:
                raise Refusal(413, f"A request may have {BODY_LIMIT_BYTES} bytes.")
            ask = read_ask(dialect, body, settings.rules, server.output_draws)
            if fault in REFUSAL_STATUS:
                raise Refusal(REFUSAL_STATUS[fault], f"{FAULTS[fault]} (asked for by --fault)", "fault", fault)
        except Refusal as refusal:
            done = fault if refusal.code == fault else None
            self.refuse(refusal, keep_alive=keep_alive, logged=read_ns, fault=done)
            return
        if fault == "html":
            sent_ns = self.send_whole(200, "text/html; charset=utf-8", b"<html><body>Sign in</body></html>", keep_alive)
            server.log.add(self._row(read_ns, 200, sent_ns, fault))
            return
        if not ask.stream and fault not in OF_JSON_TOO:
            fault = None
        self._reply = reply = Reply(self, ask, version, keep_alive, fault, read_ns)
        try:
            server.submit(reply, read_ns)
        except QueueFull:
            self._reply = None
            busy = Refusal(503, f"{server.engine.queued} requests wait already.", "service_unavailable", "queue_full")
            self.refuse(busy, keep_alive=keep_alive, logged=read_ns)
            return
        reply.accepted()

    def refuse(
        self,
        refusal: Refusal,
        *,
        keep_alive: bool,
        allow: str | None = None,
        logged: int | None = None,
        fault: str | None = None,
    ) -> None:
        """Answer with an error; `logged` is the time at which the request was read, if the truth log is to have it."""
        fields = []
        if refusal.status == 405 and allow:
            fields.append(f"allow: {allow}")
        if refusal.status == 401:
            fields.append("www-authenticate: Bearer")
        if refusal.status in (429, 503):
            fields.append("retry-after: 1")
        body = encode.error_body(refusal.message, refusal.kind, refusal.code, refusal.param)
        sent_ns = self.send_whole(refusal.status, JSON, body, keep_alive, *fields)
        if logged is not None:
            self.server.log.add(self._row(logged, refusal.status, sent_ns, fault))

    def _row(self, read_ns: int, status: int, sent_ns: int, fault: str | None) -> Row:
        return Row(read_ns, self.number, status, first_byte_ns=sent_ns, last_byte_ns=sent_ns, fault=fault)

    def send_whole(self, status: int, content_type: str, body: bytes, keep_alive: bool, *fields: str) -> int:
        connection = f"connection: {'keep-alive' if keep_alive else 'close'}"
        sent_ns = self.send(encode.whole(status, content_type, body, connection, *fields))
        if not keep_alive:
            self.close()
        return sent_ns

    # Bytes out

    def send(self, data: bytes) -> int:
        """Hand `data` to the kernel now; returns the time just before. On a dead connection it does nothing."""
        if not self._direct:
            return self._send_indirectly(data)
        now_ns = monotonic_ns()
        try:
            taken_bytes = _write(self._fd, data)
        except BlockingIOError:
            taken_bytes = 0
        except OSError:  # the client is gone; connection_lost tells the rest
            self._direct = self.open = False
            self._transport.abort()
            return now_ns
        if taken_bytes != len(data):
            self._direct = False
            self.deferred_writes += 1
            self._transport.write(data[taken_bytes:])
        return now_ns

    def _send_indirectly(self, data: bytes) -> int:
        if self.open and self._tls is not None:
            data = self._tls.encrypted(data)
        return self._hand_over(data)

    def _hand_over(self, data: bytes) -> int:
        """`send` of bytes that are encrypted already, or of a connection that has something to send still."""
        if not self.open or not data:
            return monotonic_ns()
        if self._transport.get_write_buffer_size():  # the order must stay
            self.deferred_writes += 1
            self._transport.write(data)
            return monotonic_ns()
        self._direct = True
        sent_ns = self.send(data)
        self._direct = self._direct and self._tls is None
        return sent_ns

    # Ends

    def finished(self, keep_alive: bool) -> None:
        """The reply has sent its last byte and logged itself."""
        self._reply = None
        if not keep_alive:
            self.close()
        elif self._waiting and self.open:
            self._answer(*self._waiting.popleft())

    def close(self) -> None:
        """FIN once everything is sent."""
        self._closing = True
        if self.open:
            if self._tls is not None:
                self._hand_over(self._tls.goodbye())
            self._transport.close()

    def cut(self, *, reset: bool) -> None:
        """End in the middle: RST, or FIN without TLS's goodbye."""
        self._closing = True
        self._reply = None
        if self.open:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
                self._transport.abort()
            else:
                self._transport.close()

    def stop(self) -> None:
        """The server ends."""
        self._end_reply("stopped")
        self.close()

    def _end_reply(self, ended: str) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.broken_off(ended)


async def serve(settings: Settings, ready: Callable[[str], None], stop_on_eof: int | None = None) -> Served:
    """Serve until SIGINT or SIGTERM, or until the descriptor `stop_on_eof` reaches its end.

    `ready` is called with the base URL once connections are taken. RunError when the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    _raise_descriptor_limit()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if stop_on_eof is not None:
        loop.add_reader(stop_on_eof, _stop_at_end, stop_on_eof, stop)
    server = Server(settings, loop)
    try:
        listener = await loop.create_server(lambda: Connection(server), settings.host, settings.port, backlog=BACKLOG)
    except OSError as error:
        server.close()
        raise RunError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}") from None
    # Requests come and go by counting references alone; what the start left is no longer looked at.
    gc.collect()
    gc.freeze()
    gc.disable()
    began_ns = monotonic_ns()
    ready(_url(listener, settings))
    flusher = asyncio.create_task(_flush(server.log))
    try:
        await _first(stop, flusher)
    finally:
        flusher.cancel()
        listener.close()
        server.close()
    await asyncio.sleep(0)  # lets the transports close their descriptors
    return Served(server.log.requests, server.log.tokens, monotonic_ns() - began_ns, server.engine.slips)


def _stop_at_end(descriptor: int, stop: asyncio.Event) -> None:
    if not os.read(descriptor, 4096):
        stop.set()


async def _flush(log: TruthLog) -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        log.flush()
        gc.collect(0)  # an error's traceback may make a cycle; what is young is little


async def _first(stop: asyncio.Event, flusher: "asyncio.Task[None]") -> None:
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((stopped, flusher), return_when=asyncio.FIRST_COMPLETED)
    if flusher.done():
        stopped.cancel()
        error = flusher.exception()
        raise RunError(f"the truth log cannot be written: {error}") from error


def _url(listener: asyncio.AbstractServer, settings: Settings) -> str:
    port = cast("asyncio.Server", listener).sockets[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{host}:{port}/v1"


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(settings: Settings, ready: Callable[[str], None], stop_on_eof: int | None = None) -> Served:
    """`serve` on an event loop of its own; uvloop where the platform has it."""
    if sys.platform == "win32":
        raise RunError("the simulator needs a POSIX system")
    import uvloop

    return uvloop.run(serve(settings, ready, stop_on_eof))


def wall_clock_s() -> int:
    """The `created` field of responses."""
    return int(time.time())
