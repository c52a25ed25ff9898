"""The endpoint as a client sees it: a real process, real sockets."""

import itertools
import json
import re
import ssl
import struct
import time

import pytest

from loadgen.simulator.process import serve

BODY = json.dumps(
    {"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True}
).encode()


def raw_request(body: bytes = BODY, version: str = "1.1", *fields: str) -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def read_until(sock, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def read_to_end(sock) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def test_a_chat_stream_has_a_role_its_tokens_a_finish_usage_and_done(client):
    got = client.chat(max_tokens=5, stream_options={"include_usage": True})
    assert got.status == 200
    assert got.fields["content-type"].startswith("text/event-stream")
    events = got.events
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert got.texts == ["w0", " w1", " w2", " w3", " w4"]
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["choices"] == []
    usage = events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 5, 8)


def test_a_completions_stream_has_text_and_no_role(client):
    got = client.complete(max_tokens=3)
    assert got.events[0]["object"] == "text_completion"
    assert "".join(got.texts) == words(3)
    assert all("delta" not in choice for event in got.events for choice in event["choices"])


def test_without_stream_the_answer_is_one_json_object(client):
    chat, text = client.chat(stream=False, max_tokens=4).json, client.complete(stream=False, max_tokens=4).json
    assert chat["choices"][0]["message"]["content"] == text["choices"][0]["text"] == words(4)
    assert chat["usage"]["completion_tokens"] == 4
    assert (chat["object"], text["object"]) == ("chat.completion", "text_completion")


def test_models_and_health_answer(client):
    assert [model["id"] for model in client.request("GET", "/v1/models").json["data"]] == ["sim"]
    assert client.request("GET", "/health?deep=1").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
        ("POST", "/v1/models", b"{}", 405),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/completions", b'{"model": "sim"}', 400),
        ("POST", "/v1/completions", b'{"model": "other", "prompt": "x"}', 404),
    ],
)
def test_a_wrong_request_gets_an_error_in_the_shape_of_openai_and_the_connection_lives_on(
    client, method, path, body, status
):
    got = client.request(method, path, body)
    assert got.status == status
    assert set(got.json["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in got.fields) == (status == 405)
    assert client.request("GET", "/health").status == 200


def test_bytes_that_are_no_http_get_a_400_and_the_end(client):
    with client.raw() as sock:
        sock.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")


def test_the_truth_log_holds_what_the_client_saw(connect, rows_of):
    with serve("--step", "2ms", "--ttft", "5ms", "--tokens-per-event", "3") as served:
        client = connect(served)
        asked_ns = time.monotonic_ns()
        stream, whole = client.chat(max_tokens=8), client.chat(max_tokens=8, stream=False)
        served.stop()
        rows = rows_of(served.truth())
        row = rows[stream.events[0]["id"]]
        assert stream.texts == ["w0 w1 w2", " w3 w4 w5", " w6 w7"]
        assert (row["prompt_tokens"], row["output_tokens"], row["status"], row["ended"]) == (3, 8, 200, "complete")
        assert len(row["event_ns"]) == 3
        first, second, third = row["event_ns"]
        assert row["token_ns"] == [first] * 3 + [second] * 3 + [third] * 2
        times = [asked_ns, row["request_read_ns"], row["first_byte_ns"], first, second, third, stream.read_ns]
        assert times == sorted(times)
        assert row["request_read_ns"] <= row["admitted_ns"]
        assert first - row["admitted_ns"] >= 5_000_000
        assert (row["first_token_ns"], row["last_byte_ns"]) == (first, third)
        json_row = rows[whole.json["id"]]
        assert json_row["token_ns"] == json_row["event_ns"] * 8
        assert row["connection"] == json_row["connection"]
        assert row["deferred_writes"] == 0


def test_no_token_reaches_a_client_before_the_time_in_the_log(connect, rows_of):
    with serve(
        "--step", "1ms", "--split-writes", "--crlf", "--reasoning-tokens", "5", "--tokens-per-event", "2"
    ) as served:
        sock = connect(served).raw()
        sock.sendall(raw_request(BODY.replace(b"3,", b"60,")))
        data, read_ns = b"", []
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)
            now_ns = time.monotonic_ns()
            # An event may be taken as whole at the CR of its blank line.
            outputs = len(re.findall(rb'content":"[^"]+"}[^\n]*\r\n\r', data))
            read_ns += [now_ns] * (outputs - len(read_ns))
        sock.close()
        served.stop()
        (row,) = served.truth().to_pylist()
    assert len(read_ns) == len(row["event_ns"]) == 31  # 30 events of two, one of which holds the end of reasoning
    assert all(sent <= read for sent, read in zip(row["event_ns"], read_ns, strict=True))


def test_in_lock_step_every_stream_gets_one_token_between_two_of_another(connect):
    with serve("--step", "3ms", "--ttft", "10ms") as served:
        clients = [connect(served) for _ in range(4)]
        for number, client in enumerate(clients):
            client.connection.request("POST", "/v1/chat/completions", BODY.replace(b"3,", b"%d," % (20 + number)))
        for client in clients:
            client.connection.getresponse().read()
        served.stop()
        streams = served.truth()["token_ns"].to_pylist()
    assert sorted(map(len, streams)) == [20, 21, 22, 23]
    # The order within a tick is that of admission, so the first to come sees each of the others once in each gap.
    first = min(streams)
    for other in streams:
        for before_ns, after_ns in itertools.pairwise(first):
            if other[0] <= before_ns and other[-1] >= after_ns:
                assert sum(before_ns < sent_ns <= after_ns for sent_ns in other) == 1


def test_requests_queue_in_their_order_behind_a_full_engine(connect, rows_of):
    with serve("--max-running", "1", "--step", "2ms") as served:
        clients = [connect(served) for _ in range(4)]
        for client in clients:
            client.connection.request("POST", "/v1/chat/completions", BODY)
        answers = [client.connection.getresponse() for client in clients]
        for answer in answers:
            answer.read()
        served.stop()
        rows = sorted(served.truth().to_pylist(), key=lambda row: row["request_read_ns"])
    assert [row["output_tokens"] for row in rows] == [3] * 4
    for before, after in itertools.pairwise(rows):
        assert after["admitted_ns"] > before["admitted_ns"]
        assert after["first_token_ns"] >= before["token_ns"][-1]


def test_a_full_queue_is_refused_with_503(connect, until):
    with serve("--max-running", "1", "--max-queued", "0", "--step", "10s") as served:
        busy, other = connect(served), connect(served)
        busy.connection.request("POST", "/v1/chat/completions", BODY)
        busy.connection.getresponse()
        got = other.chat()
        assert (got.status, got.json["error"]["code"], got.fields["retry-after"]) == (503, "queue_full", "1")


def test_a_client_that_goes_away_frees_its_slot_and_is_logged_with_what_was_sent(connect, until):
    with serve("--max-running", "1", "--step", "5ms", "--output-tokens", "1000000") as served:
        gone = connect(served).raw()
        gone.sendall(raw_request(BODY.replace(b'"max_tokens": 3, ', b"")))
        read_until(gone, b"\r\n")
        gone.close()
        assert connect(served).chat(max_tokens=2).texts == ["w0", " w1"]
        served.stop()
        rows = served.truth().to_pylist()
    assert [row["ended"] for row in rows] == ["client-closed", "complete"]
    assert rows[0]["output_tokens"] < 1000000


def test_what_is_under_way_when_the_server_stops_is_logged_as_stopped(connect):
    with serve("--step", "10s") as served:
        sock = connect(served).raw()
        sock.sendall(raw_request())
        read_until(sock, b'w0"},"logprobs":null,"finish_reason":null}]}\n\n\r\n')
        served.stop()
        (row,) = served.truth().to_pylist()
        sock.close()
    assert (row["ended"], row["output_tokens"]) == ("stopped", 1)


def test_the_log_can_be_read_while_serving_and_after_a_kill(connect, until):
    with serve("--step", "1ms") as served:
        name = connect(served).chat(max_tokens=2).events[0]["id"]
        until(lambda: served.truth().num_rows == 1, "the row")
        served.kill()
        assert served.truth()["response_id"].to_pylist() == [name]


def test_a_key_is_asked_for_where_one_is_set(connect, monkeypatch):
    monkeypatch.setenv("SIMULATOR_KEY", "s3cret")
    with serve("--step", "1ms", "--api-key-env", "SIMULATOR_KEY") as served:
        client = connect(served)
        refused = client.chat()
        assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_api_key")
        assert client.request("GET", "/v1/models").status == 401
        assert client.request("GET", "/health").status == 200
        for wrong in ("Bearer wrong", "s3cret", "bearer", "Bearer \xe9"):
            assert client.chat(fields={"Authorization": wrong}).status == 401
        assert client.chat(fields={"Authorization": "Bearer s3cret"}).status == 200


def test_one_connection_serves_request_after_request(client):
    ids = set()
    for _ in range(3):
        got = client.chat(max_tokens=2)
        assert got.fields["connection"] == "keep-alive"
        ids.add(got.events[0]["id"])
        sock = client.connection.sock
        assert sock is not None
    assert len(ids) == 3


def test_connection_close_is_honoured(client):
    with client.raw() as sock:
        sock.sendall(raw_request(BODY, "1.1", "Connection: close"))
        data = read_to_end(sock)
    assert b"connection: close\r\n" in data
    assert data.endswith(b"0\r\n\r\n")


def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection(client):
    with client.raw() as sock:
        sock.sendall(raw_request(BODY, "1.0"))
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body.endswith(b"data: [DONE]\n\n")


def test_expect_100_continue_is_answered_before_the_body_is_sent(client):
    request = raw_request(BODY, "1.1", "Expect: 100-continue")
    with client.raw() as sock:
        sock.sendall(request[: -len(BODY)])
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert read_until(sock, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_large_body_may_come_in_many_pieces(client):
    words = b"word " * 400_000
    body = BODY.replace(b'"x"', b'"' + words + b'"').replace(b'"stream": true', b'"stream": false')
    request = raw_request(body)
    with client.raw() as sock:
        for start in range(0, len(request), 50_000):
            sock.sendall(request[start : start + 50_000])
        data = read_until(sock, b"}}}")
    assert json.loads(data.partition(b"\r\n\r\n")[2])["usage"]["prompt_tokens"] == 400_000


def test_a_request_may_come_byte_by_byte_and_the_next_one_too_soon(client):
    with client.raw() as sock:
        for byte in raw_request(BODY[:-1] + b" }")[:-1]:
            sock.sendall(bytes([byte]))
        sock.sendall(b"}" + raw_request() + raw_request())
        data = b""
        while data.count(b"data: [DONE]") < 3:
            data += sock.recv(65536)
    assert re.findall(rb"HTTP/1.1 200 OK|\[DONE\]", data) == [b"HTTP/1.1 200 OK", b"[DONE]"] * 3


@pytest.mark.parametrize(
    "options",
    [
        ("--framing", "content-length"),
        ("--framing", "close"),
        ("--crlf",),
        ("--comments",),
        ("--split-writes",),
        ("--split-writes", "--crlf", "--comments", "--framing", "content-length", "--text", "unicode"),
        ("--mode", "independent", "--jitter", "exponential"),
        ("--padding", "5000", "--tokens-per-event", "4"),
        ("--role-event", "early"),
        ("--no-role-event",),
    ],
    ids=" ".join,
)
def test_every_option_of_style_gives_the_same_text(connect, options):
    with serve("--step", "1ms", *options) as served:
        client = connect(served)
        for _ in range(2):
            got = client.chat(max_tokens=9)
            assert "".join(got.texts).replace("-é✓🙂", "") == words(9)
            assert (b"\r\n\r\n" in got.body) == ("--crlf" in options)
            assert (b": ping" in got.body) == ("--comments" in options)
            roles = [choice["delta"].get("role") for event in got.events for choice in event["choices"]]
            assert roles.count("assistant") == ("--no-role-event" not in options)
            if "--framing" in options:
                assert "transfer-encoding" not in got.fields
                assert ("content-length" in got.fields) == ("content-length" in options)
        served.stop()
        assert served.truth()["output_tokens"].to_pylist() == [9, 9]


def test_an_early_role_event_comes_before_the_engine_has_anything(connect):
    with serve("--role-event", "early", "--ttft", "1h") as served, connect(served).raw() as sock:
        sock.sendall(raw_request())
        assert b'"role":"assistant"' in read_until(sock, b"}\n\n\r\n")


def test_reasoning_comes_first_and_is_counted(connect):
    with serve("--step", "1ms", "--reasoning-tokens", "2") as served:
        got = connect(served).chat(max_tokens=4, stream_options={"include_usage": True})
    deltas = [choice["delta"] for event in got.events for choice in event["choices"]]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["w0", " w1"]
    assert [delta["content"] for delta in deltas if delta.get("content")] == [" w2", " w3"]
    assert got.events[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def test_answers_may_stop_early_by_the_seed(connect):
    def lengths(seed: str) -> list[int]:
        with serve("--step", "1ms", "--eos-probability", "0.2", "--seed", seed) as served:
            client = connect(served)
            answers = [client.chat(max_tokens=30, stream=False).json for _ in range(12)]
        assert {answer["choices"][0]["finish_reason"] for answer in answers} <= {"stop", "length"}
        return [answer["usage"]["completion_tokens"] for answer in answers]

    first = lengths("1")
    assert first == lengths("1") != lengths("2")
    assert len(set(first)) > 3


def test_ipv6_is_served(connect):
    with serve("--host", "::1", "--step", "1ms") as served:
        assert served.url.startswith("http://[::1]:")
        assert connect(served).chat(max_tokens=1).texts == ["w0"]


def test_https_is_served_and_plain_bytes_are_turned_away(connect, certificate, rows_of):
    path, key = certificate
    with serve("--tls-cert", str(path), "--tls-key", str(key), "--step", "1ms") as served:
        assert served.url.startswith("https://")
        client = connect(served, ssl.create_default_context(cafile=str(path)))
        for _ in range(2):
            got = client.chat(max_tokens=40, messages=[{"role": "user", "content": "x " * 50_000}])
            assert "".join(got.texts) == words(40)
        closing = client.chat(max_tokens=2, fields={"Connection": "close"})
        assert closing.texts == ["w0", " w1"]
        with client.raw() as sock:
            sock.sendall(raw_request())
            assert b"HTTP" not in read_to_end(sock)
        served.stop()
        rows = rows_of(served.truth())
    row = rows[got.events[0]["id"]]
    assert (row["prompt_tokens"], row["output_tokens"], row["ended"]) == (50_000, 40, "complete")
    assert row["token_ns"][-1] <= got.read_ns


def test_a_client_that_does_not_read_gets_everything_in_the_end_and_the_log_says_so(connect):
    # 10 MB are more than the buffers of both sockets take, the receiver's being small.
    with serve("--step", "100us", "--padding", "100000") as served:
        sock = connect(served).raw(receive_bytes=4096)
        sock.sendall(raw_request(BODY.replace(b"3,", b"100,")))
        other = connect(served)
        assert other.chat(max_tokens=120).texts[-1] == " w119"  # by now the first is through with its 100 steps
        data = read_until(sock, b"0\r\n\r\n")
        sock.close()
        served.stop()
        rows = served.truth().to_pylist()
    assert re.findall(rb'"content":" ?(w\d+)"', data) == [f"w{number}".encode() for number in range(100)]
    assert max(row["deferred_writes"] for row in rows) > 0


# Faults: what the client sees, and how the log calls it.


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
        got = connect(served).chat(max_tokens=6)
        assert "".join(got.texts) == words(6)
        served.stop()
        (row,) = served.truth().to_pylist()
    times = [row["request_read_ns"], *row["token_ns"]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(range(6), key=gaps.__getitem__) == quiet
    assert gaps[quiet] > 50_000_000
    assert (row["first_byte_ns"] - row["request_read_ns"] > 50_000_000) == (fault == "stall-first-byte")
    assert (row["ended"], row["fault"]) == ("complete", fault)


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


def test_a_reset_by_the_client_is_a_closed_client(connect, until):
    with serve("--step", "1ms", "--output-tokens", "1000000") as served:
        sock = connect(served).raw()
        sock.sendall(raw_request(BODY.replace(b'"max_tokens": 3, ', b"")))
        read_until(sock, b"\r\n")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close sends RST
        sock.close()
        until(lambda: served.truth().num_rows, "the row")
        assert served.truth()["ended"].to_pylist() == ["client-closed"]


def test_the_tokens_of_a_step_are_told_and_logged_as_the_draft_left_them(connect, rows_of):
    usage = {"include_usage": True, "continuous_usage_stats": True}
    with serve("--step", "1ms", "--tokens-per-event", "4", "--draft-acceptance", "0.5") as served:
        got = connect(served).chat(max_tokens=60, stream_options=usage)
        served.stop()
        row = rows_of(served.truth())[got.events[0]["id"]]
    outputs = [event for event in got.events if event["choices"] and event["choices"][0]["delta"].get("content")]
    counts = [event["usage"]["completion_tokens"] for event in outputs]
    assert counts[-1] == 60
    steps = [after - before for before, after in itertools.pairwise([0, *counts])]
    assert len(set(steps)) > 1
    assert [len(text.split()) for text in got.texts] == steps
    assert [row["token_ns"].count(stamp_ns) for stamp_ns in row["event_ns"]] == steps


def test_a_prefix_that_is_cached_is_told_and_comes_sooner(connect):
    text = " ".join(f"word{number}" for number in range(1000))
    usage = {"include_usage": True}
    with serve("--prefill-rate", "2000", "--step", "1ms", "--prefix-cache", "10000") as served:
        client = connect(served)
        asked = [[{"role": "user", "content": f"{text} {end}"}] for end in ("a", "b")]
        told = [client.chat(messages=messages, max_tokens=1, stream_options=usage).events[-1] for messages in asked]
        forgotten = client.request("POST", "/reset_prefix_cache", b"{}")
        told.append(client.chat(messages=asked[0], max_tokens=1, stream_options=usage).events[-1])
        served.stop()
        rows = served.truth().to_pylist()
    assert forgotten.json == {"success": True}
    cached = [event["usage"]["prompt_tokens_details"]["cached_tokens"] for event in told]
    assert cached == [row["cached_tokens"] for row in rows] == [0, 992, 0]
    waits_ns = [row["first_token_ns"] - row["admitted_ns"] for row in rows]
    assert waits_ns[0] >= 500_000_000
    assert 4_500_000 <= waits_ns[1] < waits_ns[0] / 2
