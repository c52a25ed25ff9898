"""`loadgen simulate` as it is typed: the lines it prints and what it refuses."""

import socket
import subprocess
import sys

import pytest
from asked import PATIENCE_S


def typed(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loadgen", "simulate", *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--step", "20"), "'20' is no duration"),
        (("--step", "1us"), "is too short; the least is 10us"),
        (("--jitter", "gamma:2"), "allowed are none, uniform, normal, lognormal, exponential"),
        (("--fault", "flood"), "'reset-mid-stream'"),
        (("--fault-share", "1.5"), "allowed is a number, 0 to 1"),
        (("--capacity", "12"), "as in 512,128"),
        (("--api-key-env", "NO_SUCH_VARIABLE_HERE"), "the environment variable NO_SUCH_VARIABLE_HERE is not set"),
        (("--tls-cert", "x.pem"), "--tls-cert and --tls-key: one without the other"),
        (("--tls-cert", "x.pem", "--tls-key", "y.pem"), "are no certificate and its key"),
        (("--cpu", "9999"), "9999 is not among the CPUs"),
        (("--max-running", "0"), "0 is out of range; allowed are whole numbers from 1"),
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
