"""`loadgen sweep` against the simulated endpoint: the curve, what an interruption leaves, and going on with it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asked import PATIENCE_S, children, complaints, environment, in_one_of, installed, rows, typed, until
from canned import Slackening, canned

from loadgen import host
from loadgen.simulator.process import Served, serve
from loadgen.worker.requests import STAGE_SHIFT

SMALL = ("--input-tokens", "20", "--output-tokens", "5", "--workers", "1", "--cooldown", "0s", "--seed", "7")


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    with serve("--step", "2ms", "--ttft", "3ms") as simulator:
        yield simulator


def told(run_dir: Path, name: str = "summary.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / name).read_bytes())
    return found


def swept(*arguments: object, status: int = 0, page: bool = False) -> "subprocess.CompletedProcess[str]":
    ended = typed("sweep", *arguments, *([] if page else ["--no-html"]))
    assert ended.returncode == status, ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
    return ended


@contextmanager
def sweeping(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*installed(), "sweep", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outcomes(run_dir: Path) -> list[str | None]:
    try:
        return [(stage.get("outcome") or {}).get("reason") for stage in told(run_dir, "run.json")["stages"]]
    except FileNotFoundError:
        return []


def test_the_curve_has_a_point_a_level_and_says_how_the_server_counts_a_prompt(quick, tmp_path):
    run_dir = tmp_path / "run"
    ended = swept(
        *("--url", quick.url, "--parallel", "1..4x2", "--requests", 12, "--repeat", 2, *SMALL, "--out", run_dir),
        page=True,
    )
    summary = told(run_dir)
    assert [point["load"]["value"] for point in summary["curve"]] == [1, 2, 4]
    assert [len(point["stages"]) for point in summary["curve"]] == [2, 2, 2]
    assert len(summary["stages"]) == 6
    assert summary["warm_up"]["requests"] == 10
    wanted = summary["warm_up"]["prompt_tokens"]
    assert wanted["wanted"] == 20
    assert f"the server counts {wanted['mean']:.2f} tokens a prompt where 20 were asked for" in " ".join(
        ended.stdout.split()
    )
    for words in ("tok/s", "TTFT", "a user", "of 2 repeats", "tokens/s a user (1 / TPOT p50)", "E2E p50, ms"):
        assert words in ended.stdout
    # No level is sent before the warm-up has ended, and every request is there once.
    by_stage: dict[int, list[dict[str, Any]]] = {}
    for one in rows(run_dir):
        by_stage.setdefault(one["stage"], []).append(one)
    assert {stage: len(of_stage) for stage, of_stage in by_stage.items()} == {0: 10} | dict.fromkeys(range(1, 7), 12)
    assert max(one["ended_ns"] for one in by_stage[0]) <= min(one["sent_ns"] for one in by_stage[1])


def stages_of(run_dir: Path) -> list[tuple[str, int]]:
    """The names of the levels, and how many requests failed."""
    return [(one["name"], one["requests"]["failed"]) for one in told(run_dir)["stages"] if one["requests"]["completed"]]


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL of a worker"])
def test_an_interrupted_sweep_resumes_and_ends_with_the_stages_of_an_uninterrupted_one(tmp_path, how):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    slackening = Slackening(after=10 + 120 + 1)  # the warm-up and the first level: the second one lasts
    with canned(slackening) as server:
        asked = ("--url", server.url, "--model", "m", "--no-check", "--concurrency", "2,3,4", "--requests", 120, *SMALL)
        with sweeping(*asked, "--out", cut) as process:
            until(lambda: outcomes(cut)[:2] == ["finished"] * 2, "the warm-up and the first level")
            until(lambda: told(cut, "run.json")["stages"][2].get("part") == 1, "the second level")
            victim = process.pid if how == "SIGINT" else children(process.pid)[0]
            os.kill(victim, signal.SIGINT if how == "SIGINT" else signal.SIGKILL)
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode == (130 if how == "SIGINT" else 1)
        slackening.is_over.set()
        before = told(cut)
        assert not before["verdict"]["ok"]
        done = outcomes(cut).count("finished")
        assert done == 2
        kept = [one for one in rows(cut) if one["stage"] < done]
        swept(*asked, "--out", whole)
        ended = swept("--resume", cut)
    assert stages_of(cut) == stages_of(whole)
    summary, facts = told(cut), told(cut, "run.json")
    assert outcomes(cut) == ["finished"] * 4
    assert (summary["capture"]["parts"], summary["capture"]["cut_workers"], summary["interrupted"]) == (2, [], False)
    assert [stage["part"] for stage in facts["stages"]] == [1] * done + [2] * (4 - done)
    assert facts["run_id"] == before["run_id"]
    assert kept == [one for one in rows(cut) if one["stage"] < done and one in kept]
    assert not {"run-interrupted", "run-failed", "capture-cut"} & {one["code"] for one in summary["verdict"]["reasons"]}
    assert complaints(ended.stderr) == []
    # The same requests, too: their prompts and ids follow from the seed and the stage.
    expected = {stage << STAGE_SHIFT | number for stage, n in enumerate([10, 120, 120, 120]) for number in range(n)}
    for run_dir in (cut, whole):
        assert {one["request_id"] for one in rows(run_dir) if one["error"] is None} == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--resume", "nowhere"), "--resume: 'nowhere' is no run"),
        (("--resume", "RUN"), "are done; loadgen report shows them"),
        (("--resume", "RUN", "--seed", "1"), "--seed: --resume goes on with what the run asked for"),
        (("--resume", "RUN", "--out", "x"), "--out: --resume writes into the run"),
        (("--resume", "PLAIN"), "is no sweep"),
        (("--parallel", "1", "--concurrency", "2"), "--parallel, --concurrency: these are the same"),
    ],
)
def test_what_cannot_be_resumed_is_refused(ended_runs, arguments, words):
    places = {"RUN": str(ended_runs / "swept"), "PLAIN": str(ended_runs / "plain")}
    ended = typed("sweep", *(places.get(one, one) for one in arguments))
    assert ended.returncode == 2
    assert words in ended.stderr


@pytest.fixture(scope="module")
def ended_runs(quick, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs")
    swept("--url", quick.url, "--concurrency", 1, "--requests", 2, *SMALL, "--out", folder / "swept")
    assert (
        typed("run", "--url", quick.url, "--requests", 2, *SMALL, "--no-html", "--out", folder / "plain").returncode
        == 0
    )
    return folder


def test_levels_above_a_hopeless_one_are_left_out_and_the_others_stay(tmp_path):
    # Two at a time are served, one may wait: at eight in flight most are refused.
    with serve("--step", "5ms", "--max-running", "2", "--max-queued", "1") as server:
        run_dir = tmp_path / "run"
        ended = swept(
            *("--url", server.url, "--concurrency", "8,16,2,32", "--requests", 100, *SMALL, "--out", run_dir),
            *("--check-requests", 2),
        )
    summary = told(run_dir)
    assert [stage["name"] for stage in summary["stages"]] == ["concurrency 8", "concurrency 2"]
    assert [one["name"] for one in summary["skipped"]] == ["concurrency 16", "concurrency 32"]
    assert "left out after concurrency 8" in ended.stdout
    assert [point["load"]["value"] for point in summary["curve"]] == [2, 8]
    assert "stages-missing" not in {reason["code"] for reason in summary["verdict"]["reasons"]}


def test_a_rate_that_is_not_kept_up_with_is_cut_and_said_to_be(tmp_path):
    in_one_of(3, lambda attempt: cut_and_said_to_be(tmp_path / f"run-{attempt}"))


def cut_and_said_to_be(run_dir: Path) -> None:
    """A machine that stands still for seconds does not keep up with the low rate, either."""
    # Four at a time, 50 ms each: 80/s at most.
    with serve("--step", "10ms", "--max-running", "4") as server:
        ended = swept(
            *("--url", server.url, "--rate", "20,400,800", "--duration", "60s", "--warmup", "500ms", *SMALL),
            *("--check-requests", 2, "--duration", "8s", "--out", run_dir),
        )
    summary = told(run_dir)
    low, over = summary["stages"]
    assert low["outcome"]["reason"] == "finished"
    assert over["outcome"]["reason"] == "cut"
    assert over["window_s"] < 8
    assert over["backlog"]["grows"]
    assert [one["name"] for one in summary["skipped"]] == ["rate 800/s"]
    assert "was cut after" in ended.stdout
    assert host.usable_cores()
