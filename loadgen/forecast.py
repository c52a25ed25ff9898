"""What a run would do, worked out before it is done: requests, tokens, connections, ports, memory, disk.

Arrivals of an open loop are known exactly, for they are the schedule. How many requests a closed loop gets through, and how
many an open loop has in flight, depends on the endpoint: there the forecast assumes a TTFT and a TPOT, and says so
(Little's law: in flight = arrivals a second x seconds each).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadgen.clock import NS_PER_S
from loadgen.plan import ClosedLoad, PromptPool, StagePlan
from loadgen.schedule.stage import Schedule
from loadgen.spec import Spec, StageSpec

# Measured on Linux, CPython 3.11 (benchmarks/README.md): a worker at rest, and what each connection with a stream adds.
WORKER_BYTES: Final = 80_000_000
CONNECTION_BYTES: Final = 30_000
ARRIVAL_BYTES: Final = 8
PREPARER_BYTES: Final = 60_000_000

# Of a capture, compressed: a row, and each of its events.
ROW_BYTES: Final = 70
EVENT_BYTES: Final = 6


BUSY_NS: Final = 10 * NS_PER_S
"""What the height of a load is taken over."""

LEAST_S: Final = 1e-6
"""An answer that is expected at once takes so long."""


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
    response_s: float
    """How long one request is taken to last."""
    unit_s: float
    """Likewise a session, where units are sessions."""
    is_exact: bool
    """Whether `requests` follows from the plan alone."""
    # At the height of the stage, on average over some seconds.
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float

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
    pool_bytes: int
    """Of the requests that each worker holds ready; in `memory_bytes`, too."""

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
        pool_bytes=pool_bytes,
    )


def _stage(spec: Spec, stage: StageSpec, made: Schedule, expected: Expected, mean: Means) -> StageForecast:
    has_sessions = spec.turns is not None or mean.turns > 1
    turns = spec.turns.mean if spec.turns is not None else mean.turns
    think_s = spec.think.mean / NS_PER_S if spec.think is not None else 0.0
    request_s = expected.ttft_s + expected.tpot_s * max(mean.output_tokens - 1, 0)
    # A session thinks between its turns, a slot without sessions between its requests.
    unit_s = session_s(request_s, turns, think_s) if has_sessions else request_s
    sending_s = (made.warmup_ns + (made.duration_ns or 0)) / NS_PER_S
    arrivals: int | None = None
    if made.due_ns is not None:
        arrivals = len(made.due_ns)
        units, is_exact = float(arrivals), not has_sessions
        units_per_s = min(_busiest_per_s(made), (stage.max_in_flight or math.inf) / max(unit_s, LEAST_S))
        connections = round(min(stage.max_in_flight or arrivals, units_per_s * unit_s + 1, arrivals))
    elif stage.is_open_loop:  # a trace in its own time
        arrivals = mean.arrivals
        units, is_exact = float(arrivals or 0), arrivals is not None
        units_per_s = min(units / max(sending_s, LEAST_S), (stage.max_in_flight or math.inf) / max(unit_s, LEAST_S))
        connections = round(min(stage.max_in_flight or units, units_per_s * unit_s + 1, max(units, 1)))
    else:
        rest_s = think_s if not has_sessions else 0.0
        bound = stage.requests if stage.requests is not None else stage.sessions
        if bound is not None:
            units, is_exact = float(bound + (stage.warmup_requests if stage.requests is not None else 0)), True
            sending_s += units * (unit_s + rest_s) / made.value
        else:
            # What a slot begins goes out whole, however short the stage.
            units, is_exact = max(sending_s * made.value / max(unit_s + rest_s, LEAST_S), made.most_in_flight), False
        connections = made.most_in_flight
        units_per_s = connections / max(unit_s + rest_s, LEAST_S)
    requests = round(units * turns)
    input_tokens = mean.prefix_tokens + _input_tokens(mean, turns)
    return StageForecast(
        sending_s=sending_s,
        arrivals=arrivals,
        requests=requests,
        input_tokens=round(requests * input_tokens),
        output_tokens=round(requests * mean.output_tokens),
        connections=connections,
        response_s=request_s,
        unit_s=unit_s,
        is_exact=is_exact,
        requests_per_s=units_per_s * turns,
        input_tokens_per_s=units_per_s * turns * input_tokens,
        output_tokens_per_s=units_per_s * turns * mean.output_tokens,
    )


def session_s(request_s: float, turns: float, think_s: float) -> float:
    """How long a session lasts, from its first send to its last answer."""
    return turns * request_s + (turns - 1) * think_s


def _busiest_per_s(made: Schedule) -> float:
    """Arrivals a second: what was asked for, or what comes in the busiest seconds of a load that changes."""
    span_ns = min(BUSY_NS, max(made.warmup_ns + (made.duration_ns or 0), NS_PER_S))
    return max(made.value, made.most_within(span_ns) * NS_PER_S / span_ns)


def _input_tokens(mean: Means, turns: float) -> float:
    """Of a request, on average: turn k of a session repeats the k before it, with their answers."""
    if mean.quotes_included:
        return mean.input_tokens
    return mean.input_tokens + (turns - 1) / 2 * (mean.input_tokens + mean.output_tokens)
