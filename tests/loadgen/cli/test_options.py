import click
import pytest
from click.testing import CliRunner

from loadgen.cli.options import api_key, load_options, spec_of
from loadgen.errors import UsageError
from loadgen.spec import Spec

URL = "http://127.0.0.1:8000"


def asked(*arguments: str, **variables: str) -> Spec:
    """The spec of a command line."""
    specs = []

    @click.command()
    @load_options
    def command(**flags):
        specs.append(spec_of(flags))

    unset = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    result = CliRunner().invoke(command, list(arguments), env=unset | variables, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return specs[0]


def test_a_url_is_enough():
    spec = asked("--url", URL)
    assert (spec.url, spec.model, spec.api, spec.concurrency) == (URL, None, "chat", (1,))
    assert (spec.duration_s, spec.requests, spec.warmup_s, spec.drain_s) == (30.0, None, 3.0, 60.0)
    assert (spec.input_tokens, spec.output_tokens, spec.ignore_eos) == (512, 128, False)
    assert (spec.workers, spec.cpus, spec.transport, spec.slo, spec.insecure) == (None, None, "auto", None, False)
    assert spec.timeout_s > spec.first_byte_timeout_s > spec.connect_timeout_s > 0


def test_every_flag_arrives_where_it_belongs(certificate):
    spec = asked(
        *("--url", "https://h/v1", "--model", "m", "--api", "completions", "--concurrency", "1, 8,64"),
        *("--duration", "2m", "--warmup", "500ms", "--drain", "0", "--input-tokens", "7", "--output-tokens", "9"),
        *("--ignore-eos", "--seed", "5", "--workers", "2", "--cpus", "0-1", "--transport", "aiohttp"),
        *("--tls-ca", str(certificate[0]), "--proxy", "http://p:1", "--connect-timeout", "1s"),
        *("--first-byte-timeout", "2s", "--idle-timeout", "3s", "--timeout", "4s", "--slo", "ttft=1s"),
    )
    assert spec == Spec(
        url="https://h/v1",
        model="m",
        api="completions",
        concurrency=(1, 8, 64),
        requests=None,
        duration_s=120.0,
        warmup_s=0.5,
        drain_s=0.0,
        input_tokens=7,
        output_tokens=9,
        ignore_eos=True,
        seed=5,
        workers=2,
        cpus=(0, 1),
        transport="aiohttp",
        tls_ca=str(certificate[0]),
        insecure=False,
        proxy="http://p:1",
        connect_timeout_s=1.0,
        first_byte_timeout_s=2.0,
        idle_timeout_s=3.0,
        timeout_s=4.0,
        slo={"ttft": {"percentile": None, "limit_ms": 1000.0}},
    )


def test_requests_take_the_place_of_the_duration_and_want_no_warm_up():
    spec = asked("--url", URL, "--requests", "5")
    assert (spec.requests, spec.duration_s, spec.warmup_s) == (5, None, 0.0)
    assert asked("--url", URL, "--requests", "5", "--warmup", "1s").warmup_s == 1.0


def test_each_run_has_a_seed_of_its_own_unless_one_is_given():
    assert asked("--url", URL).seed != asked("--url", URL).seed
    assert asked("--url", URL, "--seed", "0").seed == 0


def test_the_url_may_come_from_the_environment_and_the_flag_wins():
    assert asked(OPENAI_BASE_URL="http://env").url == "http://env"
    assert asked("--url", URL, OPENAI_BASE_URL="http://env").url == URL
    with pytest.raises(UsageError, match=r"^--url: not given, and OPENAI_BASE_URL is not set; allowed is http"):
        asked()


def test_the_key_comes_from_the_environment_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert api_key() == "sk-1"
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert api_key() is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert api_key() is None
    with pytest.raises(click.NoSuchOption):
        asked("--url", URL, "--api-key", "sk-1")


@pytest.mark.parametrize("workers", ["many", "-1", "1.5", ""])
def test_workers_are_a_number_or_auto(workers):
    assert asked("--url", URL, "--workers", "auto").workers is None
    with pytest.raises(UsageError, match=r"^--workers: .* allowed is auto or a whole number from 1"):
        asked("--url", URL, "--workers", workers)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--duration", "0s", "too short"),
        ("--duration", "30", "is no duration"),
        ("--warmup", "-1s", "is no duration"),
        ("--timeout", "0", "too short"),
        ("--requests", "many", "not a valid integer"),
        ("--api", "images", "'chat', 'completions'"),
        ("--transport", "udp", "'auto', 'kernel', 'aiohttp'"),
        ("--tls-ca", "/no/such/file", "does not exist"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_flag(flag, value, words):
    with pytest.raises(click.BadParameter) as caught:
        asked("--url", URL, flag, value)
    assert flag in caught.value.format_message()
    assert words in caught.value.format_message()
    assert caught.value.exit_code == 2
