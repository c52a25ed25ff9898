"""A client's socket: requests in, parsed by httptools; bytes out, at the moment at which they are said to go.

What must hold
    The truth log's time of a token is taken just before the system call that sends it. A transport's write() would put
    the bytes off to the end of the loop's turn, which at 1,000 streams on one tick is milliseconds later. So the bytes
    are written to the transport's descriptor directly while the transport has nothing of its own to send, and through
    it when the kernel did not take everything.
    That is safe as long as nobody writes after connection_lost: uvloop closes the descriptor after that call, never before.

    No reference cycle outlives a response or a connection: the collector is off the hot path (see server.serve).
"""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import httptools

from loadgen.clock import monotonic_ns
from loadgen.simulator import encode
from loadgen.simulator.answering import BODY_LIMIT_BYTES, KEY_FIELDS, answer, refuse
from loadgen.simulator.ask import Call, Refusal
from loadgen.simulator.stream import Reply
from loadgen.simulator.tls import TlsSession

if TYPE_CHECKING:
    from loadgen.simulator.server import Server

_write = os.write
TCP_CONGESTION: Final = getattr(socket, "TCP_CONGESTION", -1)  # Linux has it
_LINGER_NONE: Final = struct.pack("ii", 1, 0)

# The header fields that somebody looks at; the others are not kept.
FIELDS: Final = {name.encode(): name for name in ("authorization", "anthropic-version", *KEY_FIELDS)}


class Connection(asyncio.Protocol):
    """One client: reads requests, answers them one after the other."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        server.connections_made += 1
        self.number = server.connections_made
        self.open = False
        self.deferred_writes = 0
        # Open, without TLS, and the kernel took everything so far: `send` needs to look at nothing else.
        self._direct = False
        self.reply: Reply | None = None
        self._waiting: deque[Call] = deque()
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
        except httptools.HttpParserCallbackError:  # ours, not the client's: it is told as what it is
            self._transport.abort()
            raise
        except httptools.HttpParserError as error:
            if self.open and not self._closing:
                refusal = Refusal(400, f"The bytes are no HTTP/1.x request: {error}")
                refuse(self, Call("", "", keep_alive=False), refusal, None)
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
        self._fields: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        elif name in FIELDS:
            self._fields[FIELDS[name]] = value.decode("latin-1")

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
        path, _, query = self._url.partition(b"?")
        framing = self.server.settings.style.framing
        call = Call(
            self._parser.get_method().decode("latin-1"),
            path.decode("latin-1"),
            query.decode("latin-1"),
            self._parser.get_http_version(),
            self._fields,
            body=b"".join(self._body),
            keep_alive=self._parser.should_keep_alive() and framing != "close",
            too_long=self._body_bytes > BODY_LIMIT_BYTES,
            read_ns=self._read_ns,
        )
        self._body = []
        if self.reply is not None:  # sent before the answer to the one before it: it waits
            self._waiting.append(call)
        else:
            self._answer(call)

    # Answers

    def _answer(self, call: Call) -> None:
        while True:
            self.reply = reply = answer(self, call)
            if reply is not None:
                reply.accepted()
                return
            if not self._waiting or self._closing or not self.open:
                return
            call = self._waiting.popleft()

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
        self.reply = None
        if not keep_alive:
            self.close()
        elif self._waiting and self.open:
            self._answer(self._waiting.popleft())

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
        self.reply = None
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
        reply, self.reply = self.reply, None
        if reply is not None:
            reply.broken_off(ended)
