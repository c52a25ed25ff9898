"""Every stage over time, and each worker's slice of it."""

from array import array
from collections.abc import Sequence
from typing import Final

from loadgen import recipes
from loadgen.clock import NS_PER_MS, NS_PER_S, in_ns
from loadgen.errors import UsageError
from loadgen.plan import ClosedLoad, OpenLoad, StagePlan
from loadgen.schedule.stage import Schedule, schedule
from loadgen.spec import Spec, StageSpec
from loadgen.workload import traces

TRACE_CONNECTIONS: Final = 32
"""Of a trace whose rate at the beginning is not known."""

# Connections of an open loop, a worker: open before the start is what a second of arrivals could need, and spare are kept
# what comes within a tenth of a second, longer than a connect takes.
MOST_OPENED_BEFORE: Final = 1024
BLINK_NS: Final = 100 * NS_PER_MS
LEAST_SPARE: Final = 4
MOST_SPARE: Final = 128


def schedules(spec: Spec) -> list[Schedule]:
    """Every stage over time. UsageError where one cannot be made."""
    return [
        _recorded(spec, stage)
        if stage.arrivals is not None and stage.arrivals.kind == "recorded"
        else schedule(stage, number, spec.seed)
        for number, stage in enumerate(spec.stages)
    ]


def _recorded(spec: Spec, stage: StageSpec) -> Schedule:
    """A trace in its own time: how long it lasts, and how fast it begins; when each unit is due only its reader knows."""
    how = recipes.file_of(spec)
    assert how is not None
    if stage.warmup_requests:
        raise UsageError("--warmup-requests: the times of a trace are read while it is played; give --warmup TIME")
    plays = recipes.course(spec)
    length_ns = traces.length_ns(how, plays)
    if not length_ns:
        raise UsageError(f"--from, --to: {how.path} has nothing there to play; allowed is a part that has rows")
    warmup_ns = in_ns(stage.warmup_s)
    if stage.duration_s is not None:
        length_ns = min(length_ns, warmup_ns + in_ns(stage.duration_s))
    rate = traces.first_rate_per_s(how, plays, spec.seed)
    return Schedule(warmup_ns, max(length_ns - warmup_ns, 0), rate)


def share(total: int, worker: int, workers: int) -> int:
    """A worker's part of a whole number; the parts add up to it exactly, and the first workers get the larger ones."""
    return total // workers + (worker < total % workers)


def most_in_flight(spec: Spec, planned: Sequence[Schedule]) -> int | None:
    """The most units in flight at any time, in all workers; None where an open loop sets no limit, or without a stage."""
    limits = [
        stage.max_in_flight if stage.is_open_loop else made.most_in_flight
        for stage, made in zip(spec.stages, planned, strict=True)
    ]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def worker_stages(
    spec: Spec, planned: Sequence[Schedule], worker: int, workers: int, most_connections: int
) -> tuple[StagePlan, ...]:
    """One worker's slice of every stage; a worker can hold `most_connections`."""
    return tuple(
        worker_stage(number, stage, made, worker, workers, most_connections)
        for number, (stage, made) in enumerate(zip(spec.stages, planned, strict=True))
    )


def worker_stage(
    number: int, stage: StageSpec, made: Schedule, worker: int, workers: int, most_connections: int
) -> StagePlan:
    """One worker's slice of one stage."""
    return StagePlan(
        stage=number,
        load=_open_load(stage, made, worker, workers, most_connections)
        if stage.is_open_loop
        else _closed_load(stage, made, worker, workers),
        warmup_ns=made.warmup_ns,
        # The schedule of an open loop knows when its warm-up ends.
        warmup_requests=0 if stage.is_open_loop else _dealt(stage.warmup_requests, made, worker, workers),
        duration_ns=made.duration_ns,
        drain_ns=in_ns(stage.drain_s),
    )


def _closed_load(stage: StageSpec, made: Schedule, worker: int, workers: int) -> ClosedLoad:
    assert made.levels is not None
    levels: list[tuple[int, int]] = []
    for from_ns, level in made.levels:
        mine = share(level, worker, workers)
        if not levels or levels[-1][1] != mine:
            levels.append((from_ns, mine))
    all_slots = made.most_in_flight
    slots = share(all_slots, worker, workers)
    units = stage.requests if stage.requests is not None else stage.sessions
    if units is not None:
        units += stage.warmup_requests if stage.requests is not None else 0
        units = _dealt(units, made, worker, workers)
    return ClosedLoad(tuple(levels), slots, all_slots, units)


def _dealt(units: int, made: Schedule, worker: int, workers: int) -> int:
    """By slot, not by worker: a worker with more slots is through with more of them in the same time."""
    all_slots = made.most_in_flight
    return units // all_slots * share(all_slots, worker, workers) + share(units % all_slots, worker, workers)


def _open_load(stage: StageSpec, made: Schedule, worker: int, workers: int, most_connections: int) -> OpenLoad:
    mine: array[int] | None = None
    if made.due_ns is not None:
        mine = array("q")
        mine.frombytes(made.due_ns[worker::workers].tobytes())
    places = most_connections
    if stage.max_in_flight is not None:
        places = min(places, share(stage.max_in_flight, worker, workers))
    if made.due_ns is None:
        in_a_second = max(-(-round(2 * made.value) // workers), TRACE_CONNECTIONS)
        in_a_blink = in_a_second // 4
    else:
        in_a_second = -(-made.most_within(NS_PER_S) // workers)
        in_a_blink = -(-made.most_within(BLINK_NS) // workers)
    return OpenLoad(
        due_ns=mine,
        connections=min(in_a_second, MOST_OPENED_BEFORE, places),
        spare=min(max(in_a_blink, LEAST_SPARE), MOST_SPARE),
        max_in_flight=places,
        late_drop_ns=None if stage.late_drop_s is None else in_ns(stage.late_drop_s),
    )
