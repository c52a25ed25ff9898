"""The script behind `make bench`, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asked import PATIENCE_S, rows
from main_job import placed

from analysis.captures import open_capture
from loadgen.simulator.process import serve

ROOT = Path(__file__).parents[2]
SCRIPT = (sys.executable, str(ROOT / "benchmarks" / "main_job.py"))
TINY = ("--concurrency", "1,2", "--duration", "200ms", "--input-tokens", "8", "--output-tokens", "4")


def ran(*options: object) -> "subprocess.CompletedProcess[str]":
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        [*SCRIPT, *map(str, options)], env=plain, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_without_a_url_it_loads_the_simulated_endpoint_and_says_where_the_files_are(tmp_path):
    run_dir = tmp_path / "run"
    ended = ran(*TINY, "--out", run_dir)
    assert ended.returncode == 0, ended
    assert "Simulated endpoint at http://127.0.0.1:" in ended.stdout
    assert "output tokens/s" in ended.stdout
    assert str(run_dir) in ended.stdout.replace("\n", "")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [stage["load"]["value"] for stage in summary["stages"]] == [1, 2]
    told = rows(run_dir)
    assert {row["stage"] for row in told} == {0, 1}
    assert {row["error"] for row in told} == {None}


def test_a_url_of_ones_own_is_loaded_with_the_options_given(tmp_path):
    with serve("--model", "mine", "--step", "1ms") as served:
        ended = ran("--url", served.url, "--model", "mine", *TINY, "--api", "completions", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended
    assert "Simulated" not in ended.stdout
    spec = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]
    assert (spec["url"], spec["model"], spec["api"]) == (served.url, "mine", "completions")
    assert [(stage["concurrency"], stage["duration_s"]) for stage in spec["stages"]] == [(1, 0.2), (2, 0.2)]
    assert spec["output_tokens"] == 4


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--concurrency", "zero"), 2, "--concurrency"),
        (("--duration", "soon"), 2, "'soon' is no duration"),
        (("--no-such-option",), 2, "--no-such-option"),
        (("--url", "127.0.0.1:1"), 2, "--url"),
        (("--url", "http://127.0.0.1:1", "--model", "m"), 1, "127.0.0.1:1"),
        (("--strict", *TINY, "--duration", "1ms"), 3, ""),  # too short for eleven requests, on any machine
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_the_exit_status_and_the_words_are_the_commands(options, status, words, tmp_path):
    ended = ran(*options, "--out", tmp_path / "run")
    assert ended.returncode == status, ended
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith(("loadgen:", "Error:"))]) == bool(words)


def test_one_ctrl_c_lets_the_simulated_endpoint_answer_what_is_in_flight(tmp_path):
    capture_path = tmp_path / "run" / "capture" / "worker-00.arrow"
    options = ("--concurrency", "4", "--duration", "60s", "--warmup", "0s", "--input-tokens", "8")
    command = [*SCRIPT, *options, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while not (capture_path.exists() and (capture := open_capture(capture_path)) is not None and capture.rows):
            assert time.monotonic() < give_up_s
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the job
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    (stage,) = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    assert stage["requests"]["completed"]
    assert not stage["requests"]["failed"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform cannot pin")
@pytest.mark.parametrize(("usable", "server", "client"), [([0, 1], 0, "1"), ([3], 3, "3"), ([2, 5, 7], 2, "7")])
def test_the_server_and_the_client_have_cores_of_their_own_where_there_are_two(usable, server, client):
    assert placed(usable) == (server, ["--cpus", client])


def test_make_bench_hands_its_variables_on():
    typed = ["make", "--dry-run", "bench", "URL=https://host/v1", "MODEL=name", "CONCURRENCY=1,8", "DURATION=3s"]
    shown = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", "")
    assert "main_job.py --url https://host/v1 --model name --concurrency 1,8 --duration 3s" in " ".join(shown.split())
