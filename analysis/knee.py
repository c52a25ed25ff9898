"""Where more load stops giving more throughput: a segmented fit. Pure: loads and throughputs in, knee and peak out.

Closed loop. With c requests in flight and throughput X the mean response time is R = c / X (Little 1961). Below the knee
nothing waits for capacity and R grows gently, R = a + b c; above it throughput stays at its peak P and the rest waits,
R = c / P. So

    X(c) = min(c / (a + b c), P)         knee = a P / (1 - b P), where the two meet

which is the saturation point of the asymptotic bounds of operational analysis (Kleinrock 1976; Denning and Buzen 1978), with
a slope for engines whose steps take longer the more sequences share them. Open loop: X(r) = min(r, P), and the knee is P.

Intervals: each throughput is drawn from its own interval, and the fit is made again (parametric bootstrap).
MODEL_ERROR_SHARE is added in quadrature for what the model, and one run against another, are off.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import Interval

MODEL_ERROR_SHARE: Final = 0.01
"""Of the peak and of each throughput (one standard deviation). Not a knob."""

DRAWS: Final = 300

REACH: Final = 8.0
"""Loads below the knee by more than this factor say nothing about the slope next to it."""

Numbers = NDArray[np.float64]


class Knee(NamedTuple):
    """The load at the knee and the peak throughput, with 95 % intervals; how many points lie on either side."""

    load: Interval
    peak: Interval
    rising: int
    flat: int


class Observed(NamedTuple):
    """Throughput at a load, and its standard error."""

    load: float
    throughput: float
    error: float


def closed_knee(observed: Sequence[Observed], seed: int = 0) -> Knee | None:
    """The knee of a closed loop over concurrency. None with fewer than three points, or while none is on the flat part."""
    points = sorted(one for one in observed if one.throughput > 0)
    if len(points) < 3:
        return None
    loads = np.array([one.load for one in points])
    throughputs = np.array([one.throughput for one in points])
    shares = np.hypot([one.error / one.throughput for one in points], MODEL_ERROR_SHARE)
    split = _split(loads, throughputs, shares)
    if split is None:
        return None
    randomness = np.random.default_rng(seed)
    value = _meeting(loads, throughputs, shares, split)
    if value is None:
        return None
    drawn = [
        found
        for _ in range(DRAWS)
        if (found := _meeting(loads, throughputs * np.exp(shares * randomness.normal(size=len(loads))), shares, split))
    ]
    if len(drawn) < DRAWS // 2:
        return None
    knees, peaks = np.array(drawn).T
    rising, flat = _sides(loads, split)
    return Knee(_interval(value[0], knees), _interval(value[1], peaks), len(rising), len(flat))


def open_knee(observed: Sequence[Observed], highest_kept_up: Interval, seed: int = 0) -> Knee | None:
    """The knee of an open loop: the throughput of the stages that did not keep up, in the unit of the rate.

    Never below the highest throughput of a stage that kept up: an endpoint that falls apart when overloaded serves more
    before that. None without an overloaded stage.
    """
    points = [one for one in observed if one.throughput > 0]
    if not points:
        return None
    throughputs = np.array([one.throughput for one in points])
    shares = np.hypot([one.error / one.throughput for one in points], MODEL_ERROR_SHARE)
    peak = _weighted(throughputs, shares * throughputs)
    randomness = np.random.default_rng(seed)
    drawn = [
        _weighted(throughputs * np.exp(shares * randomness.normal(size=len(points))), shares * throughputs)
        for _ in range(DRAWS)
    ]
    found = _interval(peak, np.array(drawn))
    value = max(peak, highest_kept_up.value)
    lifted = Interval(value, min(value, max(found.low, highest_kept_up.low)), max(found.high, highest_kept_up.high))
    return Knee(lifted, lifted, 0, len(points))


def _interval(value: float, drawn: Numbers) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


def _split(loads: Numbers, throughputs: Numbers, shares: Numbers) -> int | None:
    """How many points rise: the split with the smallest squared error of log X whose knee lies where it was split."""
    best: tuple[float, int] | None = None
    for split in range(2, len(loads)):
        met = _meeting(loads, throughputs, shares, split)
        if met is None:
            continue
        knee, _ = met
        # A little room: a point next to the knee may fall on either side of it.
        if not loads[split - 1] / 1.25 <= knee <= loads[split] * 1.25:
            continue
        a, b, peak = _fitted(loads, throughputs, shares, split)
        rising, _ = _sides(loads, split)
        near = slice(int(rising[0]), None)
        expected = np.minimum(loads / np.maximum(a + b * loads, 1e-300), peak)
        cost = float((((np.log(throughputs) - np.log(expected)) / shares)[near] ** 2).mean())
        if best is None or cost < best[0]:
            best = cost, split
    return None if best is None else best[1]


def _sides(loads: Numbers, split: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the points that the rising part is laid through, and of those of the flat one."""
    rising = np.arange(split)
    near = rising[loads[:split] >= loads[split - 1] / REACH]
    return (near if len(near) >= 2 else rising[-2:]), np.arange(split, len(loads))


def _fitted(loads: Numbers, throughputs: Numbers, shares: Numbers, split: int) -> tuple[float, float, float]:
    """(a, b, P): R = a + b c over the rising points, a and b at least 0; P the weighted mean of the flat ones."""
    rising, flat = _sides(loads, split)
    c, r = loads[rising], loads[rising] / throughputs[rising]
    weight = 1 / (r * shares[rising]) ** 2
    mean_c, mean_r = np.average(c, weights=weight), np.average(r, weights=weight)
    spread = float((weight * (c - mean_c) ** 2).sum())
    b = float((weight * (c - mean_c) * (r - mean_r)).sum()) / spread if spread else 0.0
    a = float(mean_r - b * mean_c)
    if b < 0:
        a, b = float(mean_r), 0.0
    elif a < 0:
        a, b = 0.0, float((weight * c * r).sum() / (weight * c * c).sum())
    peak = _weighted(throughputs[flat], shares[flat] * throughputs[flat])
    return a, b, peak


def _meeting(loads: Numbers, throughputs: Numbers, shares: Numbers, split: int) -> tuple[float, float] | None:
    a, b, peak = _fitted(loads, throughputs, shares, split)
    if b * peak >= 1:
        return None
    return a * peak / (1 - b * peak), peak


def _weighted(values: Numbers, errors: Numbers) -> float:
    return float(np.average(values, weights=1 / errors**2))
