"""The settings that say what is asked."""

import pytest
from asked import spec, spec_of_flags

from loadgen.distribution import Empirical, Prefixes, parse_lengths, parse_prefixes
from loadgen.errors import UsageError
from loadgen.schedule.arrivals import parse_process
from loadgen.spec import spec_of_json
from loadgen.spec.refusals import check

URL = {"url": "http://h"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f"
    path.write_text("1\n")
    return str(path)


def test_a_trace_is_a_load_where_there_is_no_other(file):
    (stage,) = spec_of_flags(URL | {"trace": file}).stages
    assert (stage.arrivals, stage.rate, stage.duration_s, stage.warmup_s) == (parse_process("recorded"), None, None, 0)
    (stage,) = spec_of_flags(URL | {"replay": file, "duration": "30s"}).stages
    assert (stage.arrivals.kind, stage.duration_s) == ("recorded", 30)
    for load in ({"rate": "5"}, {"concurrency": "5"}):
        (stage,) = spec_of_flags(URL | {"trace": file} | load).stages
        assert stage.arrivals != parse_process("recorded")
        assert stage.duration_s == 30


def test_lengths_are_those_of_the_file_unless_the_user_says_so(file):
    for name in ("dataset", "trace", "replay", "lengths"):
        asked = spec_of_flags(URL | {name: file})
        assert (asked.input_tokens, asked.output_tokens) == (None, None)
    asked = spec_of_flags(URL | {"dataset": file, "output_tokens": "uniform:1..9"})
    assert asked.output_tokens == parse_lengths("uniform:1..9")
    asked = spec_of_flags(URL)
    assert (asked.input_tokens, asked.output_tokens) == (parse_lengths("512"), parse_lengths("128"))


def test_what_is_asked_once_is_measured_from_its_beginning(file):
    assert spec_of_flags(URL | {"dataset": file, "once": True, "duration": "30s"}).stages[0].warmup_s == 0
    assert spec_of_flags(URL | {"dataset": file, "duration": "30s"}).stages[0].warmup_s == 3


def test_a_spec_with_all_of_it_comes_back_from_run_json(file):
    asked = spec(
        dataset=file, columns={"prompt": "q"}, conversations="last", nonce="always", once=True, skip_bad_lines=True,
        tokenizer="t", calibrate_prompts=True, prefixes=Prefixes(20, 1024, 1.1), input_tokens="normal:50,5",
        output_tokens="file:x",
    )  # fmt: skip
    assert spec_of_json(asked.to_json()) == asked
    asked = spec(trace=file, time_scale=0.5, from_s=1.5, to_s=60.0, sample=0.1, lengths=None)
    assert spec_of_json(asked.to_json()) == asked
    assert spec().to_json()["input_tokens"] == 16, "a number stays one"


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [("20:1024", Prefixes(20, 1024)), ("3:7:zipf1.1", Prefixes(3, 7, 1.1)), ("1:1:uniform", Prefixes(1, 1))],
)
def test_prefixes_are_read_and_written(text, prefixes):
    assert parse_prefixes(text) == parse_prefixes(prefixes.text) == prefixes


@pytest.mark.parametrize("text", ["20", "0:5", "5:0", "5:5:zipf", "5:5:zipf99", "a:b", "5:5:exp2"])
def test_what_are_no_prefixes_is_refused(text):
    with pytest.raises(UsageError, match=r"^--prefixes: "):
        spec_of_flags(URL | {"prefixes": text})


def test_values_of_a_file_are_drawn_each_as_often_as_the_others():
    drawn = Empirical.of([9, 1, 5, 5])
    assert (drawn.mean, drawn.most) == (5, 9)
    assert [drawn.draw(u) for u in (1e-9, 0.3, 0.6, 1 - 1e-9)] == [1, 5, 5, 9]


@pytest.mark.parametrize(("raw", "share"), [("10%", 0.1), ("0.25", 0.25), (1, 1.0), ("100%", 1.0)])
def test_a_sample_is_a_share(file, raw, share):
    assert spec_of_flags(URL | {"trace": file, "sample": raw}).sample == share


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "FILE", "trace": "FILE"}, "--dataset, --trace: give one of them"),
        ({"dataset": "FILE", "turns": "3"}, "--turns: the sessions are those of the file"),
        ({"lengths": "FILE", "input_tokens": "5"}, "--lengths: pairs say both lengths"),
        ({"lengths": "nowhere"}, "--lengths: 'nowhere' cannot be read"),
        ({"input_tokens": "file:nowhere"}, "--input-tokens: 'nowhere' cannot be read"),
        ({"input_tokens": "lognormal:5000000,3"}, "--input-tokens: lognormal:5000000,3 is too large"),
        ({"input_tokens": "often"}, "--input-tokens: "),
        ({"prefixes": "2:5", "prefix_tokens": "3"}, "--prefixes, --prefix-tokens: give one of the two"),
        ({"columns": "a=b"}, "--columns: this goes with a file with columns"),
        ({"once": True}, "--once: this goes with --dataset"),
        ({"conversations": "last"}, "--conversations: this goes with --dataset"),
        ({"skip_bad_lines": True}, "--skip-bad-lines: this goes with --dataset or --trace"),
        ({"from": "3s"}, "--from: this goes with --trace or --replay"),
        ({"sample": "50%"}, "--sample: this goes with --trace or --replay"),
        ({"trace": "FILE", "sample": "0%"}, "--sample: '0%' is no share"),
        ({"trace": "FILE", "time_scale": "0"}, "--time-scale: 0 is out of range"),
        ({"trace": "FILE", "time_scale": "fast"}, "--time-scale: 'fast' is no number"),
        ({"trace": "FILE", "from": "3s", "to": "2s"}, "--to: it is not behind --from"),
        ({"arrivals": "recorded"}, "--arrivals: recorded arrivals are those of a trace; give --trace or --replay"),
        ({"trace": "FILE", "ramp_up": "3s"}, "--ramp-up: recorded brings its own times"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(file, changes, words):
    given = {name: file if value == "FILE" else value for name, value in changes.items()}
    with pytest.raises(UsageError) as caught:
        spec_of_flags(URL | given)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_spec_that_is_good_passes(file):
    asked = spec(dataset=file)
    assert check(asked) is asked
