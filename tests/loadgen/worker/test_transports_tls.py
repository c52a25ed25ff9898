"""https, over both transports."""

import asyncio
import ssl

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
    chunk,
    outcome,
    play,
    request,
    serve_for_ever,
    tokens,
    until,
    whole,
)

from loadgen.plan import Endpoint

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))


def test_a_trusted_server_is_read_and_its_connection_kept(transport, authority, tls):
    async def ask(client: Client, server: Server) -> None:
        first, second = await client.ask(), await client.ask()
        assert (first.error, second.error) == (None, None)
        assert len(first.kinds) == 3
        assert first.connect_ns > 0
        assert second.connect_ns is None
        assert len(server.peers) == 1

    play(transport, serve_for_ever, ask=ask, tls=tls, tls_ca=str(authority.ca_file), opened=False)


def test_a_host_name_is_verified_as_a_name(transport, authority, tls):
    exchange, _ = outcome(transport, serve_for_ever, tls=tls, tls_ca=str(authority.ca_file), host="localhost")
    assert exchange.error is None


def test_a_server_that_nobody_vouches_for_is_refused(transport, tls):
    exchange, _ = outcome(transport, serve_for_ever, tls=tls)
    assert exchange.error == "tls-certificate"
    assert "certificate" in exchange.words


def test_a_certificate_for_another_name_is_refused(transport, authority):
    other = authority.server_context("elsewhere.test")
    exchange, _ = outcome(transport, serve_for_ever, tls=other, tls_ca=str(authority.ca_file))
    assert exchange.error == "tls-certificate"


def test_a_certificate_that_has_expired_is_refused(transport, authority):
    expired = authority.server_context("127.0.0.1", expired=True)
    exchange, _ = outcome(transport, serve_for_ever, tls=expired, tls_ca=str(authority.ca_file))
    assert (exchange.error, exchange.words) == ("tls-certificate", "certificate has expired")


def test_a_server_that_takes_http2_alone_is_told_as_such(transport):
    async def refuse(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.send(b"\x15\x03\x03\x00\x02\x02\x78")  # fatal, no_application_protocol (RFC 7301, 3.2)
        peer.close()

    async def ask(_client: Client, server: Server) -> None:
        async with Client(transport, Endpoint("127.0.0.1", server.port, True, "/")) as client:
            await client.transport.open([1])
            exchange = await client.ask()
            assert exchange.error == "tls"
            assert "HTTP/2" in exchange.words

    play(transport, refuse, ask=ask, opened=False)


def test_insecure_takes_any_certificate(transport, authority):
    other = authority.server_context("elsewhere.test")
    exchange, _ = outcome(transport, serve_for_ever, tls=other, insecure=True)
    assert exchange.error is None


def test_plain_http_on_a_tls_port_is_a_tls_error(transport):
    async def answer_in_plain(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        peer.close()

    async def ask(_client: Client, server: Server) -> None:
        async with Client(transport, Endpoint("127.0.0.1", server.port, True, "/")) as client:
            await client.transport.open([1])
            assert (await client.ask()).error == "tls"

    play(transport, answer_in_plain, ask=ask, opened=False)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_server_that_ends_in_the_handshake_is_a_failed_handshake_or_connect(transport, end):
    async def hang_up(peer: Peer) -> None:
        await peer.reader.read(100)
        end(peer)

    async def ask(_client: Client, server: Server) -> None:
        async with Client(transport, Endpoint("127.0.0.1", server.port, True, "/")) as client:
            await client.transport.open([1])
            assert (await client.ask()).error in ("tls", "connect-failed")

    play(transport, hang_up, ask=ask, opened=False)


def test_a_body_without_length_ends_with_the_connection(transport, authority, tls):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENT_STREAM + b"\r\n", *tokens(3))
        peer.close()

    exchange, _ = outcome(transport, script, tls=tls, tls_ca=str(authority.ca_file))
    assert (exchange.error, len(exchange.kinds)) == (None, 3)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_stream_that_breaks_off_is_truncated(transport, authority, tls, end):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, *map(chunk, tokens(3)[:3]))
        await until(lambda: peer.told)
        end(peer)

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        await until(lambda: sum(len(reads) for reads in (exchange.read_ns, exchange.segments)) > 2)
        server.peers[0].told = True
        assert (await client.decoded(exchange)).error == "truncated"
        assert len(exchange.kinds) == 2

    play(transport, script, ask=ask, tls=tls, tls_ca=str(authority.ca_file))


def test_a_connection_that_went_stale_is_reopened(transport, authority, tls):
    async def answer_once_then_hang_up(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        peer.close()

    async def ask(client: Client, server: Server) -> None:
        first, second = await client.ask(), await client.ask()
        assert (first.error, second.error) == (None, None)
        assert client.transport.reopened == 1

    play(transport, answer_once_then_hang_up, serve_for_ever, ask=ask, tls=tls, tls_ca=str(authority.ca_file))


def test_aborting_closes_the_connection(transport, authority, tls):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.gone()

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit()
        await until(lambda: client.received_bytes(exchange))
        client.transport.abort(exchange, "cancelled")
        assert (await client.decoded(exchange)).error == "cancelled"
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*server._playing)

    play(transport, script, ask=ask, tls=tls, tls_ca=str(authority.ca_file))


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
def test_a_large_request_arrives_whole(transport, authority, tls, size):
    large = request(b"y" * size)

    async def script(peer: Peer) -> None:
        await asyncio.sleep(0.05)
        assert await peer.request() == large
        await peer.send(whole(3))
        await serve_for_ever(peer)

    async def ask(client: Client, server: Server) -> None:
        assert (await client.ask(data=large)).error is None
        assert (await client.ask()).error is None

    play(transport, script, ask=ask, tls=tls, tls_ca=str(authority.ca_file), receive_bytes=4096)


def test_a_record_over_many_reads_is_stamped_by_the_read_that_completed_it(transport, authority, tls):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED, *map(chunk, tokens(20)), LAST_CHUNK)
        await serve_for_ever(peer)

    async def ask(client: Client, server: Server) -> None:
        exchange = await client.ask()
        stamps_ns = np.concatenate(exchange.event_ns)
        assert exchange.error is None
        assert (stamps_ns >= np.array(server.peers[0].sent_ns[2:22]) - 20_000).all()
        assert exchange.sent_ns <= server.peers[0].request_read_ns

    play(transport, script, ask=ask, tls=tls, tls_ca=str(authority.ca_file))


def test_a_server_that_wants_a_clients_certificate_is_a_tls_error(transport, authority):
    context = authority.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca_file)

    async def ask(client: Client, _server: Server) -> None:
        exchange = await client.ask()
        assert exchange.error in ("tls", "connect-reset")

    play(transport, serve_for_ever, ask=ask, tls=context, tls_ca=str(authority.ca_file))
