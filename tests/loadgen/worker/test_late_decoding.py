"""A worker under load decodes late: several segments of a response wait, and it has ended before the first is looked at."""

import asyncio

import pytest
from scripted import CHUNKED, LAST_CHUNK, TRANSPORTS, Client, Peer, Server, chunk, play, tokens, until

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))

N_TOKENS = 40
SEGMENT_BYTES = 1000
EVENTS = tokens(N_TOKENS)
STREAM = b"".join(EVENTS)


@pytest.mark.parametrize(
    "pieces",
    [EVENTS, [STREAM[i : i + 97] for i in range(0, len(STREAM), 97)]],
    ids=["cut between events", "cut within events"],
)
def test_segments_that_are_decoded_together_at_the_end_are_one_response(transport, pieces):
    decoded = []

    async def a_piece_a_read(peer: Peer) -> None:
        await peer.request()
        for piece in [CHUNKED, *map(chunk, pieces), LAST_CHUNK]:
            await peer.send(piece)
            await asyncio.sleep(0.002)
        await peer.gone()

    async def ask(client: Client, _server: Server) -> None:
        client.transport._segment_bytes = SEGMENT_BYTES
        decode_one, client.transport.decode_one = client.decoder.decode_one, lambda: False
        client.decoder._on_decoded = decoded.append
        exchange = client.submit()
        await until(lambda: exchange.ended)
        assert len(exchange.segments) > 1
        while decode_one():
            pass
        assert [(each.error, len(each.kinds)) for each in decoded] == [(None, N_TOKENS)]

    play(transport, a_piece_a_read, ask=ask)
