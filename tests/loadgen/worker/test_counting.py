import asyncio
import threading

from loadgen.dialects.answer import CONTENT, REASONING
from loadgen.worker.counting import CONVINCING, OutputCounter
from loadgen.worker.exchange import Exchange


class Words:
    """A token a word; remembers who asked."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def encode(self, text: str) -> list[int]:
        self.threads.add(threading.get_ident())
        if text == "break":
            raise RuntimeError("a tokenizer of its own mind")
        return [len(word) for word in text.split()]

    def count(self, text: str) -> int:
        return len(self.encode(text))


def decoded(texts, usage=None, error=None, reasoning=0) -> Exchange:
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.texts = texts
    exchange.kinds = bytearray([REASONING] * reasoning + [CONTENT] * len(texts or ()))
    exchange.answer.output_tokens = usage
    exchange.error = error
    return exchange


def counted(*exchanges: Exchange) -> tuple[list[bool], list[Exchange], OutputCounter, Words]:
    """(which were taken, what came back, the counter)."""

    async def count():
        tokenizer = Words()
        back: list[Exchange] = []
        counter = OutputCounter(tokenizer, back.append)
        taken = [counter.takes(exchange) for exchange in exchanges]
        counter.close()
        while counter.pending:
            await asyncio.sleep(0)
        return taken, back, counter, tokenizer

    return asyncio.run(count())


def test_what_the_server_did_not_count_is_counted_beside_the_loop_and_comes_back():
    taken, back, _, tokenizer = counted(decoded(["a b", " c"]), decoded(["d"], reasoning=3))
    assert taken == [True, True]
    assert [exchange.counted_tokens for exchange in back] == [3, 4], "an event without a text is a token"
    assert tokenizer.threads.isdisjoint({threading.get_ident()})


def test_what_the_server_counted_or_nobody_kept_stays_where_it_is():
    taken, back, _, _ = counted(decoded(["a"], usage=7), decoded(None), decoded([]))
    assert taken == [False] * 3
    assert back == []


def test_texts_are_kept_no_more_once_the_server_has_shown_that_it_counts():
    several = [decoded(["a"], usage=1) for _ in range(CONVINCING)]
    assert counted(*several[:-1])[2].is_wanted(0)
    assert not counted(*several)[2].is_wanted(0)
    assert counted(*several[:-1], decoded(["a"]), several[-1])[2].is_wanted(0), "one without usage begins it anew"
    assert not counted(*several[:-1], decoded(["a"], error="cancelled"), several[-1])[2].is_wanted(0)


def test_an_exchange_comes_back_even_if_its_text_cannot_be_counted():
    _, back, _, _ = counted(decoded(["break"]), decoded(["a"]))
    assert [exchange.counted_tokens for exchange in back] == [None, 1]
