"""Faults: what the client sees, and how the log calls it."""

import itertools
import re

import pytest
from by_bytes import BODY, raw_request, read_to_end, read_until, words

from loadgen.simulator.process import serve


def faulty(connect, *options: str):
    return serve("--step", "1ms", "--stall", "60ms", *options)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_fault_an_error_status(connect, status):
    with faulty(connect, "--fault", f"error-{status}") as served:
        got = connect(served).chat()
        assert got.status == status
        assert got.json["error"]["code"] == f"error-{status}"
        assert ("retry-after" in got.fields) == (status != 500)
        served.stop()
        (row,) = served.truth().to_pylist()
    assert (row["status"], row["fault"], row["output_tokens"]) == (status, f"error-{status}", 0)


@pytest.mark.parametrize(("fault", "content_type"), [("html", "text/html"), ("not-a-stream", "application/json")])
def test_fault_another_content_type(connect, fault, content_type):
    with faulty(connect, "--fault", fault) as served:
        got = connect(served).chat(max_tokens=2)
        assert got.status == 200
        assert got.fields["content-type"].startswith(content_type)
        if fault == "not-a-stream":
            assert got.json["choices"][0]["message"]["content"] == "w0 w1"
        served.stop()
        assert served.truth()["fault"].to_pylist() == [fault]


def test_fault_an_empty_stream_is_complete(connect):
    with faulty(connect, "--fault", "empty") as served:
        got = connect(served).chat(stream_options={"include_usage": True})
        assert got.texts == []
        assert got.events[-1]["usage"]["completion_tokens"] == 0
        served.stop()
        (row,) = served.truth().to_pylist()
    assert (row["ended"], row["fault"], row["token_ns"], row["event_ns"]) == ("complete", "empty", [], [])


@pytest.mark.parametrize(("fault", "quiet"), [("stall-first-byte", 0), ("stall-mid-stream", 3)])
@pytest.mark.parametrize("more", [(), ("--split-writes",)], ids=["whole", "split"])
def test_fault_a_stall_is_a_silence_and_then_everything(connect, fault, quiet, more):
    with faulty(connect, "--fault", fault, *more) as served:
        client = connect(served)
        for _ in range(5):
            assert "".join(client.chat(max_tokens=6).texts) == words(6)
        served.stop()
        rows = served.truth().to_pylist()
    assert {(row["ended"], row["fault"]) for row in rows} == {("complete", fault)}
    stalled_ns = 50_000_000
    gaps_ns = [
        [after - before for before, after in itertools.pairwise([row["request_read_ns"], *row["token_ns"]])]
        for row in rows
    ]
    assert all(each[quiet] > stalled_ns for each in gaps_ns)
    # The machine may add silences of its own, but hardly the same ones to all.
    assert [min(each) > stalled_ns for each in zip(*gaps_ns, strict=True)] == [n == quiet for n in range(6)]
    first_bytes_ns = [row["first_byte_ns"] - row["request_read_ns"] for row in rows]
    assert (min(first_bytes_ns) > stalled_ns) == (fault == "stall-first-byte")


@pytest.mark.parametrize("fault", ["reset-mid-stream", "truncate"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_fault_a_stream_is_cut_halfway(connect, fault, tokens):
    with faulty(connect, "--fault", fault) as served:
        sock, data = connect(served).raw(), b""
        sock.sendall(raw_request(BODY.replace(b"3,", b"%d," % tokens)))
        try:
            while piece := sock.recv(65536):
                data += piece
            reset = False
        except ConnectionResetError:
            reset = True
        sock.close()
        served.stop()
        (row,) = served.truth().to_pylist()
    assert reset == (fault == "reset-mid-stream")
    assert (row["ended"], row["fault"], row["output_tokens"]) == ("fault", fault, (tokens + 1) // 2)
    if fault == "truncate":
        assert data.count(b'"content":') - 1 == (tokens + 1) // 2
        assert not data.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("framing", ["chunked", "close", "content-length"])
@pytest.mark.parametrize("fault", ["missing-end", "error-event"])
def test_fault_a_stream_ends_in_order_but_too_soon(connect, fault, framing):
    with faulty(connect, "--fault", fault, "--framing", framing) as served:
        sock = connect(served).raw()
        sock.sendall(raw_request())
        data = read_until(sock, b"0\r\n\r\n") if framing == "chunked" else read_to_end(sock)
        sock.close()
        served.stop()
        (row,) = served.truth().to_pylist()
    assert (row["ended"], row["fault"], row["output_tokens"]) == ("fault", fault, 2)
    assert b'"finish_reason":"length"' not in data
    assert (b'data: {"error":' in data) == (b"[DONE]" in data) == (fault == "error-event")


@pytest.mark.parametrize(("fault", "announced"), [("close-after-response", "close"), ("close-idle", "keep-alive")])
@pytest.mark.parametrize("stream", [True, False])
def test_fault_the_connection_ends_after_the_response(connect, fault, announced, stream):
    with faulty(connect, "--fault", fault) as served, connect(served).raw() as sock:
        sock.sendall(raw_request(BODY if stream else BODY.replace(b"true", b"false")))
        data = read_to_end(sock)
        assert f"connection: {announced}\r\n".encode() in data
        assert data.endswith(b"0\r\n\r\n" if stream else b"}}}")


@pytest.mark.parametrize("fault", ["truncate", "reset-mid-stream"])
def test_fault_a_json_response_is_cut_too(connect, fault):
    with faulty(connect, "--fault", fault) as served, connect(served).raw() as sock:
        sock.sendall(raw_request(BODY.replace(b"true", b"false")))
        try:
            head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
            announced = re.search(rb"content-length: (\d+)", head)
            assert announced is not None
            assert 0 < len(body) < int(announced[1])
        except ConnectionResetError:
            assert fault == "reset-mid-stream"
        served.stop()
        assert served.truth()["fault"].to_pylist() == [fault]


def test_a_share_of_the_requests_gets_a_fault_and_the_seed_says_which(connect):
    def faults(seed: str) -> list[str | None]:
        options = ("--fault", "error-500", "--fault", "empty", "--fault-share", "0.5", "--seed", seed)
        with faulty(connect, *options) as served:
            client = connect(served)
            for _ in range(24):
                client.chat(max_tokens=1)
            served.stop()
            return served.truth()["fault"].to_pylist()

    first = faults("3")
    assert set(first) == {"error-500", "empty", None}
    assert first == faults("3") != faults("4")


def test_a_fault_that_a_json_response_cannot_have_is_not_logged(connect):
    with faulty(connect, "--fault", "error-event") as served:
        assert connect(served).chat(stream=False, max_tokens=2).status == 200
        served.stop()
        assert served.truth()["fault"].to_pylist() == [None]
