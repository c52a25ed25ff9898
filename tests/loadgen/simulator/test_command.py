"""`loadgen simulate` as it is typed: the lines it prints and what it refuses."""

import socket
import subprocess
import sys

import pytest

from loadgen.durations import duration_ns, shown


def typed(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loadgen", "simulate", *options], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--step", "20"), "'20' is no duration"),
        (("--step", "1us"), "is too short; the least is 10us"),
        (("--jitter", "gamma:2"), "allowed are none, uniform, normal, lognormal, exponential"),
        (("--fault", "flood"), "'reset-mid-stream'"),
        (("--fault-share", "1.5"), "0<=x<=1"),
        (("--capacity", "12"), "as in 512,128"),
        (("--api-key-env", "NO_SUCH_VARIABLE_HERE"), "the environment variable NO_SUCH_VARIABLE_HERE is not set"),
        (("--tls-cert", "x.pem"), "--tls-cert and --tls-key: one without the other"),
        (("--tls-cert", "x.pem", "--tls-key", "y.pem"), "are no certificate and its key"),
        (("--cpu", "9999"), "9999 is not among the CPUs"),
        (("--max-running", "0"), "x>=1"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_a_wrong_value_is_one_sentence_and_status_2(options, words):
    ended = typed("--port", "0", *options)
    assert ended.returncode == 2, ended
    assert words in ended.stderr
    assert options[0].removeprefix("--") in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_port_in_use_is_one_sentence_and_status_1():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = typed("--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"loadgen: cannot listen on 127.0.0.1 port {port}: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    ended = typed("--port", "0", "--truth", str(tmp_path / "no" / "t.arrow"))
    assert ended.returncode == 2
    assert "--truth" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_saturation_point_is_told_without_serving():
    ended = typed("--step", "10ms", "--step-per-running", "100us", "--max-running", "100", "--capacity", "0,50")
    # A step lasts 10 + 100 x 0.1 = 20 ms; a slot serves a request in 50 steps; 100 slots.
    assert ended.stdout == "100 requests/s, 5000 output tokens/s, 0 input tokens/s; limited by slots\n"


@pytest.mark.parametrize(
    ("text", "span_ns"),
    [
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        ("20us", 20_000),
        ("2m", 120_000_000_000),
        ("0", 0),
        ("7ns", 7),
        ("0.1us", 100),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, span_ns):
    assert duration_ns(text) == span_ns
    assert duration_ns(shown(span_ns)) == span_ns


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1 hour", "1e3s", "1s2ms", "nan s", "9999999999h"])
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match=r"is no duration|is longer than"):
        duration_ns(text)
