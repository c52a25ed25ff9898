"""A stage over time, before it is dealt out: how many in flight from when on, or the due time of every arrival."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from loadgen.clock import NS_PER_S, in_ns
from loadgen.errors import UsageError
from loadgen.schedule.arrivals import offsets_ns
from loadgen.spec import StageSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Of a trace, all of it.
ALL: Final = 1 << 32

# 16 bytes each while they are dealt out, and far more than one machine sends in a day.
MOST_ARRIVALS: Final = 200_000_000

BLOCK: Final = 1 << 16
"""Arrivals that are looked at in one go: as many as the cache of a core holds."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One stage; times are ns since its start. Closed loop: `levels`; open loop: `due_ns`."""

    warmup_ns: int
    """Where the window begins: behind ramp-up and warm-up. 0 where the end of the warm-up is a number of requests."""
    duration_ns: int | None
    """The window; None where a closed loop ends by its requests. An open loop always knows."""
    value: float
    """Concurrency or arrivals a second: the constant, or the mean over the window."""
    levels: "list[tuple[int, int]] | None" = None
    """(from when on, how many), ascending, the first at 0."""
    due_ns: "npt.NDArray[np.int64] | None" = None
    """Every arrival, ascending."""
    _most_within: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def most_in_flight(self) -> int:
        """Of a closed loop."""
        return max(level for _, level in self.levels or [(0, 0)])

    @property
    def arrivals_planned(self) -> int | None:
        """Arrivals due inside the window; None in closed loop."""
        if self.due_ns is None:
            return None
        assert self.duration_ns is not None
        first, after = self.due_ns.searchsorted([self.warmup_ns, self.warmup_ns + self.duration_ns])
        return int(after - first)

    def most_within(self, span_ns: int) -> int:
        """The most arrivals within any span of this length, its end left out."""
        if self.due_ns is None or not len(self.due_ns):
            return 0
        if span_ns not in self._most_within:
            fewest, step = 1, 1
            while fewest + step <= len(self.due_ns) and _come_within(self.due_ns, span_ns, fewest + step):
                fewest, step = fewest + step, step * 2
            while step := step // 2:
                if fewest + step <= len(self.due_ns) and _come_within(self.due_ns, span_ns, fewest + step):
                    fewest += step
            self._most_within[span_ns] = fewest
        return self._most_within[span_ns]


def _come_within(due_ns: "npt.NDArray[np.int64]", span_ns: int, count: int) -> bool:
    """Whether so many arrivals come within one span: whether the last of some `count` comes so soon after the first."""
    firsts = len(due_ns) - count + 1
    for at in range(0, firsts, BLOCK):
        first = due_ns[at : min(at + BLOCK, firsts)]
        last = due_ns[at + count - 1 : at + count - 1 + len(first)]
        if (last - first < span_ns).any():
            return True
    return False


def schedule(stage: StageSpec, number: int, seed: int) -> Schedule:
    """The schedule of a stage; the same stage, number and seed give the same one. UsageError where it cannot be made."""
    if stage.warmup_requests and stage.load is not None and not stage.load.is_constant:
        raise UsageError(
            "--warmup-requests: a load over time begins when the warm-up ends, which has to be known; give --warmup TIME"
        )
    return _open_loop(stage, number, seed) if stage.is_open_loop else _closed_loop(stage)


def _closed_loop(stage: StageSpec) -> Schedule:
    assert stage.concurrency is not None
    warmup_ns = in_ns(stage.ramp_up_s) + in_ns(stage.warmup_s)
    duration_ns = None if stage.duration_s is None else in_ns(stage.duration_s)
    whole = stage.concurrency.whole(in_ns(stage.ramp_up_s), in_ns(stage.warmup_s), duration_ns)
    end_ns = warmup_ns + (duration_ns or 1)
    try:
        levels = whole.levels(end_ns)
    except ValueError as error:
        raise UsageError(f"--concurrency: {error}") from None
    value = stage.concurrency.first
    if not stage.concurrency.is_constant:
        value = whole.mean(warmup_ns, end_ns)
    return Schedule(warmup_ns, duration_ns, value, levels=levels)


def _open_loop(stage: StageSpec, number: int, seed: int) -> Schedule:
    from loadgen.schedule.profile import parse_profile

    process = stage.arrivals
    assert process is not None
    ramp_up_ns, warmup_ns = in_ns(stage.ramp_up_s), in_ns(stage.ramp_up_s) + in_ns(stage.warmup_s)
    duration_ns = None if stage.duration_s is None else in_ns(stage.duration_s)
    # Where the process has its own times the profile is not looked at.
    profile = stage.rate or parse_profile("1")
    whole = profile.whole(ramp_up_ns, in_ns(stage.warmup_s), duration_ns if not stage.warmup_requests else None)

    def arrivals(until_ns: int | None = None, count: int | None = None) -> Any:
        try:
            return offsets_ns(
                process, whole, seed=seed, stage=number, until_ns=until_ns, count=count, warmup_ns=warmup_ns
            )
        except ValueError as error:
            raise UsageError(f"{'--arrivals' if stage.rate is None else '--rate'}: {error}") from None
        except OSError as error:
            raise UsageError(f"--arrivals: {error}") from None

    units = stage.requests if stage.requests is not None else stage.sessions
    if stage.rate is not None and duration_ns is not None:
        expected = whole.mean(0, warmup_ns + duration_ns) * (warmup_ns + duration_ns) / NS_PER_S
    else:
        expected = (units or 0) + stage.warmup_requests
    if expected > MOST_ARRIVALS:
        raise UsageError(
            f"--rate: {expected:,.0f} arrivals are too many to plan; allowed are {MOST_ARRIVALS:,} in a stage"
        )
    if stage.warmup_requests:
        first = arrivals(count=stage.warmup_requests + 1)
        if len(first) <= stage.warmup_requests:
            raise UsageError(f"--warmup-requests: {stage.warmup_requests} are more than arrive in the whole stage")
        warmup_ns = int(first[-1])
    if duration_ns is not None:
        due_ns = arrivals(until_ns=warmup_ns + duration_ns)
    else:
        wanted = ALL if units is None else units + stage.warmup_requests
        # The window ends where the next arrival would be due, so that M arrivals at rate R last M / R; but behind the last.
        due_ns = arrivals(count=wanted if units is None else wanted + 1)
        next_ns = due_ns[wanted:]
        due_ns = due_ns[:wanted]
        end_ns = max([int(due_ns[-1]) + 1, *map(int, next_ns)]) if len(due_ns) else 0
        duration_ns = max(end_ns - warmup_ns, 0)
    made = Schedule(warmup_ns, duration_ns, 0.0, due_ns=due_ns)
    planned = made.arrivals_planned or 0
    if stage.rate is not None and stage.rate.is_constant:
        value = stage.rate.first
    elif stage.rate is not None:
        value = whole.mean(warmup_ns, warmup_ns + duration_ns)
    elif process.burst_size and process.period_ns:
        value = process.burst_size * NS_PER_S / process.period_ns
    else:
        value = planned * NS_PER_S / duration_ns if duration_ns else 0.0
    return Schedule(warmup_ns, duration_ns, value, due_ns=due_ns)
