"""Real worker processes on a real endpoint: what is left when one of them, or the coordinator, or the endpoint fails."""

import json
import os
import pickle
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from asked import children, environment, gone, in_one_of, installed, rows, spec, typed, until
from canned import canned, refused_port, response

from analysis.captures import Capture, open_capture
from loadgen import coordinator as under_test
from loadgen import host, planner
from loadgen.board import Board
from loadgen.coordinator import Coordinator, Outcome, StageNow, Watcher
from loadgen.dialects.credentials import Credentials
from loadgen.errors import RunError
from loadgen.local_run import choose_cores
from loadgen.plan import StagePlan
from loadgen.simulator.process import serve
from loadgen.spec import Spec
from loadgen.worker.requests import STAGE_SHIFT

KEY = "sk-0123456789-secret"


@pytest.fixture(scope="module")
def quick():
    with serve("--step", "2ms") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def slow():
    """A token at once, and the next one in a minute."""
    with serve("--step", "60s", "--mode", "independent", "--role-event", "early") as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def looking_often(monkeypatch):
    monkeypatch.setattr(under_test, "TICK_S", 0.02)


@dataclass
class Coordinated:
    """A coordinator whose workers are spawned, and the stages of its spec."""

    coordinator: Coordinator
    stages: list[list[StagePlan]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coordinator, name)

    def run(self, watch: Watcher) -> list[Outcome]:
        """Stage after stage, as long as there is to be another one."""
        outcomes: list[Outcome] = []
        for plans in self.stages:
            outcomes.append(self.coordinator.stage(plans, watch))
            if outcomes[-1].ends_run:
                break
        return outcomes


@contextmanager
def coordinating(
    asked: Spec, folder: Path, workers: int = 2, key: str | None = None, **changes: Any
) -> Iterator[Coordinated]:
    """`changes` go into every worker's plan."""
    board = Board(workers)
    planned = planner.schedules(asked)
    try:
        plans = planner.worker_plans(
            asked,
            planned,
            credentials=[Credentials(key)],
            transport="kernel",
            cores=host.usable_cores()[:workers],
            run_id="r",
            host=host.facts(),
            capture_paths=[str(folder / f"worker-{worker:02}.arrow") for worker in range(workers)],
            board_fd=board.fd,
        )
        by_worker = [planner.worker_stages(asked, planned, worker, workers, 1000) for worker in range(workers)]
        with Coordinator([replace(plan, **changes) for plan in plans], board) as coordinator:
            pids = [worker.pid for worker in coordinator._workers]
            yield Coordinated(coordinator, [list(stage) for stage in zip(*by_worker, strict=True)])
        assert all(gone(pid) for pid in pids)
    finally:
        board.close()


def nobody(_now: StageNow) -> None:
    """A watcher that does nothing."""


def captures(folder: Path) -> list[Capture]:
    read = [open_capture(path) for path in sorted(folder.rglob("worker-*.arrow"))]
    return [capture for capture in read if capture is not None]


class InTwoPieces:
    """A line to a worker that carries everything in two writes, with a pause between them, as a full pipe does."""

    def __init__(self, line: Any) -> None:
        self._line = line
        self.close = line.close

    def send(self, value: object) -> None:
        said = pickle.dumps(value)
        said = struct.pack("!i", len(said)) + said
        for piece in (said[: len(said) // 2], said[len(said) // 2 :]):
            os.write(self._line.fileno(), piece)
            time.sleep(0.1)


def test_a_stage_that_comes_in_two_pieces_is_heard_whole(quick, tmp_path):
    asked = spec(url=quick.url, concurrency=1, requests=3, output_tokens=2)
    with coordinating(asked, tmp_path, workers=1) as coordinator:
        until(lambda: captures(tmp_path), "the worker to listen")
        coordinator.coordinator._lines = [InTwoPieces(line) for line in coordinator._lines]
        assert coordinator.run(nobody) == [Outcome("finished")]
    assert len(rows(tmp_path)) == 3


@pytest.mark.skipif(len(host.usable_cores()) < 2, reason="two workers need two cores")
def test_two_workers_send_each_request_once_and_start_together(quick, tmp_path):
    asked = spec(url=quick.url, concurrency=(1, 5), requests=13)
    seen: list[StageNow] = []
    with coordinating(asked, tmp_path) as coordinator:
        assert coordinator.run(seen.append) == [Outcome("finished")] * 2
    told = rows(tmp_path)
    assert sorted(row["request_id"] for row in told) == [
        stage << STAGE_SHIFT | number for stage in range(2) for number in range(13)
    ]
    assert {row["error"] for row in told} == {None}
    read = captures(tmp_path)
    assert all(capture.closed for capture in read)
    assert [capture.facts["core"] for capture in read] == host.usable_cores()[:2]
    marks = [{mark["stage"]: mark["start_ns"] for mark in capture.watches[-1]["stages"]} for capture in read]
    assert marks[0] == marks[1]
    assert marks[0][0] < marks[0][1]
    # Five slots on two workers: three and two of them, and as many requests to each slot.
    by_worker = [sum(row["worker"] == worker for row in told if row["stage"] == 1) for worker in range(2)]
    assert by_worker == [8, 5]
    last = seen[-1]
    assert (last.stage, last.sent, last.completed, last.failed, last.in_flight) == (1, 13, 13, 0, 0)
    assert last.ttft_p50_ns is not None


def test_a_killed_worker_is_named_and_the_others_captures_are_whole(slow, tmp_path):
    asked = spec(url=slow.url, concurrency=(6,), requests=100)

    def kill_one(now: StageNow) -> None:
        if now.in_flight == 6:
            os.kill(coordinator._workers[1].pid, signal.SIGKILL)

    words = r"^worker 1 ended in mid-run \(killed by signal 9: by somebody, or by the kernel for its memory\)$"
    with coordinating(asked, tmp_path) as coordinator, pytest.raises(RunError, match=words):
        coordinator.run(kill_one)
    whole, cut = captures(tmp_path)
    assert (whole.closed, cut.closed) == (True, False)
    assert cut.watches, "what it had written before is there"
    assert {(row["worker"], row["error"]) for row in rows(tmp_path)} == {(0, "unfinished")}
    assert whole.rows == whole.watches[-1]["sent"] == 3, "what was in flight is told too"


@pytest.mark.alone
def test_a_worker_that_hangs_is_found_out_and_ended(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(under_test, "LEAVE_S", 0.5)
    asked = spec(url=slow.url, concurrency=(2,), requests=100)
    stopped = []

    def stop_one(now: StageNow) -> None:
        if now.in_flight == 2 and not stopped:
            stopped.append(coordinator._workers[0].pid)
            os.kill(stopped[0], signal.SIGSTOP)
            monkeypatch.setattr(under_test, "SILENT_NS", 5_000_000_000)  # from now on: a busy machine begins slowly

    with coordinating(asked, tmp_path) as coordinator, pytest.raises(RunError, match=r"^worker 0 has been silent for"):
        coordinator.run(stop_one)
    assert stopped


@pytest.mark.parametrize(
    ("path", "words"), [("/dev/full", "No space left on device"), ("/proc/none/c", "No such file or directory")]
)
def test_a_worker_that_cannot_write_says_why(quick, tmp_path, path, words):
    told = rf"^worker 0 ended in mid-run \(exit status 1\): worker 0: .*{words}"
    running = coordinating(spec(url=quick.url), tmp_path, workers=1, capture_path=path)
    with running as coordinator, pytest.raises(RunError, match=told):
        coordinator.run(nobody)


def test_workers_whose_coordinator_is_killed_write_what_they_have_and_leave_within_two_seconds(slow, tmp_path):
    load = ["--concurrency", "4", "--duration", "1h"]
    command = ["run", "--url", slow.url, "--model", "sim", "--no-check", "--no-html", *load]
    n_workers = len(choose_cores(None, None, host.usable_cores(), 4, host.cpu_quota()))

    def kill_the_coordinator(attempt: int) -> None:
        run_dir = tmp_path / f"run-{attempt}"
        capture = run_dir / "capture"
        with subprocess.Popen(
            [*installed(), *command, "--out", str(run_dir)], env=environment(), stdout=subprocess.DEVNULL
        ) as running:
            workers = until(lambda: len(children(running.pid)) == n_workers and children(running.pid), "workers")
            until(
                lambda: sum(one.watches[-1]["sent"] for one in captures(capture) if one.watches) == 4,
                "four requests in flight",
            )
            running.kill()
            killed_ns = time.monotonic_ns()
            running.wait()
        until(lambda: all(gone(pid) for pid in workers), "the workers' end")
        assert all(one.closed for one in captures(capture))
        assert [row["error"] for row in rows(capture)] == ["unfinished"] * 4
        assert json.loads((run_dir / "run.json").read_bytes())["ended"] is None
        reported = typed("report", run_dir, "--no-html")
        assert (reported.returncode, reported.stderr) == (0, "")
        assert "suspect" in reported.stdout
        ended_ns = max(row["ended_ns"] for row in rows(capture))
        assert ended_ns - killed_ns < 2_000_000_000, "by their own account"

    in_one_of(3, kill_the_coordinator)


def test_a_stage_in_which_everything_fails_ends_early_with_the_servers_words(tmp_path):
    asked = spec(concurrency=(2, 4), requests=100_000)
    with serve("--fault", "error-503") as failing:
        with coordinating(replace(asked, url=failing.url), tmp_path, workers=1) as coordinator:
            (outcome,) = coordinator.run(nobody)
        assert outcome.reason == "failed"
        assert outcome.words.startswith("http-503: ")
        assert len(outcome.words) > len("http-503: ")
    told = rows(tmp_path)
    assert under_test.HOPELESS_FAILURES <= len(told) < 100_000
    assert {row["error"] for row in told} <= {"http-503", "unfinished"}
    assert {row["stage"] for row in told} == {0}


def test_a_few_requests_that_all_fail_are_a_failed_run_too(tmp_path):
    asked = spec(url=f"http://127.0.0.1:{refused_port()}", concurrency=(2, 4), requests=3)
    with coordinating(asked, tmp_path, workers=1) as coordinator:
        (outcome,) = coordinator.run(nobody)
    assert outcome.reason == "failed"
    assert outcome.words.startswith("connect-refused: ")
    assert [row["error"] for row in rows(tmp_path)] == ["connect-refused"] * 3


def test_the_key_is_blotted_out_of_the_servers_words(tmp_path):
    body = json.dumps({"error": {"message": f"Incorrect API key: {KEY}."}}).encode()
    with canned(response(body, "application/json", "401 Unauthorized")) as server:
        asked = spec(url=server.url, concurrency=(1,), requests=1)
        with coordinating(asked, tmp_path, workers=1, key=KEY) as coordinator:
            (outcome,) = coordinator.run(nobody)
        assert any(f"Bearer {KEY}".encode() in request for request in server.requests)
    assert outcome.words == "http-401: Incorrect API key: ***."
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_one_interrupt_sends_no_more_drains_and_leaves_the_later_stages(quick, tmp_path):
    asked = spec(url=quick.url, concurrency=(4, 8), requests=1_000_000, output_tokens=50)

    def interrupt_once(now: StageNow) -> None:
        if now.completed and not now.draining:
            assert coordinator.interrupt() == 1

    with coordinating(asked, tmp_path) as coordinator:
        assert coordinator.run(interrupt_once) == [Outcome("interrupted")]
    told = rows(tmp_path)
    assert {row["error"] for row in told} == {None}
    assert {row["stage"] for row in told} == {0}
    for capture in captures(tmp_path):
        assert capture.closed
        (mark,) = capture.watches[-1]["stages"]
        mine = [row for row in told if row["worker"] == capture.worker]
        assert max(row["sent_ns"] for row in mine) <= mark["stop_ns"] <= mark["done_ns"]
        assert capture.watches[-1]["sent"] == len(mine)


def test_two_interrupts_cancel_what_is_in_flight(slow, tmp_path):
    asked = spec(url=slow.url, concurrency=(30,), requests=1_000_000, drain_s=3600.0)

    def interrupt_twice(now: StageNow) -> None:
        if now.in_flight == 30:
            coordinator.interrupt()

    with coordinating(asked, tmp_path) as coordinator:
        assert coordinator.run(interrupt_twice) == [Outcome("interrupted")]
    assert [row["error"] for row in rows(tmp_path)] == ["unfinished"] * 30
    assert all(capture.closed for capture in captures(tmp_path))


def test_an_interrupt_before_the_first_stage_begins_none(quick, tmp_path):
    with coordinating(spec(url=quick.url, requests=1_000_000), tmp_path, workers=1) as coordinator:
        coordinator.interrupt()
        assert coordinator.run(nobody) == [Outcome("interrupted")]
    assert rows(tmp_path) == []


def test_a_drain_has_its_end(slow, tmp_path):
    in_one_of(3, lambda attempt: drained(slow.url, tmp_path / str(attempt)))


def drained(url: str, folder: Path) -> None:
    """A worker that is held up for as long as the stage is sends nothing."""
    folder.mkdir()
    asked = spec(url=url, concurrency=(3,), requests=None, duration_s=0.5, drain_s=0.1)
    with coordinating(asked, folder, workers=1) as coordinator:
        (outcome,) = coordinator.run(nobody)
    assert outcome == Outcome("failed", "unfinished: still running at the end of the drain")
    assert [row["error"] for row in rows(folder)] == ["unfinished"] * 3


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ("first_byte_timeout_s", "timeout-first-byte"),
        ("idle_timeout_s", "timeout-idle"),
        ("timeout_s", "timeout-total"),
    ],
)
def test_a_request_over_its_limit_is_ended_and_classed(slow, tmp_path, limit, error):
    url = slow.url
    with serve("--fault", "stall-first-byte", "--stall", "60s") as silent:
        if limit == "first_byte_timeout_s":
            url = silent.url
        asked = spec(url=url, concurrency=(1,), requests=1, **{limit: 0.2})
        with coordinating(asked, tmp_path, workers=1) as coordinator:
            (outcome,) = coordinator.run(nobody)
    assert outcome.words == f"{error}: over the limit of 0.2 s"
    (row,) = rows(tmp_path)
    assert row["error"] == error


def test_a_stage_is_cut_when_the_judge_says_so_and_the_next_one_runs_whole(slow, quick, tmp_path):
    asked = spec(url=slow.url, concurrency=(3, 2), requests=1_000_000, drain_s=3600.0)

    def enough(now: StageNow) -> str:
        return "too long a queue" if now.in_flight == 3 else ""

    with coordinating(asked, tmp_path, workers=1) as coordinator:
        first, second = coordinator.stages
        assert coordinator.stage(first, nobody, enough) == Outcome("cut", "too long a queue")
        short = [replace(plan, duration_ns=1_500_000_000, drain_ns=100_000_000) for plan in second]
        assert coordinator.stage(short, nobody, enough).reason == "failed"
    assert [(row["stage"], row["error"]) for row in rows(tmp_path)] == [(0, "unfinished")] * 3 + [(1, "unfinished")] * 2
