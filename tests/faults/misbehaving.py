"""A server on raw sockets that does to each request what a table says, and the table: what may go wrong with a response.

A request that comes again, because its connection broke before any byte of an answer, is known by its bytes and meets the
same fault again.
"""

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

PATIENCE_S = 60.0
LOOK_S = 0.05

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = EVENT_STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
N_TOKENS = 4


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def token(text: str = "word ") -> bytes:
    return event(id="c1", choices=[{"index": 0, "delta": {"content": text}}])


FINISH = event(id="c1", choices=[{"index": 0, "delta": {}, "finish_reason": "length"}])
DONE = b"data: [DONE]\n\n"
TOKENS = [token(f"word{i} ") for i in range(N_TOKENS)]
BODY = b"".join([*TOKENS, FINISH, DONE])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sized(body: bytes, length: int | None = None, head: bytes = EVENT_STREAM) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


WHOLE = CHUNKED + b"".join(map(chunk, [*TOKENS, FINISH, DONE])) + LAST_CHUNK
TWO = CHUNKED + b"".join(map(chunk, TOKENS[:2]))


class Peer:
    """The server's end of one connection, with a request read."""

    def __init__(self, server: "Misbehaving", sock: socket.socket) -> None:
        self._server, self._sock = server, sock
        self.is_over = False  # nothing more is read from it

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        self.is_over = True

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)
        self.wait()

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.is_over = True

    def wait(self) -> None:
        """Until the client hangs up."""
        self._sock.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass
        self.is_over = True

    def flood(self, piece: bytes) -> None:
        """Send the same again and again; the client hangs up before the end, or the test fails for it."""
        with contextlib.suppress(OSError):
            for _ in range(0, ENDLESS_BYTES, len(piece)):
                self.send(piece)
            self._server.swallowed.append(piece[:20])
        self.is_over = True

    def drip(self, data: bytes, pause_s: float) -> None:
        with contextlib.suppress(OSError):
            for i in range(0, len(data), 3):
                self.send(data[i : i + 3])
                time.sleep(pause_s)


Script = Callable[[Peer], object]


class Fault(NamedTuple):
    """What the server does, and what the client has to make of it: class, output events, status."""

    script: Script
    error: str | None
    events: int = 0
    status: int | None = 200


def say(data: bytes, then: Callable[[Peer], object] | None = None) -> Script:
    def script(peer: Peer) -> None:
        peer.send(data)
        if then is not None:
            time.sleep(0.02)  # what was sent is read before a reset throws it away
            then(peer)

    return script


def refuse(status: str, *fields: str, body: bytes = b'{"error":{"message":"no"}}') -> Script:
    head = "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *fields, ""]).encode()
    return say(sized(body, head=head))


MB = 1 << 20
ENDLESS_BYTES = 1000 * MB
LARGE_CHUNK = b"7fffffff\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\n"
COMPLETED = (None, N_TOKENS)

FAULTS: dict[str, Fault] = {
    "reset before the headers": Fault(Peer.reset, "connect-reset", status=None),
    "close before the headers": Fault(Peer.close, "connect-reset", status=None),
    "half-close before the headers": Fault(Peer.half_close, "connect-reset", status=None),
    "reset within the headers": Fault(say(PLAIN, Peer.reset), "truncated", status=None),
    "reset after the headers": Fault(say(CHUNKED, Peer.reset), "truncated"),
    "close after the headers": Fault(say(CHUNKED, Peer.close), "truncated"),
    "reset in mid-event": Fault(say(TWO + chunk(TOKENS[2][:30]), Peer.reset), "truncated", 2),
    "reset after the last token": Fault(say(CHUNKED + b"".join(map(chunk, TOKENS)), Peer.reset), "truncated", N_TOKENS),
    "reset after the end sign": Fault(say(WHOLE.removesuffix(LAST_CHUNK), Peer.reset), *COMPLETED),
    "half-close in mid-stream": Fault(say(TWO, Peer.half_close), "truncated", 2),
    "half-close after the response": Fault(say(WHOLE, Peer.half_close), *COMPLETED),
    "stall before the first byte": Fault(Peer.wait, "timeout-first-byte", status=None),
    "stall in mid-stream": Fault(say(TWO, Peer.wait), "timeout-idle", 2),
    "a slow drip that ends": Fault(lambda peer: peer.drip(WHOLE, 0.0005), *COMPLETED),
    "a slow drip without end": Fault(
        lambda peer: (peer.send(TWO + b"1000\r\n"), peer.drip(b":" * 900, 0.05), peer.wait()), "timeout-total", 2
    ),
    "a truncated chunk": Fault(say(TWO + b"fff\r\n" + TOKENS[2], Peer.close), "truncated", 3),
    "a chunk size too small": Fault(say(TWO + b"10\r\n" + TOKENS[2] + b"\r\n", Peer.wait), "bad-http", 2),
    "a chunk size that is no number": Fault(say(TWO + b"zz\r\n", Peer.wait), "bad-http", 2),
    "a chunk size beyond all numbers": Fault(say(TWO + b"f" * 40 + b"\r\n", Peer.wait), "bad-http", 2),
    "content-length short": Fault(say(sized(BODY, len(b"".join(TOKENS[:2]))), Peer.wait), "truncated", 2),
    "content-length long": Fault(say(sized(b"".join(TOKENS), len(BODY)), Peer.close), "truncated", N_TOKENS),
    "content-length long, end sign seen": Fault(say(sized(BODY, len(BODY) + 9), Peer.close), *COMPLETED),
    "content-length negative": Fault(
        say(EVENT_STREAM + b"Content-Length: -5\r\n\r\n", Peer.wait), "bad-http", status=None
    ),
    "two content-lengths": Fault(
        say(EVENT_STREAM + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", Peer.wait), "bad-http", status=None
    ),
    "closed while idle": Fault(say(WHOLE, Peer.close), *COMPLETED),
    "reset while idle": Fault(say(WHOLE, Peer.reset), *COMPLETED),
    "400": Fault(refuse("400 Bad Request"), "http-400", status=400),
    "401": Fault(refuse("401 Unauthorized"), "http-401", status=401),
    "404": Fault(refuse("404 Not Found"), "http-404", status=404),
    "429": Fault(refuse("429 Too Many Requests", "Retry-After: 1"), "http-429", status=429),
    "500": Fault(refuse("500 Internal Server Error"), "http-500", status=500),
    "502 without a body": Fault(refuse("502 Bad Gateway", body=b""), "http-502", status=502),
    "503": Fault(refuse("503 Service Unavailable", body=b"<html>busy</html>"), "http-503", status=503),
    "a status beyond all": Fault(refuse("999 What"), "http-999", status=999),
    "200 with an error event": Fault(
        say(CHUNKED + chunk(TOKENS[0]) + chunk(event(error={"message": "out of memory"})) + chunk(DONE) + LAST_CHUNK),
        "server-error",
        1,
    ),
    "invalid UTF-8": Fault(
        say(sized(TOKENS[0] + TOKENS[1].replace(b"word", b"\xff\xfe") + FINISH + DONE)), "bad-event", 1
    ),
    "invalid JSON": Fault(say(sized(TOKENS[0] + b'data: {"choices": [\n\n' + FINISH + DONE)), "bad-event", 1),
    "JSON that is no event": Fault(say(sized(TOKENS[0] + b"data: [[[]]]\n\n" + FINISH + DONE)), "bad-event", 1),
    "JSON nested without end": Fault(
        say(sized(TOKENS[0] + b"data: " + b"[" * 100_000 + b"\n\n" + DONE)), "bad-event", 1
    ),
    "an event of 50 MB": Fault(
        lambda peer: (
            peer.send(CHUNKED + chunk(TOKENS[0]) + LARGE_CHUNK + b"data: "),
            peer.send(b"x" * 50 * MB),
            peer.wait(),
        ),
        "too-large",
        1,
    ),
    "an event of 50 MB of lines": Fault(
        lambda peer: (peer.send(CHUNKED + LARGE_CHUNK), peer.send(b"data: a\r\n: b\r" * 4 * MB), peer.wait()),
        "too-large",
    ),
    "an endless event": Fault(
        lambda peer: (peer.send(CHUNKED + chunk(TOKENS[0]) + LARGE_CHUNK + b"data: "), peer.flood(b"x" * MB)),
        "too-large",
        1,
    ),
    "endless headers": Fault(
        lambda peer: (peer.send(PLAIN), peer.flood(b"X-More: %b\r\n" % (b"x" * 1000))), "bad-http", status=None
    ),
    "one endless header": Fault(
        lambda peer: (peer.send(PLAIN + b"X-More: "), peer.flood(b"x" * 4096)), "bad-http", status=None
    ),
    "endless interim responses": Fault(
        lambda peer: peer.flood(b"HTTP/1.1 102 Processing\r\n\r\n" * 50), "bad-http", status=None
    ),
    "endless trailers": Fault(
        lambda peer: (peer.send(WHOLE.removesuffix(b"\r\n")), peer.flood(b"X-More: %b\r\n" % (b"x" * 1000))),
        "bad-http",
        N_TOKENS,
    ),
    "one endless trailer": Fault(
        lambda peer: (peer.send(WHOLE.removesuffix(b"\r\n") + b"X-More: "), peer.flood(b"x" * 4096)),
        "bad-http",
        N_TOKENS,
    ),
    "an endless page": Fault(
        lambda peer: (peer.send(PLAIN + b"Content-Type: text/html\r\n\r\n"), peer.flood(b"<p>" * 300_000)), "too-large"
    ),
    "gzip that was not asked for": Fault(
        say(sized(b"\x1f\x8b\x08\x00" + b"x" * 50, head=EVENT_STREAM + b"Content-Encoding: gzip\r\n")), "not-a-stream"
    ),
    "a page of HTML": Fault(say(sized(b"<p>Sign in</p>", head=PLAIN + b"Content-Type: text/html\r\n")), "not-a-stream"),
    "an empty stream": Fault(say(sized(FINISH + DONE)), "empty"),
    "no end sign": Fault(say(sized(b"".join(TOKENS))), "truncated", N_TOKENS),
    "interim responses": Fault(
        say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + WHOLE), *COMPLETED
    ),
    "HTTP/1.0": Fault(
        say(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + BODY, Peer.close), *COMPLETED
    ),
    "HTTP/1.0 that breaks off": Fault(
        say(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + TOKENS[0] + TOKENS[1][:40], Peer.close),
        "bad-event",
        1,
    ),
    "HTTP/2 alone": Fault(
        say(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64" + bytes(17), Peer.close),
        "bad-http",
        status=None,
    ),
    "a switch of protocols": Fault(
        say(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi",
            Peer.wait,
        ),
        "bad-http",
        status=None,
    ),
    "no HTTP": Fault(say(b"220 smtp ready\r\n", Peer.close), "bad-http", status=None),
    "two responses to one request": Fault(say(WHOLE + WHOLE), *COMPLETED),
}

GOOD = Fault(say(WHOLE), *COMPLETED)


class Misbehaving:
    """Listens on loopback; request number k, in the order of their first coming, meets plan[k], later ones GOOD."""

    def __init__(self, plan: Sequence[Fault], host: str = "127.0.0.1") -> None:
        self._plan = list(plan)
        self._listening = socket.create_server((host, 0))
        self.port: int = self._listening.getsockname()[1]
        self.requests: dict[bytes, int] = {}
        """The requests as they came -> which one it was."""
        self.connections = 0
        self.swallowed: list[bytes] = []
        """Floods that the client took to their end."""
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:  # shut down by close()
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        peer = Peer(self, sock)
        with sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE_S)
            while not peer.is_over and (request := _read_request(sock)):
                with self._lock:
                    number = self.requests.setdefault(request, len(self.requests))
                (self._plan[number] if number < len(self._plan) else GOOD).script(peer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listening.close()


def _read_request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := sock.recv(65536)):
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        if not (piece := sock.recv(65536)):
            return b""
        body += piece
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def misbehaving(plan: Sequence[Fault], host: str = "127.0.0.1") -> Iterator[Misbehaving]:
    """A Misbehaving that is up while inside."""
    server = Misbehaving(plan, host)
    try:
        yield server
    finally:
        server.close()
