"""What goes wrong, over both transports: failures, aborts, requests larger than the kernel takes at once."""

import asyncio
import socket

import pytest
from scripted import (
    CHUNKED,
    LAST_CHUNK,
    PATIENCE_S,
    TRANSPORTS,
    Client,
    Peer,
    Server,
    answer_with,
    chunk,
    outcome,
    play,
    play_at,
    request,
    serve_for_ever,
    tokens,
    until,
    whole,
)

from loadgen.plan import Endpoint, Limits

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))


# failures


def test_a_port_where_nobody_listens_refuses(transport):
    async def ask(client: Client) -> None:
        exchange = await client.ask()
        assert exchange.error == "connect-refused"
        assert exchange.sent_ns > 0
        assert exchange.connect_ns is None

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but not listened at
        play_at(transport, Endpoint("127.0.0.1", sock.getsockname()[1], False, "/"), ask)


def test_a_name_that_does_not_resolve_is_a_dns_error(transport):
    async def ask(client: Client) -> None:
        assert (await client.ask()).error == "dns"

    play_at(transport, Endpoint("nowhere.invalid", 80, False, "/"), ask)


def test_failed_requests_are_decoded_though_no_read_ever_comes(transport):
    async def ask(client: Client) -> None:
        for _ in range(3):
            assert (await client.ask()).error == "connect-refused"

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        play_at(transport, Endpoint("127.0.0.1", sock.getsockname()[1], False, "/"), ask)


def test_a_handshake_that_never_answers_runs_into_the_connect_limit(transport):
    async def ask(client: Client, server: Server) -> None:
        limits = Limits(50_000_000, *[20_000_000_000] * 3)
        async with Client(transport, Endpoint("127.0.0.1", server.port, True, "/", insecure=True), limits) as hasty:
            await hasty.transport.open([1])
            exchange = await hasty.ask()
            assert (exchange.error, exchange.words) == ("timeout-connect", "no connection within 0.05 s")
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*server._playing)  # each side has let go of its socket

    async def never_answer(peer: Peer) -> None:
        await peer.gone()

    play(transport, never_answer, ask=ask, opened=False)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_stream_that_breaks_off_is_truncated_and_keeps_what_came(transport, end):
    async def break_off(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, *map(chunk, tokens(5)[:4]))
        await until(lambda: peer.told)
        end(peer)

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        n_bytes = len(CHUNKED) + sum(len(chunk(event)) for event in tokens(5)[:4])
        await until(lambda: client.received_bytes(exchange) == n_bytes)
        server.peers[-1].told = True
        await client.decoded(exchange)
        assert (exchange.error, len(exchange.kinds)) == ("truncated", 3)
        assert exchange.response_bytes == n_bytes

    play(transport, break_off, ask=ask)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_break_between_the_end_sign_and_the_last_chunk_is_no_failure(transport, end):
    stream = whole(3).removesuffix(LAST_CHUNK)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(stream)
        await until(lambda: peer.told)
        end(peer)

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        await until(lambda: client.received_bytes(exchange) == len(stream))
        server.peers[0].told = True
        await client.decoded(exchange)
        assert (exchange.error, len(exchange.kinds)) == (None, 3)

    play(transport, script, ask=ask)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x16\x03\x01\x02\x00\x01", b"HTTP/1.1 abc\r\n\r\n"])
def test_bytes_that_are_no_http_are_told_as_such(transport, garbage):
    exchange, _ = outcome(transport, answer_with(garbage))
    assert exchange.error == "bad-http"


def test_a_second_response_in_the_same_read_costs_the_connection_and_answers_no_request(transport):
    async def ask(client: Client, server: Server) -> None:
        first = await client.ask()
        assert (first.error, len(first.kinds)) == (None, 2)
        second = await client.ask()
        assert second.error is None
        assert len(server.peers) == 2

    play(transport, answer_with(whole(2) + whole(2)), serve_for_ever, ask=ask)


# abort


def test_aborting_while_streaming_closes_the_connection_keeps_what_came_and_ends_once(transport):
    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        await until(lambda: client.received_bytes(exchange))
        client.transport.abort(exchange, "timeout-idle", "too long")
        assert exchange.ended
        client.transport.abort(exchange, "cancelled")
        await client.decoded(exchange)
        assert (exchange.error, exchange.words) == ("timeout-idle", "too long")
        assert exchange.response_bytes > 0
        assert len(exchange.kinds) == 3
        assert client.transport.in_flight() == []
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*server._playing)  # the script waits for our end
        assert (await client.ask()).error == "truncated"

    half = b"".join(map(chunk, tokens(5)[:4]))
    play(transport, answer_with(CHUNKED + half), answer_with(CHUNKED + half, end=Peer.close), ask=ask)


def test_aborting_while_connecting_closes_the_socket_and_ends_once(transport):
    async def never_answer(peer: Peer) -> None:
        await peer.gone()

    async def ask(_client: Client, server: Server) -> None:
        target = Endpoint("127.0.0.1", server.port, True, "/", insecure=True)  # the handshake is never answered
        async with Client(transport, target) as client:
            client.transport._connections = [client.transport._closed_slot(0, 0)]
            exchange = client.submit()
            assert client.transport.in_flight() == [exchange]
            await until(lambda: server.peers)
            client.transport.abort(exchange, "cancelled")
            await client.decoded(exchange)
            assert (exchange.error, exchange.connect_ns) == ("cancelled", None)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*server._playing)
            assert client.ends == [exchange]

    play(transport, never_answer, ask=ask, opened=False)


def test_a_slot_that_is_aborted_while_connecting_can_be_used_at_once(transport):
    async def ask(client: Client, _server: Server) -> None:
        first = client.submit()
        client.transport.abort(first, "cancelled")
        second = await client.ask()
        await client.decoded(first)
        assert (first.error, second.error) == ("cancelled", None)

    play(transport, serve_for_ever, ask=ask, opened=False)


def test_the_next_request_may_be_submitted_from_on_end(transport):
    async def ask(client: Client, server: Server) -> None:
        exchanges = []

        def ended(exchange) -> None:
            client._ended(exchange)
            if len(exchanges) < 10:
                exchanges.append(client.submit())

        client.transport.on_end = ended
        await client.ask()
        await until(lambda: len(exchanges) == 10)
        for exchange in exchanges:
            assert (await client.decoded(exchange)).error is None
        assert len(server.peers) == 1

    play(transport, serve_for_ever, ask=ask)


def test_many_slots_are_served_side_by_side(transport):
    async def ask(client: Client, server: Server) -> None:
        await until(lambda: len(server.peers) == 100)
        exchanges = [client.submit(slot) for slot in range(100)]
        assert len(client.transport.in_flight()) == 100
        for exchange in exchanges:
            assert (await client.decoded(exchange)).error is None
        assert [exchange.connect_ns for exchange in exchanges] == [None] * 100

    play(transport, serve_for_ever, ask=ask, slots=100)


# large requests

# Twice what the kernel takes for a socket at most (tcp_wmem), so that some of it has to wait.
LARGE = request(b"x" * (8 << 20))


def test_a_large_request_to_a_server_that_reads_slowly_arrives_whole(transport):
    async def read_slowly(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await until(lambda: peer.told)
        peer.writer.transport.resume_reading()
        assert await peer.request() == LARGE
        await peer.send(whole(3))
        await serve_for_ever(peer)

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit(data=LARGE)
        await until(lambda: not client.transport._connections[0].is_sent)
        server.peers[0].told = True
        await client.decoded(exchange)
        assert (exchange.error, len(exchange.kinds)) == (None, 3)
        assert exchange.request_bytes == len(LARGE)
        assert (await client.ask()).error is None
        assert len(server.peers) == 1

    play(transport, read_slowly, ask=ask, receive_bytes=4096)


@pytest.mark.parametrize("end", [None, "once it was read", "at once"])
def test_a_refusal_before_the_request_is_fully_read_is_the_servers_word(transport, end):
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n"

    async def refuse_at_once(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()
        await peer.send(refusal + b'{"message": "too long"}'[:22])
        if end is not None:
            await until(lambda: peer.told or end == "at once")
            peer.close()  # with bytes unread: the kernel makes a reset of it
        else:
            peer.writer.transport.resume_reading()
            await peer.gone()

    async def ask(client: Client, server: Server) -> None:
        first = client.submit(data=LARGE)
        await until(lambda: client.received_bytes(first))
        server.peers[-1].told = True
        await client.decoded(first)
        assert (first.error, first.status) == ("http-413", 413)
        assert (await client.ask()).error is None
        assert len(server.peers) == 2, "half a request was left on the connection"

    play(transport, refuse_at_once, serve_for_ever, ask=ask, receive_bytes=4096)
