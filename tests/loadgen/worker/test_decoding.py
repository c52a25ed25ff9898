import json
from array import array
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from decoded import cut, ended, stamps
from hypothesis import given
from hypothesis import strategies as st

from loadgen.dialects import chat, completions
from loadgen.dialects.answer import CONTENT, MAX_WORDS, REASONING
from loadgen.errors import ERROR_CLASSES
from loadgen.worker import decoding
from loadgen.worker.decoding import Decoder, event_tokens
from loadgen.worker.exchange import MAX_WORDS_BYTES, Exchange, Segment
from loadgen.worker.stamps import NO_STAMP, StampClock


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps({"id": "c1", **chunk}).encode() + b"\n\n"


def delta(finish_reason: str | None = None, usage: object = None, **fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}], usage=usage)


ROLE = delta(role="assistant", content="")
FINISH = delta("length")
DONE = b"data: [DONE]\n\n"
FAILURE = event(error={"message": "out of memory", "code": 500})


# stamps


def test_each_event_is_stamped_by_the_read_that_completed_it():
    a, b = delta(content="a"), delta(content="b")
    exchange = ended(ROLE, a[:10], a[10:-1], a[-1:] + b[:5], b[5:], FINISH + DONE)
    assert stamps(exchange) == [4_000, 5_000]
    assert (exchange.first_byte_ns, exchange.last_byte_ns) == (1_000, 6_000)
    assert (exchange.error, exchange.coalesced_events) == (None, 0)


def test_events_of_one_read_are_coalesced():
    exchange = ended(ROLE + b"".join(delta(content=c) for c in "abc"), delta(content="d") + FINISH + DONE)
    assert stamps(exchange) == [1_000, 1_000, 1_000, 2_000]
    assert exchange.coalesced_events == 2


def test_an_event_that_carries_no_output_is_no_event_of_the_row():
    exchange = ended(ROLE, delta(), delta(content="a"), b": ping\n\n", event(choices=[]), FINISH, DONE)
    assert stamps(exchange) == [3_000]
    assert list(exchange.kinds) == [CONTENT]


STREAM = b"".join(
    [
        b": hello\n\n",
        ROLE,
        delta(reasoning_content="hm"),
        delta(content="zwei Wörter"),
        b"event: x\r\ndata: \r\n\r\n".replace(b"data: ", b"data: " + delta(content="crlf")[6:-2]),
        delta(content="d"),
        FINISH,
        event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}),
        DONE,
    ]
)
KINDS = [REASONING, CONTENT, CONTENT, CONTENT]


@given(
    cuts=st.lists(st.integers(0, len(STREAM)), max_size=60),
    segment_ends=st.lists(st.integers(1, 59), max_size=5),
)
def test_where_the_reads_and_the_segments_fall_changes_only_the_stamps(cuts, segment_ends):
    reads = cut(STREAM, cuts)
    exchange = ended(*reads, segment_ends=tuple(end for end in segment_ends if end < len(reads)))
    assert exchange.error is None
    assert list(exchange.kinds) == KINDS
    assert exchange.answer.output_tokens == 4
    read_ends = np.cumsum([len(read) for read in reads])
    for stamp_ns, word in zip(stamps(exchange), (b'"hm"', b"rter", b'"crlf"', b'"d"'), strict=True):
        # The read with the last byte of the event's blank line. A CRLF may count as whole from its CR on.
        blank = b"\r\n\r\n" if word == b'"crlf"' else b"\n\n"
        end = STREAM.index(blank, STREAM.index(word)) + len(blank)
        may_be = {end, end - 1} if blank == b"\r\n\r\n" else {end}
        assert stamp_ns in {int(np.searchsorted(read_ends, place) + 1) * 1_000 for place in may_be}


# judgement


def test_a_whole_stream_is_a_success():
    assert ended(ROLE, delta(content="a"), FINISH, DONE).error is None


@pytest.mark.parametrize(
    "reads", [(delta(content="a"), FINISH), (delta(content="a"), DONE)], ids=["finish reason only", "end sign only"]
)
def test_an_end_sign_or_a_finish_reason_is_enough(reads):
    assert ended(*reads).error is None


JSON_ERROR = b'{"error": {"message": "no such model"}}'


@pytest.mark.parametrize(
    ("reads", "options", "error", "words"),
    [
        ((JSON_ERROR,), {"status": 404, "content_type": "application/json"}, "http-404", "no such model"),
        ((b"",), {"status": 503}, "http-503", ""),
        ((JSON_ERROR,), {"content_type": "application/json"}, "not-a-stream", "no such model"),
        ((b"<html>hi</html>",), {"content_type": "text/html"}, "not-a-stream", "<html>hi</html>"),
        ((b"\x1f\x8b",), {"content_encoding": "gzip"}, "not-a-stream", "gzip"),
        ((ROLE, FAILURE, DONE), {}, "server-error", "out of memory"),
        ((delta(content="a"), b"data: {broken\n\n", DONE), {}, "bad-event", "{broken"),
        ((delta(content="a"), b"data: [1]\n\n", DONE), {}, "bad-event", "[1]"),
        ((ROLE, delta(content="a")), {}, "truncated", "without its end sign"),
        ((ROLE, FINISH, DONE), {}, "empty", "without any output"),
        ((), {}, "truncated", ""),
        ((delta(content="a"),), {"error": "truncated"}, "truncated", ""),
        ((delta(content="a"), FINISH, DONE), {"error": "timeout-idle"}, "timeout-idle", ""),
        ((), {"error": "connect-refused"}, "connect-refused", ""),
    ],
)
def test_each_failure_has_its_class_and_the_servers_words(reads, options, error, words):
    exchange = ended(*reads, **options)
    assert exchange.error == error
    assert words in exchange.words
    assert error in ERROR_CLASSES or error.startswith("http-")


def test_a_break_behind_the_end_sign_is_no_failure():
    assert ended(delta(content="a"), FINISH, DONE, error="truncated").error is None


def test_a_break_in_the_body_of_an_error_leaves_the_status():
    assert ended(JSON_ERROR, status=500, error="truncated").error == "http-500"


def test_the_last_event_needs_no_blank_line_behind_it():
    exchange = ended(delta(content="a"), FINISH, b"data: [DONE]")
    assert (exchange.error, exchange.answer.end_seen) == (None, True)


def test_an_odd_content_type_gets_the_benefit_of_the_doubt():
    assert ended(delta(content="a"), DONE, content_type="").error is None


def test_a_large_error_body_is_kept_in_part_only():
    exchange = ended(*[b"x" * 100_000] * 3, status=500, segment_ends=(1, 2))
    assert exchange.error == "http-500"
    assert len(exchange.other_body) == MAX_WORDS_BYTES
    assert len(exchange.words) <= MAX_WORDS


def test_a_failure_of_our_own_costs_one_request_and_says_so():
    def broken(_payload, _answer):
        raise RuntimeError("our bug")

    dialect = replace(chat.DIALECT, read=broken)
    exchange = ended(delta(content="a"), DONE, dialect=dialect)
    assert (exchange.error, exchange.words) == ("decode-failed", "RuntimeError: our bug")


def test_a_failure_of_our_own_in_mid_stream_is_not_forgotten_at_its_end():
    def broken(payload, answer):
        if b"never" in payload:
            raise RuntimeError("our bug")
        return chat.read(payload, answer)

    dialect = replace(chat.DIALECT, read=broken)
    reads = (delta(content="never"), delta(content="b"), FINISH, DONE)
    exchange = ended(*reads, segment_ends=(1, 2), dialect=dialect)
    assert (exchange.error, exchange.words) == ("decode-failed", "RuntimeError: our bug")


@pytest.mark.parametrize(("times", "stamp_ns"), [([], 5_000), ([9_000], 9_000)])
def test_an_event_that_the_end_completes_is_stamped_by_the_last_read(times, stamp_ns):
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.status = 200
    decoder = Decoder([chat.DIALECT], StampClock(), lambda _: None)
    last = delta("length", content="b").removesuffix(b"\n")
    exchange.segments.append(Segment([delta(content="a"), last], [2], bytearray(NO_STAMP), array("q", [5_000])))
    decoder.on_segment(exchange)
    decoder.decode_one()
    assert stamps(exchange) == [5_000]
    exchange.segments.append(Segment([], [0] * len(times), bytearray(NO_STAMP * len(times)), array("q", times)))
    exchange.ended = True
    decoder.on_segment(exchange)
    decoder.decode_one()
    assert (exchange.error, stamps(exchange)) == (None, [5_000, stamp_ns])


# tokens in an event


def usage(n: int | None) -> dict[str, int | None]:
    return {"prompt_tokens": 1, "completion_tokens": n}


def test_tokens_in_an_event_come_from_continuous_usage():
    chunks = [
        delta(content="a", usage=usage(1)),
        delta(content="bcd", usage=usage(4)),
        delta(content="e", usage=usage(5)),
    ]
    assert event_tokens(ended(*chunks, FINISH, DONE)) == [1, 3, 1]


@pytest.mark.parametrize("counts", [[1, None, 3], [None, None, None], [2, 1, 3]])
def test_tokens_in_an_event_are_unknown_unless_every_event_said_so(counts):
    chunks = [delta(content="a", usage=None if n is None else usage(n)) for n in counts]
    assert event_tokens(ended(*chunks, FINISH, DONE)) is None


# tokens so far, for a user who leaves


def test_what_has_come_can_be_decoded_at_once():
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.status = 200
    done: list[Exchange] = []
    decoder = Decoder([chat.DIALECT], StampClock(), done.append)
    seen = []
    a, b = delta(content="a"), delta(content="b")
    for i, data in enumerate([ROLE, a, b[:9], b[9:] + delta(reasoning_content="c"), delta(), FINISH, DONE]):
        exchange.segments.append(Segment([data], [1], bytearray(NO_STAMP), array("q", [i])))
        if i % 2:
            decoder.on_segment(exchange)  # a handover that waits for its turn
        seen.append(decoder.decode_now(exchange))
    assert seen == [0, 1, 1, 3, 3, 3, 3]
    exchange.ended = True
    exchange.segments.append(Segment([], [], bytearray(), array("q")))
    decoder.on_segment(exchange)
    while decoder.decode_one():
        pass
    assert done == [exchange]
    assert (exchange.error, list(exchange.kinds)) == (None, [CONTENT, CONTENT, REASONING])


def test_the_servers_own_count_of_tokens_goes_before_the_events():
    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.status = 200
    decoder = Decoder([chat.DIALECT], StampClock(), lambda _: None)
    data = delta(content="abc", usage=usage(5))
    exchange.segments.append(Segment([data], [1], bytearray(NO_STAMP), array("q", [0])))
    assert decoder.decode_now(exchange) == 5


def test_a_failure_of_our_own_in_the_middle_ends_no_worker():
    def broken(_payload, _answer):
        raise RuntimeError("our bug")

    exchange = Exchange(1, 0, 0, b"", 0)
    exchange.status = 200
    decoder = Decoder([replace(chat.DIALECT, read=broken)], StampClock(), lambda _: None)
    exchange.segments.append(Segment([delta(content="a")], [1], bytearray(NO_STAMP), array("q", [0])))
    assert decoder.decode_now(exchange) == 0
    exchange.ended = True
    exchange.error = "cancelled"
    decoder.on_segment(exchange)
    decoder.decode_one()
    assert exchange.error == "decode-failed"


# what the next turn quotes


def test_the_answer_is_quoted_without_the_reasoning():
    exchange = ended(
        ROLE, delta(reasoning_content="hm"), delta(content="Hel"), delta(content="lo"), FINISH, DONE, quoted=True
    )
    assert exchange.texts == ["Hel", "lo"]


def test_nothing_is_kept_of_an_answer_that_nobody_quotes():
    assert ended(delta(content="a"), FINISH, DONE).texts is None


def test_a_refusal_is_an_answer_too():
    assert ended(delta(refusal="I can"), delta(refusal="not."), FINISH, DONE, quoted=True).texts == ["I can", "not."]


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=40),
    escaped=st.booleans(),
    dialect=st.sampled_from([chat.DIALECT, completions.DIALECT]),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
    segment_ends=st.lists(st.integers(1, 19), max_size=3),
)
def test_the_answer_is_quoted_to_the_letter(texts, escaped, dialect, cuts, segment_ends):
    """Most events are known by their frame and not parsed: the text is the same."""

    def chunk(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}} if dialect is chat.DIALECT else {"index": 0, "text": text}
        return b"data: " + json.dumps({"id": "c1", "choices": [choice]}, ensure_ascii=escaped).encode() + b"\n\n"

    reads = cut(b"".join(map(chunk, texts)) + DONE, cuts)
    ends = tuple(end for end in segment_ends if end < len(reads))
    exchange = ended(*reads, segment_ends=ends, dialect=dialect, quoted=True)
    assert (exchange.error, "".join(exchange.texts)) == (None, "".join(texts))
    assert len(exchange.kinds) == len(texts)


# too much


def held(**sizes: int):
    """The limits, small enough to be reached."""
    return patch.multiple(decoding, **sizes)


def streaming(number: int = 0) -> Exchange:
    exchange = Exchange(number, 0, 0, b"", 0)
    exchange.status, exchange.content_type = 200, "text/event-stream"
    return exchange


def more(decoder: Decoder, exchange: Exchange, data: bytes) -> None:
    """A segment of a response that goes on."""
    exchange.response_bytes += len(data)
    exchange.handed_bytes = exchange.response_bytes
    exchange.segments.append(Segment([data], [1], bytearray(NO_STAMP), array("q", [1_000])))
    decoder.on_segment(exchange)
    while decoder.decode_one():
        pass


def a_decoder() -> tuple[Decoder, list[tuple[Exchange, str, str]]]:
    decoder, given_up = Decoder([chat.DIALECT], StampClock(), lambda _: None), []
    decoder.give_up = lambda *told: given_up.append(told)
    return decoder, given_up


def test_an_event_may_be_large_but_not_without_end():
    decoder, given_up = a_decoder()
    large = delta(content="x" * 5_000) + b"data: "
    with held(MAX_EVENT_BYTES=10_000, LARGE_BYTES=100):
        exchange = streaming()
        for at in range(0, len(large), 700):
            more(decoder, exchange, large[at : at + 700])
        assert (len(exchange.kinds), given_up) == (1, [])
        for _ in range(20):
            more(decoder, exchange, b"x" * 700)
    assert {(told[1], told[2]) for told in given_up} == {("too-large", exchange.too_large)}
    assert exchange.too_large.startswith("an event of more than")
    assert exchange.rest == b"", "what cannot be used is not kept"
    assert decoder._held_bytes == 0


def test_all_streams_together_may_hold_so_much_and_the_large_ones_go_first():
    decoder, given_up = a_decoder()
    with held(MAX_HELD_BYTES=10_000, LARGE_BYTES=1_000):
        small = [streaming(number) for number in range(5)]
        for exchange in small:
            more(decoder, exchange, b"data: " + b"s" * 500)
        large = [streaming(number) for number in range(5, 10)]
        for exchange in large:
            more(decoder, exchange, b"data: " + b"l" * 3_000)
    assert [told[0] for told in given_up] == large[2:], "two of them have room"
    assert decoder._held_bytes <= 10_000 + 3_006
    assert all(exchange.rest for exchange in small)


@pytest.mark.parametrize(
    ("limit", "words"),
    [({"MAX_EVENTS": 10}, "more than 10 events of output"), ({"MAX_RESPONSE_BYTES": 600}, "a response of more than")],
)
def test_a_response_has_a_limit_to_its_events_and_bytes(limit, words):
    decoder, given_up = a_decoder()
    with held(**limit):
        exchange = streaming()
        for _ in range(20):
            more(decoder, exchange, delta(content="x"))
    assert given_up
    assert given_up[0][2].startswith(words)
    assert len(exchange.kinds) <= 12


def test_what_is_too_large_is_the_failure_even_if_it_ended_meanwhile():
    with held(MAX_EVENT_BYTES=1_000):
        exchange = ended(b"data: " + b"x" * 5_000, error="truncated")
    assert (exchange.error, len(exchange.kinds)) == ("truncated", 0), "nothing came behind it, so nothing was held"
    decoder, _ = a_decoder()
    with held(MAX_EVENT_BYTES=1_000):
        exchange = streaming()
        more(decoder, exchange, b"data: " + b"x" * 5_000)
        exchange.ended = True
        more(decoder, exchange, b"\n\ndata: [DONE]\n\n")
    assert exchange.error == "too-large"


def test_a_control_character_makes_an_event_one_to_be_parsed():
    good, bad = delta(content="word"), delta(content="wo").replace(b"wo", b"w\x01")
    exchange = ended(good, good, bad, good, delta(finish_reason="stop"))
    assert (exchange.error, len(exchange.kinds)) == ("bad-event", 3)
