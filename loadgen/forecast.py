"""What a run would do, worked out before it is done: requests, tokens, connections, ports, memory, disk.

Arrivals of an open loop are known exactly, for they are the schedule. How many requests a closed loop gets through, and how
many an open loop has in flight, depends on the endpoint: there the forecast assumes a TTFT and a TPOT, and says so
(Little's law: in flight = arrivals a second x seconds each).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadgen.clock import NS_PER_S
from loadgen.plan import ClosedLoad, PromptPool, StagePlan
from loadgen.schedule.stage import Schedule
from loadgen.spec import Spec, StageSpec

# Measured on Linux, CPython 3.11 (benchmarks/README.md): a worker at rest, and what each connection with a stream adds.
WORKER_BYTES: Final = 90_000_000
CONNECTION_BYTES: Final = 30_000
ARRIVAL_BYTES: Final = 8
PREPARER_BYTES: Final = 60_000_000

# Of a capture, compressed: a row, and each of its events.
ROW_BYTES: Final = 70
EVENT_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Expected:
    """What the endpoint is taken to do."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Means:
    """What a request is on average, and what the file has of them where it is a trace in its own time."""

    input_tokens: float
    output_tokens: float
    prefix_tokens: int = 0
    turns: float = 1.0
    quotes_included: bool = False
    """Whether the input tokens hold those of the turns before already."""
    arrivals: int | None = None
    ring_bytes: int = 0
    """Of all workers together, where requests are prepared while the run goes on."""


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage; tokens are those asked for, an answer may be shorter."""

    sending_s: float
    arrivals: int | None
    """Units that come; None in closed loop."""
    requests: int
    input_tokens: int
    output_tokens: int
    connections: int
    is_exact: bool
    """Whether `requests` follows from the plan alone."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The whole run. Memory is of all workers together, disk of the capture."""

    stages: list[StageForecast]
    connections: int
    memory_bytes: int
    disk_bytes: int

    @property
    def total_s(self) -> float:
        """All sending, drains left out."""
        return sum(stage.sending_s for stage in self.stages)


def forecast(
    spec: Spec,
    planned: Sequence[Schedule],
    plans: Sequence[Sequence[StagePlan]],
    pools: Sequence[PromptPool],
    expected: Expected,
    means: Means,
) -> Forecast:
    """The forecast of a run; `plans` holds each worker's stages, `pools` the requests of each target."""
    stages = [_stage(spec, stage, made, expected, means) for stage, made in zip(spec.stages, planned, strict=True)]
    connections = max(stage.connections for stage in stages)
    pool_bytes = sum(len(before) + len(after) for pool in pools for before, after in pool.bodies)
    arrivals = sum(
        len(plan.load.due_ns or ()) for worker in plans for plan in worker if not isinstance(plan.load, ClosedLoad)
    )
    return Forecast(
        stages=stages,
        connections=connections,
        memory_bytes=len(plans) * (WORKER_BYTES + pool_bytes)
        + connections * CONNECTION_BYTES
        + arrivals * ARRIVAL_BYTES
        + (means.ring_bytes + PREPARER_BYTES if means.ring_bytes else 0),
        disk_bytes=sum(stage.requests * ROW_BYTES + stage.output_tokens * EVENT_BYTES for stage in stages),
    )


def _stage(spec: Spec, stage: StageSpec, made: Schedule, expected: Expected, mean: Means) -> StageForecast:
    has_sessions = spec.turns is not None or mean.turns > 1
    turns = spec.turns.mean if spec.turns is not None else mean.turns
    think_s = spec.think.mean / NS_PER_S if spec.think is not None else 0.0
    request_s = expected.ttft_s + expected.tpot_s * max(mean.output_tokens - 1, 0)
    # A session thinks between its turns, a slot without sessions between its requests.
    unit_s = turns * request_s + (turns - 1) * think_s if has_sessions else request_s
    sending_s = (made.warmup_ns + (made.duration_ns or 0)) / NS_PER_S
    arrivals: int | None = None
    if made.due_ns is not None:
        arrivals = len(made.due_ns)
        units, is_exact = float(arrivals), not has_sessions
        connections = round(min(stage.max_in_flight or arrivals, made.value * unit_s + 1, arrivals))
    elif stage.is_open_loop:  # a trace in its own time
        arrivals = mean.arrivals
        units, is_exact = float(arrivals or 0), arrivals is not None
        connections = round(min(stage.max_in_flight or units, units / max(sending_s, 1e-9) * unit_s + 1, max(units, 1)))
    else:
        rest_s = think_s if not has_sessions else 0.0
        bound = stage.requests if stage.requests is not None else stage.sessions
        if bound is not None:
            units, is_exact = float(bound + (stage.warmup_requests if stage.requests is not None else 0)), True
            sending_s += units * (unit_s + rest_s) / made.value
        else:
            units, is_exact = sending_s * made.value / (unit_s + rest_s), False
        connections = made.most_in_flight
    requests = round(units * turns)
    return StageForecast(
        sending_s=sending_s,
        arrivals=arrivals,
        requests=requests,
        input_tokens=round(requests * (mean.prefix_tokens + _input_tokens(mean, turns))),
        output_tokens=round(requests * mean.output_tokens),
        connections=connections,
        is_exact=is_exact,
    )


def _input_tokens(mean: Means, turns: float) -> float:
    """Of a request, on average: turn k of a session repeats the k before it, with their answers."""
    if mean.quotes_included:
        return mean.input_tokens
    return mean.input_tokens + (turns - 1) / 2 * (mean.input_tokens + mean.output_tokens)
