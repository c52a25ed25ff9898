"""A connection between the driver and an agent: messages over TCP, each with its length in front.

Whoever connects proves that it knows the token, which travels by another way (a call of Ray's): the agent sends random
bytes, the driver answers with their HMAC. Messages are JSON or plain bytes, so that nothing that arrives can be run. What is
secret (the key) does not go over a link.
"""

import contextlib
import hmac
import json
import os
import select
import socket
import struct
import threading
from typing import Any, Final

PURPOSES: Final = ("control", "clock", "files")
"""What a link is for: orders and reports; round trips; captures."""

CONNECT_S: Final = 10.0

CHALLENGE_BYTES: Final = 32

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a message: the spec of a run with thousands of stages is far below it."""

MOST_STRANGER_BYTES: Final = 1024
"""Of a message from somebody who has proved nothing yet."""

GONE_S: Final = 20
"""After which a connection whose other end has vanished without a word counts as closed."""


class LinkError(Exception):
    """The connection cannot be had, or is no more; one sentence."""


class Link:
    """One end. Sending is for any thread, receiving for one of them."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_S // 4)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, GONE_S // 4)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_S * 1000)
        self._connection = connection
        self._sending = threading.Lock()
        self.most_bytes = MOST_STRANGER_BYTES

    def send(self, data: bytes) -> None:
        """One message. LinkError where the other end is gone."""
        try:
            with self._sending:
                self._connection.sendall(struct.pack("!I", len(data)) + data)
        except OSError as error:
            raise LinkError(f"the connection is closed ({error.strerror or error})") from None

    def receive(self) -> bytes:
        """The next message, once it is there. LinkError where there will be none."""
        (length,) = struct.unpack("!I", self._exactly(4))
        if length > self.most_bytes:
            raise LinkError(f"a message of {length} bytes: this is no loadgen")
        return self._exactly(length)

    def tell(self, **words: Any) -> None:
        """Send a JSON object."""
        self.send(json.dumps(words).encode())

    def hear(self) -> dict[str, Any]:
        """Receive a JSON object."""
        try:
            words = json.loads(self.receive())
        except (ValueError, RecursionError):
            raise LinkError("a message that is no JSON: this is no loadgen") from None
        if not isinstance(words, dict):
            raise LinkError("a message that is no object: this is no loadgen")
        return words

    def wait(self, timeout_s: float) -> bool:
        """Whether a message is there within so long."""
        try:
            return bool(select.select([self._connection], [], [], timeout_s)[0])
        except (OSError, ValueError):  # closed by another thread: receiving will tell
            return True

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long receiving may take before it is a LinkError; None: for ever."""
        self._connection.settimeout(timeout_s)

    def close(self) -> None:
        """Close it, and wake whoever receives."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        try:
            while len(data) < size:
                piece = self._connection.recv(min(size - len(data), 1 << 20))
                if not piece:
                    raise LinkError("the connection was closed by the other end")
                data += piece
        except TimeoutError:
            raise LinkError("nothing was heard within the time") from None
        except OSError as error:
            raise LinkError(f"the connection is closed ({error.strerror or error})") from None
        return bytes(data)


def listening(host: str) -> socket.socket:
    """A socket that takes links, at a free port of `host`."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=16)


def connected(host: str, port: int, token: bytes, purpose: str) -> Link:
    """A link to an agent. LinkError where nobody answers, or does not take the token."""
    try:
        link = Link(socket.create_connection((host, port), CONNECT_S))
    except OSError as error:
        raise LinkError(f"{host}:{port} cannot be reached ({error.strerror or error})") from None
    try:
        link.set_timeout(CONNECT_S)
        challenge = link.receive()
        link.tell(purpose=purpose, proof=_proof(token, challenge, purpose))
        if link.receive() != b"welcome":
            raise LinkError(f"{host}:{port} is no agent of this run")
        link.set_timeout(None)
    except LinkError:
        link.close()
        raise
    link.most_bytes = MOST_BYTES
    return link


def accepted(connection: socket.socket, token: bytes) -> tuple[Link, str]:
    """The link of somebody who connected, and its purpose. LinkError, and it is closed, where it is not one of ours."""
    link = Link(connection)
    try:
        link.set_timeout(CONNECT_S)
        challenge = os.urandom(CHALLENGE_BYTES)
        link.send(challenge)
        said = link.hear()
        purpose, proof = said.get("purpose"), said.get("proof")
        if purpose not in PURPOSES or not isinstance(proof, str):
            raise LinkError("no purpose that is known")
        if not hmac.compare_digest(proof.encode(), _proof(token, challenge, purpose).encode()):
            raise LinkError("the token is not the one of this run")
        link.send(b"welcome")
        link.set_timeout(None)
    except LinkError:
        link.close()
        raise
    link.most_bytes = MOST_BYTES
    return link, purpose


def _proof(token: bytes, challenge: bytes, purpose: str) -> str:
    return hmac.digest(token, challenge + purpose.encode(), "sha256").hex()
