"""What a number of samples can tell: floors for percentiles, halves that disagree. Knows nothing of load or captures."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import student_t

CONFIDENCE: Final = 0.99
"""How sure a percentile has to be before it is shown as reliable."""

MOST_BLOCKS: Final = 20
"""Blocks that a series is cut into before its halves are compared: enough for a deviation, and long enough that
one block outlives the ticks and waves of an engine, without which neighbours would not be independent."""

FEWEST_BLOCKS: Final = 12
"""Six a half: with fewer, a deviation is hardly known."""

SURE: Final = 0.999
"""How sure it has to be that two halves differ: a steady run is doubted once in a thousand times."""

NEGLIGIBLE_SHARE: Final = 0.05
"""Halves that differ by less are the same for every use that a load test is put to."""


@cache
def sample_floor(percentile: float) -> int:
    """The samples (count) that a percentile (0..100, below 100) needs: 11 for p50, 64 for p90, 662 for p99, 6,636 for p99.9.

    The smallest n of which, with 99 % confidence, at least two samples lie beyond the percentile:
    (1 - r)^n + n r (1 - r)^(n - 1) <= 1 %, with r = 1 - percentile / 100. One sample beyond is needed to bound the
    percentile from above at all; the second keeps a single outlier from being the answer. Source: the early-stopping
    criterion of MLPerf LoadGen (mlcommons/inference, loadgen/early_stopping.cc; arXiv 1911.02549).
    """
    tail = 1 - percentile / 100
    low, high = 1, 2
    while _seen_less_than_twice(high, tail) > 1 - CONFIDENCE:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _seen_less_than_twice(middle, tail) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def too_few(samples: int, percentile: str) -> bool:
    """Whether so many samples say too little of a percentile, written as summary.json does ("p99")."""
    return samples < sample_floor(float(percentile[1:]))


def _seen_less_than_twice(samples: int, tail: float) -> float:
    return math.exp(samples * math.log1p(-tail)) + samples * tail * math.exp((samples - 1) * math.log1p(-tail))


class Halves(NamedTuple):
    """The means of the first and the second half of a series, and whether they differ beyond its noise."""

    first: float
    second: float
    change_share: float  # (second - first) / the mean of both
    t: float
    t_limit: float
    differ: bool


def halves(series: Sequence[float] | NDArray[Any]) -> Halves | None:
    """Compares the halves of a series in time order; None when it is too short to tell (under 12 values).

    The series is averaged into at most 20 blocks (batch means, which leave the correlation of neighbours inside a
    block), and Welch's t is taken between the blocks of the two halves. They differ when their means are more than
    5 % apart *and* t is beyond its two-sided 0.1 % point, so that a steady run is doubted once in a thousand times.
    """
    values = np.asarray(series, np.float64)
    if len(values) < FEWEST_BLOCKS:
        return None
    means = np.array([block.mean() for block in np.array_split(values, min(MOST_BLOCKS, len(values)))])
    one, two = means[: len(means) // 2], means[len(means) // 2 :]
    first, second = float(one.mean()), float(two.mean())
    middle = (first + second) / 2
    change_share = (second - first) / middle if middle else 0.0
    noise_one, noise_two = one.var(ddof=1) / len(one), two.var(ddof=1) / len(two)
    noise = float(noise_one + noise_two)
    if noise > 0:
        freedom = noise**2 / (noise_one**2 / (len(one) - 1) + noise_two**2 / (len(two) - 1))
        t, t_limit = abs(second - first) / math.sqrt(noise), student_t(float(freedom), SURE)
    else:  # two constant halves: any difference is beyond the noise
        t, t_limit = (1e9 if first != second else 0.0), student_t(len(means) - 2, SURE)
    return Halves(first, second, change_share, t, t_limit, abs(change_share) > NEGLIGIBLE_SHARE and t > t_limit)
