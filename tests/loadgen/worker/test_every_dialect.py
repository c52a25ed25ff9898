"""Every stream of tests/cases.py through the decoder and over real sockets: what it means is the same however it comes."""

from dataclasses import replace

import pytest
from cases import CASES
from decoded import cut, ended
from error_cases import HTTP_ERRORS
from hypothesis import given
from hypothesis import strategies as st
from scripted import CHUNKED, LAST_CHUNK, TRANSPORTS, Peer, answer_with, chunk, outcome
from streams import JSON, NDJSON, SPEAK, SSE, Case, api_of, spoken, with_crlf, with_keep_alives

from loadgen.dialects import DIALECTS
from loadgen.worker import decoding
from loadgen.worker.decoding import event_tokens
from loadgen.worker.exchange import Exchange


def meaning(exchange: Exchange) -> tuple[object, ...]:
    """Everything that is kept of a response, but for its stamps."""
    answer = exchange.answer
    return (
        exchange.error,
        exchange.words if exchange.error else "",
        tuple(exchange.kinds),
        "".join(exchange.texts or ()),
        (answer.prompt_tokens, answer.output_tokens, answer.reasoning_tokens, answer.cached_tokens),
        answer.finish_reason,
        event_tokens(exchange),
    )


def expected(case: Case) -> tuple[object, ...]:
    tokens = None if case.tokens is None else list(case.tokens)
    return case.error, case.words, case.kinds, case.text, case.counts, case.finish, tokens


def decoded(case: Case, *reads: bytes, **options: object) -> tuple[object, ...]:
    return meaning(
        ended(
            *reads,
            dialect=DIALECTS[case.api],
            content_type=case.content_type,
            status=case.status,
            quoted=True,
            **options,
        )
    )


@pytest.mark.parametrize("which", CASES)
def test_a_stream_means_what_the_api_says(which):
    case = CASES[which]
    assert decoded(case, case.body) == expected(case)


@pytest.mark.parametrize("which", CASES)
def test_line_ends_and_keep_alives_change_nothing(which):
    case = CASES[which]
    assert decoded(case, with_keep_alives(case)) == expected(case)
    assert decoded(case, with_crlf(case.body)) == expected(case)


@pytest.mark.parametrize("which", CASES)
def test_a_stream_that_is_split_at_any_byte_means_the_same(which):
    case = CASES[which]
    for at in range(1, len(case.body)):
        head, tail = case.body[:at], case.body[at:]
        assert decoded(case, head, tail, segment_ends=(1,)) == expected(case), at
    assert decoded(case, *(case.body[i : i + 1] for i in range(len(case.body)))) == expected(case)


@pytest.mark.parametrize("which", CASES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stream_means_the_same_over_a_socket_a_byte_a_read(which, transport):
    case = CASES[which]
    head = CHUNKED.replace(SSE.encode(), case.content_type.encode())
    # The first events a byte at a time, with their chunks; the rest in larger cuts, for a test must end some day.
    first, rest = case.body[:200], case.body[200:]
    pieces = [bytes([byte]) for byte in chunk(first)]
    pieces += [chunk(rest[i : i + 37]) for i in range(0, len(rest), 37)]
    exchange, _ = outcome(transport, answer_with(head, *pieces, LAST_CHUNK), dialect=DIALECTS[case.api], quoted=True)
    assert meaning(exchange) == expected(case)
    assert sum(map(len, exchange.event_ns)) == len(case.kinds)


@pytest.mark.parametrize("which", CASES)
def test_a_stream_without_chunks_ends_with_its_connection(which):
    case = CASES[which]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n\r\n" % case.content_type.encode()
    exchange, _ = outcome(
        "kernel", answer_with(head, case.body, end=Peer.close), dialect=DIALECTS[case.api], quoted=True
    )
    assert meaning(exchange) == expected(case)


@pytest.mark.parametrize("api", HTTP_ERRORS)
def test_a_refusal_is_told_in_the_servers_own_words(api):
    exchange = ended(HTTP_ERRORS[api], dialect=DIALECTS[api], status=429, content_type=JSON)
    assert (exchange.error, exchange.words) == ("http-429", "slow down")


@pytest.mark.parametrize("way", SPEAK)
def test_a_stream_that_breaks_off_is_no_success(way):
    whole = CASES[f"{way}: normal"]
    # In the middle of an output event, so that what came before is whole.
    middle = whole.body.index(b"lo ")
    exchange = ended(whole.body[:middle], dialect=DIALECTS[whole.api], content_type=whole.content_type)
    assert exchange.error in ("truncated", "bad-event")
    assert list(exchange.kinds) == [0]


@pytest.mark.parametrize(
    ("api", "content_type"), [("chat", JSON), ("ollama", JSON), ("ollama", SSE), ("embeddings", SSE)]
)
def test_another_kind_of_answer_than_was_asked_for_is_said_to_be_one(api, content_type):
    exchange = ended(b'{"message":"what?"}', dialect=DIALECTS[api], content_type=content_type)
    assert exchange.error == "not-a-stream"
    assert exchange.words.startswith(f"answered {content_type} instead of ")
    assert exchange.words.endswith(": what?")


def test_every_dialect_has_a_stream_that_is_tried():
    shared = {"azure-completions", "azure-v1", "vertex", *(name for name in DIALECTS if name.startswith("databricks-"))}
    assert {case.api for case in CASES.values()} == DIALECTS.keys() - shared
    for name in shared:  # they read what others read
        assert DIALECTS[name].read in {DIALECTS[case.api].read for case in CASES.values()}
    assert HTTP_ERRORS.keys() == DIALECTS.keys() - shared


# events that are known by what stands around their text

TEXTS = st.lists(
    st.one_of(
        st.sampled_from([" the", "a", '"', "\\", "\n", "é", "\u2028", "[DONE]", '"text":"', "1"]), st.text(max_size=6)
    ),
    max_size=25,
).map(lambda texts: [text for text in texts if text and not any(0xD800 <= ord(c) < 0xE000 for c in text)])


@pytest.mark.parametrize("way", SPEAK)
@given(texts=TEXTS, ascii_only=st.booleans(), cuts=st.lists(st.integers(0, 4000), max_size=8), data=st.data())
def test_parsing_every_event_gives_the_same_as_parsing_one_of_a_kind(way, texts, ascii_only, cuts, data):
    stream = spoken(way, texts, ascii_only=ascii_only)
    reads = cut(stream, cuts) or [b""]
    ends = data.draw(st.lists(st.integers(1, max(len(reads) - 1, 1)), max_size=3))
    options = {
        "dialect": DIALECTS[api_of(way)],
        "content_type": NDJSON if way.startswith("ollama") else SSE,
        "quoted": True,
        "segment_ends": tuple(end for end in ends if end < len(reads)),
    }
    quick = meaning(ended(*reads, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "FRAMES_TRIED", 0)
        assert meaning(ended(*reads, **options)) == quick
    if texts and not way.startswith("triton"):  # what accumulates cannot be told for the first few
        assert quick[3] == "".join(texts)
        assert quick[0] is None


@pytest.mark.parametrize("way", SPEAK)
def test_nearly_all_events_of_a_plain_stream_are_not_parsed(way):
    texts = [f"word{i} " for i in range(200)]
    parsed = []
    dialect = DIALECTS[api_of(way)]

    def read(payload, answer):
        parsed.append(payload)
        return dialect.read(payload, answer)

    content_type = NDJSON if way.startswith("ollama") else SSE
    exchange = ended(spoken(way, texts), dialect=replace(dialect, read=read), content_type=content_type)
    assert len(exchange.kinds) == 200
    assert len(parsed) < 25
