"""What the kernel transport alone does."""

import pytest
from scripted import CHUNKED, DONE, FINISH, LAST_CHUNK, ROLE, Client, Peer, Server, chunk, delta, play

from loadgen.worker.receiver import LARGE_READ_BYTES


@pytest.mark.parametrize(("words", "large"), [("x" * 600, True), ("x", False)])
def test_a_stream_of_large_events_is_soon_read_in_large_pieces(words, large):
    """With the small size each of its events would take two reads, and be framed twice."""
    events = [ROLE, *(delta(content=words) for _ in range(150)), FINISH, DONE]

    async def answer(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(CHUNKED, *map(chunk, events), LAST_CHUNK)

    async def ask(client: Client, _server: Server) -> None:
        for _ in range(2):
            exchange = await client.ask()
            assert (exchange.error, len(exchange.kinds)) == (None, 150)
        assert (client.transport._read_bytes == LARGE_READ_BYTES) == large

    play("kernel", answer, ask=ask)
