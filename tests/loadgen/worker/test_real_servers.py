"""Bytes that real servers sent, played again: see the README beside each recording."""

from pathlib import Path

import pytest
from scripted import TRANSPORTS, Client, Peer, Server, answer_with, outcome, play

from loadgen.dialects import completions

pytestmark = pytest.mark.parametrize("transport", list(TRANSPORTS))

GOLDEN = Path(__file__).parents[2] / "golden"


def llama_cpp(name: str) -> bytes:
    return (GOLDEN / "llama-cpp-python-0.3.36" / f"{name}.http").read_bytes()


def test_a_chat_of_llama_cpp_is_40_tokens_without_a_usage(transport):
    exchange, _ = outcome(transport, answer_with(llama_cpp("chat")))
    assert (exchange.error, len(exchange.kinds), exchange.answer.finish_reason) == (None, 40, "length")
    assert exchange.answer.output_tokens is None
    assert exchange.answer.response_id.startswith("chatcmpl-")
    assert exchange.response_bytes == len(llama_cpp("chat"))


def test_a_completion_of_llama_cpp_is_8_tokens_and_its_last_event_is_none(transport):
    exchange, _ = outcome(transport, answer_with(llama_cpp("completions")), dialect=completions.DIALECT)
    assert (exchange.error, len(exchange.kinds), exchange.answer.finish_reason) == (None, 8, "length")


@pytest.mark.parametrize("step", [1, 7, 100])
def test_the_cuts_of_the_network_change_nothing(transport, step):
    data = llama_cpp("chat")
    exchange, _ = outcome(transport, answer_with(*(data[i : i + step] for i in range(0, len(data), step))))
    assert (exchange.error, len(exchange.kinds)) == (None, 40)


def test_llama_cpp_keeps_the_connection_for_the_next_request(transport):
    async def twice(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(llama_cpp("chat"))
        await peer.gone()

    async def ask(client: Client, server: Server) -> None:
        exchanges = [await client.ask(), await client.ask()]
        assert [(exchange.error, len(exchange.kinds)) for exchange in exchanges] == [(None, 40)] * 2
        assert (len(server.peers), client.transport.reopened) == (1, 0)

    play(transport, twice, ask=ask)


def test_a_stream_that_llama_cpp_broke_off_for_another_request_is_no_success(transport):
    """[DONE] after 11 of 40 tokens, no finish reason, and the connection is closed before the last chunk."""
    exchange, _ = outcome(transport, answer_with(llama_cpp("chat-interrupted"), end=Peer.close))
    assert len(exchange.kinds) == 11
    assert exchange.error == "truncated"


def test_an_answer_without_a_word_is_empty(transport):
    exchange, _ = outcome(transport, answer_with(llama_cpp("chat-no-output")))
    assert (exchange.error, exchange.answer.finish_reason) == ("empty", "stop")


def test_a_200_without_a_body_is_no_success(transport):
    """What llama.cpp answers to a prompt that is longer than its context."""
    exchange, _ = outcome(transport, answer_with(llama_cpp("prompt-too-long")))
    assert (exchange.error, exchange.status) == ("truncated", 200)
