"""Does the endpoint keep up? A queue that grows all through a stage is told from one that only goes up and down.

In open loop nobody waits for anybody, so a rate above what the endpoint can serve shows as a backlog (arrived, and not
answered yet) that grows without end, and every latency depends on how long one looks. Such a stage has a
throughput, but no latency of its own: it is cut, not averaged.

A backlog that does not grow still wanders. With Poisson arrivals and room for all (M/G/infinity) it is Poisson itself, so
the difference of two of its values has the variance of their sum; it is only called growing far outside of that. A trend
line alone would not do: over a few response times a wandering backlog looks like one nearly always.

Knows nothing of captures: a series in, an answer out.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = 10
"""Block means that are compared: each long enough to outlive an engine's ticks."""

DEVIATIONS: Final = 4.0
"""By how many standard deviations of a wandering backlog the last block has to lie above the first."""

LEAST_SHARE: Final = 0.02
"""Of the arrivals: a backlog that takes up less of them is not told from the end of a ramp."""

FEWEST: Final = 20


class Growth(NamedTuple):
    """How a backlog develops: its slope, that as a share of the arrivals, its rise in standard deviations, the verdict."""

    per_s: float
    share: float
    deviations: float
    grows: bool


def growth(
    times_s: Sequence[float] | NDArray[Any],
    backlog: Sequence[float] | NDArray[Any],
    arrivals_per_s: float,
    scatter: float = 1.0,
) -> Growth | None:
    """The trend of a backlog (requests) over time; None where it is too short to tell (under 20 values).

    `scatter` is the coefficient of variation of the gaps between arrivals: 1 for Poisson. Least squares through ten block
    means gives the slope; it grows when the slope is above 2 % of the arrivals, the last block lies four standard
    deviations above the first, and the second half lies above the first half throughout.
    """
    if len(backlog) < FEWEST or arrivals_per_s <= 0:
        return None
    t = np.array([block.mean() for block in np.array_split(np.asarray(times_s, np.float64), BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(backlog, np.float64), BLOCKS)])
    centred = t - t.mean()
    spread = float((centred**2).sum())
    if not spread:
        return None
    slope = float((centred * (y - y.mean())).sum()) / spread
    deviation = max(scatter, 1.0) * math.sqrt(max(y[0] + y[-1], 1.0))
    deviations = float(y[-1] - y[0]) / deviation
    share = slope / arrivals_per_s
    rises = y[BLOCKS // 2 :].min() > y[: BLOCKS // 2].max()
    return Growth(slope, share, deviations, bool(share > LEAST_SHARE and deviations > DEVIATIONS and rises))


def scatter_of(arrivals: str) -> float:
    """The coefficient of variation of the gaps of a process as run.json names it: poisson, gamma:2, burst:50@2s ..."""
    kind, _, detail = arrivals.partition(":")
    if kind == "gamma":
        return float(detail or 1)
    return math.sqrt(float(detail.partition("@")[0] or 1)) if kind == "burst" else 1.0
