"""One socket of the kernel transport: connect, TLS, send.

TLS runs over memory buffers (ssl.MemoryBIO), not over the socket: recvmsg() then still hands out the kernel's stamp
with the ciphertext, and the read that completed a record stamps the plaintext in it.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from typing import Final

from loadgen.clock import monotonic_ns
from loadgen.plan import Endpoint
from loadgen.wire.http1 import ResponseReader
from loadgen.worker.exchange import Exchange

SO_TIMESTAMPNS: Final = 35  # <asm-generic/socket.h>; the socket module does not name it

_RECORD_BYTES: Final = 1 << 16

# What this machine, not the endpoint, refuses a connection for.
EXHAUSTED: Final = {
    errno.EMFILE: "this process has no descriptor left (ulimit -n)",
    errno.ENFILE: "this machine has no descriptor left (fs.file-max)",
    errno.EADDRNOTAVAIL: "this machine has no port left for the address (net.ipv4.ip_local_port_range)",
    errno.ENOBUFS: "this machine has no memory left for sockets",
    errno.ENOMEM: "this machine has no memory left for sockets",
}


class ConnectError(Exception):
    """A connection that could not be made: `error` is its class, the text the system's words."""

    def __init__(self, error: str, words: str) -> None:
        super().__init__(words)
        self.error = error


Address = tuple[socket.AddressFamily, tuple[object, ...]]
Read = tuple[int, list[tuple[int, int, bytes]], bytes | None]
"""(time of the read, ancillary data, bytes); b"" is the peer's end, None a reset."""


async def resolve(where: Endpoint) -> list[Address]:
    """Its addresses, in the resolver's order. ConnectError if there is none."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError("dns", f"{where.host}: {error.strerror or error}") from None
    return [(family, address) for family, _, _, _, address in found]


def tls_context(where: Endpoint) -> ssl.SSLContext | None:
    """The TLS settings for an endpoint: verified unless it says otherwise; None for plain HTTP."""
    if not where.tls:
        return None
    context = ssl.create_default_context(cafile=where.tls_ca)
    context.set_alpn_protocols(["http/1.1"])
    if where.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """A slot's connection. Closed at first; `reads` gathers what the drain loop took and nobody has framed yet."""

    __slots__ = (
        "_incoming",
        "_outgoing",
        "_tls",
        "connecting",
        "exchange",
        "fd",
        "origin",
        "reader",
        "reads",
        "recvmsg",
        "slot",
        "sock",
        "tls_ended",
        "unsent",
        "urgent",
        "used",
    )

    def __init__(self, slot: int, origin: int = 0) -> None:
        self.slot = slot
        self.origin = origin
        self.exchange: Exchange | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.reads: list[Read] = []
        self.urgent = (
            True  # whether what is read has to be framed at once, since its bytes cannot tell the response's end
        )
        self.sock: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self.fd = -1
        self.unsent: memoryview | None = None
        self.tls_ended = False  # the peer's TLS said goodbye; some servers wait for ours before they close the socket
        self.used = False  # it has stood open before: the server may have given up on it

    async def open(self, addresses: list[Address], context: ssl.SSLContext | None, host: str) -> None:
        """Connect to the first address that answers, and shake hands. ConnectError if none does."""
        failure: ConnectError | None = None
        for family, address in addresses:
            try:
                await self._open_one(family, address, context, host)
            except ConnectError as error:
                failure = failure or error
            else:
                return
        assert failure is not None
        try:
            raise failure
        finally:
            del failure  # or this frame and the exception would hold each other, and no collector comes

    async def _open_one(
        self, family: socket.AddressFamily, address: tuple[object, ...], context: ssl.SSLContext | None, host: str
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise unconnected(error) from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
            if context is not None:
                self._tls = await self._shake_hands(sock, context, host)
            # Switched on behind the handshake, which wants no stamps; the first reads may come without one even so.
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise ConnectError("tls-certificate", error.verify_message or str(error)) from None
        except ssl.SSLError as error:
            sock.close()
            raise ConnectError("tls", tls_words(error)) from None
        except OSError as error:
            sock.close()
            raise unconnected(error) from None
        except BaseException:  # cancelled by its time limit
            sock.close()
            raise
        if context is None:
            self._tls = None
        self.sock = sock
        self.fd = sock.fileno()
        self.recvmsg = sock.recvmsg
        self.reader = ResponseReader()
        self.used = False
        self.tls_ended = False

    async def _shake_hands(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLObject:
        loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    await loop.sock_sendall(sock, self._outgoing.read())
                data = await loop.sock_recv(sock, _RECORD_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    raise ssl.SSLError(0, "the server closed the connection in the TLS handshake") from None
            except ssl.SSLError:
                if self._outgoing.pending:  # the alert that tells the server why
                    await loop.sock_sendall(sock, self._outgoing.read())
                raise
        if self._outgoing.pending:
            await loop.sock_sendall(sock, self._outgoing.read())
        if context.verify_mode != ssl.CERT_NONE and tls.selected_alpn_protocol() not in (None, "http/1.1"):
            raise ssl.SSLError(0, f"the server insists on {tls.selected_alpn_protocol()}, this client speaks http/1.1")
        return tls

    @property
    def is_open(self) -> bool:
        """Whether there is a connected socket."""
        return self.sock is not None

    @property
    def is_sent(self) -> bool:
        """Whether the kernel took the whole request."""
        return self.unsent is None

    @property
    def encrypted(self) -> bool:
        """Whether reads bring ciphertext."""
        return self._tls is not None

    def decrypt(self, data: bytes) -> bytes:
        """The plaintext of every record that `data` completed; b"" if none. ssl.SSLError if it is no TLS."""
        assert self._tls is not None
        if data:
            self._incoming.write(data)
        plain: list[bytes] = []
        while True:
            try:
                piece = self._tls.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            if not piece:
                self.tls_ended = True
                break
            plain.append(piece)
        if self._outgoing.pending and self.sock is not None:  # an answer of TLS itself, as to a key update
            with contextlib.suppress(OSError):  # the read that follows tells what is wrong
                self.sock.send(self._outgoing.read())
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def send(self, exchange: Exchange) -> None:
        """Stamp, then send; what the kernel does not take at once waits in `unsent`. OSError if the peer is gone."""
        assert self.sock is not None
        data = exchange.data
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        # Stamp, then send: over loopback the first byte can be back before send() returns, and a TTFT below zero would
        # be ours. The price, send() itself, is inside TTFT by definition.
        exchange.sent_ns = monotonic_ns()
        try:
            n_sent = self.sock.send(data)
        except BlockingIOError:
            n_sent = 0
        if n_sent < len(data):
            self.unsent = memoryview(data)[n_sent:]

    def send_rest(self) -> None:
        """Go on with a send that the kernel took only in part. OSError if the peer is gone."""
        assert self.sock is not None
        if self.unsent is not None:
            try:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            except BlockingIOError:
                return
            if not self.unsent:
                self.unsent = None

    def close(self) -> None:
        """Close the socket, at once and for good; the slot may be opened again."""
        if self.sock is not None:
            self.sock.close()
            self.reader.close()
            del self.recvmsg, self.reader
        self.sock = None
        self.fd = -1
        self.unsent = None
        self._tls = None
        self.reads = []


def unconnected(error: OSError) -> ConnectError:
    """Why there is no connection, in the terms of errors.ERROR_CLASSES."""
    if (words := EXHAUSTED.get(error.errno or 0)) is not None:
        return ConnectError("client-exhausted", words)
    # By number: asyncio words its own, with the address in it.
    words = (os.strerror(error.errno) if error.errno else str(error)).lower()
    return ConnectError("connect-refused" if isinstance(error, ConnectionRefusedError) else "connect-failed", words)


def tls_words(error: ssl.SSLError) -> str:
    """What OpenSSL says, in words that help."""
    reason = getattr(error, "reason", None)  # an error that OpenSSL did not raise has none
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return "the server does not speak TLS on this port (try http://)"
    if "no application protocol" in str(error).lower():  # an alert that Python has no name for
        return "the server takes none of the protocols offered (HTTP/2 alone, most likely); this client speaks HTTP/1.1"
    return (reason or (str(error.args[1]) if len(error.args) > 1 else str(error))).replace("_", " ").lower()
