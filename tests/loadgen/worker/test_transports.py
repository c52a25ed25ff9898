"""Both transports, held to the same behaviour on real sockets."""

import asyncio
import socket
import time

import numpy as np
import pytest
from scripted import (
    CHUNKED,
    EVENT_STREAM,
    LAST_CHUNK,
    PATIENCE_S,
    TRANSPORTS,
    Client,
    Peer,
    Server,
    answer_with,
    chunk,
    delta,
    outcome,
    play,
    request,
    serve_for_ever,
    tokens,
    until,
    whole,
)

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))

# A kernel stamp is converted with an offset that is known to a fraction of this.
CLOCK_ERROR_NS = 20_000


async def hang_up_on_the_request(peer: Peer) -> None:
    await peer.request()
    peer.close()


# responses


def test_a_chunked_stream_gives_its_events_and_its_bytes_are_counted(transport):
    exchange, reopened = outcome(transport, answer_with(CHUNKED, *map(chunk, tokens(5)), LAST_CHUNK))
    assert (exchange.error, exchange.status, len(exchange.kinds), reopened) == (None, 200, 5, 0)
    assert exchange.response_bytes == len(whole(5))
    assert exchange.request_bytes == len(request())
    assert exchange.content_type == "text/event-stream"
    assert exchange.first_byte_ns <= exchange.event_ns[0][0] <= exchange.last_byte_ns
    assert exchange.connect_ns is None


def test_a_content_length_body_ends_where_it_says(transport):
    body = b"".join(tokens(3))
    head = EVENT_STREAM + b"Content-Length: %d\r\n\r\n" % len(body)
    exchange, _ = outcome(transport, answer_with(head, body))
    assert (exchange.error, len(exchange.kinds)) == (None, 3)


def test_a_body_without_length_ends_with_the_connection(transport):
    exchange, _ = outcome(transport, answer_with(EVENT_STREAM + b"\r\n", *tokens(3), end=Peer.close))
    assert (exchange.error, len(exchange.kinds)) == (None, 3)


def test_interim_responses_are_passed_over(transport):
    interim = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    exchange, _ = outcome(transport, answer_with(*interim, whole(3)))
    assert (exchange.error, exchange.status, len(exchange.kinds)) == (None, 200, 3)


def test_an_error_status_keeps_the_servers_words(transport):
    body = b'{"error": {"message": "slow down"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    exchange, _ = outcome(transport, answer_with(head % len(body) + body))
    assert (exchange.error, exchange.words, exchange.status) == ("http-429", "slow down", 429)


def test_a_refusal_says_when_to_come_again(transport):
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7 \r\nContent-Length: 0\r\n\r\n"
    exchange, _ = outcome(transport, answer_with(head))
    assert (exchange.error, exchange.retry_after) == ("http-429", "7")


def test_a_long_stream_is_handed_over_in_segments_and_loses_nothing(transport):
    events = tokens(20_000)
    assert sum(map(len, events)) > 1_000_000

    async def ask(client: Client, _server: Server) -> None:
        exchange = await client.ask()
        assert (exchange.error, len(exchange.kinds)) == (None, 20_000)
        assert client.segments > 2
        stamps = np.concatenate(exchange.event_ns)
        assert len(stamps) == 20_000
        assert (np.diff(stamps) >= 0).all()

    pieces = [b"".join(map(chunk, events[i : i + 100])) for i in range(0, len(events), 100)]
    play(transport, answer_with(CHUNKED, *pieces, LAST_CHUNK), ask=ask)


def test_one_byte_a_read_gives_the_same_events(transport):
    stream = whole(2)
    exchange, _ = outcome(transport, answer_with(*(stream[i : i + 1] for i in range(len(stream)))))
    assert (exchange.error, len(exchange.kinds)) == (None, 2)
    assert exchange.response_bytes == len(stream)


# connections


def test_a_kept_alive_connection_serves_the_next_request(transport):
    async def ask(client: Client, server: Server) -> None:
        first, second = await client.ask(), await client.ask()
        assert (first.error, second.error) == (None, None)
        assert first.connect_ns > 0
        assert second.connect_ns is None
        assert len(server.peers) == 1
        assert client.transport.reopened == 0

    play(transport, serve_for_ever, ask=ask, opened=False)


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0"])
def test_a_connection_that_the_server_gives_up_is_opened_anew_at_the_next_requests_cost(transport, how):
    stream = whole(3)
    if how == "HTTP/1.0":
        stream = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(tokens(3))
        script = answer_with(stream, end=Peer.close)
    else:
        script = answer_with(stream.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    async def ask(client: Client, server: Server) -> None:
        first, second = await client.ask(), await client.ask()
        assert (first.error, second.error) == (None, None)
        assert first.connect_ns is None
        assert second.connect_ns > 0
        assert len(server.peers) == 2
        assert client.transport.reopened == 0

    play(transport, script, ask=ask)


def test_a_connection_that_the_server_closed_while_idle_is_opened_anew_without_a_failure(transport):
    async def ask(client: Client, server: Server) -> None:
        first = await client.ask()
        server.peers[0].close()
        await until(lambda: not client.transport._connections[0].is_open or client.transport._connections[0].reads)
        second = await client.ask()
        assert (first.error, second.error) == (None, None)
        assert len(server.peers) == 2
        assert second.connect_ns > 0
        assert client.transport.reopened == 1

    play(transport, serve_for_ever, ask=ask)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_connection_that_the_server_closes_as_the_request_arrives_is_reopened_and_counted(transport, end):
    async def answer_once_then_hang_up(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        end(peer)

    async def ask(client: Client, server: Server) -> None:
        first, second = await client.ask(), await client.ask()
        assert (first.error, second.error) == (None, None)
        assert (first.reconnected, second.reconnected) == (False, True)
        assert second.connect_ns > 0
        assert client.transport.reopened == 1
        assert len(server.peers) == 2

    play(transport, answer_once_then_hang_up, serve_for_ever, ask=ask)


def test_a_burst_over_connections_that_all_went_stale_at_once_fails_nowhere(transport):
    async def ask(client: Client, server: Server) -> None:
        await until(lambda: len(server.peers) == 60)
        for peer in server.peers:
            peer.close()
        exchanges = [client.submit(slot) for slot in range(60)]
        for exchange in exchanges:
            assert (await client.decoded(exchange)).error is None
        assert client.transport.reopened == 60
        assert len(server.peers) == 120

    play(transport, serve_for_ever, ask=ask, slots=60)


def test_a_server_that_hangs_up_a_second_time_is_a_failure(transport):
    exchange, reopened = outcome(transport, hang_up_on_the_request)
    assert (exchange.error, exchange.reconnected, reopened) == ("connect-reset", True, 1)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_fresh_connection_that_ends_before_any_byte_is_a_failure(transport, end):
    async def ask(client: Client, server: Server) -> None:
        exchange = await client.ask()
        assert (exchange.error, exchange.reconnected) == ("connect-reset", False)
        assert (client.transport.reopened, len(server.peers)) == (0, 1)
        assert exchange.connect_ns > 0

    play(transport, answer_with(end=end), ask=ask, opened=False)


def test_unasked_bytes_on_an_idle_connection_close_it_without_failing_a_request(transport):
    async def answer_and_go_on(peer: Peer) -> None:
        await peer.answer()
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        assert await peer.gone() == b""

    async def ask(client: Client, server: Server) -> None:
        first = await client.ask()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*server._playing)
        second = await client.ask()
        assert (first.error, second.error) == (None, None)
        assert len(server.peers) == 2

    play(transport, answer_and_go_on, serve_for_ever, ask=ask)


# stamps


def test_events_of_one_read_share_a_stamp_and_are_counted_as_coalesced(transport):
    exchange, _ = outcome(transport, answer_with(whole(10)))
    assert len(set(np.concatenate(exchange.event_ns).tolist())) == 1
    assert exchange.coalesced_events == 9


def test_a_stamp_is_no_earlier_than_the_send_and_no_later_than_the_read(transport):
    n_tokens = 50

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        read_ns: list[int] = []
        take = client.transport.on_segment

        def on_segment(ended) -> None:
            read_ns.extend(ns for segment in ended.segments for ns in segment.read_ns)
            take(ended)

        client.transport.on_segment = on_segment
        await client.decoded(exchange)
        peer = server.peers[0]
        stamps_ns = np.concatenate(exchange.event_ns)
        true_ns = np.array(peer.sent_ns[2 : 2 + n_tokens])  # behind the head and the role
        assert len(stamps_ns) == len(true_ns)
        assert (stamps_ns >= true_ns - CLOCK_ERROR_NS).all()
        assert exchange.sent_ns <= peer.request_read_ns
        assert exchange.sent_ns < exchange.first_byte_ns
        assert exchange.last_byte_ns <= read_ns[-1] + CLOCK_ERROR_NS
        reads = np.array(read_ns)
        # Every stamp is that of a read, or before it by no more than the lag.
        following = reads[np.minimum(reads.searchsorted(stamps_ns - CLOCK_ERROR_NS), len(reads) - 1)]
        assert (following - stamps_ns <= exchange.max_lag_ns + CLOCK_ERROR_NS).all()
        assert exchange.max_lag_ns >= 0
        if transport == "aiohttp":
            assert exchange.unstamped == len(read_ns)
            assert set(stamps_ns.tolist()) <= set(read_ns)

    async def one_event_at_a_time(peer: Peer) -> None:
        await peer.request()
        for piece in [CHUNKED, *map(chunk, tokens(n_tokens)), LAST_CHUNK]:
            await peer.send(piece)
            await asyncio.sleep(0.0005)
        await peer.gone()

    play(transport, one_event_at_a_time, ask=ask)


def test_the_transport_says_where_its_stamps_come_from(transport):
    async def ask(client: Client, _server: Server) -> None:
        assert client.transport.stamp_source == {"kernel": "kernel", "aiohttp": "read"}[transport]
        await client.ask()
        assert client.transport.reads > 0

    play(transport, serve_for_ever, ask=ask)


def test_a_loop_that_was_busy_admits_how_long_the_bytes_may_have_waited(transport):
    busy_ns = 30_000_000

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        await until(lambda: client.received_bytes(exchange))
        server.peers[0].writer.write(chunk(delta(content="late")))
        until_ns = time.thread_time_ns() + busy_ns
        while time.thread_time_ns() < until_ns:  # the event is in the socket, and nobody reads it
            pass
        await until(lambda: client.received_bytes(exchange) > len(CHUNKED))
        server.peers[0].writer.write(b"".join(map(chunk, tokens(0)[1:])) + LAST_CHUNK)
        await client.decoded(exchange)
        assert exchange.error is None
        assert exchange.max_lag_ns >= busy_ns * 0.9

    play(transport, answer_with(CHUNKED), ask=ask)


# addresses


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_server_at_an_ipv6_address_is_reached(transport):
    if not has_ipv6():
        pytest.skip("NO IPv6 LOOPBACK ON THIS MACHINE: ::1 was not tested")
    exchange, _ = outcome(transport, serve_for_ever, server_host="::1")
    assert exchange.error is None


def test_a_host_name_with_several_addresses_finds_the_one_that_listens(transport):
    exchange, _ = outcome(transport, serve_for_ever, host="localhost")
    assert exchange.error is None
