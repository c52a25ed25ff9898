"""Spawn the workers, start each stage together, watch, stop, reap. No request ever passes through here.

The coordinator talks to its workers through the board (orders out, numbers in) and through one pipe each: the plan goes
down it, then each stage, and its closing is how a worker learns that there are no more, or that the coordinator is gone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Any, Final

from loadgen import board as b
from loadgen import host
from loadgen.blotting import LEAST_SECRET, blotted
from loadgen.board import Board
from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.errors import RunError
from loadgen.plan import ClosedLoad, StagePlan, WorkerPlan

LOOK_S: Final = 0.05
"""Between two looks at the board."""

TICK_S: Final = 0.5
"""Between two calls of the watcher."""

JUDGE_S: Final = 0.1
"""Between two questions to the judge of a stage."""

# The workers look for orders every 10 ms; five times that, and none can miss the start.
START_LEAD_NS: Final = 50 * NS_PER_MS

# A stage in which nothing but failures came back, and at least this many: going on would only repeat them.
HOPELESS_FAILURES: Final = 20

# A worker that says nothing for this long is hanging or stopped.
SILENT_NS: Final = 30 * NS_PER_S

LEAVE_S: Final = 10.0
"""For a worker to write its last batch and go, before it is killed."""


@dataclass(frozen=True, slots=True)
class StageNow:
    """What the board says of the stage that runs; counts are of this stage, over all workers."""

    stage: int
    elapsed_s: float
    """Since the stage's start; below zero before it."""
    in_flight: int
    sent: int
    completed: int
    failed: int
    cancelled: int
    offered: int
    """Arrivals that have come due; 0 in closed loop."""
    dropped: int
    events: int
    reads: int
    """Since the start of the run."""
    decoded_reads: int
    """Of the responses whose events have been counted."""
    ttft_p50_ns: int | None
    tpot_p50_ns: int | None
    lag_ns: int
    lateness_ns: int
    cpu_ns: tuple[int, ...]
    """Per worker, since its start."""
    draining: bool
    start_ns: int = 0
    """CLOCK_MONOTONIC."""
    ttft_p99_ns: int | None = None
    ttft_counts: tuple[int, ...] = ()
    """By bucket of the board, of this stage; likewise for the time per output token."""
    tpot_counts: tuple[int, ...] = ()
    words: str = ""
    """Of the latest failure that a worker saw."""

    def shows_only_failures(self, least: int) -> bool:
        """Whether nothing came back but failures, and at least so many."""
        return not (self.completed or self.cancelled) and self.failed >= least

    @property
    def failure(self) -> str:
        """What to say where every request failed: the endpoint's words, if there are any."""
        return self.words or "every request failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended; `words` are the endpoint's, the system's or the judge's, for anything but "finished"."""

    reason: str
    """finished; cut (by the judge); interrupted or failed, and then no further stage is to follow"""
    words: str = ""

    @property
    def ends_run(self) -> bool:
        """Whether no further stage is to follow."""
        return self.reason in ("interrupted", "failed")


Watcher = Callable[[StageNow], None]

Judge = Callable[[StageNow], str]
"""Why a stage is to be cut now, or ""."""


class Coordinator:
    """One run over local workers. Use as a context manager: leaving it leaves no process behind."""

    def __init__(
        self,
        plans: list[WorkerPlan],
        board: Board,
        python: str = sys.executable,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._plans = plans
        self._also_check = check  # raises RunError where somebody else whom the workers need is gone
        self._board = board
        self._python = python
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lines: list[Connection[Any, None]] = []
        self._logs: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in plans]  # noqa: SIM115 - closed in __exit__
        self._interrupts = 0
        self._in_stage = False

    def __enter__(self) -> "Coordinator":
        self._spawned_ns = monotonic_ns()
        self._out_of_memory_kills = host.out_of_memory_kills()
        for number, value in ((b.START_STAGE, b.NO_STAGE), (b.ORDER, b.RUN)):
            self._board.numbers[number] = value
        for log, plan in zip(self._logs, self._plans, strict=True):
            line, end = os.pipe()
            worker = subprocess.Popen(
                [self._python, "-m", "loadgen.worker.main"],
                stdin=line,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[self._board.fd, *([plan.script.ring_fd] if plan.script is not None else [])],
                process_group=0,  # Ctrl-C in the terminal is for the coordinator alone
                env=harmless_environment(plan.secrets),
            )
            os.close(line)
            self._workers.append(worker)
            self._lines.append(Connection(end, readable=False))
        self._send(self._plans)
        return self

    def __exit__(self, *_: object) -> None:
        deadline_s = time.monotonic() + LEAVE_S
        for line in self._lines:
            line.close()
        for worker in self._workers:
            try:
                worker.wait(max(deadline_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        for log in self._logs:
            log.close()

    def _send(self, values: Sequence[Any]) -> None:
        """One value to each worker."""
        for line, value in zip(self._lines, values, strict=True):
            with contextlib.suppress(BrokenPipeError):  # it has died; waiting for it will tell why
                line.send(value)

    @property
    def is_interrupted(self) -> bool:
        """Whether no more is to be sent."""
        return self._interrupts > 0

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def interrupt(self) -> int:
        """Stop: the first time send no more and drain, the second time cancel what is in flight. Returns the count."""
        self._interrupts += 1
        self._board.numbers[b.ORDER] = b.STOP if self._interrupts == 1 else b.ABORT
        return self._interrupts

    def stage(self, plans: Sequence[StagePlan], watch: Watcher, judge: Judge | None = None) -> Outcome:
        """Run one stage, `plans` by worker; its number is above those before. `judge` is asked several times a second.

        RunError when a worker is lost; what it had written stays.
        """
        if not self.prepare(plans):
            return Outcome("interrupted")
        slots = sum(plan.load.slots for plan in plans if isinstance(plan.load, ClosedLoad))
        return self.start(plans[0].stage, monotonic_ns() + START_LEAD_NS, watch, judge, hopeless_after(slots))

    def prepare(self, plans: Sequence[StagePlan]) -> bool:
        """Have the workers make ready for a stage; False where the run was interrupted meanwhile. RunError as above."""
        self._board.numbers[b.ORDER] = b.RUN
        self._send(plans)
        while not (self.is_interrupted or self._all(b.READY, plans[0].stage)):
            self._check_workers()
            time.sleep(LOOK_S)
        return not self.is_interrupted

    def start(
        self,
        stage: int,
        start_ns: int,
        watch: Watcher,
        judge: Judge | None = None,
        hopeless_failures: int | None = None,
    ) -> Outcome:
        """Run a stage that all workers are ready for, from `start_ns` on. RunError as above.

        After so many failures and nothing else it is given up; None leaves that to whoever sees more than these workers.
        """
        board = self._board
        board.numbers[b.START_NS] = start_ns
        board.numbers[b.START_STAGE] = stage
        watch(self._now(stage, start_ns))  # some 50 ms before it starts
        hopeless = cut = ""
        next_tick_s = next_judgement_s = time.monotonic()
        while not self._all(b.DONE, stage):
            time.sleep(LOOK_S)
            self._check_workers()
            may_end_early = not (hopeless or cut or self._interrupts)
            if may_end_early and hopeless_failures is not None and self._only_failures(hopeless_failures):
                hopeless = self._now(stage, start_ns).failure
                board.numbers[b.ORDER] = b.ABORT
            if time.monotonic() >= next_tick_s:
                next_tick_s += TICK_S
                watch(self._now(stage, start_ns))
            if judge is not None and may_end_early and not hopeless and time.monotonic() >= next_judgement_s:
                next_judgement_s += JUDGE_S
                if cut := judge(self._now(stage, start_ns)):
                    board.numbers[b.ORDER] = b.ABORT
        last = self._now(stage, start_ns)
        watch(last)
        return ended(last, cut=cut, hopeless=hopeless, interrupted=self.is_interrupted)

    def _only_failures(self, least: int) -> bool:
        """Whether nothing came back but failures, and at least so many."""
        board = self._board
        return not (board.total(b.COMPLETED) or board.total(b.CANCELLED)) and board.total(b.FAILED) >= least

    def _now(self, stage: int, start_ns: int) -> StageNow:
        board = self._board
        workers = range(board.workers)
        ttft_counts, tpot_counts = board.counts(b.TTFT), board.counts(b.TPOT)
        return StageNow(
            stage=stage,
            elapsed_s=(monotonic_ns() - start_ns) / NS_PER_S,
            in_flight=board.total(b.IN_FLIGHT),
            sent=board.total(b.SENT),
            completed=board.total(b.COMPLETED),
            failed=board.total(b.FAILED),
            cancelled=board.total(b.CANCELLED),
            offered=board.total(b.OFFERED),
            dropped=board.total(b.DROPPED),
            events=board.total(b.EVENTS),
            reads=board.total(b.READS),
            decoded_reads=board.total(b.DECODED_READS),
            ttft_p50_ns=b.percentile_ns(ttft_counts, 50),
            tpot_p50_ns=b.percentile_ns(tpot_counts, 50),
            lag_ns=max(board.get(worker, b.LAG_NS) for worker in workers),
            lateness_ns=max(board.get(worker, b.LATENESS_NS) for worker in workers),
            cpu_ns=tuple(board.get(worker, b.CPU_NS) for worker in workers),
            draining=board.numbers[b.ORDER] != b.RUN,
            start_ns=start_ns,
            ttft_p99_ns=b.percentile_ns(ttft_counts, 99),
            ttft_counts=ttft_counts,
            tpot_counts=tpot_counts,
            words=self.words(),
        )

    def words(self) -> str:
        """The words of the latest failure that a worker saw, or ""."""
        return next((words for i in range(self._board.workers) if (words := self._board.words(i))), "")

    def _all(self, number: int, stage: int) -> bool:
        return all(self._board.get(worker, number) > stage for worker in range(self._board.workers))

    def _check_workers(self) -> None:
        try:
            self._also_check()
        except RunError:
            self._board.numbers[b.ORDER] = b.ABORT
            raise
        for number, (worker, log) in enumerate(zip(self._workers, self._logs, strict=True)):
            if worker.poll() is not None:
                self._board.numbers[b.ORDER] = b.ABORT  # the others write what they have
                words = blotted(_last_line(log), self._plans[number].secrets)
                raise RunError(f"worker {number} ended in mid-run ({self._how(worker.returncode)}){words}")
            heard_ns = max(self._board.get(number, b.HEARTBEAT_NS), self._spawned_ns)
            if monotonic_ns() - heard_ns > SILENT_NS:
                self._board.numbers[b.ORDER] = b.ABORT
                raise RunError(
                    f"worker {number} has been silent for {SILENT_NS // NS_PER_S} s: stopped, or starved of CPU"
                )

    def _how(self, returncode: int) -> str:
        """How a worker ended, from its exit status as Popen tells it."""
        if returncode >= 0:
            return f"exit status {returncode}"
        words = f"killed by signal {-returncode}"
        if -returncode == signal.SIGKILL:
            ran_out = host.out_of_memory_kills() > self._out_of_memory_kills
            words += ": the kernel had no memory left" if ran_out else ": by somebody, or by the kernel for its memory"
        return words


def hopeless_after(slots: int) -> int:
    """How many failures, and nothing else, make a stage hopeless; `slots` is what a closed loop keeps in flight, else 0."""
    return max(HOPELESS_FAILURES, 2 * slots)


def ended(last: StageNow, *, cut: str, hopeless: str, interrupted: bool) -> Outcome:
    """How a stage ended, from what was seen of it at last and why it was broken off, if it was."""
    if cut:
        return Outcome("cut", cut)
    if hopeless or (not interrupted and last.shows_only_failures(1)):
        return Outcome("failed", hopeless or last.failure)
    return Outcome("interrupted" if interrupted else "finished")


def harmless_environment(secrets: Sequence[str]) -> dict[str, str]:
    """For a process that this one starts: without the secrets, which come to it in its plan if it needs them."""
    told = [secret for secret in secrets if len(secret) >= LEAST_SECRET]
    harmless = {name: value for name, value in os.environ.items() if not any(secret in value for secret in told)}
    return {**harmless, "PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"}


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
