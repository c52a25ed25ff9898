"""Links: who does not know the token is nobody, and nothing that arrives is trusted."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager

import pytest
from asked import until
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cluster import link as under_test
from loadgen.cluster.link import LinkError, accepted, connected, listening

TOKEN = b"t" * 32


@contextmanager
def listener(answer: Callable[[socket.socket], object]):
    """A port that hands whoever connects to `answer`; gives (port, what it returned or raised)."""
    found: list[object] = []
    server = listening("127.0.0.1")

    def take() -> None:
        connection, _ = server.accept()
        try:
            found.append(answer(connection))
        except LinkError as error:
            found.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], found
        thread.join(30)
    finally:
        server.close()
        for one in found:
            if isinstance(one, tuple):
                one[0].close()


def test_who_knows_the_token_is_let_in_for_his_purpose():
    with listener(lambda connection: accepted(connection, TOKEN)) as (port, found):
        link = connected("127.0.0.1", port, TOKEN, "control")
        link.tell(a=1)
        link.send(b"x" * 100_000)
        other, purpose = until(lambda: found, "the link")[0]
        assert purpose == "control"
        assert other.hear() == {"a": 1}
        assert other.receive() == b"x" * 100_000, "once he is known, messages may be large"
        link.close()
        with pytest.raises(LinkError, match="closed by the other end"):
            other.receive()


@pytest.mark.parametrize(("token", "purpose"), [(b"u" * 32, "control"), (b"", "clock"), (TOKEN, "anything")])
def test_who_does_not_is_not(token, purpose):
    with listener(lambda connection: accepted(connection, TOKEN)) as (port, found), pytest.raises(LinkError):
        connected("127.0.0.1", port, token, purpose)
    assert isinstance(found[0], LinkError)


@given(st.binary(max_size=200))
def test_bytes_of_somebody_else_end_in_a_plain_refusal(data):
    with (
        listener(lambda connection: accepted(connection, TOKEN)) as (port, found),
        socket.create_connection(("127.0.0.1", port)) as stranger,
        contextlib.suppress(OSError),
    ):  # it may have been refused by then
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
    assert isinstance(found[0], LinkError)


def test_a_stranger_cannot_have_much_memory_set_aside():
    with (
        listener(lambda connection: accepted(connection, TOKEN)) as (port, found),
        socket.create_connection(("127.0.0.1", port)) as stranger,
    ):
        stranger.sendall(struct.pack("!I", 1 << 31))
        stranger.settimeout(20)
        while stranger.recv(1000):
            pass
    assert "this is no loadgen" in str(found[0])


def test_a_server_of_something_else_is_no_agent():
    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with listener(speak) as (port, _), pytest.raises(LinkError, match="no loadgen"):
        connected("127.0.0.1", port, TOKEN, "clock")


def test_a_port_where_nobody_listens_is_named(monkeypatch):
    monkeypatch.setattr(under_test, "CONNECT_S", 2.0)
    server = listening("127.0.0.1")
    port = server.getsockname()[1]
    server.close()
    with pytest.raises(LinkError, match=f"127.0.0.1:{port} cannot be reached"):
        connected("127.0.0.1", port, TOKEN, "clock")


def test_a_message_that_is_no_object_is_refused(pair):
    one, other = pair
    for data in (b"[1]", b"{", b"\xff"):
        one.send(data)
        with pytest.raises(LinkError):
            other.hear()
