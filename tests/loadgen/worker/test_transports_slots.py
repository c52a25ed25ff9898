"""Slots and their connections, over both transports and real sockets: added, prepared, found closed, closed."""

import asyncio
import socket

import pytest
from scripted import (
    LIMITS,
    TRANSPORTS,
    Client,
    Peer,
    Server,
    answer_with,
    play,
    play_at,
    serve_for_ever,
    until,
)

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.plan import Endpoint, Limits

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))


def test_a_slot_that_was_added_connects_with_its_first_request(transport):
    async def ask(client: Client, server: Server) -> None:
        assert client.transport.slots == 1
        assert client.transport.add_slot() == 1
        assert (client.transport.slots, len(server.peers)) == (2, 1)
        assert not client.transport.is_open(1)
        exchange = await client.ask(1)
        assert exchange.error is None
        assert exchange.connect_ns > 0
        assert client.transport.is_open(1)

    play(transport, serve_for_ever, ask=ask)


def test_a_prepared_slot_costs_its_request_no_connect(transport):
    async def ask(client: Client, server: Server) -> None:
        slot = client.transport.add_slot()
        prepared = []
        client.transport.prepare(slot, prepared.append)
        assert (prepared, client.transport.is_open(slot)) == ([], False)
        await until(lambda: prepared)
        assert prepared == [slot]
        assert client.transport.is_open(slot)
        assert client.transport.in_flight() == []
        exchange = await client.ask(slot)
        assert (exchange.error, exchange.connect_ns) == (None, None)
        assert len(server.peers) == 2

    play(transport, serve_for_ever, ask=ask)


def test_a_prepared_slot_may_be_used_at_once_from_the_call(transport):
    async def ask(client: Client, _server: Server) -> None:
        asked = []
        client.transport.prepare(client.transport.add_slot(), lambda slot: asked.append(client.submit(slot)))
        await until(lambda: asked)
        exchange = await client.decoded(asked[0])
        assert (exchange.error, exchange.connect_ns) == (None, None)

    play(transport, serve_for_ever, ask=ask)


def test_preparing_that_fails_is_told_and_left_for_the_request_to_report(transport):
    async def ask(client: Client) -> None:
        prepared = []
        client.transport.prepare(0, prepared.append)
        await until(lambda: prepared)
        assert not client.transport.is_open(0)
        assert (await client.ask()).error == "connect-refused"

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but not listened at
        play_at(transport, Endpoint("127.0.0.1", sock.getsockname()[1], False, "/"), ask)


def test_preparing_has_the_connect_limit(transport):
    async def ask(_client: Client, server: Server) -> None:
        limits = Limits(NS_PER_S // 20, *[20 * NS_PER_S] * 3)
        target = Endpoint("127.0.0.1", server.port, True, "/", insecure=True)  # the handshake is never answered
        async with Client(transport, target, limits) as hasty:
            prepared = []
            hasty.transport.prepare(hasty.transport.add_slot(), prepared.append)
            await until(lambda: prepared)
            assert not hasty.transport.is_open(0)
            await asyncio.gather(*server._playing)  # the socket is closed

    play(transport, Peer.gone, ask=ask, opened=False, slots=0)


def test_a_prepared_connection_that_went_stale_is_opened_anew(transport):
    async def hang_up_on_the_request(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async def ask(client: Client, server: Server) -> None:
        prepared = []
        client.transport.prepare(client.transport.add_slot(), prepared.append)
        await until(lambda: prepared)
        exchange = await client.ask(1)
        assert (exchange.error, exchange.reconnected) == (None, True)
        assert (len(server.peers), client.transport.reopened) == (3, 1)

    play(transport, serve_for_ever, hang_up_on_the_request, serve_for_ever, ask=ask)


def test_opening_waits_for_what_is_being_prepared_and_connects_no_slot_twice(transport):
    async def ask(client: Client, server: Server) -> None:
        prepared = []
        for _ in range(3):
            client.transport.prepare(client.transport.add_slot(), prepared.append)
        await client.transport.open([6])
        assert sorted(prepared) == [1, 2, 3]
        assert client.transport.slots == 6
        assert all(client.transport.is_open(slot) for slot in range(6))
        await until(lambda: len(server.peers) == 6)
        await asyncio.sleep(0.02)
        assert len(server.peers) == 6
        for slot in range(6):
            assert (await client.ask(slot)).connect_ns is None

    play(transport, serve_for_ever, ask=ask)


def test_opening_none_waits_for_what_is_being_prepared_too(transport):
    async def ask(client: Client, server: Server) -> None:
        prepared = []
        client.transport.prepare(client.transport.add_slot(), prepared.append)
        await client.transport.open([0])
        assert prepared == [1]
        assert (await client.ask(1)).connect_ns is None
        assert len(server.peers) == 2

    play(transport, serve_for_ever, ask=ask)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_an_idle_connection_that_the_server_closed_is_noticed(transport, end):
    async def ask(client: Client, server: Server) -> None:
        assert (await client.ask()).error is None
        assert client.transport.is_open(0)
        end(server.peers[0])
        await until(lambda: not client.transport.is_open(0))
        exchange = await client.ask()
        assert (exchange.error, exchange.reconnected) == (None, False)
        assert exchange.connect_ns > 0

    play(transport, serve_for_ever, ask=ask)


def test_an_end_that_was_read_and_not_looked_at_yet_is_noticed(transport):
    async def ask(client: Client, _server: Server) -> None:
        client.transport._connections[0].reads.append((monotonic_ns(), [], b""))
        assert not client.transport.is_open(0)
        assert (await client.ask()).connect_ns > 0

    play(transport, serve_for_ever, ask=ask)


def test_looking_does_not_disturb_a_request_in_flight(transport):
    async def ask(client: Client, _server: Server) -> None:
        exchange = client.submit()
        await until(lambda: client.transport.is_open(0) and (exchange.ended or client.received_bytes(exchange)))
        assert (await client.decoded(exchange)).error is None

    play(transport, serve_for_ever, ask=ask)


def test_closing_ends_what_is_being_prepared(transport):
    async def ask(_client: Client, server: Server) -> None:
        target = Endpoint("127.0.0.1", server.port, True, "/", insecure=True)
        prepared = []
        async with Client(transport, target, LIMITS) as client:
            client.transport.prepare(client.transport.add_slot(), prepared.append)
            await until(lambda: server.peers)
        await asyncio.gather(*server._playing)
        assert prepared == []

    play(transport, Peer.gone, ask=ask, opened=False, slots=0)


def test_closing_with_work_left_to_do_is_no_failure(transport):
    """What was put off to the loop's next turn finds everything closed."""

    async def ask(_client: Client, server: Server) -> None:
        async with Client(transport, server.endpoint()) as client:
            await client.transport.open([1])
            exchange = client.submit()
            await until(lambda: client.received_bytes(exchange))
            client.transport.abort(exchange, "unfinished")
            client.transport.wake()

    play(transport, answer_with(b"HTTP/1.1 200 OK\r\n"), ask=ask)


def test_the_transport_sends_what_is_due_between_its_pieces_of_work(transport):
    """While there is work the loop does not come to its timers: the transport looks at the clock itself."""

    async def ask(client: Client, _server: Server) -> None:
        called = []
        worked = []

        def endless_work() -> bool:
            worked.append(len(called))
            if len(worked) == 1:
                client.pacer.at(0, called.append)  # due at once
            return len(worked) < 3

        client.transport.decode_one = endless_work
        client.transport.wake()
        await until(lambda: len(worked) == 3)
        assert worked == [0, 1, 1]

    play(transport, serve_for_ever, ask=ask)
