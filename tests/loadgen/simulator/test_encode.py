import json
import random
from dataclasses import replace

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.simulator import encode
from loadgen.simulator.encode import Answer, StreamEncoder, Style


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


def payloads(body: bytes, crlf: bool = False) -> list[str]:
    end = "\r\n\r\n" if crlf else "\n\n"
    text = body.decode()
    assert text.endswith(end)
    events = text[: -len(end)].replace(": ping\n\n", "").split(end)
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def stream(encoder: StreamEncoder, tokens: int, tokens_per_event: int) -> bytes:
    """The whole response as the server sends it."""
    outputs = [encoder.output(n, min(tokens_per_event, tokens - n)) for n in range(0, tokens, tokens_per_event)]
    return b"".join(
        [encoder.head("connection: keep-alive"), encoder.early(), encoder.late(), *outputs, encoder.closing()]
    )


STYLES = st.builds(
    Style,
    model=st.sampled_from(["sim", 'a "quoted" \\ name', "größe/模型"]),
    role_event=st.sampled_from(["first", "early", "none"]),
    tokens_per_event=st.integers(1, 5),
    reasoning_tokens=st.integers(0, 12),
    padding_bytes=st.sampled_from([0, 1, 300]),
    text=st.sampled_from(["plain", "unicode"]),
    crlf=st.booleans(),
    comments=st.booleans(),
)
ANSWERS = st.builds(
    Answer,
    st.just("chatcmpl-1"),
    st.sampled_from(["chat", "completions"]),
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.sampled_from(["length", "stop"]),
    st.booleans(),
    st.booleans(),
)


@given(STYLES, ANSWERS, st.sampled_from(["chunked", "content-length"]))
def test_every_style_says_the_same(style, answer, framing):
    response = Response(stream(StreamEncoder(style, answer, framing), answer.output_tokens, style.tokens_per_event))
    assert response.complete
    assert response.fields["content-type"].startswith("text/event-stream")
    said = payloads(response.body, style.crlf)
    assert said[-1] == "[DONE]"
    events = [json.loads(payload) for payload in said[:-1]]
    assert {event["id"] for event in events} == {"chatcmpl-1"}
    assert {event["model"] for event in events} == {style.model}
    choices = [event["choices"][0] for event in events if event["choices"]]
    deltas = [choice.get("delta", choice) for choice in choices]
    reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
    content = "".join(delta.get("content", "") + delta.get("text", "") for delta in deltas)
    words = (reasoning + content).split()
    assert [word.partition("-")[0] for word in words] == [f"w{number}" for number in range(answer.output_tokens)]
    chat = answer.dialect == "chat"
    assert len(reasoning.split()) == (min(style.reasoning_tokens, answer.output_tokens) if chat else 0)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [answer.finish_reason]
    assert sum("role" in delta for delta in deltas) == (chat and style.role_event != "none")
    assert (events[-1]["choices"] == []) == answer.include_usage
    if answer.include_usage:
        assert events[-1]["usage"]["completion_tokens"] == answer.output_tokens
        assert events[-1]["usage"]["total_tokens"] == answer.prompt_tokens + answer.output_tokens


@given(STYLES, ANSWERS)
def test_a_body_that_ends_with_the_connection_is_the_bare_body(style, answer):
    bare = StreamEncoder(style, answer, "close")
    chunked = Response(stream(StreamEncoder(style, answer, "chunked"), answer.output_tokens, style.tokens_per_event))
    data = stream(bare, answer.output_tokens, style.tokens_per_event)
    assert data.partition(b"\r\n\r\n")[2] == chunked.body == bare.body()


@given(STYLES, ANSWERS, st.data())
def test_the_byte_that_ends_an_event_is_known_in_every_framing(style, answer, data):
    style = replace(style, tokens_per_event=1)
    answer = replace(answer, output_tokens=answer.output_tokens + 1)
    encoder = StreamEncoder(style, answer, data.draw(st.sampled_from(["chunked", "close"])))
    event = encoder.output(data.draw(st.integers(0, answer.output_tokens - 1)), 1)
    end = encoder.event_end(event)
    blank_line = b"}\r\n\r" if style.crlf else b"}\n\n"
    assert event[: end + 1].endswith(blank_line)
    assert not event[:end].endswith(blank_line)


@given(st.integers(0, 400), st.integers(0, 1000))
def test_cuts_lie_inside_and_rise(length, seed):
    offsets = encode.cuts(length, random.Random(seed))
    assert offsets == sorted(set(offsets))
    assert all(0 < offset < length for offset in offsets)
    assert len(offsets) < encode.SPLIT_PARTS
    assert bool(offsets) == (length > 1)


def test_an_event_has_the_size_of_a_real_one():
    event = StreamEncoder(Style(), Answer("chatcmpl-" + "0" * 32, "chat", 1, 128), "close").output(100, 1)
    assert 180 <= len(event) <= 260


def test_continuous_usage_counts_up():
    answer = Answer("x", "chat", 7, 4, include_usage=True, continuous_usage=True)
    body = StreamEncoder(Style(tokens_per_event=2), answer, "close").body()
    counts = [json.loads(payload)["usage"]["completion_tokens"] for payload in payloads(body)[:-1]]
    assert counts == [0, 2, 4, 4, 4]  # role, two events, finish, usage


def test_an_event_where_reasoning_ends_becomes_two():
    answer = Answer("x", "chat", 1, 6)
    encoder = StreamEncoder(Style(tokens_per_event=4, reasoning_tokens=3), answer, "close")
    deltas = [json.loads(payload)["choices"][0]["delta"] for payload in payloads(encoder.output(0, 4))]
    assert deltas == [{"reasoning_content": "w0 w1 w2"}, {"content": " w3"}]


def test_padding_makes_an_event_longer_by_so_many_bytes():
    def size(padding_bytes: int) -> int:
        encoder = StreamEncoder(Style(padding_bytes=padding_bytes), Answer("x", "chat", 1, 3), "close")
        return len(encoder.output(0, 1))

    assert size(200) - size(100) == 100


def test_an_error_in_the_stream_is_an_event_and_then_done():
    said = payloads(StreamEncoder(Style(), Answer("x", "chat", 1, 3), "close").error())
    assert json.loads(said[0])["error"]["code"] == 500
    assert said[1:] == ["[DONE]"]


@pytest.mark.parametrize("dialect", ["chat", "completions"])
def test_a_response_that_does_not_stream_holds_all_the_text(dialect):
    said = json.loads(encode.json_response(Style(reasoning_tokens=1), Answer("x", dialect, 2, 3, "stop")))
    choice = said["choices"][0]
    if dialect == "chat":
        assert choice["message"] == {"role": "assistant", "content": " w1 w2", "reasoning_content": "w0"}
    else:
        assert choice["text"] == "w0 w1 w2"
    assert choice["finish_reason"] == "stop"
    assert said["usage"]["completion_tokens"] == 3
