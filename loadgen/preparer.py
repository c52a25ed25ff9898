"""The preparer, a process beside the workers: makes requests ahead of their time, and lays them into the workers' rings.

Data sets are read, prompts made, tokens counted and JSON written here, where nobody waits, at low priority; a worker takes
whole bodies out of its ring. Started as `python -m loadgen.preparer`; its plan comes pickled through standard input,
which then stays open: when it closes, the run is over.

Unit n of an open loop goes to worker n mod workers (of a trace the units of a session to one and the same); of a closed
loop to the worker that has slot n mod all slots. A worker whose ring is full holds up the others only when the
requests laid by for it have become many.
"""

import contextlib
import marshal
import os
import pickle
import select
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Final

import orjson

from loadgen.dealing import Deal
from loadgen.dialects import spoken
from loadgen.dialects.answer import Ask
from loadgen.errors import LoadgenError, UsageError
from loadgen.preparation import PreparerPlan, Speaking
from loadgen.ring import ALL_SLOTS, WANTED, Ring
from loadgen.workload.script import STAGE_SHIFT, Recipe, Script, Unit

PAUSE_S: Final = 0.001
"""Between two looks at rings that are full, or at workers that have not asked yet."""

MOST_LAID_BY_BYTES: Final = 16 * 1024 * 1024

LOOK_EVERY: Final = 64
"""Units between two looks at whether the run is over."""


class Over(Exception):
    """The run is over."""


class Preparer:
    """Fills the rings, stage by stage, as the workers ask for it. `look` raises Over when the run is over.

    The rings are those of the workers on this machine: of all `workers` from number `first` on.
    """

    def __init__(
        self,
        recipe: Recipe,
        targets: Sequence[Speaking],
        deal: Deal,
        rings: list[Ring],
        look: Callable[[], None],
        first: int = 0,
        workers: int | None = None,
    ) -> None:
        self._recipe = recipe
        self._targets = [(target, spoken(target.wording).body) for target in targets]
        self._deal = deal
        self._rings = rings
        self._first = first
        self._workers = len(rings) if workers is None else workers
        self._look = look
        self._script = Script(recipe)
        self._laid_by: list[deque[bytes]] = [deque() for _ in rings]
        self._laid_by_bytes = 0

    def work(self) -> None:
        """Until `look` says that the run is over."""
        stage = -1
        while True:
            while (wanted := min(ring.get(WANTED) for ring in self._rings)) <= stage:
                self._pause()
            stage = wanted
            self._fill(stage)

    def _fill(self, stage: int) -> None:
        """One stage: until it has no more units, or all workers have gone on."""
        all_slots = self._rings[0].get(ALL_SLOTS)
        for number, unit in enumerate(self._script.units(stage)):
            self._tell_skipped()  # before the unit: a run may end with it
            seat = self._worker_of(unit, all_slots) - self._first
            if 0 <= seat < len(self._rings):  # else it is another machine's
                try:
                    record = self.record(unit, self._target_of(stage, unit))
                except UsageError as error:  # what this API cannot say
                    where = f"{self._recipe.file.path}: line {unit.line}: " if self._recipe.file is not None else ""
                    raise UsageError(f"{where}{error}") from None
                if not self._give(stage, seat, record, unit):
                    break
            if not number % LOOK_EVERY:
                self._look()
                if self._is_past(stage):
                    break
        else:
            while any(self._laid_by) and not self._is_past(stage):
                self._pass_on(stage)
                self._pause()
        self._tell_skipped()
        for ring, laid_by in zip(self._rings, self._laid_by, strict=True):
            laid_by.clear()
            ring.end(stage)
        self._laid_by_bytes = 0

    def _worker_of(self, unit: Unit, all_slots: int) -> int:
        if unit.session is not None:
            return unit.session % self._workers
        return (unit.number % all_slots if all_slots else unit.number) % self._workers

    def _target_of(self, stage: int, unit: Unit) -> int:
        if unit.target is not None:  # a replay
            return unit.target
        return self._deal.target(unit.session if unit.session is not None else (stage << STAGE_SHIFT) + unit.number)

    def record(self, unit: Unit, target: int = 0) -> bytes:
        """A unit as loadgen.worker.script reads it."""
        speaking, body_of = self._targets[target]
        quotes_real = self._recipe.real_history
        history: list[tuple[str, str]] = []
        requests = []
        for turn, asked in enumerate(unit.asked):
            body, said = b"", asked.ask
            if len(self._targets) > 1:
                said = replace(said, model=speaking.model, ignore_eos=speaking.ignore_eos)
            if not turn or not quotes_real:
                body = orjson.dumps(body_of(_behind(said, history)))
                history.append((said.prompt, asked.quoted))
            ask = orjson.dumps(_plain(said)) if quotes_real and len(unit.asked) > 1 else b""
            requests.append((asked.wanted_input_tokens, asked.wanted_output_tokens, body, ask))
        return marshal.dumps((unit.number, unit.due_ns, unit.session, unit.turn, target, tuple(requests)))

    def _give(self, stage: int, seat: int, record: bytes, unit: Unit) -> bool:
        """False when all workers have gone on to another stage."""
        if len(record) > self._rings[seat].most_bytes:
            where = f"{self._recipe.file.path}: line {unit.line}: " if self._recipe.file is not None else ""
            raise UsageError(
                f"{where}a request of {len(record)} bytes is too large; allowed are {self._rings[seat].most_bytes}"
            )
        self._pass_on(stage)
        if not self._laid_by[seat] and self._rings[seat].put(stage, record):
            return True
        self._laid_by[seat].append(record)
        self._laid_by_bytes += len(record)
        while self._laid_by_bytes > MOST_LAID_BY_BYTES or all(self._laid_by):
            if self._is_past(stage):
                return False
            self._pause()
            self._pass_on(stage)
        return True

    def _pass_on(self, stage: int) -> None:
        for ring, laid_by in zip(self._rings, self._laid_by, strict=True):
            while laid_by and ring.put(stage, laid_by[0]):
                self._laid_by_bytes -= len(laid_by.popleft())

    def _tell_skipped(self) -> None:
        self._rings[0].skipped(self._script.bad_lines)

    def _is_past(self, stage: int) -> bool:
        return min(ring.get(WANTED) for ring in self._rings) > stage

    def _pause(self) -> None:
        time.sleep(PAUSE_S)
        self._look()


def _behind(ask: Ask, history: list[tuple[str, str]]) -> Ask:
    if not history:
        return ask
    return replace(ask, history=tuple(history))


def _plain(ask: Ask) -> dict[str, object]:
    """For JSON; the history is not known yet."""
    return {field.name: getattr(ask, field.name) for field in fields(ask) if field.name != "history"}


def main() -> None:
    """The process; exit status 0 when the run is over, else one line on stderr."""
    plan: PreparerPlan = pickle.load(sys.stdin.buffer)
    os.nice(5)  # behind the workers, before what only watches
    if plan.cpus is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, plan.cpus)
    rings = [Ring(size, fd) for fd, size in plan.rings]
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)

    def look() -> None:
        if poll.poll(0):
            raise Over

    try:
        Preparer(plan.recipe, plan.targets, plan.deal, rings, look, plan.first, plan.workers).work()
    except Over:
        return
    except LoadgenError as error:
        sys.exit(" ".join(str(error).split()))
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"the preparer of requests failed ({type(error).__name__}: {error})")


if __name__ == "__main__":
    main()
