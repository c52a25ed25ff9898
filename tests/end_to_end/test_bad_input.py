"""What the user or the endpoint gets wrong: one sentence on stderr, the right status, nothing left behind."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from asked import complaints, typed
from canned import canned, refused_port, response, unreachable

from loadgen.cli import main
from loadgen.simulator.process import serve

KEY = "sk-0123456789-secret"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def served():
    os.environ["SIMULATOR_KEY"] = KEY
    try:
        with serve("--step", "1ms", "--api-key-env", "SIMULATOR_KEY") as simulator:
            yield simulator
    finally:
        del os.environ["SIMULATOR_KEY"]


def refused(tmp_path: Path, status: int, *arguments: object, **variables: str) -> str:
    """The one sentence; nothing else may have been said or made."""
    before = sorted(tmp_path.rglob("*"))
    ended = typed("run", "--out", tmp_path / "run", *arguments, **{"OPENAI_API_KEY": KEY} | variables)
    assert ended.returncode == status, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("loadgen: ")
    assert KEY not in sentence
    assert sorted(tmp_path.rglob("*")) == before
    return sentence.removeprefix("loadgen: ")


USERS = {
    "no URL": ([], "--url: not given", "allowed is http"),
    "no scheme": (["--url", "127.0.0.1:8000"], "--url", "did you mean http://127.0.0.1:8000?"),
    "another scheme": (["--url", "ftp://h"], "--url", "allowed is http://"),
    "no requests": (["--requests", "0"], "--requests", "0 is too small; allowed are whole numbers from 1"),
    "requests below zero": (["--requests", "-5"], "--requests", "-5 is too small"),
    "no number of requests": (["--requests", "few"], "--requests", "not a valid integer"),
    "no concurrency": (["--concurrency", "0"], "--concurrency", "0 is too small"),
    "concurrency below zero": (["--concurrency", "1,-8"], "--concurrency", "-8 is too small"),
    "no list of levels": (["--concurrency", "1;2"], "--concurrency", "allowed is for example 1,8,64"),
    "no time": (["--duration", "0s"], "--duration", "is too short"),
    "time below zero": (["--duration", "-3s"], "--duration", "as in 50ms or 1.5s"),
    "time without a unit": (["--duration", "30"], "--duration", "write a number and a unit"),
    "both bounds": (["--duration", "3s", "--requests", "3"], "--requests, --duration", "give one of the two"),
    "no prompt": (["--input-tokens", "0"], "--input-tokens", "0 is too small"),
    "no output": (["--output-tokens", "-1"], "--output-tokens", "-1 is too small"),
    "more output than an integer": (["--output-tokens", str(1 << 80)], "--output-tokens", "is too large"),
    "no workers": (["--workers", "0"], "--workers", "0 is too small"),
    "more workers than cores": (["--workers", "999"], "--workers", "999 workers need as many cores, and there are"),
    "a CPU that is not there": (["--cpus", "4095"], "--cpus", "CPU 4095 cannot be used here; allowed is"),
    "more connections than descriptors": (
        ["--concurrency", str(1 << 20), "--workers", "1"],
        "--concurrency",
        "limit is",
    ),
    "an unknown API": (["--api", "images"], "--api", "allowed is auto, chat, completions, responses"),
    "the path of another API": (
        ["--url", f"{NOWHERE}/v1/completions", "--api", "chat"],
        "--api",
        "give --api completions",
    ),
    "a secret on the command line": (["--header", "Authorization: x"], "--header", "give --header-env"),
    "a header that is none": (["--header", "x"], "--header", "allowed is 'Name: value'"),
    "a variable that is not set": (["--header-env", "X-A=NOT_SET_HERE"], "--header-env", "is not set"),
    "a key that is nowhere": (["--api-key-file", "/no/such"], "--api-key-file", "No such file or directory"),
    "a body that is no JSON": (["--extra-body", "{"], "--extra-body", "this is no JSON"),
    "a field without a value": (["--body-field", "x"], "--body-field", "allowed is NAME=VALUE"),
    "a template that is not there": (["--body-template", "/no/such"], "--body-template", "No such file or directory"),
    "tools that are none": (["--tools", "/dev/null"], "--tools", "is no JSON"),
    "an image that is none": (["--image", "/dev/null"], "--image", "is no image that models take"),
    "an image that the API cannot take": (["--api", "tgi", "--image", "8x8"], "--image", "the tgi API takes no images"),
    "an end that the API cannot ignore": (["--api", "gemini", "--ignore-eos"], "--ignore-eos", "the gemini API"),
    "a Databricks endpoint of no workspace": (
        ["--databricks-endpoint", "e"],
        "--databricks-endpoint",
        "allowed is https://",
    ),
    "an unknown transport": (["--transport", "udp"], "--transport", "'kernel'"),
    "an unknown option": (["--rps", "3"], "--rps", "No such option"),
    "an unknown objective": (["--slo", "speed=1s"], "--slo", "ttft, tpot, itl, e2e"),
    "no certificates": (["--url", "https://127.0.0.1:9", "--tls-ca", __file__], "--tls-ca", "no certificate is in it"),
    "certificates for http": (["--insecure"], "--insecure", "for https:// URLs"),
    "an empty model": (["--model", ""], "--model", "the name is empty"),
    "a tokenizer that is not here": (
        ["--tokenizer", "gpt5"],
        "--tokenizer",
        "is no file here, and nothing is downloaded",
    ),
    "a data set that is not here": (["--dataset", "none.jsonl"], "--dataset", "No such file or directory"),
    "a trace without times": (["--trace", __file__], "--trace", "has no times; allowed is --dataset"),
    "an unknown column": (["--dataset", __file__, "--columns", "frage=x"], "--columns", "'frage' is no field"),
    "a run that is none": (["--replay", str(Path(__file__).parent)], "--replay", "there is no capture in it"),
    "both loops": (["--rate", "5", "--concurrency", "5"], "--concurrency, --rate", "closed loop or open loop"),
    "no rate": (["--rate", "0"], "--rate", "some value must be above 0"),
    "a rate below zero": (["--rate", "-5"], "--rate", "-5 is below 0"),
    "a profile without a time": (["--rate", "1..5"], "--rate", "needs a time, as in 1..5@60s"),
    "unknown arrivals": (
        ["--rate", "5", "--arrivals", "normal"],
        "--arrivals",
        "allowed is constant, poisson, gamma:CV",
    ),
    "arrivals without a rate": (["--arrivals", "gamma:2"], "--arrivals", "gamma needs a rate; give --rate with it"),
    "a trace that is not there": (["--arrivals", "trace:/no/such"], "--arrivals", "No such file or directory"),
    "requests of sessions": (["--turns", "3", "--requests", "5"], "--requests", "give --sessions instead"),
    "a thinking arrival": (["--rate", "5", "--think", "2s"], "--think", "allowed with --concurrency or with --turns"),
    "no way to leave": (["--cancel", "some@20"], "--cancel", "is no share of the requests"),
    "retries without an end": (["--retry", "1000"], "--retry", "allowed are whole numbers up to 100"),
    "two objectives on one metric": (["--slo", "ttft=1s,ttft=2s"], "--slo", "ttft has two objectives; allowed is one"),
    "a level that is empty": (["--concurrency", "1,,2"], "--concurrency", "'1,,2' has an empty level"),
    "a setting that no target has": (
        ["--target", "name=a,model=sim,wieght=3"],
        "--target",
        "'wieght' is no setting of a target; allowed is name, weight, url",
    ),
    "a port that is none": (
        ["--nodes", "some", "--ray", "auto"],
        "--nodes: 'some' is no whole number",
        "numbers from 1",
    ),
    "a number out of range": (["--nodes", "0", "--ray", "auto"], "--nodes: 0 is out of range", "whole numbers from 1"),
    "no spec file": (["--spec", "/no/such.toml"], "--spec", "cannot be read (No such file or directory)"),
    "a directory that is no run": (["--spec", "/proc/self/fd"], "--spec", "allowed is a TOML file or a run directory"),
    "a spec file that is none": (["--spec", __file__], f"{__file__}: this is no TOML", "line 1, column"),
}


@pytest.mark.parametrize("which", USERS)
def test_what_the_user_got_wrong_is_one_sentence_and_status_2(which, tmp_path, monkeypatch, capsys):
    # In this process: the way is the installed command's, but for its start.
    arguments, field, words = USERS[which]
    url = [] if which == "no URL" or {"--url", "--databricks-endpoint"} & set(arguments) else ["--url", NOWHERE]
    monkeypatch.setattr("sys.argv", ["loadgen", "run", "--out", str(tmp_path / "run"), *url, *arguments])
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    (sentence,) = said.err.splitlines()
    assert sentence.startswith("loadgen: ")
    assert field in sentence
    assert words in sentence
    assert not list(tmp_path.iterdir())


def test_the_installed_command_refuses_as_main_does(tmp_path):
    sentence = refused(tmp_path, 2, "--url", "127.0.0.1:8000")
    assert sentence.startswith("--url: '127.0.0.1:8000' has no scheme or host (did you mean http://127.0.0.1:8000?)")


def test_a_key_that_cannot_be_sent_is_refused(tmp_path):
    assert refused(tmp_path, 2, "--url", NOWHERE, OPENAI_API_KEY="sk-1\n").startswith("OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("old", "already exists and is not empty; allowed is a new directory"),
        ("file", "already exists and is no directory; allowed is a new directory"),
        ("file/run", "cannot be written (Not a directory)"),
        ("/proc/run", "cannot be written"),
    ],
)
def test_an_output_directory_that_cannot_be_used_is_refused(served, out, words, tmp_path):
    (tmp_path / "old" / "capture").mkdir(parents=True)
    (tmp_path / "old" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    sentence = refused(tmp_path, 2, "--url", served.url, "--requests", "1", "--out", tmp_path / out)
    assert sentence.startswith(f"--out: '{tmp_path / out}' ")
    assert words in sentence
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unreachable_host(tmp_path):
    with unreachable() as port:
        sentence = refused(tmp_path, 1, "--url", f"http://127.0.0.1:{port}", "--connect-timeout", "300ms")
    assert sentence == f"cannot connect to 127.0.0.1:{port}: no answer within 0.3 s"


def test_a_host_that_does_not_exist(tmp_path):
    assert refused(tmp_path, 1, "--url", "http://no-such-host.invalid").startswith("no-such-host.invalid could not be")


@pytest.mark.parametrize("model", [[], ["--model", "sim"]])
def test_a_refused_port(tmp_path, model):
    port = refused_port()
    sentence = refused(tmp_path, 1, "--url", f"http://127.0.0.1:{port}", *model)
    assert sentence == f"cannot connect to 127.0.0.1:{port}: connection refused"


def test_a_wrong_path(served, tmp_path):
    url = served.url.replace("/v1", "/v7")
    sentence = refused(tmp_path, 1, "--url", url, "--model", "sim")
    assert sentence.startswith(f"{url}/chat/completions answered 404: ")
    assert sentence.endswith("(is the path right, and does the endpoint serve this model?)")
    assert refused(tmp_path, 1, "--url", url).startswith(
        f"--model: not given, and {url}/models lists none (status 404: "
    )


def test_an_unknown_model(served, tmp_path):
    sentence = refused(tmp_path, 1, "--url", served.url, "--model", "gpt-9")
    assert "answered 404: The model `gpt-9` does not exist; this endpoint serves `sim`." in sentence


@pytest.mark.parametrize("variables", [{"OPENAI_API_KEY": "sk-wrong"}, {"OPENAI_API_KEY": ""}])
def test_a_wrong_key_or_none(served, tmp_path, variables):
    sentence = refused(tmp_path, 1, "--url", served.url, "--model", "sim", **variables)
    assert "answered 401: " in sentence
    assert sentence.endswith("(is OPENAI_API_KEY set to a key of this endpoint?)")
    assert "sk-wrong" not in sentence


def quoting(request: bytes) -> bytes:
    key = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization")).split()[-1]
    return response(b'{"error":{"message":"Incorrect API key: %b"}}' % key, "application/json", "401 Unauthorized")


ENDPOINTS: dict[str, tuple[Any, str]] = {
    "JSON instead of a stream": (response(b'{"id":"x"}', "application/json"), "application/json instead of an event"),
    "HTML instead of a stream": (response(b"<p>Sign\nin</p>", "text/html"), "stream: <p>Sign in</p>"),
    "an empty response": (response(b""), "answered 200 without any output (0 bytes)"),
    "an empty stream": (response(b"data: [DONE]\n\n"), "without any output"),
    "a closed connection": (b"", "broke off"),
    "no HTTP": (b"220 smtp ready\r\n", "answered, but not in HTTP/1.1 (another protocol, or HTTP/2 alone?)"),
    "a redirect": (
        response(b"", "", "308 Permanent Redirect", "Location: https://h/v1"),
        "redirects to https://h/v1; give that URL instead",
    ),
    "a key in the server's words": (quoting, "answered 401: Incorrect API key: ***"),
    "an escape sequence in its words": (
        response(b"\x1b[2J\x07gone", "text/plain", "500 No"),
        "answered 500: ?[2J?gone",
    ),
}


@pytest.mark.parametrize("which", ENDPOINTS)
def test_what_the_endpoint_got_wrong_is_one_sentence_and_status_1(which, tmp_path):
    answer, words = ENDPOINTS[which]
    with canned(answer) as server:
        sentence = refused(tmp_path, 1, "--url", server.url, "--model", "sim")
        assert len(server.requests) == 1, "one request, and no load"
    assert sentence.startswith(f"{server.url}/chat/completions ")
    assert words in sentence


def test_a_certificate_that_is_not_trusted(certificate, tmp_path):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    with canned(response(b""), tls) as server:
        sentence = refused(tmp_path, 1, "--url", server.url, "--model", "sim")
    assert sentence.startswith("the certificate of 127.0.0.1 is not trusted: ")
    assert sentence.endswith("(--tls-ca FILE names one to trust)")


def test_without_the_check_an_endpoint_that_fails_ends_the_run_with_its_words(tmp_path):
    with serve("--fault", "error-500") as failing:
        ended = typed(
            *("run", "--url", failing.url, "--model", "sim", "--no-check", "--out", tmp_path / "run"),
            *("--concurrency", "2,4", "--requests", "100000"),
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert complaints(ended.stderr)[0].startswith("loadgen: http-500: ")
    assert "run-failed" in (tmp_path / "run" / "summary.json").read_text()
    assert "http-500" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], "No such command 'rum'"),
        (["report", "/no/such/run"], "'/no/such/run' is no directory"),
        (["report", "/tmp"], "is no run: there is no capture/ in it"),
        (["report"], "Missing argument 'RUN...'"),
    ],
)
def test_the_other_commands_refuse_in_one_sentence_too(arguments, words):
    ended = typed(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("loadgen: ")
    assert words in sentence


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["run", "--help"], ["report", "-h"]])
def test_help_is_no_failure(arguments):
    ended = typed(*arguments)
    assert ended.returncode == 0
    assert ended.stdout
    assert ended.stderr == ""
