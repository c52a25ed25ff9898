"""One look at endpoints that are wrong in one way each: the class, one sentence, and never the key."""

import json
import ssl

import pytest
from asked import PATIENCE_S, spec
from canned import GOOD, STREAM, canned, refused_port, response, unreachable
from cases import CASES

from loadgen import planner, probe
from loadgen.dialects import DIALECTS
from loadgen.dialects.credentials import Credentials, header_fields
from loadgen.errors import ERROR_CLASSES, EndpointError
from loadgen.simulator.process import serve

KEY = "sk-0123456789-secret"


def fields(api: str, key: str | None):
    return header_fields(DIALECTS[api], Credentials(key))


def check(where, api: str, model: str, key: str | None, **options):
    return probe.check(where, DIALECTS[api], model, fields(api, key), **options)


def find_model(where, api: str, key: str | None) -> str:
    return probe.find_model(where, DIALECTS[api], fields(api, key))


def target(url: str, api: str = "chat", **changes):
    return planner.endpoint(spec(url=url, api=api, **changes))


def refusal(
    url: str, model: str = "sim", key: str | None = KEY, api: str = "chat", patience_s: float = PATIENCE_S, **changes
) -> tuple[str, str]:
    """(error class, sentence) of the check, which waits so long for a connection."""
    with pytest.raises(EndpointError) as caught:
        check(target(url, api, **changes), api, model, key, ignore_eos=False, connect_timeout_s=patience_s)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    kind = caught.value.error_class
    assert kind in ERROR_CLASSES or kind.startswith("http-")
    assert caught.value.exit_status == 1
    return kind, words


@pytest.fixture(scope="module")
def served():
    with serve("--step", "1ms") as simulator:
        yield simulator


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_good_endpoint_passes(served, api, ignore_eos):
    check(target(served.url, api), api, "sim", KEY, ignore_eos=ignore_eos)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_first_model_that_is_listed_is_found(served, api):
    where = target(served.url, api)
    assert find_model(where, api, KEY) == "sim"


def test_the_one_request_is_small_and_asks_as_the_load_will():
    with canned(response(GOOD)) as server:
        check(target(f"{server.url}?x=1"), "chat", "m", KEY, ignore_eos=True)
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions?x=1 HTTP/1.1\r\n")
    assert f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in head + b"\r\n"
    wants = json.loads(body)
    assert (wants["model"], wants["max_tokens"], wants["stream"]) == ("m", probe.MAX_OUTPUT_TOKENS, True)
    assert wants["ignore_eos"] is True


def test_a_host_name_that_does_not_exist():
    kind, words = refusal("http://no-such-host.invalid")
    assert kind == "dns"
    assert words.startswith("no-such-host.invalid could not be resolved: ")


def test_a_port_where_nobody_listens():
    port = refused_port()
    assert refusal(f"http://127.0.0.1:{port}") == (
        "connect-refused",
        f"cannot connect to 127.0.0.1:{port}: connection refused",
    )


def test_a_host_that_does_not_answer_is_given_up_after_the_connect_timeout():
    with unreachable() as port:
        assert refusal(f"http://127.0.0.1:{port}", patience_s=0.3) == (
            "timeout-connect",
            f"cannot connect to 127.0.0.1:{port}: no answer within 0.3 s",
        )


def test_a_proxy_where_nobody_listens_is_named_without_its_password():
    port = refused_port()
    kind, words = refusal("http://127.0.0.1:1", proxy=f"http://user:pass-word@127.0.0.1:{port}")
    assert kind == "connect-failed"
    assert words == f"cannot connect to the proxy 127.0.0.1:{port}: connection refused"


def test_a_wrong_path(served):
    kind, words = refusal(served.url.replace("/v1", "/v2"))
    assert kind == "http-404"
    assert "/v2/chat/completions answered 404: " in words
    assert "is the path right" in words


def test_an_unknown_model(served):
    kind, words = refusal(served.url, model="gpt-9")
    assert kind == "http-404"
    assert "The model `gpt-9` does not exist; this endpoint serves `sim`." in words


@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_a_missing_or_wrong_key(key, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    with serve("--api-key-env", "THE_KEY") as locked:
        kind, words = refusal(locked.url, key=key)
        check(target(locked.url), "chat", "sim", KEY, ignore_eos=False)
        assert find_model(target(locked.url), "chat", KEY) == "sim"
    assert kind == "http-401"
    assert "is OPENAI_API_KEY set to a key of this endpoint?" in words
    assert "sk-wrong" not in words


HTML = b"<html>\n<body>\nSign in\n</body></html>"

WRONG = {
    "JSON instead of a stream": (response(b'{"id":"x","choices":[]}', "application/json"), "not-a-stream", '{"id":"x"'),
    "a page of HTML": (response(HTML, "text/html; charset=utf-8"), "not-a-stream", "text/html instead of an event"),
    "an empty body": (response(b""), "empty", "answered 200 without any output (0 bytes)"),
    "an empty body without a type": (response(b"", ""), "empty", "without any output"),
    "an empty stream": (response(b"data: [DONE]\n\n"), "empty", "without any output (14 bytes)"),
    "no JSON in the events": (response(b"data: hello\n\n"), "bad-event", "no chat event: hello"),
    "other JSON in the events": (response(b"data: [1, 2]\n\n"), "bad-event", "no chat event: [1, 2]"),
    "an error in the stream": (
        response(b'data: {"error":{"message":"out of\\nmemory"}}\n\n'),
        "server-error",
        "streamed an error: out of memory",
    ),
    "an overloaded server": (
        response(b'{"detail":"come back later"}', "application/json", "503 Service Unavailable"),
        "http-503",
        "answered 503: come back later",
    ),
    "a redirect": (
        response(b"", "", "307 Temporary Redirect", "Location: https://elsewhere/v1"),
        "http-307",
        "redirects to https://elsewhere/v1; give that URL instead",
    ),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "bad-http", "not in HTTP/1.1"),
    "a closed connection": (b"", "bad-http", "broke off"),
    "half a response": (response(GOOD)[:-20], "bad-http", "broke off"),
    "a bad chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\nzz\r\n",
        "bad-http",
        "broke off",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_an_answer_that_is_none(which):
    answer, kind, words = WRONG[which]
    with canned(answer) as server:
        seen_kind, seen = refusal(server.url)
    assert seen_kind == kind
    assert words in seen
    assert f"127.0.0.1:{server.port}/v1/chat/completions" in seen


def test_a_stream_of_an_odd_type_is_read_for_what_it_is():
    for kind in ("", "application/octet-stream", "text/plain"):
        with canned(response(GOOD, kind)) as server:
            check(target(server.url), "chat", "m", None, ignore_eos=False)


def test_a_flood_is_not_read_to_its_end():
    def flood(_request: bytes) -> bytes:
        event = GOOD.partition(b"\n\n")[0] + b"\n\n"
        return response(event * (4 * probe.MAX_BODY_BYTES // len(event)), STREAM)

    with canned(flood) as server:
        check(target(server.url), "chat", "m", None, ignore_eos=False)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"null", b'{"data": []}', b'{"data": [{}]}', b"no JSON", b'{"data": 3}']
)
def test_an_endpoint_that_lists_no_model(body):
    with canned(response(body, "application/json")) as server, pytest.raises(EndpointError) as caught:
        find_model(target(server.url), "chat", KEY)
    assert caught.value.error_class == "no-model"
    assert str(caught.value).startswith(f"--model: not given, and {server.url}/models lists none (status 200: ")


def test_a_key_that_is_missing_is_asked_for_where_the_models_are_listed():
    refused = response(b'{"error":{"message":"no key"}}', "application/json", "401 Unauthorized")
    with canned(refused) as server, pytest.raises(EndpointError) as caught:
        find_model(target(server.url), "chat", None)
    assert "status 401: no key; is OPENAI_API_KEY set to a key of this endpoint?" in str(caught.value)


def test_an_answer_without_an_end_is_given_up_after_the_users_limit():
    stalls = ("--fault", "stall-mid-stream", "--stall", "60s")
    with serve("--step", "1ms", *stalls) as endless, pytest.raises(EndpointError) as caught:
        check(target(endless.url), "chat", "sim", None, ignore_eos=False, timeout_s=0.5)
    assert caught.value.error_class == "timeout-total"
    assert "did not answer in full within 0.5 s" in str(caught.value)


@pytest.fixture(scope="module")
def server_tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


def test_a_certificate_that_nobody_trusts(server_tls, certificate):
    with canned(response(GOOD), server_tls) as server:
        kind, words = refusal(server.url)
        assert kind == "tls-certificate"
        assert words.startswith("the certificate of 127.0.0.1 is not trusted: ")
        assert "--tls-ca FILE names one to trust" in words
        check(target(server.url, tls_ca=str(certificate[0])), "chat", "m", KEY, ignore_eos=False)
        check(target(server.url, insecure=True), "chat", "m", KEY, ignore_eos=False)


def test_a_certificate_for_another_name_or_of_another_day_is_not_mended_by_trusting_more(authority):
    for context, why, way in (
        (
            authority.server_context("elsewhere.example"),
            "127.0.0.1",
            "(give --url with a name that it is for, or --insecure)",
        ),
        (authority.server_context("127.0.0.1", expired=True), "expired", "(--insecure does not ask)"),
    ):
        with canned(response(GOOD), context) as server, pytest.raises(EndpointError) as caught:
            check(target(server.url, tls_ca=str(authority.ca_file)), "chat", "m", KEY, ignore_eos=False)
        words = str(caught.value)
        assert words.startswith("the certificate of 127.0.0.1 is not trusted: ")
        assert why in words.partition("trusted: ")[2]
        assert words.endswith(way)


def test_https_where_http_is_spoken(served):
    kind, words = refusal(served.url.replace("http://", "https://"))
    assert kind == "tls"
    assert "is it http://?" in words


def test_http_where_https_is_spoken(server_tls):
    with canned(response(GOOD), server_tls) as server:
        kind, words = refusal(server.url.replace("https://", "http://"))
    assert kind == "bad-http"
    assert "broke off" in words
    assert "is it https://?" in words


# what else the one request tells


def wants(request: bytes) -> dict:
    body: dict = json.loads(request.partition(b"\r\n\r\n")[2])
    return body


def picky(request: bytes) -> bytes:
    """As Bedrock's models behind a gateway are: 400 for a field that they do not know."""
    if "stream_options" in wants(request):
        return response(b'{"message":"stream_options is not supported"}', "application/json", "400 Bad Request")
    return response(GOOD)


def test_an_endpoint_that_refuses_stream_options_is_asked_without_them():
    with canned(picky) as server:
        checked = check(target(server.url), "chat", "m", KEY, ignore_eos=False)
    assert not checked.takes_stream_options
    assert ["stream_options" in wants(request) for request in server.requests] == [True, False]
    with canned(response(GOOD)) as server:
        assert check(target(server.url), "chat", "m", KEY, ignore_eos=False).takes_stream_options
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "api", "asked"),
    [("400 Bad Request", "chat", 2), ("422 No", "chat", 2), ("401 No", "chat", 1), ("404 No", "chat", 1),
     ("429 No", "chat", 1), ("500 No", "chat", 1), ("400 Bad Request", "messages", 1)],
)  # fmt: skip
def test_what_stream_options_are_no_reason_for_is_not_tried_again(status, api, asked):
    with canned(response(b'{"error":"the first words"}', "application/json", status)) as server:
        kind, words = refusal(server.url, api=api)
        assert len(server.requests) == asked
    assert kind == f"http-{status[:3]}"
    assert "the first words" in words


def test_the_name_of_the_limit_on_tokens_is_suggested_where_the_server_wants_another():
    words = b'{"error":{"message":"Unsupported parameter: use max_completion_tokens instead."}}'
    with canned(response(words, "application/json", "400 Bad Request")) as server:
        assert refusal(server.url)[1].endswith("(give --max-tokens-field max_completion_tokens)")


def test_a_model_that_thinks_in_secret_shows_by_its_count_that_it_works():
    cut = (
        b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
        b'data: {"choices":[],"usage":{"completion_tokens":8}}\n\ndata: [DONE]\n\n'
    )
    with canned(response(cut)) as server:
        checked = check(target(server.url), "chat", "m", KEY, ignore_eos=False)
    assert checked.answer.output_tokens == 8


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("normal")])
def test_every_api_is_checked_with_its_own_words(case):
    told = CASES[case]
    with canned(response(told.body, told.content_type)) as server:
        where = target(server.url.removesuffix("/v1"), told.api)
        checked = check(where, told.api, "m", KEY, ignore_eos=False)
    assert checked.answer.output_tokens == told.counts[1]
    (request,) = server.requests
    assert wants(request) | {"stream": True} != {"stream": True}
    assert request.split(b" ")[1].decode() == where.path


@pytest.mark.parametrize(
    ("api", "field"),
    [
        ("chat", "Authorization: Bearer"),
        ("messages", "x-api-key:"),
        ("azure", "api-key:"),
        ("gemini", "x-goog-api-key:"),
        ("vertex", "Authorization: Bearer"),
        ("databricks", "Authorization: Bearer"),
        ("databricks-messages", "Authorization: Bearer"),
    ],
)
def test_every_api_has_a_header_of_its_own_for_the_key(api, field):
    with canned(response(b"", "", "401 Unauthorized")) as server:
        where = target(server.url.removesuffix("/v1"), api)
        with pytest.raises(EndpointError) as caught:
            check(where, api, "m", KEY, ignore_eos=False)
    assert f"\r\n{field} {KEY}\r\n".encode() in server.requests[0]
    assert server.requests[0].count(KEY.encode()) == 1
    variables = " or ".join(DIALECTS[api].key_variables)
    assert str(caught.value).endswith(f"(is {variables} set to a key of this endpoint?)")
    if api.endswith("messages"):
        assert b"\r\nanthropic-version: 2023-06-01\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("api", "listed", "line", "model"),
    [
        ("chat", {"data": [{"id": "a"}, {"id": "b"}]}, "GET /v1/models", "a"),
        ("messages", {"data": [{"id": "claude"}]}, "GET /v1/models", "claude"),
        ("ollama", {"models": [{"name": "l:1b"}]}, "GET /api/tags", "l:1b"),
        ("ollama-generate", {"models": [{"name": "l:1b"}]}, "GET /api/tags", "l:1b"),
        ("tgi", {"model_id": "org/m"}, "GET /info", "org/m"),
        ("sglang", {"data": [{"id": "q"}]}, "GET /v1/models", "q"),
        ("llamacpp", {"data": [{"id": "q.gguf"}]}, "GET /v1/models", "q.gguf"),
        ("triton", [{"name": "postprocessing"}, {"name": "ensemble"}], "POST /v2/repository/index", "ensemble"),
        ("gemini", {"models": [{"name": "models/e", "supportedGenerationMethods": ["embedContent"]},
                               {"name": "models/g"}]}, "GET /v1beta/models", "g"),
        ("embeddings", {"data": [{"id": "e"}]}, "GET /v1/models", "e"),
    ],
)  # fmt: skip
def test_the_models_are_listed_as_each_api_lists_them(api, listed, line, model):
    with canned(response(json.dumps(listed).encode(), "application/json")) as server:
        where = target(server.url.removesuffix("/v1"), api, model=None)
        assert find_model(where, api, KEY) == model
    assert server.requests[0].startswith(f"{line} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("api", ["chat", "sglang", "gemini", "ollama"])
def test_the_check_tells_at_which_pace_an_answer_came(api):
    with serve("--ttft", "300ms", "--step", "100ms", "--role-event", "early") as simulator:
        url = simulator.url if api == "chat" else simulator.root
        pace = check(target(url, api), api, "sim", KEY, ignore_eos=False).pace
        simulator.stop()
        (answered,) = [row for row in simulator.truth().to_pylist() if row["output_tokens"]]
    assert pace.tokens == probe.MAX_OUTPUT_TOKENS == answered["output_tokens"]
    # The client may be late, by as much as the machine is busy, and never early.
    true_s = [(answered["event_ns"][k] - answered["request_read_ns"]) / 1e9 for k in (0, -1)]
    assert pace.first_s >= true_s[0] >= 0.3
    assert pace.last_s >= true_s[1]
    assert pace.last_s - pace.first_s > 0


@pytest.mark.parametrize("api", ["sglang", "tgi", "llamacpp"])
def test_an_api_that_needs_no_model_is_measured_without_one(api):
    with canned(response(b"no", "", "404 Not Found")) as server:
        assert find_model(target(server.url, api, model=None), api, KEY) == probe.NAMELESS


def test_an_api_that_lists_no_models_wants_one():
    with pytest.raises(EndpointError, match=r"^--model: not given, and the azure API lists none$"):
        find_model(target("http://127.0.0.1:9", "azure", model=None), "azure", KEY)


@pytest.mark.parametrize(
    ("status", "body", "api"),
    [
        ("200 OK", b'{"name":"e","task":"llm/v1/completions"}', "databricks-completions"),
        ("200 OK", b'{"name":"e","task":"llm/v1/chat"}', "databricks"),
        ("200 OK", b'{"name":"e","task":"something/new"}', "databricks"),
        ("200 OK", b'{"name":"e"}', "databricks"),
        ("200 OK", b"[1]", "databricks"),
        ("403 Forbidden", b'{"message":"no"}', "databricks"),
    ],
)
def test_an_endpoint_of_databricks_says_by_its_task_what_it_speaks(status, body, api):
    with canned(response(body, "application/json", status)) as server:
        where = target(server.url.removesuffix("/v1"), "databricks", model="my e")
        assert probe.find_api(where, DIALECTS["databricks"], "my e", fields("databricks", KEY)) == api
    assert server.requests[0].startswith(b"GET /api/2.0/serving-endpoints/my%20e HTTP/1.1\r\n")


def test_an_endpoint_whose_url_says_it_all_is_not_asked():
    where = target("http://127.0.0.1:9", "chat")
    assert probe.find_api(where, DIALECTS["chat"], "m") == "chat"


def test_the_images_of_the_load_are_tried_too():
    with canned(response(GOOD)) as server:
        check(target(server.url), "chat", "m", KEY, ignore_eos=False, images=("data:image/png;base64,AA",))
    assert wants(server.requests[0])["messages"][0]["content"][1]["image_url"] == {"url": "data:image/png;base64,AA"}
