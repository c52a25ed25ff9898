import json
import random

import httptools
import pytest
import worded
from hypothesis import given
from hypothesis import strategies as st

from loadgen.simulator import encode
from loadgen.simulator.answer import Part
from loadgen.simulator.wording import Style


class Response:
    """The bytes of a response, as a parser that is not ours reads them."""

    def __init__(self, data: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(data)
        self.status = self.parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


NAMES = st.sampled_from(sorted(worded.STREAMS))
STYLES = st.builds(
    Style,
    model=st.sampled_from(["sim", 'a "quoted" \\ name', "größe/模型"]),
    role_event=st.sampled_from(["first", "early", "none"]),
    tokens_per_event=st.integers(1, 5),
    cumulative=st.sampled_from(["default", "on", "off"]),
    padding_bytes=st.sampled_from([0, 1, 300]),
    text=st.sampled_from(["plain", "unicode"]),
    crlf=st.booleans(),
    comments=st.booleans(),
)


@given(NAMES, STYLES, st.integers(0, 30), st.sampled_from(["chunked", "content-length"]))
def test_every_body_is_whole_in_every_framing(name, style, tokens, framing):
    said = worded.answer(name, tokens)
    writes = worded.streamed(worded.encoder(name, said, style, framing), tokens, style.tokens_per_event)
    response = Response(b"".join(writes))
    assert response.complete
    if tokens:  # of TGI's stream there is nothing else
        assert worded.objects(name, response.body, style.crlf)
    assert response.fields["x-request-id"] == "x-1"


@given(NAMES, STYLES, st.integers(0, 30))
def test_a_body_that_ends_with_the_connection_is_the_bare_body(name, style, tokens):
    said = worded.answer(name, tokens)
    bare, chunked = (
        b"".join(worded.streamed(worded.encoder(name, said, style, framing), tokens, style.tokens_per_event))
        for framing in ("close", "chunked")
    )
    body = bare.partition(b"\r\n\r\n")[2]
    # Ollama's lines have the time of their request.
    if not name.startswith("ollama"):
        assert body == Response(chunked).body == worded.encoder(name, said, style).body()
    assert len(body) == len(worded.encoder(name, said, style).body())


@given(NAMES, STYLES, st.sampled_from(["chunked", "close"]), st.data())
def test_the_byte_that_ends_an_event_is_known_in_every_framing(name, style, framing, data):
    encoder = worded.encoder(name, worded.answer(name, 30), style, framing)
    event = next(iter(encoder.pieces(data.draw(st.integers(0, 29)), 1))).data
    end = encoder.event_end(event)
    rest = event[end + 1 :]
    crlf = style.crlf or name == "gemini"
    if name == "gemini-array":
        assert event[: end + 1].endswith(b"}")
        assert rest == (b"\r\n" if framing == "chunked" else b"")
    elif name.startswith("ollama"):
        assert event[: end + 1].endswith(b"}\n")
    else:
        assert event[: end + 1].endswith(b"}\r\n\r" if crlf else b"}\n\n")
    assert rest.replace(b"\r\n", b"").strip(b"\n") == b""


@pytest.mark.parametrize("name", ["chat", "completions", "azure", "databricks", "triton", "ollama-chat", "messages"])
@given(style=STYLES, number=st.integers(0, 29), framing=st.sampled_from(["chunked", "close"]))
def test_the_short_way_of_a_common_event_gives_the_same_bytes_as_the_long_one(name, style, number, framing):
    said = worded.answer(name, 30)
    short, long = (worded.encoder(name, said, style, framing) for _ in range(2))
    head = b'"created_at":"'
    one, other = short.output(number, 1), next(iter(long.pieces(number, 1))).data
    if head in one:  # two moments
        one, other = (event.partition(b'Z",')[2] for event in (one, other))
    assert one == other


@given(st.integers(0, 400), st.integers(0, 1000))
def test_cuts_lie_inside_and_rise(length, seed):
    offsets = encode.cuts(length, random.Random(seed))
    assert offsets == sorted(set(offsets))
    assert all(0 < offset < length for offset in offsets)
    assert len(offsets) < encode.SPLIT_PARTS
    assert bool(offsets) == (length > 1)


def test_an_event_has_the_size_of_a_real_one():
    said = worded.answer("chat", 128)
    said.response_id = "chatcmpl-" + "0" * 32
    assert 180 <= len(worded.encoder("chat", said).output(100, 1)) <= 260


def test_an_event_where_reasoning_ends_becomes_two():
    said = worded.answer("chat", 6)
    said.parts = (Part("reasoning", 0, 3), Part("content", 3, 6))
    pieces = list(worded.encoder("chat", said, Style(tokens_per_event=4)).pieces(0, 4))
    deltas = [json.loads(worded.payloads(data)[0])["choices"][0]["delta"] for data, _ in pieces]
    assert deltas == [{"reasoning_content": "w0 w1 w2"}, {"content": " w3"}]
    assert [tokens for _, tokens in pieces] == [3, 1]


@pytest.mark.parametrize("name", sorted(worded.STREAMS))
def test_padding_makes_an_event_longer_by_so_many_bytes(name):
    def size(padding_bytes: int) -> int:
        return len(worded.encoder(name, worded.answer(name, 3), Style(padding_bytes=padding_bytes)).output(0, 1))

    assert size(200) - size(100) == 100


def test_comments_stand_between_the_events_of_sse_alone():
    style = Style(comments=True)
    assert worded.encoder("chat", worded.answer("chat", 30), style).body().count(b": ping\n\n") == 9
    assert b": ping" not in worded.encoder("ollama-chat", worded.answer("ollama-chat", 30), style).body()
