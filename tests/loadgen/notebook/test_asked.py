"""Keyword arguments as Python has them -> the Spec that flags would give, and refusals without flags in them."""

import datetime
from typing import Any

import numpy as np
import pytest
from asked import spec_of_flags

from loadgen.errors import UsageError
from loadgen.notebook.asked import in_python, seconds, spec_of
from loadgen.spec import Spec

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def asked(**settings: Any) -> Spec:
    return spec_of({"url": URL, "seed": 1} | settings, None, {})


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"concurrency": [1, 2, 4]}, {"concurrency": "1,2,4"}),
        ({"concurrency": (1, 2, 4)}, {"concurrency": "1,2,4"}),
        ({"concurrency": range(1, 4)}, {"concurrency": "1,2,3"}),
        ({"concurrency": np.array([1, 8])}, {"concurrency": "1,8"}),
        ({"concurrency": "1..8x2"}, {"concurrency": "1,2,4,8"}),
        ({"concurrency": ["1..4x2", 16]}, {"concurrency": "1,2,4,16"}),
        ({"rate": np.float64(2.5)}, {"rate": "2.5"}),
        ({"duration": "2m"}, {"duration": "2m"}),
        ({"duration": 1.5, "drain": 3}, {"duration": "1500ms", "drain": "3s"}),
        ({"duration": datetime.timedelta(minutes=1)}, {"duration": "60s"}),
        ({"requests": np.int64(7), "warmup_requests": None}, {"requests": "7"}),
        ({"think": 0.5, "turns": 3, "sessions": 2}, {"think": "500ms", "turns": "3", "sessions": "2"}),
        ({"rate": 4, "late": 0.05}, {"rate": "4", "late": "drop:50ms"}),
        ({"rate": 4, "late": "drop:50ms"}, {"rate": "4", "late": "drop:50ms"}),
        ({"slo": {"ttft:p99": "500ms", "tpot": 0.05}}, {"slo": "ttft:p99=500ms,tpot=50ms"}),
        ({"slo": {"ttft": {"percentile": 99, "limit_ms": 500}}}, {"slo": "ttft:p99=500ms"}),
        ({"proxy": "http://p:1", "transport": "aiohttp"}, {"proxy": "http://p:1", "transport": "aiohttp"}),
        ({"ignore_eos": True, "cooldown": 2}, {"ignore_eos": True, "cooldown": "2s"}),
    ],
    ids=str,
)
def test_values_of_python_mean_what_the_flags_mean(settings, flags):
    assert asked(**settings) == spec_of_flags({"url": URL, "seed": 1} | flags)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"concurency": 3}, "concurency: there is no such setting; did you mean concurrency?"),
        ({"duration": "soon"}, "duration: 'soon' is no duration"),
        ({"duration": True}, "duration: true is no duration"),
        ({"warmup": [1]}, "warmup: a list is no duration"),
        ({"duration": "1s", "duration_s": 2}, "duration_s: this is given twice, as duration too"),
        ({"slo": {"speed": "1s"}}, "slo: 'speed' is no objective"),
        pytest.param({"workers": object()}, "workers: ", id="workers: an object"),
        ({"api_keys": "sk-secret"}, "api_keys: "),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_by_the_name_of_the_argument(settings, words):
    with pytest.raises(UsageError) as caught:
        asked(**settings)
    assert str(caught.value).startswith(words)
    assert "sk-secret" not in str(caught.value)


def test_a_refusal_speaks_of_arguments():
    assert in_python("--warmup-requests, --out: no") == "warmup_requests, out: no"
    assert in_python("try --no-such-thing and `a--b`") == "try --no-such-thing and `a--b`"


def test_a_url_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there:1/v1")
    assert spec_of({}, None, {}).url == "http://there:1/v1"
    assert asked().url == URL


def test_an_endpoint_of_databricks_is_named(monkeypatch):
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    with pytest.raises(UsageError, match=r"^databricks_endpoint: DATABRICKS_HOST is not set"):
        _refused_in_python(databricks_endpoint="llama")
    monkeypatch.setenv("DATABRICKS_HOST", "https://w.cloud.databricks.com")
    found = spec_of({"databricks_endpoint": "llama"}, None, {})
    assert found.url == "https://w.cloud.databricks.com/serving-endpoints/llama/invocations"
    with pytest.raises(UsageError, match=r"^databricks_endpoint, url: give one of the two"):
        asked(databricks_endpoint="llama")


def _refused_in_python(**settings: Any) -> None:
    try:
        spec_of(settings, None, {})
    except UsageError as error:
        raise UsageError(in_python(str(error))) from None


def test_settings_win_over_a_spec_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('url = "http://there:1"\noutput_tokens = 3\nduration = "9s"\n')
    found = spec_of({"duration": 2}, file, {})
    assert (found.url, found.output_tokens.text, found.stages[0].duration_s) == ("http://there:1", "3", 2.0)


@pytest.mark.parametrize(("value", "taken"), [("2m", 120.0), (90, 90.0), (np.float32(0.5), 0.5)])
def test_a_budget_is_text_or_seconds(value, taken):
    assert seconds("budget", value) == taken


@pytest.mark.parametrize("value", ["fast", None, [1], True, float("nan"), float("inf"), "nan"])
def test_a_budget_that_is_no_time_is_refused(value):
    with pytest.raises(UsageError, match=r"^budget: "):
        seconds("budget", value)
