"""Every API over real sockets: its paths, keys, errors and faults, and the log beside what was read."""

import json
import re
import time
from typing import Any

import pytest
import worded
from asked import until

from loadgen.simulator.process import Served, serve

MESSAGES = [{"role": "user", "content": "a b"}]
CONTENTS = {"contents": [{"parts": [{"text": "a b"}]}], "generationConfig": {"maxOutputTokens": 6}}
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/sim"

# name of the wording: (path, body of a stream of 6 tokens).
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "sim", "messages": MESSAGES, "max_tokens": 6}),
    "completions": ("/v1/completions", {"model": "sim", "prompt": "a b", "max_tokens": 6}),
    "responses": ("/v1/responses", {"model": "sim", "input": "a b", "max_output_tokens": 6}),
    "azure": ("/openai/deployments/sim/chat/completions?api-version=1", {"messages": MESSAGES, "max_tokens": 6}),
    "azure-v1": ("/openai/v1/chat/completions", {"model": "sim", "messages": MESSAGES, "max_tokens": 6}),
    "databricks": ("/serving-endpoints/sim/invocations", {"messages": MESSAGES, "max_tokens": 6}),
    "messages": ("/v1/messages", {"model": "sim", "messages": MESSAGES, "max_tokens": 6}),
    "sglang": ("/generate", {"text": "a b", "sampling_params": {"max_new_tokens": 6}}),
    "tgi": ("/generate_stream", {"inputs": "a b", "parameters": {"max_new_tokens": 6}}),
    "triton": ("/v2/models/sim/generate_stream", {"text_input": "a b", "max_tokens": 6}),
    "ollama-chat": ("/api/chat", {"model": "sim", "messages": MESSAGES, "options": {"num_predict": 6}}),
    "ollama-generate": ("/api/generate", {"model": "sim", "prompt": "a b", "options": {"num_predict": 6}}),
    "llamacpp": ("/completion", {"prompt": "a b", "n_predict": 6}),
    "gemini": (f"{VERTEX}:streamGenerateContent?alt=sse", CONTENTS),
    "gemini-array": ("/v1beta/models/sim:streamGenerateContent", CONTENTS),
}
MORE = {
    "databricks-chat": ("/serving-endpoints/chat/completions", ASKED["chat"][1]),
    "databricks-completions": ("/serving-endpoints/sim/invocations", {"prompt": "a b", "max_tokens": 6}),
    "databricks-messages": ("/serving-endpoints/anthropic/v1/messages", ASKED["messages"][1]),
    "triton-version": ("/v2/models/sim/versions/1/generate_stream", ASKED["triton"][1]),
    "tgi-root": ("/", ASKED["tgi"][1]),
    "azure-completions": ("/openai/deployments/sim/completions?api-version=1", {"prompt": "a b", "max_tokens": 6}),
    "azure-responses": ("/openai/responses?api-version=1", ASKED["responses"][1]),
}
# What marks an event that carries output, in the bytes of the body.
MARKS = {
    "chat": '"content":"',
    "completions": '"text":"',
    "responses": '"delta":"',
    "azure": '"content":"',
    "azure-v1": '"content":"',
    "databricks": '"content":"',
    "messages": '"text_delta"',
    "sglang": '"text":"',
    "tgi": '"token":',
    "triton": '"text_output":"',
    "ollama-chat": '"content":"',
    "ollama-generate": '"response":"',
    "llamacpp": '"content":"',
    "gemini": '"text":"',
    "gemini-array": '"text":"',
}


@pytest.fixture(scope="module")
def quick():
    with serve("--step", "1ms", "--flush", "20ms", "--tokens-per-event", "2") as served:
        yield served


def post(client, name: str, fields: dict[str, str] | None = None, **more: Any) -> Any:
    path, body = ASKED[name] if name in ASKED else MORE[name]
    body = body | {"stream": True} | more
    fields = {"anthropic-version": "2023-06-01"} | (fields or {})
    return client.request("POST", path, json.dumps(body).encode(), fields)


def logged(served: Served, response_id: str) -> dict[str, Any]:
    def row() -> dict[str, Any] | None:
        return next((row for row in served.truth().to_pylist() if row["response_id"] == response_id), None)

    return until(row, "the row")


@pytest.mark.parametrize("name", sorted(ASKED))
def test_the_log_holds_the_events_that_a_client_reads_from_any_api(quick, connect, name):
    asked_ns = time.monotonic_ns()
    got = post(connect(quick), name)
    assert got.status == 200
    row = logged(quick, got.fields["x-request-id"])
    carried = [line for line in got.body.decode().splitlines() if MARKS[name] in line]
    outputs = [line for line in carried if "w" in line.partition(MARKS[name])[2][:40]]
    assert len(outputs) == len(row["event_ns"]) == (6 if name == "tgi" else 3)
    assert (row["prompt_tokens"], row["output_tokens"], row["ended"]) == (2, 6, "complete")
    times = [asked_ns, row["request_read_ns"], *row["token_ns"], got.read_ns]
    assert times == sorted(times)


@pytest.mark.parametrize("name", sorted(MORE))
def test_other_paths_serve_the_same(quick, connect, name):
    got = post(connect(quick), name)
    assert got.status == 200
    assert logged(quick, got.fields["x-request-id"])["output_tokens"] == 6


@pytest.mark.parametrize("name", sorted(set(ASKED) - {"tgi", "triton", "gemini", "gemini-array"}))
def test_every_api_answers_without_a_stream(quick, connect, name):
    got = post(connect(quick), name, stream=False)
    assert got.fields["content-type"] == "application/json"
    assert "w0 w1 w2 w3 w4 w5" in json.dumps(got.json)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 6}}),
        ("/v2/models/sim/generate", {"text_input": "a", "max_tokens": 6}),
        ("/v1beta/models/sim:generateContent", CONTENTS),
    ],
)
def test_apis_with_a_path_of_their_own_for_it_do_too(quick, connect, path, body):
    got = connect(quick).request("POST", path, json.dumps(body).encode())
    assert "w0 w1 w2 w3 w4 w5" in json.dumps(got.json)


def test_embeddings_are_logged_without_tokens(quick, connect):
    got = connect(quick).request("POST", "/v1/embeddings", b'{"model": "sim", "input": ["a b", "c"]}')
    assert [len(item["embedding"]) for item in got.json["data"]] == [256, 256]
    row = logged(quick, got.fields["x-request-id"])
    assert (row["prompt_tokens"], row["output_tokens"], row["token_ns"]) == (3, 0, [])
    assert row["event_ns"] == [row["first_byte_ns"]]
    assert row["first_byte_ns"] <= got.read_ns


def message_of(name: str, error: dict[str, Any]) -> str:
    if name.startswith("databricks"):
        return error["message"] if "message" in error else error["error"]["message"]
    if name in ("tgi", "triton") or name.startswith("ollama"):
        return error["error"]
    return error["error"]["message"]


SHAPES = {
    "chat": {"error"},
    "messages": {"type", "error"},
    "databricks": {"error_code", "message"},
    "tgi": {"error", "error_type"},
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_wrong_body_is_told_in_the_shape_of_the_api(quick, connect, name):
    path, _ = ASKED[name]
    got = connect(quick).request("POST", path, b'{"model": "sim"', {"anthropic-version": "1"})
    assert got.status == (422 if name == "tgi" else 400)
    assert "JSON" in message_of(name, got.json)
    assert set(got.json) == SHAPES.get(name, {"error"})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_refusal_says_when_to_come_back_where_the_api_says_it(connect, name, status, refusing):
    got = post(connect(refusing[status]), name)
    assert got.status == status
    assert "asked for by --fault" in message_of(name, got.json)
    if name == "databricks":
        assert "retry-after" not in got.fields
        assert status == 503 or got.json["error"]["retry_after"] == 1
    else:
        assert got.fields["retry-after"] == "1"


@pytest.fixture(scope="module")
def refusing():
    with serve("--fault", "error-429") as busy, serve("--fault", "error-503") as down:
        yield {429: busy, 503: down}


@pytest.fixture(scope="module")
def locked():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMULATOR_KEY", "s3cret")
        with serve("--step", "1ms", "--api-key-env", "SIMULATOR_KEY") as served:
            yield served


OTHER_KEYS = {
    "messages": "x-api-key",
    "azure": "api-key",
    "azure-v1": "api-key",
    "gemini": "x-goog-api-key",
    "gemini-array": "x-goog-api-key",
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_api_looks_for_its_key_where_it_does(locked, connect, name):
    client = connect(locked)
    assert post(client, name).status == 401
    assert post(client, name, {"authorization": "Bearer s3cret"}).status == 200
    for field in ("x-api-key", "api-key", "x-goog-api-key"):
        assert post(client, name, {field: "s3cret"}).status == (200 if OTHER_KEYS.get(name) == field else 401)
        assert post(client, name, {field: "wrong"}).status == 401


def test_a_key_may_stand_in_the_query_for_google_alone(locked, connect):
    client = connect(locked)
    body = json.dumps(CONTENTS).encode()
    assert client.request("POST", "/v1beta/models/sim:generateContent?key=s3cret", body).status == 200
    chat = json.dumps(ASKED["chat"][1]).encode()
    assert client.request("POST", "/v1/chat/completions?key=s3cret", chat).status == 401
    assert client.request("GET", "/v1/models", fields={"api-key": "s3cret"}).status == 200


@pytest.fixture(scope="module")
def breaking():
    with serve("--step", "1ms", "--flush", "20ms", "--fault", "error-event") as served:
        yield served


@pytest.mark.parametrize("name", sorted(ASKED))
def test_an_error_in_the_stream_is_a_fault_of_every_api(breaking, connect, name):
    got = post(connect(breaking), name)
    assert got.status == 200
    row = logged(breaking, got.fields["x-request-id"])
    assert (row["ended"], row["fault"], row["output_tokens"]) == ("fault", "error-event", 3)
    if name != "gemini-array":
        last = worded.objects(name, got.body)[-1]
        assert "asked for by --fault" in json.dumps(last)
    else:
        assert "asked for by --fault" in got.json[-1]["error"]["message"]


@pytest.mark.parametrize("options", [("--framing", "content-length"), ("--split-writes", "--crlf", "--comments")])
def test_every_api_can_be_awkward(connect, options):
    with serve("--step", "1ms", "--reasoning-tokens", "2", "--prefix-cache", "1000", *options) as served:
        client = connect(served)
        for name in ASKED:
            got = post(client, name)
            assert got.status == 200, name
            crlf = "--crlf" in options
            assert worded.objects(name, got.body.replace(b": ping\n\n", b""), crlf), name
        served.stop()
        rows = served.truth()
    # Gemini's thoughts are hidden, as nobody asked for them.
    for dialect, count in zip(rows["dialect"].to_pylist(), rows["output_tokens"].to_pylist(), strict=True):
        assert count == (4 if dialect.startswith("gemini") else 6)


def test_a_full_queue_has_each_api_s_own_status(connect):
    with serve("--max-running", "1", "--max-queued", "0", "--step", "10s") as served:
        busy = connect(served)
        busy.connection.request("POST", ASKED["chat"][0], json.dumps(ASKED["chat"][1] | {"stream": True}))
        busy.connection.getresponse()
        client = connect(served)
        assert {name: post(client, name).status for name in ("chat", "messages", "tgi", "databricks")} == {
            "chat": 503,
            "messages": 529,
            "tgi": 429,
            "databricks": 503,
        }


@pytest.mark.parametrize(
    ("path", "pick"),
    [
        ("/v1/models", lambda said: said["data"][0]["max_model_len"] and said["data"][0]["id"]),
        ("/v1/models/sim", lambda said: said["id"]),
        ("/openai/v1/models", lambda said: said["data"][0]["id"]),
        ("/v1beta/models", lambda said: said["models"][0]["displayName"]),
        ("/api/tags", lambda said: said["models"][0]["name"].removesuffix(":latest")),
        ("/v2/models/sim", lambda said: said["name"]),
        ("/info", lambda said: said["model_id"]),
        ("/props", lambda said: said["model_alias"]),
        ("/model_info", lambda said: said["model_path"]),
        ("/server_info", lambda said: said["served_model_name"]),
        ("/api/2.0/serving-endpoints/sim", lambda said: said["state"]["ready"] == "READY" and said["name"]),
        ("/api/2.0/serving-endpoints", lambda said: said["endpoints"][0]["name"]),
    ],
)
def test_every_server_names_its_model_in_its_own_way(quick, connect, path, pick):
    assert pick(connect(quick).request("GET", path).json) == "sim"


@pytest.mark.parametrize("path", ["/v1/models/gpt", "/v1beta/models/gpt", "/v2/models/gpt"])
def test_another_model_is_not_there(quick, connect, path):
    assert connect(quick).request("GET", path).status == 404


def test_an_endpoint_of_databricks_tells_its_task(connect):
    with serve("--databricks-task", "completions") as served:
        client = connect(served)
        assert client.request("GET", "/api/2.0/serving-endpoints/sim").json["task"] == "llm/v1/completions"
        missing = client.request("GET", "/api/2.0/serving-endpoints/other")
        assert (missing.status, missing.json["error"]["message"]) == (404, "Endpoint with name 'other' does not exist.")


def test_tokens_are_counted_on_request(quick, connect):
    def tokenize(**wants: Any) -> Any:
        return connect(quick).request("POST", "/tokenize", json.dumps(wants).encode())

    assert tokenize(model="sim", prompt="a b a").json["count"] == 3
    ids = tokenize(prompt="a b a").json["tokens"]
    assert ids[0] == ids[2] != ids[1]
    assert tokenize(messages=MESSAGES).json["count"] == 2
    assert tokenize(model="gpt", prompt="x").status == 404


def test_a_model_with_a_slash_in_its_name_is_found_in_a_path(connect):
    with serve("--model", "org/name", "--step", "1ms") as served:
        client = connect(served)
        for path in ("/v2/models/org/name/generate_stream", "/v2/models/org%2Fname/generate_stream"):
            got = client.request("POST", path, json.dumps({"text_input": "a", "max_tokens": 2}).encode())
            assert got.status == 200


def test_a_refused_request_does_not_keep_those_behind_it_waiting(quick, connect):
    """Sent before the first is answered: a good one, a bad one, a good one."""
    body = json.dumps(ASKED["chat"][1] | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with connect(quick).raw() as sock:
        sock.sendall(head % len(body) + body + head % 1 + b"{" + head % len(body) + body)
        data = b""
        while data.count(b"[DONE]") < 2:
            data += sock.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"400", b"200"]
