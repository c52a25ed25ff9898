"""Event boundaries, held against the WHATWG's rules written out a second time, the slow and plain way."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire import sse
from loadgen.wire.sse import may_end_event, split_events


def by_the_book(stream: bytes) -> list[bytes]:
    """HTML Living Standard 9.2.6 step by step, but for an unterminated last event, which is handed out."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data = [], []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
            continue
        if line.startswith(b":"):
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return events


def read_in_pieces(pieces: list[bytes]) -> list[bytes]:
    """As the decoder does it: what is not consumed goes in front of the next piece."""
    payloads: list[bytes] = []
    rest, started = b"", False
    for i, piece in enumerate(pieces):
        buffer = rest + piece
        events = split_events(buffer, at_start=not started, final=i == len(pieces) - 1)
        assert events.ends == sorted(events.ends)
        assert all(end <= events.consumed for end in events.ends)
        assert events.consumed <= len(buffer)
        payloads += events.payloads
        started = started or events.consumed > 0
        rest = buffer[events.consumed :]
    assert rest == b""
    return payloads


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.one_of(
    st.just(b""),
    st.sampled_from(
        [b"data", b"data:", b"data: ", b"data:  x", b"data:{}", b": ping", b":", b"event: e", b"id: 1", b"datax: y"]
    ),
    st.binary(max_size=8).map(lambda value: b"data: " + value.replace(b"\r", b"").replace(b"\n", b"")),
)
streams = st.lists(st.tuples(lines, line_ends), max_size=12).map(lambda pairs: b"".join(a + b for a, b in pairs))
plain_streams = st.lists(st.tuples(lines, st.just(b"\n")), max_size=12).map(
    lambda pairs: b"".join(a + b for a, b in pairs)
)


@given(stream=streams, tail=lines, bom=st.booleans())
def test_the_events_are_those_of_the_standard(stream, tail, bom):
    stream = (b"\xef\xbb\xbf" if bom else b"") + stream + tail
    assert split_events(stream, at_start=True, final=True).payloads == by_the_book(stream)


@given(stream=streams, tail=lines, bom=st.booleans(), cuts=st.lists(st.integers(0, 150), max_size=20))
def test_where_the_reads_fall_changes_nothing(stream, tail, bom, cuts):
    stream = (b"\xef\xbb\xbf" if bom else b"") + stream + tail
    places = [0, *sorted({min(place, len(stream)) for place in cuts}), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert read_in_pieces(pieces) == by_the_book(stream)


@given(stream=streams)
def test_byte_by_byte_gives_the_same(stream):
    assert read_in_pieces([stream[i : i + 1] for i in range(len(stream))] + [b""]) == by_the_book(stream)


@given(stream=plain_streams)
def test_the_fast_path_equals_the_line_by_line_path(stream):
    fast = split_events(stream)
    payloads: list[bytes] = []
    ends: list[int] = []
    consumed = sse._split_by_lines(stream, 0, payloads, ends)
    assert (fast.payloads, fast.ends) == (payloads, ends)
    # What either of them leaves over is the same unfinished event.
    assert stream[fast.consumed :].lstrip(b"\n") == stream[consumed:].lstrip(b"\n")


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:{}\n\n", [b"{}"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b": comment\n\n", []),
        (b": comment\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
        (b"event: x\n\n", []),
        (b"database: no\n\n", []),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"]),
        (b"data: a\n\ndata: [DONE]\n", [b"a", b"[DONE]"]),
        (b"", []),
    ],
)
def test_usual_and_unusual_streams(stream, payloads):
    assert split_events(stream, at_start=True, final=True).payloads == payloads
    assert by_the_book(stream) == payloads


def test_an_event_ends_behind_its_blank_line():
    assert split_events(b"data: a\n\n: x\n\ndata: b\n\ndata: c").ends == [9, 23]
    assert split_events(b"data: a\r\n\r\ndata: b").ends == [11]


def test_an_unterminated_event_waits_for_more_unless_the_stream_is_over():
    assert split_events(b"data: a\n\ndata: b\n") == ([b"a"], [9], 9)
    assert split_events(b"data: a\n\ndata: b\n", final=True).payloads == [b"a", b"b"]


def test_a_bom_in_mid_stream_is_data():
    assert split_events(b"\xef\xbb\xbfdata: a\n\n").payloads == []


@given(
    before=st.text("ab:\r\n", max_size=6).map(str.encode),
    behind=st.text("ab:\r\n", max_size=6).map(str.encode),
)
def test_what_cannot_end_an_event_ends_none(before, behind):
    held = b"data: x" + split_events(before).consumed * b"" + before.lstrip(b"\r\n")
    if not split_events(held).consumed and not may_end_event(held, behind):
        assert split_events(held + behind).payloads == []


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_block_of_very_many_lines_is_read_as_a_short_one(line_end):
    lines = [b"data: a", b": b", b"id: 3", b"data"] * 20_000
    (payload,) = split_events(line_end.join(lines) + 2 * line_end).payloads
    assert payload == b"\n".join([b"a", b""] * 20_000)
    assert split_events(line_end.join(lines), final=True).payloads == [payload]
