"""Endpoints that are a formula: a search asks them for points, and their knee is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import Interval
from analysis.search import Answer, Bounds, Point, Try


@dataclass
class Drawn:
    """Response time a + b c for up to `slots` requests at once, then they queue; throughputs with some noise."""

    a: float
    b: float
    slots: int
    noise: float = 0.008
    client_from: float = math.inf
    """The load from which on the load generator is the limit."""

    @property
    def peak_per_s(self) -> float:
        """Requests a second."""
        return self.slots / (self.a + self.b * self.slots)

    def response_s(self, load: float) -> float:
        return max(self.a + self.b * load, load / self.peak_per_s)

    def closed(self, load: float, rng: np.random.Generator, limit_s: float | None = None) -> Point:
        throughput = load / self.response_s(load) * math.exp(self.noise * rng.normal())
        return self._point(load, throughput, limit_s and self.response_s(load) / limit_s)

    def open(self, load: float, rng: np.random.Generator) -> Point:
        throughput = min(load, self.peak_per_s) * math.exp(self.noise * rng.normal())
        return self._point(load, throughput, None, saturated=load > 1.03 * self.peak_per_s)

    def _point(self, load: float, throughput: float, strain: float | None, *, saturated: bool = False) -> Point:
        half = 1.96 * self.noise * throughput
        per_s = Interval(throughput, throughput - half, throughput + half)
        meets = None if strain is None else strain <= 1
        client = ("a worker was busy 99% of the time",) if load >= self.client_from else ()
        return Point(
            load, Interval(*(100 * one for one in per_s)), per_s, meets=meets, leans=meets is not False,
            strain=strain or 0.0, saturated=saturated, client=client,
        )  # fmt: skip


def searched(
    ask: Callable[[list[Point], Bounds], Try | Answer],
    answer_to: Callable[[float], Point],
    bounds: Bounds,
    most: int = 40,
) -> tuple[Answer, list[float]]:
    """The answer and the loads that were tried, in order; repeats are averaged."""
    points: dict[float, Point] = {}
    tried: list[float] = []
    while not isinstance(step := ask(list(points.values()), bounds), Answer):
        assert len(tried) < most, f"no answer after {tried}"
        tried.append(step.load)
        fresh, old = answer_to(step.load), points.get(step.load)
        if old is not None:
            n = old.stages + 1
            half = (fresh.output_tokens_per_s.high - fresh.output_tokens_per_s.value) / math.sqrt(n)
            value = (old.output_tokens_per_s.value * old.stages + fresh.output_tokens_per_s.value) / n
            fresh = Point(
                fresh.load, Interval(value, value - half, value + half), fresh.requests_per_s, stages=n, meets=fresh.meets,
                leans=fresh.leans, strain=fresh.strain, saturated=fresh.saturated, client=fresh.client,
            )  # fmt: skip
        points[step.load] = fresh
    return step, tried
