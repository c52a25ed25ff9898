"""The highest rate within objectives.

At a rate, what misses an objective are the few requests that meet a queue; how many do rises steeply with the rate, and a
stage of some seconds that begins with an empty endpoint sees too few of them. Short stages therefore only find the
neighbourhood. Then come the long ones (LONG_SHARES), each where the share of misses should be the allowed one, and the
answer comes from all of them: ln(missed / allowed) over ln(rate) is a line near its zero (a stochastic root search, as in
Robbins and Monro 1951, with the slope learnt on the way). A rate that is not below the throughput of an overloaded stage
has no steady state, whatever a short look at it shows.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from analysis.bootstrap import Interval
from analysis.search.points import NOTHING, SMOOTH, Answer, Bounds, Point, Try, least, without_a_miss

LONG_SHARES: Final = (0.2, 0.25, 0.35, 1.0)
"""The long stages, each of what is left of the budget: the last is nearest to the answer, and as long as two others."""

NEIGHBOURHOOD: Final = 1.6
"""From a rate that was met to one that was missed: close enough for long stages."""

MOST_SHORT: Final = 9

SLOPE: Final = 12.0
"""Of the line, before there is any: between that of one slot and that of a hundred."""

SLOPE_FACTOR: Final = 2.0
"""One standard deviation of that guess."""

SLOPES: Final = (3.0, 60.0)

OFF_THE_LINE: Final = 0.25
"""One standard deviation of a stage from the line beyond chance: each begins with an empty endpoint, and sees few bursts."""

FAR: Final = 1.5
"""Logarithms of missed over allowed: farther away than this it is no line any more."""

BELOW_CAPACITY: Final = 0.97
"""Closer to what is served at most, a queue takes longer to settle than a search can look at it."""

OF_CAPACITY: Final = 0.8

FEW_MISSES: Final = 4.0
"""Fewer may have been unlucky."""

STEP: Final = 1.4
"""From one long stage to the next at most."""

RATE_TOLERANCE_SHARE: Final = 0.1


def next_rate(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """The next step: doubling, halving to the neighbourhood, long stages."""
    known = sorted(points, key=lambda point: point.load)
    if not known:
        return Try(bounds.fit(bounds.start), "the first")
    of_server = [point for point in known if not point.client]
    clients = [point for point in known if point.client]
    missed = [point for point in of_server if is_missed(point)]
    if not missed:
        return without_a_miss(of_server[-1] if of_server else None, clients, bounds)
    lone = [p for p in missed if p.saturated and p.stages == 1 and 0 < p.strain < SMOOTH and not p.is_long]
    if lone:
        return Try(lone[0].load, "once more: requests piled up, and none was slow")
    ceiling = ceiling_of(of_server, bounds)
    long = [point for point in of_server if point.is_long]
    if not long:
        high = min(missed[0].load, ceiling)
        low = max((point.load for point in of_server if point.load < high and not is_missed(point)), default=0.0)
        if not low:
            lowest = least(bounds)
            if missed[0].load > lowest:
                return Try(bounds.fit(max(missed[0].load / 4, lowest)), "no rate has met the objectives yet")
            words = f"not even the least rate ({missed[0].load:g}) meets the objectives"
            return Answer(Interval(0.0, 0.0, missed[0].load), NOTHING, "server", (words,), missed[0].meets is False)
        is_near = high / low <= NEIGHBOURHOOD or len(known) >= MOST_SHORT
        # What is served at most is known by then, and the limit is more often near it than not.
        load = max(math.sqrt(low * high), OF_CAPACITY * high if high == ceiling else 0.0)
        return Try(bounds.fit(load), "near the limit" if is_near else "bisection", is_near)
    found, slope = _crossing(long, ceiling)
    if len(long) >= len(LONG_SHARES):
        half = max(found.high / found.value, found.value / found.low) - 1
        return _rate_answer(found, long, decided=half <= RATE_TOLERANCE_SHARE)
    nearest = min(long, key=lambda point: abs(math.log(point.load / found.value)))
    load = min(max(found.value, nearest.load / STEP), nearest.load * STEP, ceiling)
    # To either side of the estimate in turn: points on one spot tell no slope.
    aside = 1 + min(0.3 / slope, 0.03)
    load = load / aside if len(long) % 2 else min(load * aside, ceiling)
    while any(abs(load / point.load - 1) < 1e-3 for point in known):
        load /= 1.004
    return Try(bounds.fit(load), "near the limit", True)


def long_share(begun: int) -> float:
    """Of what is left of the budget, for the next long stage. One that told of the client is made up for by another."""
    return LONG_SHARES[min(begun, len(LONG_SHARES) - 1)]


def is_missed(point: Point) -> bool:
    """Whether an objective is missed by more than a few requests that were unlucky."""
    return point.saturated or point.meets is False or (not point.leans and point.misses >= FEW_MISSES)


def ceiling_of(points: Sequence[Point], bounds: Bounds) -> float:
    """Below what an overloaded stage served: from there on nothing is steady."""
    served = [point.requests_per_s.value for point in points if point.saturated and point.requests_per_s.value > 0]
    return min(BELOW_CAPACITY * min(served), bounds.most) if served else bounds.most


def _crossing(points: Sequence[Point], ceiling: float) -> tuple[Interval, float]:
    """The rate at which as many miss as may, with its 95 % interval, and the slope there.

    The posterior over where the line passes zero and how steep it is, on a grid; misses are counts that scatter more than
    Poisson's (negative binomial), so that stages without any count as what they are.
    """
    x = np.log([point.load for point in points])
    misses = np.array([20.0 * p.may_miss if p.saturated else p.misses for p in points])
    may_miss = np.array([p.may_miss for p in points])
    ratio = np.log(np.maximum(misses, 0.3) / np.maximum(may_miss, 0.3))
    weight = np.where([p.saturated for p in points], 0.3, 1.0) / (1 + (ratio / FAR) ** 2)
    highest = min(x.max() + 0.5, math.log(ceiling))
    at = np.linspace(min(x.min(), highest) - 0.5, highest, 400)
    slopes = np.geomspace(*SLOPES, 40)
    log_ratio = slopes[None, :, None] * (x - at[:, None, None])
    expected = may_miss * np.exp(np.clip(log_ratio, -20, 6))
    shape = 1 / OFF_THE_LINE**2
    likely = (misses * np.log(expected + 1e-12) - (misses + shape) * np.log1p(expected / shape)) * weight
    guess = -((np.log(slopes / SLOPE) / math.log(SLOPE_FACTOR)) ** 2) / 2
    log_posterior = likely.sum(axis=2) + guess
    posterior = np.exp(log_posterior - log_posterior.max())
    share = np.cumsum(posterior.sum(axis=1))
    low, value, high = np.exp(np.interp(np.array([0.025, 0.5, 0.975]) * share[-1], share, at))
    slope = float((posterior.sum(axis=0) * slopes).sum() / posterior.sum())
    return Interval(float(value), float(low), float(high)), slope


def _rate_answer(found: Interval, points: Sequence[Point], *, decided: bool = True) -> Answer:
    near = min(points, key=lambda point: abs(math.log(point.load / found.value)))
    tokens = Interval(*(one * found.value / near.load for one in near.output_tokens_per_s))
    return Answer(found, tokens, "server", (), decided)


def rate_so_far(known: Sequence[Point], long: Sequence[Point], bounds: Bounds) -> Answer:
    """What the long stages up to now tell; there is at least one."""
    return _rate_answer(_crossing(long, ceiling_of(known, bounds))[0], long, decided=False)
