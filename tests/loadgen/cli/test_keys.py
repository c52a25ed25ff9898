"""Where the key, the secret headers and the URL come from."""

import io

import click
import pytest
from asked import spec as spec_with
from typed_spec import URL, asked

from loadgen.errors import UsageError
from loadgen.job.environment import credentials

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "DATABRICKS_TOKEN")


@pytest.fixture
def environment(monkeypatch):
    """Set these variables, and none of those that keys come from."""

    def set_to(**variables: str) -> None:
        for name in KEYS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_to()
    return set_to


@pytest.mark.parametrize(
    ("api", "variables", "key"),
    [
        ("chat", {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "other"}, "sk-1"),
        ("chat", {"OPENAI_API_KEY": ""}, None),
        ("chat", {}, None),
        ("messages", {"OPENAI_API_KEY": "other", "ANTHROPIC_API_KEY": "sk-2"}, "sk-2"),
        ("gemini", {"GOOGLE_API_KEY": "g"}, "g"),
        ("gemini", {"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "better"}, "better"),
        ("databricks", {"DATABRICKS_TOKEN": "dapi", "OPENAI_API_KEY": "other"}, "dapi"),
        ("databricks-messages", {"ANTHROPIC_API_KEY": "other"}, None),
    ],
)
def test_each_api_has_a_variable_of_its_own_for_the_key(environment, api, variables, key):
    environment(**variables)
    assert credentials(spec_with(api=api))[0].key == key


def test_the_key_comes_from_another_variable_or_from_a_file_and_never_from_the_command_line(
    environment, tmp_path, monkeypatch
):
    environment(OPENAI_API_KEY="sk-1", MINE="sk-2")
    assert credentials(spec_with(api_key_env="MINE"))[0].key == "sk-2"
    (tmp_path / "key").write_text("  sk-3\n")
    assert credentials(spec_with(api_key_file=str(tmp_path / "key")))[0].key == "sk-3"
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-4\n"))
    assert credentials(spec_with(api_key_file="-"))[0].key == "sk-4"
    with pytest.raises(click.NoSuchOption):
        asked("--url", URL, "--api-key", "sk-1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_key_env": "NOT_SET"}, "--api-key-env: the environment variable NOT_SET is not set"),
        ({"api_key_file": "/no/such"}, r"--api-key-file: '/no/such' cannot be read \(No such file or directory\)"),
        ({"api_key_file": "/dev/null"}, "--api-key-file: '/dev/null' holds no key"),
        ({"api_key_file": __file__}, "holds no key; allowed is a file that holds the key alone"),
        ({"header_env": (("X-A", "NOT_SET"),)}, "--header-env: the environment variable NOT_SET of X-A is not set"),
    ],
)
def test_a_key_that_is_not_where_it_should_be_is_refused(environment, changes, words):
    with pytest.raises(UsageError, match=f"^{words}|{words}"):
        credentials(spec_with(**changes))


def test_headers_from_the_environment_are_secrets(environment):
    environment(OPENAI_API_KEY="sk-1", GATEWAY="a longer secret")
    (held,) = credentials(spec_with(header_env=(("X-Key", "GATEWAY"),)))
    assert held.headers == (("X-Key", "a longer secret"),)
    assert held.secrets == ("a longer secret", "sk-1")
    assert "secret" not in repr(held)
    assert "sk-1" not in repr(held)


def test_an_endpoint_of_databricks_is_found_by_its_name(environment):
    def url(host: str) -> str:
        return asked("--databricks-endpoint", "my endpoint", DATABRICKS_HOST=host).url

    expected = "https://w.cloud.databricks.com/serving-endpoints/my%20endpoint/invocations"
    assert url("https://w.cloud.databricks.com/") == url("w.cloud.databricks.com") == expected
    assert url("http://127.0.0.1:8000").startswith("http://127.0.0.1:8000/serving-endpoints/")
    with pytest.raises(UsageError, match=r"^--databricks-endpoint: DATABRICKS_HOST is not set; allowed is https://"):
        asked("--databricks-endpoint", "e", DATABRICKS_HOST="")
    with pytest.raises(UsageError, match=r"^--databricks-endpoint, --url: give one of the two"):
        asked("--databricks-endpoint", "e", "--url", URL, DATABRICKS_HOST="h")


def test_the_url_may_come_from_the_environment_and_the_flag_wins():
    assert asked(OPENAI_BASE_URL="http://env").url == "http://env"
    assert asked("--url", URL, OPENAI_BASE_URL="http://env").url == URL
    with pytest.raises(UsageError, match=r"^--url: not given, and OPENAI_BASE_URL is not set; allowed is http"):
        asked()
    with pytest.raises(UsageError, match=r"^OPENAI_BASE_URL: 'env' has no scheme or host \(did you mean http://env\?"):
        asked(OPENAI_BASE_URL="env")
