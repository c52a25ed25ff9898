"""No option of any command takes for a number what is none: float() reads nan, inf and 1e400, and bounds let a NaN pass."""

import importlib
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import pytest
from asked import spec_of_flags, typed

from loadgen.cli import COMMANDS
from loadgen.cli.numbers import NumberType
from loadgen.errors import UsageError
from loadgen.spec.refusals import flag
from loadgen.spec.settings import SETTINGS

NO_NUMBERS = ("nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400")

OPTIONS = {
    f"{name} {option.opts[0]}": option
    for name, (module, _) in COMMANDS.items()
    for option in importlib.import_module(module).command.params
    if isinstance(option, click.Option) and not option.is_flag
}

# Where a number is part of what is written.
WRITTEN = {
    "concurrency": ("{}", "1,{}", "1..{}x2", "1..8x{}", "0..{}@30s", "exp:1..{}@60s"),
    "rate": ("{}", "1,{}", "1..{}+1", "{}@30s", "sine:10..{}@60s"),
    "arrivals": ("gamma:{}", "burst:{}@1s", "burst:5@{}s", "typical:{}s"),
    "abort_on": ("error-rate>{}%/30s", "error-rate>{}/30s", "error-rate>50%/{}s"),
    "slo": ("ttft={}ms", "ttft:p{}=500ms"),
    "cancel": ("{}@20", "{}%@20", "{}", "exp:{}s"),
    "think": ("{}s", "exp:{}s", "normal:2s,{}s", "lognormal:2s,{}"),
    "turns": ("{}", "exp:{}", "uniform:2..{}"),
    "input_tokens": ("{}", "normal:{},64", "lognormal:512,{}"),
    "prefixes": ("{}:1024", "20:{}", "20:1024:zipf{}"),
    "late": ("drop:{}ms",),
    "sample": ("{}", "{}%"),
    "model": ("a={}",),
    "target": ("model=a,weight={}",),
}


def refusal(read: Callable[[], object]) -> tuple[str, object]:
    """(the sentence, None), or ("", what was read)."""
    try:
        return "", read()
    except UsageError as error:
        return str(error), None
    except click.UsageError as error:
        return error.format_message(), None


def spec(name: str, raw: str) -> Any:
    """The spec with this setting, and what beside it makes it meaningful."""
    beside = {"url": "http://127.0.0.1:8000", "duration": "30s"}
    if name == "late" or (name == "arrivals" and raw.startswith(("gamma", "typical"))):
        beside["rate"] = "5"
    return spec_of_flags({**beside, name: [raw] if SETTINGS[name].many else raw})


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, "{}") for name, setting in SETTINGS.items() if setting.help and not setting.is_switch]
    + [(name, pattern) for name, patterns in WRITTEN.items() for pattern in patterns],
)
def test_a_setting_is_refused_by_its_name_or_holds_no_such_number(name, pattern):
    for raw in map(pattern.format, NO_NUMBERS):
        sentence, made = refusal(partial(spec, name, raw))
        if made is None:
            assert flag(name) in sentence.partition(":")[0], raw
            assert len(sentence.splitlines()) == 1
        else:
            json.dumps(made.to_json(), allow_nan=False)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_an_option_of_a_command_takes_no_such_number(option):
    for number in NO_NUMBERS:
        sentence, value = refusal(partial(option.type.convert, number, option, None))
        assert option.opts[0] in sentence or not isinstance(value, float), number


@pytest.mark.parametrize(
    ("name", "option"), [(name, one) for name, one in OPTIONS.items() if isinstance(one.type, NumberType)]
)
def test_no_zero_is_negative(name, option):
    sentence, value = refusal(lambda: option.type.convert("-0.0", option, None))
    assert "above 0" in sentence or math.copysign(1, value) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("plan", "--price-input", "nan"),
            "loadgen: --price-input: 'nan' is not allowed; allowed is a number, 0 to 1,000,000,000\n",
        ),
        (
            ("plan", "--price-output", "-1"),
            "loadgen: --price-output: '-1' is not allowed; allowed is a number, 0 to 1,000,000,000\n",
        ),
        (
            ("saturate", "--most", "0"),
            "loadgen: --most: '0' is not allowed; allowed is a number, above 0 and up to 1,000,000,000\n",
        ),
        (
            ("simulate", "--fault-share", "1e400"),
            "loadgen: --fault-share: '1e400' is not allowed; allowed is a number, 0 to 1\n",
        ),
        (
            ("report", "run", "--jobs", "0"),
            "loadgen: --jobs: 0 is out of range; allowed are whole numbers from 1\n",
        ),
        (
            ("simulate", "--port", "web"),
            "loadgen: --port: 'web' is no whole number; allowed are whole numbers from 0 to 65,535\n",
        ),
        (
            ("export", "run", "--sample", "0", "--format", "otlp"),
            "loadgen: --requests, --sample: 0 is out of range; allowed are whole numbers from 1 to 1,000,000\n",
        ),
        (("plan", "--machine", "cores=nan"), "--machine: cores='nan' is no amount"),
        (("plan", "--machine", "memory=infGB"), "--machine: memory='infGB' is no amount"),
    ],
)
def test_the_sentence_says_which_and_what_is_allowed(arguments, words):
    ended = typed(*arguments, *(("--url", "http://127.0.0.1:9") if arguments[0] in ("plan", "saturate") else ()))
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
