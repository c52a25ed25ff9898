"""Load shapes with the installed command: what was planned, what the server saw, and what the summary says of it."""

import json
import os
import signal
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import asked
import numpy as np
import pytest
from asked import in_one_of, typed, until

from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.simulator.process import Served, serve

SHAPE = ("--model", "sim", "--input-tokens", "16", "--warmup", "0")
SMALL = (*SHAPE, "--no-check", "--no-html")


def run(served: Served, run_dir: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    """Run to the end; the summary's first stage."""
    ended = typed("run", "--url", served.url, *SMALL, *arguments, "--out", run_dir)
    assert ended.returncode == status, ended
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    stage: dict[str, Any] = summary["stages"][0]
    return stage


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Every row, in the order of the ids."""
    return sorted(asked.rows(run_dir), key=lambda row: row["request_id"])


def offsets_ns(run_dir: Path) -> list[int]:
    """The due times since the stage's start, in the order of the ids."""
    stage = json.loads((run_dir / "summary.json").read_bytes())["stages"][0]
    begin_ns = stage["window"]["start_ns"] - round(stage["window"]["start_s"] * NS_PER_S)
    return [row["intended_ns"] - begin_ns for row in rows(run_dir)]


def test_any_number_of_workers_sends_the_schedule_of_one_and_the_plan_tells_it(tmp_path):
    load = ("--rate", "60", "--duration", "2s", "--seed", "7", "--output-tokens", "2")
    with serve("--step", "2ms") as served:
        told = json.loads(typed("plan", "--url", served.url, *SHAPE, *load, "--json").stdout)
        stages = [
            run(served, tmp_path / str(workers), *load, "--workers", workers, "--cpus", ",".join(["0"] * workers))
            for workers in (1, 2, 4)
        ]
        served.stop()
        arrived = len(served.truth())
    planned = told["stages"][0]
    assert planned["arrivals"] == planned["arrivals_planned"] > 80
    for stage in stages:
        requests = stage["requests"]
        assert requests["offered"] == requests["sent"] == requests["completed"] == planned["arrivals"]
        assert (requests["failed"], requests["dropped"], requests["cancelled"]) == (0, 0, 0)
    assert arrived == 3 * planned["arrivals"]
    alone = offsets_ns(tmp_path / "1")
    assert alone == offsets_ns(tmp_path / "2") == offsets_ns(tmp_path / "4")
    assert [due_ns / NS_PER_S for due_ns in alone[:5]] == planned["first_arrivals_s"]
    for run_dir, workers in ((tmp_path / "2", 2), (tmp_path / "4", 4)):
        assert [row["worker"] for row in rows(run_dir)] == [k % workers for k in range(len(alone))]
    assert all(row["sent_ns"] >= row["intended_ns"] for row in rows(tmp_path / "4")), "never early"


def test_a_run_can_be_repeated_from_its_directory(tmp_path):
    with serve("--step", "2ms") as served:
        run(
            served,
            tmp_path / "a",
            "--rate",
            "1..80@1s",
            "--arrivals",
            "gamma:2",
            "--turns",
            "uniform:1..3",
            "--output-tokens",
            "2",
        )
        ended = typed("run", "--spec", tmp_path / "a", "--no-html", "--out", tmp_path / "b")
        assert ended.returncode == 0, ended
    first, second = (json.loads((tmp_path / name / "run.json").read_bytes()) for name in "ab")
    assert first["spec"] == second["spec"]
    sessions = [{(row["session_id"], row["turn"]) for row in rows(tmp_path / name)} for name in "ab"]
    # The window's end may cut a session that the other run got through; who came, and when, is the same.
    assert {session for session, _ in sessions[0]} == {session for session, _ in sessions[1]}
    opened = [
        [due for due, row in zip(offsets_ns(tmp_path / name), rows(tmp_path / name), strict=True) if row["turn"] == 0]
        for name in "ab"
    ]
    assert opened[0] == opened[1]


def test_an_open_loop_without_a_warm_up_waits_for_its_first_responses_and_is_repeated_exactly(tmp_path):
    more = ("--rate", "10", "--duration", "3s", "--seed", "4", "--output-tokens", "20")
    with serve("--step", "50ms") as served:
        ended = typed("run", "--url", served.url, "--model", "sim", *more, "--out", tmp_path / "a")
        assert ended.returncode == 0, ended
        # A response takes a second; the check sees it, and half of the duration is the most.
        assert "The warm-up is 1.5 s instead of 0.3 s: a response takes about " in ended.stderr
        again = typed("run", "--spec", tmp_path / "a", "--out", tmp_path / "b")
        assert again.returncode == 0, again
        assert "The warm-up is" not in again.stderr
        given = typed("run", "--url", served.url, "--model", "sim", *more, "--warmup", "300ms", "--out", tmp_path / "c")
        assert "The warm-up is" not in given.stderr
    first, second, third = (json.loads((tmp_path / name / "run.json").read_bytes()) for name in "abc")
    assert first["spec"] == second["spec"]
    assert [one["stages"][0]["warmup_s"] for one in (first, second, third)] == [1.5, 1.5, 0.3]
    assert offsets_ns(tmp_path / "a") == offsets_ns(tmp_path / "b")
    summary = json.loads((tmp_path / "a" / "summary.json").read_bytes())
    assert summary["stages"][0]["window"]["start_s"] == 1.5
    if summary["stages"][0]["e2e_ms"]["mean"] < 1500:  # the machine was not so busy that they took longer than that
        assert "still-filling" not in [reason["code"] for reason in summary["verdict"]["reasons"]]


@pytest.mark.alone
def test_a_freeze_of_the_server_shows_from_the_due_time_and_hides_from_the_send(tmp_path):
    # Few enough that a second silence, of a busy machine, leaves the p99 from the send as it is.
    places, frozen_ns = 8, []
    with serve("--step", "2ms") as served:

        def freeze() -> None:
            until(lambda: len(rows(tmp_path / "run")) > 200, "the run to be under way")
            os.kill(served.pid, signal.SIGSTOP)
            until(lambda: Path(f"/proc/{served.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "its stop")
            frozen_ns.append(monotonic_ns())
            time.sleep(1.6)  # the freeze itself
            frozen_ns.append(monotonic_ns())
            os.kill(served.pid, signal.SIGCONT)

        freezing = threading.Thread(target=freeze)
        freezing.start()
        try:
            stage = run(
                served, tmp_path / "run", "--rate", "200", "--arrivals", "constant", "--duration", "15s",
                "--output-tokens", "2", "--max-in-flight", places,
            )  # fmt: skip
        finally:
            freezing.join()
    assert stage["requests"]["offered"] == stage["requests"]["completed"] == 3000
    stopped_ns, went_on_ns = frozen_ns
    due_ns = np.array([row["intended_ns"] for row in rows(tmp_path / "run")])
    # Nobody who was due in the freeze can have had a token before it was over.
    at_least_ms = np.where((due_ns >= stopped_ns) & (due_ns < went_on_ns), (went_on_ns - due_ns) / NS_PER_MS, 0)
    p99_ms = float(np.sort(at_least_ms)[int(np.ceil(0.99 * len(due_ns))) - 1])
    assert p99_ms > 1000, "the schedule says so"
    intended, sent = stage["ttft_intended_ms"], stage["ttft_ms"]
    assert intended["p99"] >= p99_ms * 0.999  # a histogram of three digits
    assert intended["max"] >= at_least_ms.max() * 0.999
    # From the send only those who had a place saw it, fewer than one in a hundred: the p99 leaves them out.
    saw_it = [row for row in rows(tmp_path / "run") if row["sent_ns"] < went_on_ns <= row["event_ns"][0]]
    assert 1 <= len(saw_it) <= places < 0.01 * 3000
    assert sent["p99"] < intended["p99"] / 2
    assert sent["max"] >= max(went_on_ns - max(row["sent_ns"], stopped_ns) for row in saw_it) / NS_PER_MS * 0.999
    reasons = {
        reason["code"] for reason in json.loads((tmp_path / "run" / "summary.json").read_bytes())["verdict"]["reasons"]
    }
    assert "late-sends" in reasons


def test_what_finds_no_place_in_time_is_dropped_and_counted(tmp_path):
    with serve("--step", "20ms", "--ttft", "200ms") as served:
        stage = run(
            served, tmp_path / "run", "--rate", "100", "--duration", "2s", "--output-tokens", "2",
            "--max-in-flight", "4", "--late", "drop:50ms",
        )  # fmt: skip
        served.stop()
        arrived = len(served.truth())
    requests = stage["requests"]
    told = Counter(row["error"] for row in rows(tmp_path / "run"))
    assert requests["offered"] == requests["sent"] + requests["dropped"] == sum(told.values())
    assert requests["dropped"] == told["dropped"] > 100
    assert requests["completed"] == told[None] == arrived, "what was dropped never reached the server"
    assert stage["concurrency"]["peak"] <= 4


def test_sessions_talk_over_one_connection_and_quote_what_was_answered(tmp_path):
    with serve("--step", "2ms") as served:
        stage = run(
            served, tmp_path / "run", "--concurrency", "3", "--sessions", "9", "--turns", "3", "--think", "20ms",
            "--output-tokens", "5", "--prefix-tokens", "4",
        )  # fmt: skip
        served.stop()
        truth = {row["response_id"]: row for row in served.truth().to_pylist()}
    told = rows(tmp_path / "run")
    assert [(row["session_id"], row["turn"]) for row in told] == [
        (session, turn) for session in range(9) for turn in range(3)
    ]
    for session in range(9):
        turns = told[3 * session : 3 * session + 3]
        assert len({truth[row["response_id"]]["connection"] for row in turns}) == 1
        # 4 + 16 words, then each turn the five answered and 16 more.
        assert [row["prompt_tokens"] for row in turns] == [20, 41, 62]
        for before, after in pairwise(turns):
            assert after["sent_ns"] - before["last_byte_ns"] >= 20 * NS_PER_MS
    assert [turn["turn"] for turn in stage["by_turn"]] == [0, 1, 2]
    assert stage["requests"]["failed"] == 0


def test_users_who_leave_hang_up_and_are_neither_failures_nor_in_a_latency(tmp_path):
    with serve("--step", "5ms") as served:
        stage = run(
            served, tmp_path / "run", "--rate", "40", "--duration", "2s", "--output-tokens", "200", "--cancel", "50%@5",
        )  # fmt: skip
        served.stop()
        ended = Counter(served.truth()["ended"].to_pylist())
    told = rows(tmp_path / "run")
    left = [row for row in told if row["error"] == "cancelled"]
    requests = stage["requests"]
    assert requests["cancelled"] == len(left) == ended["client-closed"] > 10
    assert requests["sent"] == requests["completed"] + requests["cancelled"] == len(told)
    assert (requests["failed"], requests["errors"]) == (0, {})
    assert min(len(row["event_ns"]) for row in left) >= 5
    assert stage["ttft_ms"]["count"] == requests["completed"]
    # What came within the window counts, that of the users who left as well.
    start_ns, stop_ns = stage["window"]["start_ns"], stage["window"]["stop_ns"]
    tokens = {is_left: sum(start_ns <= ns < stop_ns for row in told if (row["error"] is not None) == is_left
                           for ns in row["event_ns"]) for is_left in (False, True)}  # fmt: skip
    assert tokens[True] > 50
    assert stage["output_tokens_per_s"] * stage["window_s"] == pytest.approx(sum(tokens.values()), rel=1e-6)
    before = {row["request_id"] for row in left}
    with serve("--step", "5ms") as served:
        run(
            served, tmp_path / "again", "--spec", tmp_path / "run", "--cpus", "0,0", "--workers", "2",
        )  # fmt: skip
    assert {row["request_id"] for row in rows(tmp_path / "again") if row["error"] == "cancelled"} == before


def test_users_who_lose_patience_leave_after_their_time(tmp_path):
    with serve("--step", "50ms") as served:
        stage = run(
            served, tmp_path / "run", "--concurrency", "2", "--requests", "6", "--output-tokens", "100", "--cancel", "300ms",
        )  # fmt: skip
        served.stop()
        assert set(served.truth()["ended"].to_pylist()) == {"client-closed"}
    assert stage["requests"]["completed"] == 0
    told = rows(tmp_path / "run")
    assert [row["error"] for row in told] == ["cancelled"] * 6
    # The user's clock begins when it is its turn; on a busy machine the send itself may be some time later.
    assert np.median([row["ended_ns"] - row["sent_ns"] for row in told]) >= 290 * NS_PER_MS


@pytest.mark.parametrize("retries", [0, 5])
def test_a_refusal_is_tried_again_when_that_is_asked_for(retries, tmp_path):
    with serve("--step", "2ms", "--fault", "error-429", "--fault-share", "0.3", "--seed", "3") as served:
        stage = run(
            served, tmp_path / "run", "--rate", "20", "--duration", "2s", "--output-tokens", "2", "--retry", retries,
        )  # fmt: skip
        served.stop()
        refused = served.truth()["status"].to_pylist().count(429)
    told = rows(tmp_path / "run")
    assert len(told) == len({row["request_id"] for row in told}) == stage["requests"]["sent"]
    assert refused > 3
    if not retries:
        assert stage["requests"]["errors"] == {"http-429": refused}
        return
    assert sum(row["retries"] for row in told) + sum(row["error"] is not None for row in told) == refused
    again = [row for row in told if row["retries"]]
    assert stage["requests"]["retried"] == len(again)
    for row in again:
        # Retry-After said one second each time, and the due time is the first one's.
        assert row["sent_ns"] - row["intended_ns"] >= row["retries"] * NS_PER_S


def test_concurrency_follows_its_profile_and_never_exceeds_it(tmp_path):
    in_one_of(3, lambda attempt: profile_followed(tmp_path / f"run-{attempt}"))


def profile_followed(run_dir: Path) -> None:
    """A machine that stands still sends nothing for so long, in one part of the profile or another."""
    with serve("--step", "5ms") as served:
        stage = run(served, run_dir, "--concurrency", "2@2s+6@3s+3@3s", "--output-tokens", "4")
    told = rows(run_dir)
    begin_ns = stage["window"]["start_ns"]
    sends, ends = (np.array([row[name] - begin_ns for row in told]) for name in ("sent_ns", "ended_ns"))
    # A fall comes as those end who were under way.
    fallen_ns = max(5 * NS_PER_S, ends[sends < 5 * NS_PER_S].max(initial=0))
    for from_ns, to_ns, level in ((0, 2 * NS_PER_S, 2), (2 * NS_PER_S, 5 * NS_PER_S, 6), (fallen_ns, 8 * NS_PER_S, 3)):
        at = sends[(sends >= from_ns) & (sends < to_ns)]
        in_flight = [int(np.count_nonzero((sends <= t) & (ends > t))) for t in at]
        assert max(in_flight, default=0) == level


def test_a_warm_up_by_requests_opens_the_window_when_they_have_ended(tmp_path):
    with serve("--step", "5ms") as served:
        ended = typed(
            "run", "--url", served.url, "--model", "sim", "--no-check", "--no-html", "--input-tokens", "16",
            "--concurrency", "2", "--requests", "10", "--warmup-requests", "6", "--output-tokens", "4", "--workers", "1",
            "--out", tmp_path / "run",
        )  # fmt: skip
    assert ended.returncode == 0, ended
    (stage,) = json.loads((tmp_path / "run" / "summary.json").read_bytes())["stages"]
    told = rows(tmp_path / "run")
    assert len(told) == 16
    before = [row for row in told if row["ended_ns"] <= stage["window"]["start_ns"]]
    assert len(before) == 6


@pytest.mark.parametrize("how", [("--spin",), ("--transport", "aiohttp")], ids=" ".join)
def test_the_schedule_is_kept_however_it_is_waited_for_and_sent(how, tmp_path):
    with serve("--step", "5ms") as served:
        stage = run(served, tmp_path / "run", "--rate", "100", "--duration", "1s", "--output-tokens", "3", *how)
        served.stop()
        arrived = len(served.truth())
    told = rows(tmp_path / "run")
    assert stage["requests"]["offered"] == stage["requests"]["completed"] == len(told) == arrived > 50
    assert all(row["sent_ns"] >= row["intended_ns"] for row in told), "never early"
    assert {len(row["event_ns"]) for row in told} == {3}
