import json

import pytest
from asked import spec, spec_of_flags
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.spec import Spec
from loadgen.spec.file import read_spec_file
from loadgen.spec.layers import Document, settled
from loadgen.spec.settings import SETTINGS

URL = "http://127.0.0.1:8000"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a spec file, and read the spec that it asks for."""
    monkeypatch.chdir(tmp_path)

    def read(text: str, name: str = "run.toml") -> Spec:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return settled({}, read_spec_file(name), {})

    return read


def asked(written, *lines: str) -> Spec:
    return written("\n".join((f'url = "{URL}"', "seed = 1", *lines)))


FLAGS = {
    "url": "https://h",
    "seed": "1",
    "api": "completions",
    "model": "m",
    "rate": "1,8,1..9@1m",
    "arrivals": "gamma:2",
    "duration": "2m",
    "ramp_up": "1s",
    "warmup": "500ms",
    "drain": "0",
    "max_in_flight": "99",
    "late": "drop:50ms",
    "input_tokens": "7",
    "output_tokens": "9",
    "prefix_tokens": "5",
    "turns": "4",
    "history": "recorded",
    "think": "exp:2s",
    "cancel": "30%@exp:3s",
    "retry": "3",
    "workers": "2",
    "cpus": "0-1",
    "transport": "aiohttp",
    "proxy": "http://p:1",
    "connect_timeout": "1s",
    "first_byte_timeout": "2s",
    "idle_timeout": "3s",
    "timeout": "4s",
    "slo": "ttft=1s",
    "api_key_env": "MINE",
    "usage": "continuous",
    "max_tokens_field": "limit",
    "inputs": "2",
}
SWITCHES = {"return_token_ids": True, "ignore_eos": True, "insecure": True, "spin": False}

# The same in TOML's own kinds.
NUMBERS = {
    "seed": "1",
    "rate": "[1, 8.0, '1..9@1m']",
    "duration_s": "120",
    "ramp_up_s": "1.0",
    "late_drop_s": "0.05",
    "input_tokens": "7",
    "turns": "4",
    "retry": "3",
    "workers": "2",
    "cpus": "[0, 1]",
    "slo": "{ttft = {limit_ms = 1000}}",
}
INSTEAD_OF = {"duration": "duration_s", "ramp_up": "ramp_up_s", "late": "late_drop_s"}


@pytest.mark.parametrize("dash", ["-", "_"])
@pytest.mark.parametrize("numbers", [{}, NUMBERS], ids=["texts", "numbers"])
def test_a_file_says_what_the_flags_say(numbers, dash, written):
    texts = {name: f"'{text}'" for name, text in FLAGS.items() if not numbers or name not in INSTEAD_OF}
    switches = {name: str(on).lower() for name, on in SWITCHES.items()}
    lines = [f"{name.replace('_', dash)} = {text}" for name, text in (texts | numbers | switches).items()]
    assert written("\n".join(lines)) == spec_of_flags(FLAGS | SWITCHES)


def test_stages_have_settings_of_their_own_over_those_of_the_file(written):
    made = asked(
        written,
        'duration = "10s"',
        'arrivals = "gamma:2"',
        'late = "drop:1s"',
        "max_in_flight = 64",
        "rate = 100",
        'ramp_up = "2s"',
        "[[stage]]",
        'name = "low"',
        "[[stage]]",
        "rate = 200",
        'duration = "20s"',
        'arrivals = "constant"',
        "[[stage]]",
        "concurrency = 8",
        "requests = 50",
        "[[stage]]",
        'arrivals = "burst:5@1s"',
        "warmup_requests = 5",
        'late = "send"',
        "[[stage]]",
        'rate = "1..5@7s"',
        "duration = '7s'",
        "ramp_up_s = 0",
    )
    low, high, closed, burst, rise = made.stages
    assert (low.name, low.rate.first, low.arrivals.text, low.duration_s, low.warmup_s) == ("low", 100, "gamma:2", 10, 1)
    assert (high.rate.first, high.arrivals.text, high.duration_s, high.warmup_s) == (200, "constant", 20, 2)
    assert (closed.concurrency.first, closed.rate, closed.arrivals) == (8, None, None)
    assert (closed.requests, closed.duration_s, closed.max_in_flight, closed.late_drop_s) == (50, None, None, None)
    assert (burst.rate, burst.arrivals.text, burst.warmup_s, burst.warmup_requests) == (None, "burst:5@1s", 0, 5)
    assert (burst.late_drop_s, burst.max_in_flight, burst.ramp_up_s) == (None, 64, 0.0)
    assert (rise.rate.text, rise.duration_s, rise.ramp_up_s, low.ramp_up_s) == ("1..5@7s", 7, 0, 2)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["rate = 'fast'"], "rate: 'fast' is no number"),
        (["[[stage]]", "rate = 1", "[[stage]]", "rate = 0"], "stage 2: rate: '0' is 0 all the time"),
        (["[[stage]]", "rate = true"], "stage 1: rate: true is not a number, a profile or a list of them"),
        (["rate = nan"], "rate: nan is not a number, a profile or a list of them"),
        (["rate = [1, []]"], "rate: a list is not a number, a profile or a list of them"),
        (["concurrency = -3"], "concurrency: -3 is too small; allowed are whole numbers from 1"),
        (["concurrency = 1.5"], "concurrency: 1.5 is no whole number; allowed are whole numbers from 1"),
        (["concurrency = []"], "concurrency: no level given; allowed is a number, a profile, or a list of them"),
        (["concurrency = 3", "rate = 3"], "concurrency, rate: give one of the two"),
        (
            ["[[stage]]", "rate = [1, 2]"],
            "stage 1: rate: a list is a stage each; beside [[stage]] allowed is one level",
        ),
        (["rate = [1, 2]", "[[stage]]"], "rate: a list is a stage each; beside [[stage]] allowed is one level"),
        (["concurrency = 3", "late = 'drop:1s'"], "late: this is for the open loop"),
        (["[[stage]]", "max_in_flight = 3"], "stage 1: max_in_flight: this is for the open loop"),
        (["arrivals = 'gamma:2'", "[[stage]]"], "arrivals: gamma needs a rate; give --rate with it"),
        (["[[stage]]", "requests = 3", "duration_s = 3"], "stage 1: requests, duration_s: give one of the two"),
        (["duration = 30"], 'duration: 30 is no duration; write a number and a unit, as in "50ms" or "1.5s"'),
        (["duration = '30'"], "duration: '30' is no duration"),
        (["duration_s = '30'"], "duration_s: '30' is not a number of seconds"),
        (["duration_s = 0"], "duration_s: 0 s is too short; it must be above 0"),
        (["duration_s = nan"], "duration_s: nan is not a number of seconds"),
        (["drain_s = 1e9"], "drain_s: 1e+09 s is too long; allowed is up to 10000h"),
        (["duration_s = 3", "duration = '3s'"], "duration: this is given twice, as duration_s too"),
        (["ramp-up = '3s'", "ramp_up = '3s'"], "ramp_up: this is given twice, as ramp-up too"),
        (["requests = 3.0"], "requests: 3.0 is not a valid integer; allowed are whole numbers"),
        (["requests = true"], "requests: true is not a valid integer; allowed are whole numbers"),
        (["requests = []"], "requests: a list is not a valid integer; allowed are whole numbers"),
        (["seed = 2"], "this is no TOML: Cannot overwrite a value (at line 3, column 9)"),
        (["rate = "], "this is no TOML: Invalid value (at line 3, column 8)"),
        (["model = 3"], "model: 3 is no text; allowed is text in quotation marks"),
        (["ignore_eos = 1"], "ignore_eos: 1 is neither true nor false"),
        (["usage = 'always'"], "usage: 'always' is not one of 'final', 'continuous', 'none'"),
        (["header = 'Authorization: x'"], "header: Authorization looks like a secret"),
        (["extra_body = 3"], "extra_body: this is no JSON object"),
        (["extra_body = {api_key = 'x'}"], "extra_body: api_key looks like a secret"),
        (["tools = [{}]"], "tools: these are no tools; allowed is a list of"),
        (["cpus = [1, 'x']"], "cpus: 'x' is not a valid integer"),
        (["slo = {ttft = 5}"], "slo: 'ttft' is no objective; allowed is METRIC[:pNN]=DURATION"),
        (["slo = {ttft = {limit_ms = -5}}"], "slo: the limit of ttft must be above 0"),
        (["think = 5"], "think: 5 is no text"),
        (["concurency = 5"], "concurency: there is no such setting; did you mean concurrency?"),
        (["zzz = 5"], "zzz: there is no such setting; allowed is url, model,"),
        (["[[stage]]", "zzz = 5"], "stage 1: zzz: there is no such setting; allowed is name, concurrency, rate,"),
        (["output_token = 5"], "output_token: there is no such setting; did you mean output_tokens?"),
        (["[[stage]]", "model = 'm'"], "stage 1: model: this is for the whole run; write it above the first [[stage]]"),
        (["name = 'm'"], "name: stages have names, a run has none; write it into a [[stage]]"),
        (["[stage]", "rate = 5"], "stage: stages are tables; write [[stage]] above each"),
        (
            ["[[stage]]", "rate = 5", "[[stages]]", "rate = 6"],
            "stages: there are stages under another name; write [[stage]]",
        ),
        (["stage = [5]"], "stage: stages are tables; write [[stage]] above each"),
        (["proxy = 'http://***@p'"], "proxy: run.json does not keep a proxy's password; give --proxy with it"),
        (["input_tokens = 0"], "input_tokens: 0 is too small; allowed are whole numbers from 1"),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_file_is_told_with_file_and_field(lines, sentence, written):
    with pytest.raises(UsageError) as caught:
        asked(written, *lines)
    assert str(caught.value).startswith(f"run.toml: {sentence}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key",
    ["api_key", "api-key", "key", "OPENAI_API_KEY", "headers", "authorization", "auth", "password", "token", "secrets"],
)
def test_a_file_that_holds_a_secret_is_refused_without_repeating_it(key, written):
    for lines in ([f"{key} = 'sk-123'"], ["[[stage]]", f"{key} = 'sk-123'"], [f"[{key}]", "x = 'sk-123'"]):
        with pytest.raises(UsageError) as caught:
            asked(written, *lines)
        assert str(caught.value).endswith(
            f"{key}: a spec file holds no keys and no headers; the key comes from OPENAI_API_KEY"
        )
        assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "no.toml",
            "--spec: 'no.toml' cannot be read (No such file or directory); allowed is a TOML file or a run dir",
        ),
        (".", "--spec: 'run.json' cannot be read (No such file or directory)"),
        ("a\0b", "--spec: 'a\\x00b' cannot be read (embedded null byte)"),
        ("/dev/zero", "--spec: '/dev/zero' is no spec, it is too large"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        read_spec_file(path)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.json", "{", "this is no JSON: Expecting property name enclosed in double quotes: line 2"),
        ("run.json", "[]", "there is no spec in it; allowed is the run.json of a run, or a TOML file"),
        ("run.json", '{"spec": 5}', "there is no spec in it"),
        ("run.json", '{"spec": {"url": "http://h", "stages": [{"rate": -5}]}}', "stage 1: rate: -5 is below 0"),
        ("run.json", "[" * 100_000, "this is no JSON: it is nested too deeply"),
        ("run.toml", "x = " + "[" * 100_000, "this is no TOML: it is nested too deeply"),
        ("run.toml", "seed = " + "9" * 5000, "this is no TOML: Exceeds the limit"),
        ("run.toml", "seed = 0x" + "f" * 5000, "seed: the number is too large"),
        ("run.toml", "rate = 0x" + "f" * 5000, "rate: a number of so many digits is not a number"),
        ("run.toml", "cpus = 0x" + "f" * 5000, "cpus: the number is too large"),
        ("run.toml", "concurrency = 0x" + "f" * 5000, "concurrency: a number of so many digits is not"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_makes_no_sense_is_refused(name, text, words, written):
    with pytest.raises(UsageError) as caught:
        written(text, name)
    assert str(caught.value).startswith(f"{name}: {words}")
    assert len(str(caught.value)) < 300


def test_a_byte_that_is_no_text_is_refused_by_its_place(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"seed = 1 # \xff")
    with pytest.raises(UsageError, match=r"run.toml: the byte 11 is no UTF-8; allowed is UTF-8 text$"):
        read_spec_file(str(path))
    path.write_bytes(b"\xef\xbb\xbfseed = 1\r\n")
    assert read_spec_file(str(path)).run["seed"].value == 1


def test_what_the_stages_of_a_run_agree_on_holds_for_another_load_too(written):
    shape = {"duration_s": 9.0, "arrivals": "gamma:2", "max_in_flight": 7}
    made = spec(rate=(5, 9), **shape)
    assert written(json.dumps({"spec": made.to_json()}), "run.json") == made
    document = read_spec_file("run.json")
    assert spec_of_flags({"rate": "2"}, document) == spec(rate=2, **shape)
    assert spec_of_flags({"concurrency": "2"}, document) == spec(concurrency=2, duration_s=9.0)


keys = st.sampled_from([*SETTINGS, *(setting.field for setting in SETTINGS.values() if setting.field), "stage", "zzz"])
texts = st.sampled_from(
    [
        *(
            "",
            "5",
            "0",
            "-1",
            "2s",
            "1..5@3s",
            "0..8@1s+8",
            "exp:2s",
            "exp:3",
            "20,30",
            "poisson",
            "burst:2@1s",
            "gamma:3",
        ),
        *("trace:/dev/null", "30%@5", "drop:1s", "send", "chat", "real", "recorded", "kernel", "auto", "http://h"),
        *("ttft=1s", "0-3", "normal:5,2", "normal:2s,1s", "uniform:1..9"),
    ]
)
values_of_any_kind = st.one_of(
    texts,
    st.booleans(),
    st.integers(-5, 100),
    st.integers(),
    st.floats(),
    st.floats(0.1, 100),
    st.text(max_size=5),
    st.none(),
    st.lists(st.integers(0, 9), max_size=3),
)
tables = st.dictionaries(
    keys | st.text(max_size=3),
    values_of_any_kind | st.dictionaries(keys, values_of_any_kind, max_size=2),
    max_size=6,
)
good_values = {
    "concurrency": st.sampled_from([5, "1..5@3s"]),
    "rate": st.sampled_from([0.5, "1..5@3s", "exp:1..5@3s+5"]),
    "arrivals": st.sampled_from(["poisson", "gamma:2", "burst:3@1s"]),
    "duration": st.just("5s"),
    "requests": st.integers(1, 99),
    "sessions": st.integers(1, 99),
    "warmup": st.sampled_from(["0", "2s"]),
    "warmup_requests": st.integers(0, 9),
    "late": st.sampled_from(["send", "drop:1s"]),
    "max_in_flight": st.integers(1, 9),
    "ramp_up": st.sampled_from(["0", "1s"]),
}
good_tables = st.sets(st.sampled_from(sorted(good_values)), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: good_values[name] for name in sorted(names)})
)
users = st.sampled_from([{}, {"turns": 3}, {"turns": "exp:3", "think": "2s"}, {"cancel": 5, "think": "2s"}])


@st.composite
def documents(draw, of):
    """A spec file as JSON, of tables that `of` gives."""
    stages = draw(st.lists(of, max_size=3))
    return {"url": "https://h", "seed": 1} | draw(users) | draw(of) | ({"stages": stages} if stages else {})


def taken(path: object) -> Spec | None:
    """The spec of a file, None where it is refused; anything else that it raises is a failure."""
    try:
        return settled({}, read_spec_file(str(path)), {})
    except UsageError as error:
        words = str(error)
    assert words.startswith((f"{path}: ", "--"))
    assert len(words.splitlines()) == 1
    return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("specs") / "any.json"


@settings(deadline=None)
@given(documents(tables) | documents(good_tables))
def test_any_document_is_a_spec_that_can_be_made_again_or_refused(scratch, values):
    scratch.write_text(json.dumps({"spec": values}))
    if (made := taken(scratch)) is not None:
        scratch.write_text(json.dumps({"spec": made.to_json()}))
        assert taken(scratch) == made


@settings(deadline=None)
@given(users, good_tables)
def test_what_a_file_takes_and_refuses_the_flags_do_too(scratch, people, values):
    values = {"url": "https://h", "seed": 1} | people | values
    scratch.write_text(json.dumps({"spec": values}))
    try:
        made = spec_of_flags({name: str(value) for name, value in values.items()})
    except UsageError:
        made = None
    assert taken(scratch) == made


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="stage[]={}\".,\n 0129eE+-:_#'x", max_size=200).map(str.encode))
def test_any_bytes_are_a_document_or_refused(scratch, noise):
    for path in (scratch, scratch.with_suffix(".toml")):
        path.write_bytes(noise)
        try:
            read = read_spec_file(str(path))
        except UsageError as error:
            words = str(error)
        else:
            assert isinstance(read, Document)
            continue
        assert words.startswith(f"{path}: ")


GOOD = b"""
url = "http://127.0.0.1:8000/v1"
think = "exp:2s"
[[stage]]
name = "first"
concurrency = "1..5@3s+5"
warmup_s = 0.5
[[stage]]
concurrency = 3
"""


@settings(deadline=None)
@given(st.integers(0, len(GOOD)), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_file_is_a_spec_or_refused(scratch, at, noise, lost):
    path = scratch.with_suffix(".toml")
    path.write_bytes(GOOD[:at] + noise + GOOD[at + lost :])
    taken(path)
