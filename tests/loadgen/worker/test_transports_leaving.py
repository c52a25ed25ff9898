"""Users who leave after so many tokens, over both transports and real sockets: the server sees them go."""

import asyncio
import itertools
import json

import pytest
from scripted import (
    CHUNKED,
    EVENT_STREAM,
    LAST_CHUNK,
    PATIENCE_S,
    ROLE,
    TRANSPORTS,
    Client,
    Peer,
    Server,
    answer_with,
    chunk,
    delta,
    play,
    serve_for_ever,
    tokens,
    until,
    whole,
)

from loadgen.worker.exchange import Exchange

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))

N_TOKENS = 60
LEAVES_AFTER = 7


async def a_turn_each(peer: Peer, pieces: list[bytes], pause_s: float = 0.001) -> None:
    for piece in pieces:
        await peer.send(piece)
        await asyncio.sleep(pause_s)


def left(transport: str, pieces: list[bytes], most: int, leave_tokens: int = LEAVES_AFTER, **options) -> None:
    """The server sends the pieces, then waits for the client to be gone; `most` is what the client may have taken."""

    async def script(peer: Peer) -> None:
        await peer.request()
        try:
            await a_turn_each(peer, pieces)
        finally:
            assert await peer.gone() == b""

    async def ask(client: Client, server: Server) -> None:
        exchange = await client.ask(leave_tokens=leave_tokens)
        assert (exchange.error, exchange.words) == ("cancelled", f"left after {leave_tokens} tokens")
        assert leave_tokens <= len(exchange.kinds) <= most
        assert sum(map(len, exchange.event_ns)) == len(exchange.kinds) == len(exchange.cumulative)
        assert not client.transport.is_open(0)
        assert client.transport.in_flight() == []
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*server._playing, return_exceptions=True)  # the script has seen the client's end
        assert len(client.ends) == 1

    play(transport, script, ask=ask, **options)


async def sent_as_it_is_taken(client: Client, exchange: Exchange, server: Server, pieces: list[bytes]) -> None:
    """The server sends each piece once the client has read the one before, until the client leaves."""
    await until(lambda: server.peers and server.peers[0].request_read_ns)
    n_bytes = 0
    for piece in pieces:
        await server.peers[0].send(piece)
        n_bytes += len(piece)
        await until(lambda n_bytes=n_bytes: exchange.ended or client.received_bytes(exchange) == n_bytes)
        if exchange.ended:
            return


EVENTS = tokens(N_TOKENS)[:-2]  # no end: a user who stays would wait for ever
STREAM = b"".join(EVENTS)
CRLF = [event.replace(b"\n", b"\r\n") for event in EVENTS]
COMMENTS = list(itertools.chain.from_iterable((b": ping\n\n", event) for event in EVENTS))


@pytest.mark.parametrize(
    ("events", "most"),
    [
        ([CHUNKED, *map(chunk, EVENTS)], N_TOKENS),
        ([CHUNKED, *map(chunk, CRLF)], N_TOKENS),
        ([CHUNKED, *map(chunk, COMMENTS)], N_TOKENS),
        ([EVENT_STREAM + b"\r\n", *EVENTS], N_TOKENS),
        ([CHUNKED, *map(chunk, [STREAM[i : i + 37] for i in range(0, len(STREAM), 37)])], N_TOKENS),
        ([CHUNKED, chunk(STREAM)], N_TOKENS),
        ([CHUNKED + chunk(STREAM)], N_TOKENS),
    ],
    ids=["event a read", "CRLF", "comments", "no chunks", "many reads an event", "one read", "one read with the head"],
)
def test_who_leaves_after_tokens_closes_the_socket_however_events_are_cut(transport, events, most):
    left(transport, events, most)


def test_no_more_than_a_reads_worth_of_tokens_is_taken(transport):
    """Four events a piece, and no piece before the client has taken the one before: it leaves within the second."""

    pieces = [CHUNKED + chunk(ROLE), *(chunk(b"".join(EVENTS[i : i + 4])) for i in range(1, len(EVENTS), 4))]

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit(leave_tokens=LEAVES_AFTER)
        await sent_as_it_is_taken(client, exchange, server, pieces)
        await client.decoded(exchange)
        assert exchange.error == "cancelled"
        reads = [len(set(stamps.tolist())) for stamps in exchange.event_ns]
        assert len(reads) == 2, "read by read"
        assert LEAVES_AFTER <= len(exchange.kinds) <= 8
        server.peers[0].close()

    play(transport, answer_with(), ask=ask)


def test_the_very_first_token_may_be_enough(transport):
    left(transport, [CHUNKED, *map(chunk, EVENTS)], N_TOKENS, leave_tokens=1)


def test_a_cut_within_the_blank_line_behind_the_last_token_breaks_nothing(transport):
    """What has come of the next event is all of it but its blank line: it is told, and told as what it is."""
    cut = b"".join(EVENTS[: LEAVES_AFTER + 2]).removesuffix(b"\n")
    left(transport, [CHUNKED, chunk(cut)], LEAVES_AFTER + 1)


def test_half_an_event_behind_the_last_token_is_no_token(transport):
    cut = b"".join(EVENTS[: LEAVES_AFTER + 2])[:-20]
    left(transport, [CHUNKED, chunk(cut)], LEAVES_AFTER)


def test_a_server_that_says_how_many_tokens_there_are_is_left_by_its_count(transport):
    """Four tokens an event: after 20 of them is after five events."""

    def event(i: int) -> bytes:
        choice = {"index": 0, "delta": {"content": "four of them"}}
        usage = {"prompt_tokens": 3, "completion_tokens": 4 * (i + 1)}
        return b"data: " + json.dumps({"id": "c1", "choices": [choice], "usage": usage}).encode() + b"\n\n"

    async def ask(client: Client, server: Server) -> None:
        exchange = client.submit(leave_tokens=20)
        pieces = [CHUNKED + chunk(ROLE), *(chunk(event(i)) for i in range(30))]
        await sent_as_it_is_taken(client, exchange, server, pieces)
        await client.decoded(exchange)
        assert exchange.error == "cancelled"
        assert exchange.answer.output_tokens == 20
        server.peers[0].close()

    play(transport, answer_with(), ask=ask)


def test_over_tls_too(transport, authority, tls):
    left(transport, [CHUNKED, *map(chunk, EVENTS)], N_TOKENS, tls=tls, tls_ca=str(authority.ca_file))


def test_who_is_answered_whole_before_has_not_left(transport):
    async def ask(client: Client, server: Server) -> None:
        for leave_tokens in (4, 5, 1_000):  # as many as there are: the end sign may come in a later read
            exchange = await client.ask(leave_tokens=leave_tokens)
            assert (exchange.error, len(exchange.kinds)) == (None, 3)
        assert len(server.peers) == 1

    play(transport, answer_whole, ask=ask)


async def answer_whole(peer: Peer) -> None:
    """In one piece, so that the end is in the read that brings the tokens."""
    while True:
        await peer.request()
        peer.writer.write(whole(3))


def test_an_error_is_an_error_for_who_would_have_left_too(transport):
    async def ask(client: Client, _server: Server) -> None:
        exchange = await client.ask(leave_tokens=1)
        assert (exchange.error, exchange.words) == ("http-500", "no luck")

    body = b'{"error": {"message": "no\\n\\nluck"}}\n\n\n\n'
    head = b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    play(transport, answer_with(head, chunk(body[:9]), chunk(body[9:]), LAST_CHUNK), ask=ask)


def test_the_slot_serves_the_next_request_over_a_connection_of_its_own(transport):
    async def ask(client: Client, server: Server) -> None:
        first = await client.ask(leave_tokens=2)
        second = await client.ask()
        assert (first.error, second.error, len(second.kinds)) == ("cancelled", None, 3)
        assert second.connect_ns > 0
        assert (len(server.peers), client.transport.reopened) == (2, 0)

    play(transport, answer_with(CHUNKED, *map(chunk, EVENTS)), serve_for_ever, ask=ask)


@pytest.mark.parametrize("cut_bytes", [None, 1, 53, 700])
def test_decoding_what_has_come_changes_nothing_of_the_rest(transport, cut_bytes):
    """A user who would leave after more tokens than there are has every read decoded at once: the row is the same."""
    events = [ROLE, delta(reasoning_content="hm"), *tokens(20)[1:]]
    stream = b"".join(events)
    pieces = events if cut_bytes is None else [stream[i : i + cut_bytes] for i in range(0, len(stream), cut_bytes)]
    if cut_bytes == 1:
        pieces = [*pieces[:400], stream[400:]]
    seen = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await a_turn_each(peer, [CHUNKED, *map(chunk, pieces), LAST_CHUNK], 0)
        await peer.gone()

    async def ask(client: Client, _server: Server) -> None:
        for leave_tokens in (0, 22):
            exchange = await client.ask(leave_tokens=leave_tokens, texts=[])
            answer = exchange.answer
            stamps = list(itertools.chain.from_iterable(part.tolist() for part in exchange.event_ns))
            assert len(stamps) == 21
            assert stamps == sorted(stamps)
            assert exchange.first_byte_ns <= stamps[0]
            assert stamps[-1] <= exchange.last_byte_ns
            seen.append(
                (
                    exchange.error,
                    bytes(exchange.kinds),
                    list(exchange.cumulative),
                    exchange.response_bytes,
                    "".join(exchange.texts),
                    (answer.finish_reason, answer.end_seen, answer.response_id),
                )
            )

    play(transport, script, ask=ask)
    assert seen[0] == seen[1]
    assert seen[0][0] is None
