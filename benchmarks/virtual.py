"""The simulated engine in time that only the arithmetic takes: what a client would see at any load, without a client.

The engine of the simulator (loadgen.simulator.engine) has no clock of its own, so it can be driven from one due moment to
the next. What comes out is the truth that a search is held against: TTFT and TPOT of every request, in a closed loop or at
Poisson arrivals.
"""

import heapq
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from loadgen.simulator.engine import Engine, EngineParameters, Sequence

NS = 1_000_000_000

TURNAROUND_NS = 400_000
"""From the last token of a response to the next request at the server, on this machine."""


class Asked(Sequence):
    """A request and what was seen of it."""

    __slots__ = ("first_ns", "last_ns", "sent_ns")


@dataclass(frozen=True)
class Seen:
    """By request, of those sent behind the warm-up: ms; tokens_per_s over the same span."""

    ttft_ms: Any
    tpot_ms: Any
    tokens_per_s: float

    def percentile(self, metric: str, percentile: float) -> float:
        """A percentile of TTFT or TPOT, ms."""
        values = self.ttft_ms if metric == "ttft" else self.tpot_ms
        return float(np.percentile(values, percentile, method="inverted_cdf"))


def seen(
    parameters: EngineParameters,
    tokens: tuple[int, int],
    mode: str,
    load: float,
    *,
    seconds: float,
    warm_s: float,
    seed: int = 0,
) -> Seen:
    """Drive an engine with requests of (input, output) tokens, `load` at a time or a second."""
    engine: Engine[Asked] = Engine(parameters, seed)
    rng = random.Random(seed)
    due: list[tuple[int, int]] = []  # (when a request is sent, a number that keeps equal times in order)
    number, end_ns = 0, int((warm_s + seconds) * NS)
    if mode == "rate":
        at = 0.0
        while at < warm_s + seconds:
            at += rng.expovariate(load)
            due.append((int(at * NS), number))
            number += 1
    else:
        due = [(i * 20_000, i) for i in range(int(load))]
        number = len(due)
    heapq.heapify(due)
    asked: list[Asked] = []
    n_tokens = 0
    while True:
        engine_ns = engine.next_due_ns
        next_ns = min(due[0][0] if due else end_ns, engine_ns if engine_ns is not None else end_ns)
        if next_ns >= end_ns:
            break
        if due and due[0][0] <= next_ns:
            sent_ns, _ = heapq.heappop(due)
            one = Asked(*tokens)
            one.sent_ns, one.first_ns, one.last_ns = sent_ns, 0, 0
            asked.append(one)
            engine.submit(one, sent_ns)
            continue
        for one in engine.advance(next_ns):
            one.first_ns = one.first_ns or next_ns
            one.last_ns = next_ns
            if next_ns >= warm_s * NS:
                n_tokens += parameters.tokens_per_event
            if one.tokens_done >= one.output_tokens and mode != "rate":
                heapq.heappush(due, (next_ns + TURNAROUND_NS, number))
                number += 1
    counted = [one for one in asked if one.sent_ns >= warm_s * NS and one.tokens_done >= one.output_tokens]
    ttft_ms = np.array([(one.first_ns - one.sent_ns) / 1e6 for one in counted])
    tpot_ms = np.array([(one.last_ns - one.first_ns) / 1e6 / max(tokens[1] - 1, 1) for one in counted])
    return Seen(ttft_ms, tpot_ms, n_tokens / seconds)


def missed_over_allowed(
    load: float,
    seconds: float,
    seed: int = 0,
    *,
    parameters: EngineParameters,
    tokens: tuple[int, int],
    mode: str,
    limits: dict[str, tuple[float, float]],
) -> float:
    """Requests that missed over those that may, of the worst objective; above 1 where it is missed."""
    found = seen(parameters, tokens, mode, load, seconds=seconds, warm_s=20.0, seed=seed)
    values = {"ttft": found.ttft_ms, "tpot": found.tpot_ms}
    if not len(found.ttft_ms):
        return float("inf")
    return max(
        float(np.mean(values[metric] > limit_ms)) / (1 - percentile / 100)
        for metric, (percentile, limit_ms) in limits.items()
    )


def highest_within(
    parameters: EngineParameters,
    tokens: tuple[int, int],
    mode: str,
    limits: dict[str, tuple[float, float]],
    most: float,
) -> float:
    """The highest load at which {metric: (percentile, limit_ms)} are all met: a whole number in a closed loop.

    To half a per cent at a rate, where the bursts that decide are rare and hours have to be looked at.
    """

    missed = partial(missed_over_allowed, parameters=parameters, tokens=tokens, mode=mode, limits=limits)
    low, high = 0.0, most
    while (high - low > 1) if mode == "concurrency" else (high - low > 0.02 * high):
        middle = (low + high) / 2 if mode == "rate" else float((low + high) // 2)
        is_met = missed(middle, 400.0 if mode == "rate" else 60.0) <= 1
        low, high = (middle, high) if is_met else (low, middle)
    if mode == "concurrency":
        return low
    rates = [low * factor for factor in (0.95, 0.975, 1.0, 1.025, 1.05)]
    with ProcessPoolExecutor() as pool:
        hours = [pool.map(missed, [rate] * 12, [600.0] * 12, range(12)) for rate in rates]
        log_missed = [np.log(np.mean(list(hour))) for hour in hours]
    bend, slope, level = np.polyfit(np.log(rates) - np.log(low), log_missed, 2)
    roots = np.roots([bend, slope, level])
    return low * float(np.exp(min(roots.real, key=abs)))
