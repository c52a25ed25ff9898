import json

import pytest
from click.testing import CliRunner
from typed_spec import URL, asked, command

from loadgen.distribution import parse_distribution
from loadgen.errors import UsageError
from loadgen.schedule.arrivals import parse_process
from loadgen.schedule.profile import parse_profile
from loadgen.spec import Spec, StageSpec, parse_cancel
from loadgen.spec.notation import read_lengths
from loadgen.spec.settings import SETTINGS

TOOL = {"type": "function", "function": {"name": "f"}}


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        asked("--url", URL, *arguments)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    return words


def stages(*arguments: str) -> tuple[StageSpec, ...]:
    return asked("--url", URL, *arguments).stages


def stage(*arguments: str) -> StageSpec:
    (only,) = stages(*arguments)
    return only


def test_a_url_is_enough():
    spec = asked("--url", URL)
    assert (spec.url, spec.model, spec.api) == (URL, None, "auto")
    assert spec.stages == (
        StageSpec(
            name=None,
            concurrency=parse_profile("1"),
            rate=None,
            arrivals=None,
            requests=None,
            sessions=None,
            duration_s=30.0,
            ramp_up_s=0.0,
            warmup_s=3.0,
            warmup_requests=0,
            drain_s=60.0,
            max_in_flight=None,
            late_drop_s=None,
        ),
    )
    assert (spec.input_tokens, spec.output_tokens) == (read_lengths(512), read_lengths(128))
    assert (spec.prefix_tokens, spec.ignore_eos) == (0, False)
    assert (spec.turns, spec.history, spec.think, spec.cancel, spec.retries) == (None, "real", None, None, 0)
    assert (spec.workers, spec.cpus, spec.transport, spec.slo, spec.insecure) == (None, None, "auto", None, False)
    assert (spec.spin, spec.tls_ca, spec.proxy) == (False, None, None)
    assert spec.timeout_s > spec.first_byte_timeout_s > spec.connect_timeout_s > 0


def test_every_flag_arrives_where_it_belongs(certificate, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    (tmp_path / "body.json").write_text('{"p": "{prompt}"}')
    spec = asked(
        *("--url", "https://h/v1", "--model", "m", "--api", "completions", "--rate", "1, 8,1..9@1m"),
        *("--arrivals", "gamma:2", "--duration", "2m", "--ramp-up", "1s", "--warmup", "500ms", "--drain", "0"),
        *("--max-in-flight", "99", "--late", "drop:50ms", "--input-tokens", "7", "--output-tokens", "9"),
        *("--prefix-tokens", "5", "--turns", "uniform:2..4", "--history", "recorded", "--think", "exp:2s"),
        *("--cancel", "30%@exp:3s", "--retry", "3", "--ignore-eos", "--seed", "5", "--workers", "2", "--cpus", "0-1"),
        *("--transport", "aiohttp", "--tls-ca", str(certificate[0]), "--proxy", "http://p:1", "--no-spin"),
        *("--connect-timeout", "1s", "--first-byte-timeout", "2s", "--idle-timeout", "3s", "--timeout", "4s"),
        *("--slo", "ttft=1s", "--api-key-env", "MINE", "--header", "X-A: b", "--header", "X-C:d: e"),
        *("--header-env", "X-Key=GATEWAY", "--usage", "continuous", "--return-token-ids"),
        *("--max-tokens-field", "limit", "--inputs", "3", "--tools", str(tmp_path / "tools.json")),
        *("--body-template", str(tmp_path / "body.json")),
        *("--extra-body", '{"top_p": 0.5}', "--body-field", "a.b=true", "--body-field", "a.c=word"),
        *("--cooldown", "5s", "--early-stop"),
    )
    assert spec == Spec(
        url="https://h/v1",
        model="m",
        api="completions",
        api_key_env="MINE",
        api_key_file=None,
        header=(("X-A", "b"), ("X-C", "d: e")),
        header_env=(("X-Key", "GATEWAY"),),
        usage="continuous",
        return_token_ids=True,
        max_tokens_field="limit",
        inputs=3,
        tools=(TOOL,),
        image=(),
        body_template={"p": "{prompt}"},
        extra_body={"top_p": 0.5},
        body_field={"a": {"b": True, "c": "word"}},
        stages=tuple(
            StageSpec(
                name=None,
                concurrency=None,
                rate=parse_profile(rate),
                arrivals=parse_process("gamma:2"),
                requests=None,
                sessions=None,
                duration_s=120.0,
                ramp_up_s=1.0,
                warmup_s=0.5,
                warmup_requests=0,
                drain_s=0.0,
                max_in_flight=99,
                late_drop_s=0.05,
            )
            for rate in ("1", "8", "1..9@1m")
        ),
        input_tokens=read_lengths(7),
        output_tokens=read_lengths(9),
        prefix_tokens=5,
        turns=parse_distribution("uniform:2..4", "count"),
        history="recorded",
        think=parse_distribution("exp:2s", "duration"),
        cancel=parse_cancel("0.3@exp:3s"),
        retries=3,
        ignore_eos=True,
        seed=5,
        workers=2,
        cpus=(0, 1),
        transport="aiohttp",
        spin=False,
        tls_ca=str(certificate[0]),
        insecure=False,
        proxy="http://p:1",
        connect_timeout_s=1.0,
        first_byte_timeout_s=2.0,
        idle_timeout_s=3.0,
        timeout_s=4.0,
        cooldown_s=5.0,
        early_stop=True,
        slo={"ttft": {"percentile": None, "limit_ms": 1000.0}},
    )


@pytest.mark.parametrize(
    ("written", "levels"),
    [
        ("1..8x2", [1, 2, 4, 8]),
        ("1..100x4", [1, 4, 16, 64, 100]),
        ("10..50+20", [10, 30, 50]),
        ("10..45+20,64", [10, 30, 45, 64]),
        ("3..3x2", [3]),
    ],
)
def test_a_range_is_a_stage_for_each_of_its_levels(written, levels):
    assert [one.concurrency.first for one in stages("--concurrency", written)] == levels


def test_a_range_of_rates_is_exact():
    assert [one.rate.first for one in stages("--rate", "0.1..0.4+0.1")] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("written", ["8..1x2", "1..8x1", "1..8+0", "0..8x2", "1..8x0.5", "1...8x2"])
def test_a_range_that_does_not_rise_is_refused(written):
    with pytest.raises(UsageError, match=r"^--rate: .*allowed is"):
        stages("--rate", written)


def test_a_range_without_end_is_refused():
    with pytest.raises(UsageError, match=r"^--rate: .* levels are too many; allowed are 1024"):
        stages("--rate", "1..1000000+0.001")


def test_repeats_are_rounds_each_in_an_order_of_its_own():
    levels = [one.concurrency.first for one in stages("--concurrency", "1..64x2", "--repeat", "4", "--seed", "1")]
    rounds = [levels[first : first + 7] for first in range(0, 28, 7)]
    assert [sorted(one) for one in rounds] == [[1, 2, 4, 8, 16, 32, 64]] * 4
    assert len(set(map(tuple, rounds))) == 4
    again = stages("--concurrency", "1..64x2", "--repeat", "4", "--seed", "1")
    assert [one.concurrency.first for one in again] == levels
    in_order = stages("--concurrency", "1,8", "--repeat", "2", "--no-shuffle")
    assert [one.concurrency.first for one in in_order] == [1, 8, 1, 8]


@pytest.mark.parametrize(("repeat", "words"), [("0", "0 is out of range"), ("600", "2 levels, 600 times each")])
def test_repeats_beyond_reason_are_refused(repeat, words):
    with pytest.raises(UsageError, match=rf"^--repeat: {words}"):
        stages("--concurrency", "1,2", "--repeat", repeat)


def test_requests_take_the_place_of_the_duration_and_want_no_warm_up():
    counted = stage("--requests", "5")
    assert (counted.requests, counted.duration_s, counted.warmup_s) == (5, None, 0.0)
    assert stage("--requests", "5", "--warmup", "1s").warmup_s == 1.0
    counted = stage("--sessions", "5", "--turns", "3")
    assert (counted.requests, counted.sessions, counted.duration_s, counted.warmup_s) == (None, 5, None, 0.0)


def test_a_warm_up_by_requests_takes_the_place_of_that_by_time():
    assert (stage("--warmup-requests", "9").warmup_s, stage("--warmup-requests", "9").warmup_requests) == (0.0, 9)
    assert stage("--warmup-requests", "0").warmup_s == 3.0


def test_a_list_of_rates_is_a_stage_each_and_arrivals_are_poisson():
    slow, fast = stages("--rate", "0.5,100")
    assert (slow.rate.first, fast.rate.first) == (0.5, 100)
    assert slow.arrivals == fast.arrivals == parse_process("poisson")
    assert (slow.concurrency, slow.warmup_s, slow.duration_s) == (None, 3.0, 30.0)


def test_a_profile_lasts_as_long_as_it_says_and_is_not_warmed_up():
    level, rise = stages("--concurrency", "8,1..100@45s")
    assert (level.duration_s, level.warmup_s) == (30.0, 3.0)
    assert (rise.duration_s, rise.warmup_s) == (45.0, 0.0)
    day = stage("--rate", "sine:1..9@1m", "--duration", "5m")
    assert (day.duration_s, day.warmup_s) == (300.0, 0.0)
    assert stage("--rate", "1..100@45s", "--warmup", "2s").warmup_s == 2.0
    assert stage("--rate", "1..100@45s+100").duration_s == 30.0, "this one never ends"


def test_bursts_and_traces_are_a_load_by_themselves():
    burst = stage("--arrivals", "burst:10@1s")
    assert (burst.concurrency, burst.rate, burst.arrivals.burst_size, burst.duration_s) == (None, None, 10, 30.0)
    trace = stage("--arrivals", f"trace:{__file__}")
    assert (trace.duration_s, trace.requests, trace.warmup_s) == (None, None, 0.0)
    assert stage("--arrivals", f"trace:{__file__}", "--duration", "5s").duration_s == 5.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--rate", "5", "--concurrency", "5"),
            "--concurrency, --rate: give one of the two, a stage is closed loop or open loop",
        ),
        (
            ("--rate", "5", "--arrivals", "burst:2@1s"),
            "--rate, --arrivals: burst brings its own rate; give one of the two",
        ),
        (
            ("--concurrency", "5", "--arrivals", "burst:2@1s"),
            "--arrivals: a stage with --concurrency sends when a place is free; arrivals go with --rate",
        ),
        (
            ("--concurrency", "5", "--arrivals", "poisson"),
            "--arrivals: a stage with --concurrency sends when a place is free; arrivals go with --rate",
        ),
        (("--arrivals", "poisson"), "--arrivals: poisson needs a rate; give --rate with it"),
        (
            ("--requests", "5", "--turns", "3"),
            "--requests: with --turns a stage counts whole sessions; give --sessions instead",
        ),
        (("--sessions", "5"), "--sessions: there are sessions with --turns only; give that, or --requests"),
        (
            ("--requests", "5", "--duration", "3s"),
            "--requests, --duration: give one of the two, a stage ends by its requests or by its time",
        ),
        (
            ("--sessions", "5", "--duration", "3s", "--turns", "3"),
            "--sessions, --duration: give one of the two, a stage ends by its sessions or by its time",
        ),
        (
            ("--rate", "1..5@9s", "--requests", "5"),
            "--requests: a load that changes over time ends with it, or by --duration",
        ),
        (
            ("--warmup", "1s", "--warmup-requests", "5"),
            "--warmup, --warmup-requests: give one of the two, a warm-up ends by time or by number",
        ),
        (
            ("--max-in-flight", "5"),
            "--max-in-flight: this is for the open loop, where requests are due; give --rate with it",
        ),
        (
            ("--concurrency", "3", "--late", "drop:1s"),
            "--late: this is for the open loop, where requests are due; give --rate with it",
        ),
        (
            ("--rate", "5", "--think", "2s"),
            "--think: requests of an open loop wait for nobody; allowed with --concurrency or with --turns",
        ),
        (("--history", "recorded"), "--history: recorded is for sessions; give --turns too"),
        (("--spin", "--transport", "aiohttp"), "--spin: this is for the kernel transport, which has no proxies"),
        (("--retry", "101"), "--retry: 101 is too large; allowed are whole numbers up to 100"),
        (
            ("--concurrency", ","),
            "--concurrency: no level given; allowed is a number, a profile, or a list of them, as in 1,8,64",
        ),
        (("--concurrency", "4, 0"), "--concurrency: 0 is too small; allowed are whole numbers from 1"),
    ],
    ids=str,
)
def test_flags_that_do_not_go_together_are_refused(arguments, sentence):
    assert refusal(*arguments) == sentence


def test_each_run_has_a_seed_of_its_own_unless_one_is_given():
    assert asked("--url", URL).seed != asked("--url", URL).seed
    assert asked("--url", URL, "--seed", "0").seed == 0


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--concurrency", "1,x", "'x' is no number"),
        ("--concurrency", "1;2", "allowed is for example 1,8,64"),
        ("--concurrency", "-3", "-3 is too small"),
        ("--concurrency", "1.5", "1.5 is no whole number"),
        ("--rate", "fast", "'fast' is no number"),
        ("--rate", "0", "must be above 0"),
        ("--rate", "1..5", "needs a time, as in 1..5@60s"),
        ("--arrivals", "uniform", "allowed is constant, poisson"),
        ("--duration", "0s", "too short"),
        ("--duration", "30", "is no duration"),
        ("--warmup", "-1s", "is no duration"),
        ("--timeout", "0", "too short"),
        ("--requests", "many", "'many' is not a valid integer"),
        ("--requests", "9" * 5000, "is not a valid integer"),
        ("--seed", "9" * 999, "the number is too large"),
        ("--transport", "udp", "'auto', 'kernel', 'aiohttp'"),
        ("--tls-ca", "/no/such/file", "https"),
        ("--late", "drop", "allowed is send or drop:DURATION, as in drop:50ms"),
        ("--late", "drop:fast", "is no duration"),
        ("--late", "never", "'never' is not known"),
        ("--think", "5", "is no duration"),
        ("--turns", "2s", "is no number"),
        ("--turns", "0", "is no count"),
        ("--cancel", "200%@5", "is no share"),
        ("--workers", "many", "allowed is auto or a whole number from 1"),
        ("--workers", "1.5", "allowed is auto or a whole number from 1"),
        ("--workers", "", "allowed is auto or a whole number from 1"),
        ("--workers", "-1", "-1 is too small"),
        *[
            ("--cpus", text, "is no list of CPUs; allowed is for example 1-3,6")
            for text in ("", "3-1", "-1", "1,,2", "1-2-3")
        ],
        ("--slo", "", "is no objective"),
        ("--slo", "ttft", "is no objective"),
        ("--slo", "speed=1s", "ttft, tpot, itl, e2e"),
        ("--slo", "ttft=fast", "is no duration"),
        ("--slo", "ttft=0", "must be above 0"),
        ("--slo", "ttft:p0=1s", "is no percentile"),
        ("--slo", "ttft:p101=1s", "is no percentile"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_flag(flag, value, words):
    said = refusal(flag, value)
    assert flag in said.split(": ")[0]
    assert words in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", (0,)), ("1-3,6", (1, 2, 3, 6)), (" 2 , 0-1", (2, 0, 1)), ("1,1-2", (1, 1, 2))]
)
def test_cpus_are_numbers_and_ranges(text, cpus):
    assert asked("--url", URL, "--cpus", text).cpus == cpus


def test_an_objective_is_a_metric_perhaps_a_percentile_and_a_duration():
    assert asked("--url", URL, "--slo", "ttft=500ms, tpot:p95=50ms,itl:p99.9=2s,e2e=1m").slo == {
        "ttft": {"percentile": None, "limit_ms": 500.0},
        "tpot": {"percentile": 95.0, "limit_ms": 50.0},
        "itl": {"percentile": 99.9, "limit_ms": 2000.0},
        "e2e": {"percentile": None, "limit_ms": 60000.0},
    }


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'url = "{URL}"\nmodel = "m"\nduration = "7s"\nignore_eos = true\n[[stage]]\nrate = 3\n[[stage]]\ndrain = "1s"'
    )
    spec = asked("--spec", str(file), "--model", "other", "--requests", "9", "--no-ignore-eos", "--drain", "2s")
    assert (spec.url, spec.model, spec.ignore_eos) == (URL, "other", False)
    assert [(one.requests, one.duration_s, one.drain_s) for one in spec.stages] == [(9, None, 2.0)] * 2
    assert asked("--spec", str(file), "--url", "http://h").url == "http://h"
    assert asked("--spec", str(file), OPENAI_BASE_URL="http://env").url == URL
    (level,) = asked("--spec", str(file), "--concurrency", "5").stages
    assert (level.concurrency.first, level.duration_s, level.drain_s) == (5, 7.0, 60.0), (
        "the stages are replaced as a whole"
    )


def test_a_run_is_made_again_from_its_run_json(tmp_path):
    made = asked(
        "--url", URL, "--rate", "5,9", "--duration", "9s", "--cancel", "20", "--late", "drop:1s", "--timeout", "8m"
    )
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "spec": made.to_json(), "ended": None}))
    assert asked("--spec", str(tmp_path)) == asked("--spec", str(tmp_path / "run.json")) == made
    (slower,) = asked("--spec", str(tmp_path), "--rate", "2").stages
    assert (slower.rate.first, slower.duration_s, slower.late_drop_s) == (2, 9.0, 1.0)


def test_help_names_every_setting_and_its_default():
    words = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for setting in SETTINGS.values():
        assert (f"--{setting.name.replace('_', '-')}" in words) == bool(setting.help)
        if isinstance(setting.default, str):
            assert f"[default: {setting.default}]" in words
