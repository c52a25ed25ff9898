"""Which API a URL belongs to, and what its requests' path is."""

import sys
from pathlib import Path

import pytest
from asked import spec

from loadgen import planner
from loadgen.dialects import DIALECTS, find
from loadgen.errors import UsageError


def where(url: str, api: str = "auto", model: str | None = "sim") -> tuple[str, str]:
    """(the API, the path)."""
    resolved = planner.resolved(spec(url=url, api=api, model=model))
    return resolved.api, planner.endpoint(resolved).path


AZURE = "https://res.openai.azure.com"
GEMINI = "https://generativelanguage.googleapis.com"
VERTEX = "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/publishers/google/models"
DATABRICKS = "https://w.cloud.databricks.com"


@pytest.mark.parametrize(
    ("url", "api", "path"),
    [
        ("http://h:8000", "chat", "/v1/chat/completions"),
        ("https://api.openai.com", "chat", "/v1/chat/completions"),
        ("https://api.groq.com/openai/v1/chat/completions", "chat", "/openai/v1/chat/completions"),
        ("http://h/v1/completions", "completions", "/v1/completions"),
        ("http://h/v1/responses", "responses", "/v1/responses"),
        ("http://h/v1/embeddings", "embeddings", "/v1/embeddings"),
        ("http://h/v1/messages", "messages", "/v1/messages"),
        ("https://api.anthropic.com", "messages", "/v1/messages"),
        ("https://api.anthropic.com/v1", "messages", "/v1/messages"),
        (AZURE, "azure", "/openai/deployments/sim/chat/completions?api-version=2024-10-21"),
        (
            f"{AZURE}/openai/deployments/d/chat/completions?api-version=2023-05-15",
            "azure",
            "/openai/deployments/d/chat/completions?api-version=2023-05-15",
        ),
        (
            "http://h/openai/deployments/d/completions",
            "azure-completions",
            "/openai/deployments/d/completions?api-version=2024-10-21",
        ),
        (f"{AZURE}/openai/v1", "azure-v1", "/openai/v1/chat/completions"),
        (f"{AZURE}/openai/v1/chat/completions", "azure-v1", "/openai/v1/chat/completions"),
        (DATABRICKS, "databricks", "/serving-endpoints/sim/invocations"),
        (f"{DATABRICKS}/serving-endpoints/e/invocations", "databricks", "/serving-endpoints/e/invocations"),
        (f"{DATABRICKS}/serving-endpoints", "databricks-openai", "/serving-endpoints/chat/completions"),
        ("http://h/serving-endpoints/chat/completions", "databricks-openai", "/serving-endpoints/chat/completions"),
        ("http://h/ai-gateway/mlflow/v1", "databricks-openai", "/ai-gateway/mlflow/v1/chat/completions"),
        ("http://h/serving-endpoints/anthropic", "databricks-messages", "/serving-endpoints/anthropic/v1/messages"),
        ("http://h/serving-endpoints/embeddings", "databricks-embeddings", "/serving-endpoints/embeddings"),
        ("http://h:30000/generate", "sglang", "/generate"),
        ("http://h/generate_stream", "tgi", "/generate_stream"),
        ("http://h/v2/models/m/generate_stream", "triton", "/v2/models/m/generate_stream"),
        ("http://h/v2/models/m/versions/1/generate_stream", "triton", "/v2/models/m/versions/1/generate_stream"),
        ("http://h:11434/api/chat", "ollama", "/api/chat"),
        ("http://h:11434/api/generate", "ollama-generate", "/api/generate"),
        ("http://h:8080/completion", "llamacpp", "/completion"),
        (GEMINI, "gemini", "/v1beta/models/sim:streamGenerateContent?alt=sse"),
        (f"{GEMINI}/v1beta", "gemini", "/v1beta/models/sim:streamGenerateContent?alt=sse"),
        (f"{GEMINI}/v1/models/g-2.0:streamGenerateContent?key=x", "gemini",
         "/v1/models/g-2.0:streamGenerateContent?key=x&alt=sse"),
        (f"{VERTEX}/g:streamGenerateContent?alt=sse", "vertex", VERTEX[36:] + "/g:streamGenerateContent?alt=sse"),
    ],
)  # fmt: skip
def test_the_url_tells_the_api(url, api, path):
    assert where(url) == (api, path)


@pytest.mark.parametrize(
    ("api", "url", "path"),
    [
        ("messages", "http://h", "/v1/messages"),
        ("messages", "http://h/v1", "/v1/messages"),
        ("messages", "http://h/anthropic", "/anthropic/v1/messages"),
        ("sglang", "http://h:30000", "/generate"),
        ("tgi", "http://h/behind/a/proxy", "/behind/a/proxy/generate_stream"),
        ("triton", "http://h", "/v2/models/sim/generate_stream"),
        ("ollama", "http://h:11434", "/api/chat"),
        ("ollama", "http://h:11434/api", "/api/chat"),
        ("ollama-generate", "http://h/x/api", "/x/api/generate"),
        ("llamacpp", "http://h", "/completion"),
        ("gemini", "http://h", "/v1beta/models/sim:streamGenerateContent?alt=sse"),
        ("databricks", "http://h", "/serving-endpoints/sim/invocations"),
        ("databricks-completions", "http://h/serving-endpoints/e/invocations", "/serving-endpoints/e/invocations"),
        ("azure", "http://h", "/openai/deployments/sim/chat/completions?api-version=2024-10-21"),
        ("azure", "http://h/openai", "/openai/deployments/sim/chat/completions?api-version=2024-10-21"),
        ("azure-v1", "http://h", "/openai/v1/chat/completions"),
        ("chat", "http://h/chat", "/chat/chat/completions"),
        ("embeddings", "http://h", "/v1/embeddings"),
    ],
)
def test_a_base_is_completed_as_the_api_wants_it(api, url, path):
    assert where(url, api) == (api, path)


def test_a_models_name_is_quoted_where_it_stands_in_the_path():
    assert where("http://h", "gemini", "a b/c?")[1] == "/v1beta/models/a%20b%2Fc%3F:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (f"{AZURE}/openai/deployments/my%20d/chat/completions", "my d"),
        ("http://h/serving-endpoints/e/invocations", "e"),
        ("http://h/v2/models/m/generate_stream", "m"),
        (f"{GEMINI}/v1beta/models/g-2.5-flash:streamGenerateContent", "g-2.5-flash"),
        ("http://h/v1/chat/completions", None),
    ],
)
def test_a_url_that_names_the_model_need_not_be_told_it(url, model):
    assert planner.resolved(spec(url=url, api="auto", model=None)).model == model


def test_as_long_as_the_model_is_not_known_the_path_keeps_its_place():
    resolved = planner.resolved(spec(url="http://h", api="triton", model=None))
    assert planner.endpoint(resolved).path == "/v2/models/{model}/generate_stream"


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("chat", "/v1"), ("completions", "/v1"), ("responses", "/v1"), ("messages", ""), ("sglang", ""), ("tgi", ""),
        ("ollama", ""), ("ollama-generate", "/x"), ("llamacpp", ""), ("gemini", ""), ("triton", ""), ("embeddings", "/v1"),
    ],
)  # fmt: skip
def test_models_are_listed_beside_the_route(api, path):
    dialect = DIALECTS[api]
    request_path = dialect.path(path)
    listed = dialect.listing_path(request_path)
    assert listed.startswith(path + "/")
    assert listed.removeprefix(path) == ("/models" if path == "/v1" else dialect.listing.path)
    assert dialect.listing_path(dialect.path_to(request_path, "m")) == listed


@pytest.mark.parametrize(
    ("api", "url", "words"),
    [
        ("images", "http://h", "--api: 'images' is not known; allowed is auto, chat, completions, responses, azure"),
        ("chat", "http://h/v1/messages", "ends as that of messages does; give --api messages"),
        ("sglang", "http://h/generate_stream", "give --api tgi"),
        ("tgi", "http://h/generate", "give --api sglang"),
        ("ollama", "http://h/api/generate", "give --api ollama-generate"),
    ],
)
def test_an_api_that_is_none_or_of_another_url_is_refused(api, url, words):
    with pytest.raises(UsageError, match=r"^--api: ") as caught:
        where(url, api)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"ignore_eos": True, "api": "messages"}, "--ignore-eos"),
        ({"image": ("8x8",), "api": "completions"}, "--image"),
        ({"image": ("https://h/a.png",), "api": "ollama"}, "--image"),
        ({"usage": "continuous", "api": "gemini"}, "--usage"),
        ({"turns": "2", "api": "embeddings"}, "--turns"),
        ({"cancel": "20", "api": "embeddings"}, "--cancel"),
        ({"inputs": 2, "api": "chat"}, "--inputs"),
    ],
)
def test_what_an_api_cannot_do_is_refused_before_anything_is_called(changes, flag):
    with pytest.raises(UsageError, match=rf"^{flag}: the {changes['api']} API "):
        planner.resolved(spec(**changes))


def test_the_documentation_names_every_api():
    page = (Path(__file__).parents[3] / "docs" / "dialects.md").read_text()
    for name, dialect in DIALECTS.items():
        assert f"`{name}`" in page
        assert dialect.key_variables[0] in page


# dialects of other packages

PACKAGE = """
from dataclasses import replace
from loadgen.dialects import chat
DIALECT = replace(chat.DIALECT, name="mine", route="/talk", root="")
WRONG = 3
"""


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A package with three entry points, as pip leaves it behind."""
    (tmp_path / "their_dialects.py").write_text(PACKAGE)
    info = tmp_path / "their_dialects-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-dialects\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[loadgen.dialects]\nmine = their_dialects:DIALECT\nwrong = their_dialects:WRONG\nbroken = no_such_module:DIALECT\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("their_dialects", None)


def test_a_package_adds_a_dialect_through_an_entry_point(installed):
    assert find("mine").name == "mine"
    assert where("http://h/base", "mine") == ("mine", "/base/talk")


@pytest.mark.parametrize(
    ("api", "words"),
    [
        ("wrong", "their_dialects:WRONG of 'wrong' is no loadgen.dialects.dialect.Dialect"),
        ("broken", "no_such_module:DIALECT of 'broken' cannot be loaded (ModuleNotFoundError"),
        ("other", "'other' is not known; allowed is auto, chat,"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_told_in_one_sentence(installed, api, words):
    with pytest.raises(UsageError) as caught:
        find(api)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    if api == "other":
        assert "broken, mine, wrong" in str(caught.value)
