"""Standard output has the results and nothing else; what is told on the way goes to standard error."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from asked import PATIENCE_S, complaints, environment, installed, typed

from loadgen.simulator.process import Served, serve

SMALL = ("--workers", 1, "--input-tokens", 20, "--output-tokens", 5)


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    with serve("--step", "2ms", "--ttft", "3ms") as simulator:
        yield simulator


def test_the_results_stand_alone_on_standard_output(quick, tmp_path):
    ended = typed(
        "run", "--url", quick.url, "--out", tmp_path / "run", "--concurrency", "1,2", "--requests", 12, *SMALL
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("sim at http://127.0.0.1:")
    assert "stage 1/2" not in ended.stdout
    assert [line.partition("  ")[0] for line in ended.stderr.splitlines()] == [
        "stage 1/2 concurrency 1",
        "stage 2/2 concurrency 2",
    ]


@pytest.mark.parametrize(
    ("command", "load"),
    [
        ("run", ("--concurrency", "1,2", "--requests", 12)),
        ("sweep", ("--concurrency", "1,2", "--requests", 12, "--check-requests", 2, "--cooldown", "1ms")),
        ("saturate", ("--budget", "12s", "--most", 1)),
    ],
)
def test_as_json_standard_output_is_the_summary_byte_for_byte(quick, command, load, tmp_path):
    ended = typed(command, "--url", quick.url, "--out", tmp_path / "run", "--json", *SMALL, *load)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.encode() == (tmp_path / "run" / "summary.json").read_bytes()
    told = json.loads(ended.stdout)
    assert told["command"] == command
    answer = tmp_path / "run" / "saturation.json"
    assert told["saturation"] == (json.loads(answer.read_bytes()) if command == "saturate" else None)
    course = ended.stderr.splitlines()
    warm_ups = 1 if command == "sweep" else 0
    assert sum(line.startswith("stage ") for line in course) == len(told["stages"]) + warm_ups
    assert str(tmp_path / "run") in "".join(course[-3:])


def test_as_json_a_run_of_which_nothing_is_left_says_why_and_prints_nothing(tmp_path):
    with serve("--step", "2ms", "--fault", "error-500", "--fault-share", "1") as broken:
        ended = typed("run", "--url", broken.url, "--out", tmp_path / "run", "--json", "--model", "sim", *SMALL)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert complaints(ended.stderr)


def test_the_course_is_drawn_on_the_terminal_that_standard_error_is(quick, tmp_path):
    ours, theirs = pty.openpty()
    command = [
        "run",
        "--url",
        quick.url,
        "--out",
        tmp_path / "run",
        "--requests",
        12,
        "--output-tokens",
        5,
        "--workers",
        1,
    ]
    process = subprocess.Popen(
        [*installed(), *map(str, command)],
        env=environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    drawn = b""
    try:
        with suppress(OSError):  # the other end is closed
            while more := os.read(ours, 4096):
                drawn += more
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert process.returncode == 0, drawn
    assert b"\x1b[" in drawn
    assert b"in flight" in drawn
    assert said.startswith("sim at ")
    assert "\x1b" not in said


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_is_the_same_where_standard_streams_are_closed(quick, closed, tmp_path):
    """As daemons have them. Files that are opened next would have their numbers, and workers would be given those."""
    asked = ("run", "--url", quick.url, "--out", tmp_path / "run", "--requests", 12, "--no-html", *SMALL)
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *installed(), *map(str, asked)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended
    assert json.loads((tmp_path / "run" / "summary.json").read_bytes())["stages"][0]["requests"]["completed"] == 12
    assert ended.stdout.startswith("sim at ") == (">&- " not in f"{closed} ".replace("2>&-", ""))


@pytest.fixture(scope="module")
def run_dir(quick, tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "run"
    ended = typed("run", "--url", quick.url, "--out", made, "--requests", 12, "--no-html", *SMALL)
    assert ended.returncode == 0, ended.stderr
    return made


@pytest.mark.parametrize("options", [[], ["--json"], ["--strict"]])
def test_standard_output_that_takes_nothing_is_told_in_a_sentence(options, run_dir):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*installed(), "report", str(run_dir), "--no-html", *options],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.stderr == "loadgen: standard output cannot be written: No space left on device\n"
    assert ended.returncode == 1
