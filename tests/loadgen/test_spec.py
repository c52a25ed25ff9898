import json

import pytest
from asked import spec
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.spec import check, default_warmup_s, parse_cpus, parse_levels, parse_slo


def refusal(**changes) -> str:
    with pytest.raises(UsageError) as caught:
        check(spec(**changes))
    assert caught.value.exit_status == 2
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    return words


def test_a_good_spec_is_given_back_as_it_is():
    asked = spec()
    assert check(asked) is asked


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "--url", "did you mean http://127.0.0.1:8000?"),
        ({"url": "h/v1"}, "--url", "has no scheme or host"),
        ({"url": "ftp://h"}, "--url", "allowed is http://HOST"),
        ({"url": "http://"}, "--url", "has no scheme or host"),
        ({"url": "http://h:port"}, "--url", "is no URL"),
        ({"url": "http://h:70000"}, "--url", "is no URL"),
        ({"url": "http://h:0"}, "--url", "port 0"),
        ({"url": "http://[::1"}, "--url", "is no URL"),
        ({"url": "http://h/v1 "}, "--url", "no white space"),
        ({"url": "http://h/\x00"}, "--url", "no control characters"),
        ({"url": "http://h\r\nHost: x/"}, "--url", "no control characters"),
        ({"url": "http://user:key@h"}, "--url", "set OPENAI_API_KEY instead"),
        ({"url": f"http://{'a' * 64}.org"}, "--url", "is no host name"),
        ({"api": "images"}, "--api", "allowed is chat, completions"),
        ({"transport": "udp"}, "--transport", "allowed is auto, kernel, aiohttp"),
        ({"model": ""}, "--model", "the name is empty"),
        ({"model": "\udcff"}, "--model", "allowed is UTF-8"),
        ({"concurrency": ()}, "--concurrency", "no level given"),
        ({"concurrency": (4, 0)}, "--concurrency", "0 is too small; allowed are whole numbers from 1"),
        ({"concurrency": (-3,)}, "--concurrency", "-3 is too small"),
        ({"concurrency": (1 << 40,)}, "--concurrency", "is too large; allowed are whole numbers up to"),
        ({"concurrency": (1,) * 2000}, "--concurrency", "2000 levels are too many"),
        ({"requests": 0}, "--requests", "0 is too small"),
        ({"requests": -1}, "--requests", "-1 is too small"),
        ({"requests": 1 << 33}, "--requests", "is too large"),
        ({"requests": None}, "--requests, --duration", "give one of the two"),
        ({"duration_s": 1.0}, "--requests, --duration", "give one of the two"),
        ({"requests": None, "duration_s": 0.0}, "--duration", "must be above 0"),
        ({"requests": None, "duration_s": float("nan")}, "--duration", "must be above 0"),
        ({"input_tokens": 0}, "--input-tokens", "0 is too small"),
        ({"input_tokens": 1 << 40}, "--input-tokens", "is too large"),
        ({"output_tokens": -5}, "--output-tokens", "-5 is too small"),
        ({"output_tokens": 1 << 70}, "--output-tokens", "is too large"),
        ({"seed": -1}, "--seed", "allowed is 0 to 2^63 - 1"),
        ({"seed": 1 << 63}, "--seed", "out of range"),
        ({"workers": 0}, "--workers", "0 is too small"),
        ({"connect_timeout_s": 0.0}, "--connect-timeout", "must be above 0"),
        ({"timeout_s": -1.0}, "--timeout", "must be above 0"),
        ({"proxy": "proxy:3128"}, "--proxy", "did you mean http://proxy:3128?"),
        ({"proxy": "https://p"}, "--proxy", "allowed is http://HOST"),
        ({"proxy": "http://p", "transport": "kernel"}, "--proxy", "use --transport aiohttp or auto"),
        ({"url": "https://h", "insecure": True, "tls_ca": "ca.pem"}, "--insecure, --tls-ca", "one of the two"),
        ({"insecure": True}, "--tls-ca, --insecure", "for https:// URLs"),
        ({"url": "https://h", "tls_ca": "/no/such.pem"}, "--tls-ca", "No such file or directory"),
        ({"url": "https://h", "tls_ca": __file__}, "--tls-ca", "no certificate is in it"),
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_run_is_refused_by_the_name_of_its_field(changes, field, words):
    said = refusal(**changes)
    assert said.startswith(f"{field}:")
    assert words in said


@pytest.mark.parametrize(
    "url", ["http://h", "https://h/v1", "http://[::1]:8000/v1?x=1", "http://127.0.0.1:65535/", "http://Bücher.example"]
)
def test_a_url_with_scheme_and_host_is_taken(url):
    check(spec(url=url))


def test_run_json_holds_every_field_and_no_password():
    asked = spec(proxy="http://user:pass-word@proxy:3128")
    told = asked.to_json()
    assert told["proxy"] == "http://***@proxy:3128"
    assert "pass-word" not in json.dumps(told)
    assert told.keys() == {name for name in dir(asked) if name in type(asked).__dataclass_fields__}


@given(st.lists(st.integers(-5, 5000), min_size=1))
def test_levels_are_read_as_they_are_written(levels):
    assert parse_levels("--concurrency", ",".join(map(str, levels))) == tuple(levels)


@pytest.mark.parametrize("text", ["1,x", "1.5", "one", "1;2", "0x10"])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(UsageError, match=r"^--concurrency: .* is no list of whole numbers"):
        parse_levels("--concurrency", text)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", (0,)), ("1-3,6", (1, 2, 3, 6)), (" 2 , 0-1", (2, 0, 1)), ("1,1-2", (1, 2))]
)
def test_cpus_are_numbers_and_ranges(text, cpus):
    assert parse_cpus("--cpus", text) == cpus


@pytest.mark.parametrize("text", ["", "3-1", "-1", "1,,2", "all", "1-2-3"])
def test_what_is_no_list_of_cpus_is_refused(text):
    with pytest.raises(UsageError, match=r"^--cpus: .* is no list of CPUs; allowed is for example 1-3,6"):
        parse_cpus("--cpus", text)


def test_an_objective_is_a_metric_perhaps_a_percentile_and_a_duration():
    assert parse_slo("--slo", "ttft=500ms, tpot:p95=50ms,itl:p99.9=2s,e2e=1m") == {
        "ttft": {"percentile": None, "limit_ms": 500.0},
        "tpot": {"percentile": 95.0, "limit_ms": 50.0},
        "itl": {"percentile": 99.9, "limit_ms": 2000.0},
        "e2e": {"percentile": None, "limit_ms": 60000.0},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no objective"),
        ("ttft", "is no objective"),
        ("speed=1s", "ttft, tpot, itl, e2e"),
        ("ttft=fast", "is no duration"),
        ("ttft=0", "must be above 0"),
        ("ttft:p0=1s", "is no percentile"),
        ("ttft:p101=1s", "is no percentile"),
    ],
)
def test_anything_else_is_no_objective(text, words):
    with pytest.raises(UsageError) as caught:
        parse_slo("--slo", text)
    assert str(caught.value).startswith("--slo: ")
    assert words in str(caught.value)


def test_the_warm_up_is_a_tenth_at_most_ten_seconds_and_none_where_requests_are_counted():
    assert default_warmup_s(30.0) == 3.0
    assert default_warmup_s(600.0) == 10.0
    assert default_warmup_s(None) == 0.0
