"""The endpoint as a client sees it: a real process, real sockets."""

import json
import re
import ssl

import pytest
from by_bytes import BODY, raw_request, read_to_end, read_until, words

from loadgen.simulator.process import serve


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
