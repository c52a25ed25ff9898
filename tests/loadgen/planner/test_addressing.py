import pytest
from asked import spec
from planned import parsed

from loadgen import planner
from loadgen.dialects.credentials import Credentials
from loadgen.errors import UsageError

WITH_KEY = Credentials("sk-1")


def where(url: str, api: str = "chat") -> tuple[str, int, bool, str]:
    target = planner.endpoint(planner.resolved(spec(url=url, api=api)))
    return target.host, target.port, target.tls, target.path


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path"),
    [
        ("http://h", "h", 80, False, "/v1/chat/completions"),
        ("http://h/", "h", 80, False, "/v1/chat/completions"),
        ("http://h:8000", "h", 8000, False, "/v1/chat/completions"),
        ("https://h", "h", 443, True, "/v1/chat/completions"),
        ("https://h:8443/v1", "h", 8443, True, "/v1/chat/completions"),
        ("http://h/v1/", "h", 80, False, "/v1/chat/completions"),
        ("http://h/serving-endpoints", "h", 80, False, "/serving-endpoints/chat/completions"),
        ("http://h/openai/v1/chat/completions", "h", 80, False, "/openai/v1/chat/completions"),
        ("http://h/chat/completions/", "h", 80, False, "/chat/completions"),
        ("https://h/v1?api-version=2", "h", 443, True, "/v1/chat/completions?api-version=2"),
        ("http://h/v1/chat/completions?a=b&c=d", "h", 80, False, "/v1/chat/completions?a=b&c=d"),
        ("http://[::1]:8000/v1", "::1", 8000, False, "/v1/chat/completions"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, True, "/v1/chat/completions"),
    ],
)
def test_a_url_is_a_base_or_the_whole_path(url, host, port, tls, path):
    assert where(url) == (host, port, tls, path)
    as_completions = url.replace("/chat/completions", "/completions")
    assert where(as_completions, "completions") == (host, port, tls, path.replace("/chat/completions", "/completions"))


@pytest.mark.parametrize(("api", "other"), [("chat", "completions"), ("completions", "chat")])
def test_the_whole_path_of_another_api_is_refused(api, other):
    path = {"chat": "/chat/completions", "completions": "/completions"}[other]
    with pytest.raises(
        UsageError, match=rf"^--api: {api} does not go .* ends as that of {other} does; give --api {other}$"
    ):
        planner.resolved(spec(url=f"http://h/v1{path}", api=api))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://h", "h"),
        ("http://h:80", "h"),
        ("http://h:443", "h:443"),
        ("https://h", "h"),
        ("https://h:80", "h:80"),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_the_host_field_leaves_out_the_schemes_own_port(url, host):
    assert parsed(planner.head(spec(url=url), planner.endpoint(spec(url=url))) + b"\r\n\r\n")[1]["host"] == host


def head_fields(asked, credentials: Credentials = WITH_KEY) -> dict[str, str]:
    return parsed(planner.head(asked, planner.endpoint(asked), credentials) + b"\r\n\r\n")[1]


@pytest.mark.parametrize(
    ("api", "accept"),
    [("chat", "text/event-stream"), ("ollama", "application/x-ndjson"), ("embeddings", "application/json")],
)
def test_what_is_accepted_is_what_the_api_sends(api, accept):
    fields = head_fields(spec(api=api))
    assert (fields["accept"], fields["accept-encoding"]) == (accept, "identity")


def test_the_users_headers_come_last_and_replace_those_of_the_same_name():
    asked = spec(header=(("accept", "x/y"), ("X-Trace", "7"), ("Host", "other")))
    secret = Credentials("sk-1", (("authorization", "Basic abc"),))
    fields = head_fields(asked, secret)
    assert (fields["accept"], fields["x-trace"], fields["host"], fields["authorization"]) == (
        "x/y", "7", "other", "Basic abc",
    )  # fmt: skip


def test_each_api_has_its_key_in_its_own_header():
    assert head_fields(spec(api="messages"))["x-api-key"] == "sk-1"
    assert head_fields(spec(api="messages"))["anthropic-version"] == "2023-06-01"
    assert head_fields(spec(api="azure"))["api-key"] == "sk-1"
    assert "authorization" not in head_fields(spec(api="gemini"))


@pytest.mark.parametrize("key", ["kéy", "two\nlines", "sk-1\r", "sk\x00", "sk\t1"])
def test_a_key_that_http_cannot_send_is_refused_without_being_shown(key):
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        planner.head(spec(), planner.endpoint(spec()), Credentials(key))
    assert key not in str(caught.value)
