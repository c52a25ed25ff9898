import gc
import itertools
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire import http1
from loadgen.wire.http1 import MAX_HEAD_BYTES, BadResponse, ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"
BODY = b"data: one\n\ndata: two\n\n"
CHUNKED = (
    HEAD
    + b"Transfer-Encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n5;name=value\r\ndata:\r\n6\r\n two\n\n\r\n"
    + b"0\r\nX-Trailer: yes\r\n\r\n"
)
WITH_LENGTH = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Type: text/html\r\n\r\n"
CLOSE_DELIMITED = HEAD + b"\r\n" + BODY

COMPLETE = {
    "chunked with trailers": CHUNKED,
    "content-length": WITH_LENGTH,
    "1xx first": INTERIM + CHUNKED,
    "1xx before a length": INTERIM + WITH_LENGTH,
}


def fed(*pieces: bytes) -> ResponseReader:
    reader = ResponseReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({min(place, len(stream)) for place in cuts}), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(places) if a < b]


anywhere = st.lists(st.integers(0, 400), max_size=30)


@given(name=st.sampled_from(sorted(COMPLETE)), cuts=anywhere)
def test_where_the_reads_fall_changes_nothing_but_the_parts(name, cuts):
    pieces = cut(COMPLETE[name], cuts)
    reader = fed(*pieces)
    assert (reader.status, reader.content_type) == (200, "text/event-stream")
    assert (reader.head_complete, reader.complete, reader.keep_alive) == (True, True, True)
    assert b"".join(reader.parts) == BODY
    assert len(reader.part_counts) == len(pieces)
    assert reader.part_counts == sorted(reader.part_counts)
    assert reader.part_counts[-1] == len(reader.parts)


@pytest.mark.parametrize("stream", COMPLETE.values(), ids=COMPLETE.keys())
def test_byte_by_byte_gives_the_same(stream):
    reader = fed(*(stream[i : i + 1] for i in range(len(stream))))
    assert reader.complete
    assert b"".join(reader.parts) == BODY


@given(cuts=anywhere)
def test_a_body_without_a_length_is_complete_when_the_connection_ends(cuts):
    reader = fed(*cut(CLOSE_DELIMITED, cuts))
    assert not reader.complete
    reader.feed_eof()
    assert (reader.complete, reader.keep_alive) == (True, False)
    assert b"".join(reader.parts) == BODY


@pytest.mark.parametrize("stream", [CHUNKED[:-8], WITH_LENGTH[:-1], HEAD, INTERIM, b""])
def test_a_broken_off_response_is_not_complete(stream):
    reader = fed(stream)
    reader.feed_eof()
    assert not reader.complete


def test_a_length_in_an_interim_response_does_not_delimit_the_real_one():
    reader = fed(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n" + CLOSE_DELIMITED)
    reader.feed_eof()
    assert reader.complete
    assert b"".join(reader.parts) == BODY


def test_one_reader_reads_one_response_after_the_other():
    reader = ResponseReader()
    for stream in (CHUNKED, WITH_LENGTH, INTERIM + CHUNKED):
        reader.begin()
        reader.feed(stream)
        assert reader.complete
        parts, counts = reader.take()
        assert (b"".join(parts), counts) == (BODY, [len(parts)])
        assert (reader.parts, reader.part_counts) == ([], [])


def test_the_body_can_be_taken_in_its_middle():
    reader = fed(CHUNKED[:-20])
    first, _ = reader.take()
    reader.feed(CHUNKED[-20:])
    second, counts = reader.take()
    assert b"".join(first + second) == BODY
    assert counts == [len(second)]


def test_headers_that_matter_are_kept():
    reader = fed(
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nLocation: /x\r\n"
        b"Content-Encoding: GZIP\r\nContent-Length: 0\r\n\r\n"
    )
    assert (reader.status, reader.retry_after, reader.location, reader.content_encoding) == (429, "7", "/x", "gzip")


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_whether_the_connection_may_be_used_again(head, keep_alive):
    reader = fed(head)
    assert (reader.complete, reader.keep_alive) == (True, keep_alive)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x00\xa5",
        b"HTTP/1.1 abc\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_is_no_response_is_refused(garbage):
    with pytest.raises(BadResponse):
        fed(garbage)


@pytest.mark.parametrize("behind", [WITH_LENGTH, b"garbage", b"\r\n\r\nHTTP/1.1 500 Oops\r\n\r\nwords"])
def test_bytes_behind_the_response_cost_the_connection_and_change_nothing_else(behind):
    alone, reader = fed(WITH_LENGTH), fed(WITH_LENGTH + behind)
    assert (reader.complete, reader.status, reader.content_type) == (True, alone.status, alone.content_type)
    assert (reader.parts, reader.part_counts) == (alone.parts, alone.part_counts)
    assert (alone.keep_alive, reader.keep_alive) == (True, False)


def test_an_endless_head_is_refused():
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    with pytest.raises(BadResponse, match="head is longer"):
        fed(b"HTTP/1.1 200 OK\r\n", *[line] * (2 * MAX_HEAD_BYTES // len(line)))


@given(noise=st.binary(max_size=300), front=st.sampled_from([b"", HEAD, CHUNKED[:-8], b"HTTP/1.1 "]))
def test_whatever_comes_is_accepted_or_refused_and_nothing_else(noise, front):
    reader = ResponseReader()
    try:
        reader.feed(front + noise)
        reader.feed(noise)
    except BadResponse:
        pass
    reader.feed_eof()


def test_a_closed_reader_leaves_nothing_to_a_garbage_collector():
    class Reader(http1.ResponseReader):
        __slots__ = ("__weakref__",)

    gc.disable()
    try:
        reader = Reader()
        reader.feed(CHUNKED)
        gone = weakref.ref(reader)
        reader.close()
        del reader
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("piece", [b"X-More: yes\r\n", b"x"])
def test_endless_trailers_are_refused(piece):
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-More: ")
    for _ in range(MAX_HEAD_BYTES // len(piece)):
        reader.feed_many([piece])
    with pytest.raises(BadResponse, match="trailers"):
        reader.feed_many([piece] * 20)
    assert reader.take()[0] == [b"hi"]


def test_a_long_body_is_no_endless_trailer():
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (3 * MAX_HEAD_BYTES))
    for _ in range(3):
        reader.feed_many([b"x" * MAX_HEAD_BYTES])
    assert reader.complete


@pytest.mark.parametrize("flags", [b"\0", b"\1"])
def test_a_server_that_speaks_http2_is_told_by_its_first_frame(flags):
    reader = ResponseReader()
    with pytest.raises(BadResponse, match=r"HTTP/2 alone"):
        reader.feed(b"\x00\x00\x06\x04" + flags + bytes(4) + b"\x00\x03\x00\x00\x00\x64")
