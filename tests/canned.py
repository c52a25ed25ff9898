"""A server that answers every request with the same bytes and closes: endpoints that are wrong in one way each."""

import atexit
import contextlib
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_S = 60.0

STREAM = "text/event-stream"
GOOD = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def response(body: bytes, kind: str = STREAM, status: str = "200 OK", *fields: str) -> bytes:
    """A whole response of this content type."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields]
    if kind:
        head.append(f"Content-Type: {kind}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Canned:
    """Where it listens, and the requests that it has read."""

    def __init__(self, answer: Callable[[bytes], bytes], tls: ssl.SSLContext | None) -> None:
        self._answer = answer
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:  # shut down by close()
                return
            sock.settimeout(PATIENCE_S)
            with sock, contextlib.suppress(OSError):
                if self._tls is not None:
                    with self._tls.wrap_socket(sock, server_side=True) as over_tls:
                        self._talk(over_tls)
                else:
                    self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := sock.recv(65536)):
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length[1]):
            body += sock.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        sock.sendall(self._answer(self.requests[-1]))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listening.close()


@contextlib.contextmanager
def canned(answer: bytes | Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> Iterator[Canned]:
    """A Canned that is up while inside."""
    server = Canned(answer if callable(answer) else lambda _: answer, tls)
    try:
        yield server
    finally:
        server.close()


class Slackening:
    """Answers well, and after so many requests slowly: what is to be stopped in its middle is not through before."""

    def __init__(self, after: int, slowly_s: float = 0.25) -> None:
        self._after, self._slowly_s = after, slowly_s
        self._answered = 0
        self.is_over = threading.Event()
        """From now on it is quick again."""

    def __call__(self, _request: bytes) -> bytes:
        self._answered += 1
        if self._answered > self._after:
            self.is_over.wait(self._slowly_s)
        return response(GOOD)


@contextlib.contextmanager
def unreachable() -> Iterator[int]:
    """A port that answers nothing, as an address behind a firewall does: its queue of connections is full."""
    with socket.socket() as listening, contextlib.ExitStack() as full:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):
            sock = full.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", port))
        yield port


def refused_port() -> int:
    """A port of 127.0.0.1 where nobody listens, and nobody will: it stays taken as long as this process lives."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    atexit.register(taken.close)
    port: int = taken.getsockname()[1]
    return port


def free_port() -> int:
    """A port of 127.0.0.1 to listen at later: none that the kernel gives to connections meanwhile, where it leaves any."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", random.randrange(10_000, lowest) if lowest > 11_000 else 0))
            port: int = tried.getsockname()[1]
            return port
