import json
import re

import pytest
from asked import spec, stage_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.spec import default_warmup_s, parse_cancel, plain, spec_of_json
from loadgen.spec.refusals import check


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
        ({"url": "http://h/v1?api-key=abc"}, "--url", "api-key in the URL looks like a secret"),
        ({"url": "http://h/v1?x=1&key=abc"}, "--url", "key in the URL looks like a secret"),
        ({"url": "http://h/v1?sig=abc"}, "--url", "sig in the URL looks like a secret"),
        ({"url": "http://h/v1?x=sk-0123456789"}, "--url", "x in the URL looks like a secret"),
        ({"url": f"http://{'a' * 64}.org"}, "--url", "is no host name"),
        ({"usage": "always"}, "--usage", "allowed is final, continuous, none"),
        ({"max_tokens_field": "a..b"}, "--max-tokens-field", "is no name of a field"),
        ({"api_key_env": "A", "api_key_file": "b"}, "--api-key-env, --api-key-file", "give one of the two"),
        ({"transport": "udp"}, "--transport", "allowed is auto, kernel, aiohttp"),
        ({"model": ""}, "--model", "the name is empty"),
        ({"model": "\udcff"}, "--model", "allowed is UTF-8"),
        ({"stages": ()}, "--concurrency", "no level given"),
        ({"concurrency": ("0..0.4@1s",)}, "--concurrency", "0.4 is no whole number; allowed are whole numbers from 1"),
        ({"concurrency": (4, 0.4)}, "--concurrency", "0.4 is no whole number"),
        ({"concurrency": (1 << 21,)}, "--concurrency", "is too large; allowed are whole numbers up to"),
        ({"concurrency": (1,) * 2000}, "--concurrency", "2000 levels are too many"),
        ({"rate": (1,) * 2000}, "--rate", "2000 levels are too many"),
        ({"rate": 1_000_001}, "--rate", "1000001 is too large; allowed are up to 1000000 arrivals a second"),
        ({"rate": "1..2000000@1s", "duration_s": 1.0}, "--rate", "is too large"),
        ({"rate": 5, "concurrency": 5}, "--concurrency, --rate", "give one of the two"),
        ({"concurrency": 5, "arrivals": "poisson"}, "--arrivals", "arrivals go with --rate"),
        ({"rate": 5, "arrivals": "burst:2@1s"}, "--rate, --arrivals", "burst brings its own rate"),
        ({"rate": 5, "arrivals": f"trace:{__file__}"}, "--rate, --arrivals", "trace brings its own rate"),
        ({"arrivals": "gamma:2"}, "--arrivals", "gamma needs a rate; give --rate with it"),
        (
            {"arrivals": "trace:/no/such"},
            "--arrivals",
            "'/no/such' cannot be read (No such file or directory); allowed",
        ),
        ({"arrivals": "trace:/"}, "--arrivals", "cannot be read (Is a directory)"),
        ({"arrivals": "burst:2@1s", "ramp_up_s": 1.0}, "--ramp-up", "burst brings its own times and has no ramp"),
        ({"concurrency": "1..9@1s"}, "--requests", "a load that changes over time ends with it, or by --duration"),
        ({"rate": "9@1s"}, "--requests", "a load that changes over time ends with it, or by --duration"),
        ({"rate": "1..9@1s", "turns": "3"}, "--sessions", "a load that changes over time ends with it"),
        ({"max_in_flight": 5}, "--max-in-flight", "this is for the open loop"),
        ({"late_drop_s": 0.05}, "--late", "this is for the open loop"),
        ({"rate": 5, "max_in_flight": 0}, "--max-in-flight", "0 is too small"),
        ({"rate": 5, "late_drop_s": -1.0}, "--late", "-1 s is too short; it must be 0 or more"),
        ({"rate": 5, "think": "2s"}, "--think", "requests of an open loop wait for nobody; allowed with --concurrency"),
        ({"sessions": 5}, "--sessions", "there are sessions with --turns only"),
        ({"turns": "3", "requests": 5}, "--requests", "give --sessions instead"),
        ({"turns": "1001"}, "--turns", "1001 is too large; allowed are up to 1000 turns a session"),
        ({"turns": "uniform:1..1001"}, "--turns", "is too large"),
        (
            {"turns": "1000", "sessions": 1 << 23},
            "--sessions",
            "8388608 sessions of up to 1000 turn(s), and the warm-up, are too many",
        ),
        ({"turns": "exp:3", "sessions": 1 << 23}, "--sessions", "are too many; allowed are 4294967296 requests"),
        ({"requests": 1 << 32, "warmup_requests": 1}, "--requests", "and the warm-up, are too many"),
        ({"history": "recorded"}, "--history", "recorded is for sessions; give --turns too"),
        ({"history": "none", "turns": "3"}, "--history", "allowed is real, recorded"),
        ({"warmup_s": 1.0, "warmup_requests": 5}, "--warmup, --warmup-requests", "give one of the two"),
        ({"warmup_requests": -1}, "--warmup-requests", "-1 is too small; allowed are whole numbers from 0"),
        ({"warmup_s": -1.0}, "--warmup", "-1 s is too short; it must be 0 or more"),
        ({"ramp_up_s": float("nan")}, "--ramp-up", "it must be 0 or more"),
        ({"drain_s": 1e9}, "--drain", "is too long; allowed is up to 10000h"),
        ({"prefix_tokens": -1}, "--prefix-tokens", "-1 is too small"),
        ({"prefix_tokens": 1 << 40}, "--prefix-tokens", "is too large"),
        ({"retries": -1}, "--retry", "-1 is too small"),
        ({"retries": 101}, "--retry", "101 is too large; allowed are whole numbers up to 100"),
        ({"spin": True, "transport": "aiohttp"}, "--spin", "this is for the kernel transport"),
        ({"spin": True, "proxy": "http://p"}, "--spin", "this is for the kernel transport"),
        ({"name": " "}, "--name", "is no name; allowed is printable text"),
        ({"proxy": "http://***@p"}, "--proxy", "run.json does not keep a proxy's password"),
        ({"requests": 0}, "--requests", "0 is too small"),
        ({"requests": -1}, "--requests", "-1 is too small"),
        ({"requests": 1 << 33}, "--requests", "is too large"),
        ({"requests": None}, "--requests, --duration", "give one of the two"),
        ({"requests": 4, "duration_s": 1.0}, "--requests, --duration", "give one of the two"),
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
    "url",
    [
        "http://h",
        "https://h/v1",
        "http://[::1]:8000/v1?x=1",
        "http://h/?api-version=2024-10-21&alt=sse&key=",
        "http://127.0.0.1:65535/",
        "http://Bücher.example",
    ],
)
def test_a_url_with_scheme_and_host_is_taken(url):
    check(spec(url=url))


def test_run_json_holds_every_field_and_no_password():
    asked = spec(proxy="http://user:pass-word@proxy:3128")
    told = asked.to_json()
    assert told["proxy"] == "http://***@proxy:3128"
    assert "pass-word" not in json.dumps(told)
    assert told.keys() == {name for name in dir(asked) if name in type(asked).__dataclass_fields__}


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 5, "late_drop_s": 0.0, "max_in_flight": 1},
        {"rate": "0..0.5@1s+0.5", "duration_s": 60.0},
        {"rate": "sine:10..100@60s", "duration_s": 300.0},
        {"arrivals": "burst:10@1s", "requests": 5},
        {"arrivals": f"trace:{__file__}", "requests": None},
        {"arrivals": f"trace:{__file__}", "duration_s": 5.0},
        {"concurrency": "0..64@30s+64", "duration_s": 30.0, "ramp_up_s": 2.0},
        {"turns": "exp:3", "think": "exp:2s", "history": "recorded"},
        {"turns": "1000", "rate": 3, "think": "2s", "sessions": 1 << 22},
        {"warmup_requests": 10},
        {"spin": True, "transport": "kernel", "retries": 100},
    ],
    ids=str,
)
def test_what_goes_together_is_taken(changes):
    check(spec(**changes))


counts = st.one_of(
    st.integers(1, 1000).map(str),
    st.tuples(st.integers(1, 50), st.integers(50, 99)).map(lambda ends: f"uniform:{ends[0]}..{ends[1]}"),
    st.integers(1, 90).map("exp:{}".format),
    st.tuples(st.integers(1, 90), st.integers(1, 90)).map(lambda two: f"normal:{two[0]},{two[1]}"),
)
spans = st.one_of(
    st.integers(0, 10**6).map("{}us".format),
    st.integers(1, 10**6).map("exp:{}us".format),
    st.tuples(st.integers(1, 90), st.floats(0.01, 5)).map(lambda two: f"lognormal:{two[0]}s,{two[1]}"),
)
seconds = st.floats(1e-6, 1e6)
numbers = st.one_of(st.integers(1, 10**6), st.floats(1e-3, 1e6))
rates = st.one_of(
    numbers,
    st.tuples(numbers, numbers, st.integers(1, 10**9)).map(lambda it: f"{it[0]}..{it[1]}@{it[2]}us"),
    st.tuples(numbers, numbers, st.integers(1, 60)).map(lambda it: f"exp:{it[0]}..{it[1]}@{it[2]}s+{it[1]}"),
)
levels = st.one_of(
    st.integers(1, 1000),
    st.tuples(st.integers(0, 1000), st.integers(1, 1000)).map(lambda two: f"{two[0]}..{two[1]}@1m+5@2s"),
)
times = st.fixed_dictionaries(
    {
        "duration_s": seconds,
        "ramp_up_s": st.just(0.0) | seconds,
        "warmup_s": st.just(0.0) | seconds,
        "drain_s": seconds,
    },
    optional={"name": st.sampled_from(["peak", "a: b", "übung"])},
)
closed = st.builds(lambda level, more: stage_spec(concurrency=level, **more), levels, times)
opened = st.builds(
    lambda rate, arrivals, more, waits: stage_spec(rate=rate, arrivals=arrivals, **more, **waits),
    rates,
    st.sampled_from(["constant", "poisson", "gamma:0.1", "gamma:3"]),
    times,
    st.fixed_dictionaries({}, optional={"max_in_flight": st.integers(1, 99), "late_drop_s": st.just(0.0) | seconds}),
)
timed = st.builds(
    lambda arrivals, more: stage_spec(arrivals=arrivals, **more | {"ramp_up_s": 0.0}),
    st.sampled_from(["burst:3@10ms", f"trace:{__file__}"]),
    times,
)
specs = st.fixed_dictionaries(
    {"stages": st.lists(st.one_of(closed, opened, timed), min_size=1, max_size=4).map(tuple)},
    optional={
        "turns": counts,
        "think": spans,
        "cancel": st.one_of(
            counts, spans, st.tuples(st.floats(1e-9, 1), counts).map(lambda it: f"{plain(it[0])}@{it[1]}")
        ),
        "retries": st.integers(0, 100),
        "prefix_tokens": st.integers(0, 999),
        "seed": st.integers(0, (1 << 63) - 1),
        "cpus": st.just((0, 3)),
        "workers": st.integers(1, 9),
        "idle_timeout_s": seconds,
        "slo": st.just({"ttft": {"percentile": 99.9, "limit_ms": 0.1}}),
    },
).map(lambda fields: spec(**fields))


@settings(deadline=None)
@given(specs)
def test_what_run_json_holds_is_the_same_spec_again(asked):
    assert spec_of_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_a_constant_load_is_a_number_in_run_json():
    (row,) = spec(concurrency=(64,)).to_json()["stages"]
    assert (row["concurrency"], row["rate"], row["arrivals"]) == (64, None, None)
    (row,) = spec(rate=0.5).to_json()["stages"]
    assert (row["concurrency"], row["rate"], row["arrivals"]) == (None, 0.5, "poisson")
    told = spec(rate="0..5@2s", duration_s=2.0, cancel="30%@20", turns="3", think="exp:2s").to_json()
    assert told["stages"][0]["rate"] == "0..5@2s"
    assert (told["cancel"], told["turns"], told["think"]) == ("0.3@20", "3", "exp:2s")


@pytest.mark.parametrize(
    ("text", "share", "unit"),
    [
        ("20", 1.0, "count"),
        ("uniform:10..50", 1.0, "count"),
        ("2s", 1.0, "duration"),
        ("30%@20", 0.3, "count"),
        ("0.3@2s", 0.3, "duration"),
        (".5@exp:3s", 0.5, "duration"),
        ("100%@exp:30", 1.0, "count"),
    ],
)
def test_a_share_of_the_users_leaves_after_tokens_or_after_a_time(text, share, unit):
    cancel = parse_cancel(text)
    assert (cancel.share, cancel.after.unit) == (share, unit)
    assert parse_cancel(cancel.text) == cancel


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0%@20", "'0%' is no share of the requests; allowed is above 0 and up to 1 or 100%"),
        ("101%@20", "is no share"),
        ("2@20", "is no share"),
        ("some@20", "is no share"),
        ("@20", "is no share"),
        ("1e400@20", "is no share"),
        ("30%@", "'' is no number"),
        ("0", "is no count"),
        ("20 parsecs", "is no number"),
        ("exp:2parsecs", "is no number"),
        ("uniform:1..2s", "'1' is no duration"),
    ],
)
def test_anything_else_is_no_way_to_leave(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_cancel(text)


def test_the_warm_up_is_a_tenth_at_most_ten_seconds_and_none_where_requests_are_counted():
    assert default_warmup_s(30.0) == 3.0
    assert default_warmup_s(600.0) == 10.0
    assert default_warmup_s(None) == 0.0
    assert default_warmup_s(30.0, over_time=True) == 0.0
