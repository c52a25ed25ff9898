"""`loadgen saturate` against endpoints whose limits follow from their parameters.

How exact it is stands in benchmarks/; here the answers only have to be about right, in one of some attempts: a machine that
stands still for a second makes any answer wrong, and none right.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from asked import in_one_of, typed

from loadgen.simulator.process import serve

# 8 sequences at a time, 16 tokens a response, a token every 10 ms: 50 requests and 800 tokens a second, knee at 8.
ENDPOINT = ("--step", "10ms", "--max-running", "8")
ASKED = ("--input-tokens", "16", "--output-tokens", "16", "--ignore-eos", "--workers", "1", "--seed", "3")


def saturated(url: str, run_dir: Path, *arguments: object, status: int = 0) -> tuple[dict[str, Any], str]:
    page = [] if "--mode" in arguments else ["--no-html"]
    ended = typed("saturate", "--url", url, "--out", run_dir, *ASKED, *page, *arguments)
    assert ended.returncode == status, ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
    told: dict[str, Any] = json.loads((run_dir / "saturation.json").read_bytes())
    return told, ended.stdout


@pytest.mark.alone
@pytest.mark.parametrize(("mode", "load"), [("concurrency", 8), ("rate", 50)])
def test_the_knee_is_found_and_written_down(tmp_path, mode, load):
    in_one_of(3, lambda attempt: knee_found(tmp_path / f"run-{attempt}", mode, load))


def knee_found(run_dir: Path, mode: str, load: int) -> None:
    with serve(*ENDPOINT) as server:
        told, words = saturated(server.url, run_dir, "--mode", mode, "--budget", "50s")
    assert (told["schema"], told["question"], told["load"]["mode"]) == (1, "knee", mode)
    assert told["load"]["value"] == pytest.approx(load, rel=0.25)
    assert told["output_tokens_per_s"]["value"] == pytest.approx(800, rel=0.15)
    for one in (told["load"], told["output_tokens_per_s"]):
        assert one["low"] <= one["value"] <= one["high"]
    assert told["limited_by"] in ("server", "budget")
    assert "the knee" in words
    summary = json.loads((run_dir / "summary.json").read_bytes())
    assert len(summary["curve"]) == len(told["points"]) >= 4
    assert {stage["stage"] for stage in summary["stages"]} == {n for point in told["points"] for n in point["stages"]}
    if mode == "rate":
        assert any(point["saturated"] for point in told["points"])
        assert any(stage["outcome"]["reason"] == "cut" for stage in summary["stages"])


@pytest.mark.alone
def test_the_highest_load_within_an_objective_is_found(tmp_path):
    in_one_of(3, lambda attempt: highest_load_found(tmp_path / f"run-{attempt}"))


def highest_load_found(run_dir: Path) -> None:
    # Who waits for a place waits for a whole response, 160 ms: beyond 8 in flight more than a tenth do.
    with serve(*ENDPOINT) as server:
        told, words = saturated(server.url, run_dir, "--slo", "ttft:p90=80ms", "--budget", "40s")
    assert told["question"] == "slo"
    assert 6 <= told["load"]["value"] <= 10
    assert {point["load"]: point["meets"] for point in told["points"]}[1] is not False
    assert any(point["meets"] is False for point in told["points"])
    assert "the highest load within the objectives" in words
    resolved = json.loads((run_dir / "run.json").read_bytes())
    assert resolved["question"]["question"] == "slo"
    assert len(resolved["spec"]["stages"]) == len(resolved["stages"])


@pytest.mark.alone
def test_a_budget_that_is_spent_is_said_to_be(tmp_path):
    in_one_of(3, lambda attempt: budget_spent(tmp_path / f"run-{attempt}"))


def budget_spent(run_dir: Path) -> None:
    with serve(*ENDPOINT) as server:
        told, words = saturated(server.url, run_dir, "--budget", "10s", "--strict", status=3)
    assert told["limited_by"] == "budget"
    assert "the budget of 10 s was spent" in told["reasons"]
    assert "not decided" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--think", "1s"), "--think: users who think are not in flight"),
        (("--budget", "1s"), "--budget: '1s' is too short"),
        (("--start", "10", "--most", "5"), "--start: 10 is above --most, 5"),
        (("--api", "embeddings"), "--api: a search goes by output tokens, and this API has none"),
        (("--concurrency", "3"), "No such option"),
        (("--slo", "speed=1s"), "--slo"),
    ],
)
def test_what_a_search_cannot_do_is_refused(tmp_path, arguments, words):
    ended = typed("saturate", "--url", "http://127.0.0.1:9", "--out", tmp_path / "run", *arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not (tmp_path / "run").exists()


def test_an_endpoint_that_is_not_there_is_told_in_one_sentence(tmp_path):
    ended = typed("saturate", "--url", "http://127.0.0.1:9", "--model", "m", "--out", tmp_path / "run")
    assert ended.returncode == 1
    assert ended.stderr.startswith("loadgen: cannot connect to 127.0.0.1:9")
