"""A client that shares nothing with the product: http.client, plain sockets, and SSE taken apart by splitting."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from loadgen.simulator.process import Served, serve

TIMEOUT_S = 60.0


@dataclass
class Got:
    status: int
    fields: dict[str, str]
    body: bytes
    read_ns: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def payloads(self) -> list[str]:
        """The data of each event, in order."""
        text = self.body.decode().replace("\r\n", "\n")
        assert text.endswith("\n\n") or not text
        lines = [line for event in text.split("\n\n") for line in event.split("\n")]
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    @property
    def events(self) -> list[dict[str, Any]]:
        assert self.payloads[-1] == "[DONE]"
        return [json.loads(payload) for payload in self.payloads[:-1]]

    @property
    def texts(self) -> list[str]:
        """What each event with output carries, of either dialect, reasoning included."""
        said = []
        for event in self.events:
            for choice in event.get("choices", []):
                delta = choice.get("delta", choice)
                said.append(delta.get("content") or delta.get("reasoning_content") or delta.get("text") or "")
        return [text for text in said if text]


class Client:
    """Sends requests to one simulator; `connection` is kept and used again until `close`."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port
        self.context = context
        self._connection: http.client.HTTPConnection | None = None

    @property
    def connection(self) -> http.client.HTTPConnection:
        if self._connection is None:
            if self.context is not None:
                made = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self.context)
            else:
                made = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
            self._connection = made
        return self._connection

    def request(self, method: str, path: str, body: bytes | None = None, fields: dict[str, str] | None = None) -> Got:
        self.connection.request(method, path, body, fields or {})
        response = self.connection.getresponse()
        said = response.read()
        return Got(
            response.status, {name.lower(): value for name, value in response.getheaders()}, said, time.monotonic_ns()
        )

    def chat(self, *, fields: dict[str, str] | None = None, **wants: Any) -> Got:
        asked = {"model": "sim", "messages": [{"role": "user", "content": "one two three"}], "stream": True, **wants}
        return self.request("POST", "/v1/chat/completions", json.dumps(asked).encode(), fields)

    def complete(self, **wants: Any) -> Got:
        asked = {"model": "sim", "prompt": "one two", "stream": True, **wants}
        return self.request("POST", "/v1/completions", json.dumps(asked).encode())

    def raw(self, receive_bytes: int = 0) -> socket.socket:
        """A connection of its own, without any HTTP; `receive_bytes` makes its receive buffer small."""
        sock = socket.socket()
        sock.settimeout(TIMEOUT_S)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect((self.host, self.port))
        return sock

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@pytest.fixture
def connect() -> Iterator[Any]:
    """connect(served) -> Client; all are closed at the end."""
    made: list[Client] = []

    def connect(served: Served, context: ssl.SSLContext | None = None) -> Client:
        made.append(Client(served.url, context))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture(scope="package")
def plain() -> Iterator[Served]:
    """A fast simulator without any awkwardness, shared: its log holds the requests of other tests too."""
    with serve("--step", "1ms", "--ttft", "2ms") as served:
        yield served


@pytest.fixture
def client(plain: Served, connect: Any) -> Client:
    return connect(plain)


def rows_of(table: Any) -> dict[str, dict[str, Any]]:
    return {row["response_id"]: row for row in table.to_pylist()}


@pytest.fixture(name="rows_of")
def rows_of_() -> Any:
    return rows_of
