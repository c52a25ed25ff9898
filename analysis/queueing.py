"""Does the endpoint keep up? A queue that grows all through a stage is told from one that only goes up and down.

In open loop nobody waits for anybody, so a rate above what the endpoint can serve shows as a backlog (arrived, and not
answered yet) that grows without end, and every latency depends on how long one looks. Such a stage has a
throughput, but no latency of its own: it is cut, not averaged.

A backlog that does not grow still wanders. With Poisson arrivals and room for all (M/G/infinity) it is Poisson itself, so
the difference of two of its values has the variance of their sum; it is only called growing far outside of that. A trend
line alone would not do: over a few response times a wandering backlog looks like one nearly always.

Nor is a backlog that fills one that grows: until the first responses end, whatever was sent is in flight, at an endpoint
that keeps up as well. What has been answered tells the two apart. While it fills, ever more responses end; an endpoint that
does not keep up answers as many all the time.

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

LEAST_ANSWERED_SHARE: Final = 0.25
"""Of what has come due: with less, most may be long responses that nobody has seen the end of yet."""

RISING: Final = 1.0
"""By how many standard deviations more responses have to end in the second half for the backlog to be one that fills. With
two, every tenth look at responses of all lengths takes one that fills for one that grows."""

LEAST_WAIT_SHARE: Final = 0.25
"""Of the wait that a queue of such a growth comes to: the median wait is half of it."""

LEAST_WAITS: Final = 5
"""In each fifth of the answered requests, to tell whether the later ones waited longer."""

NS_PER_S: Final = 1_000_000_000


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
    answered: Sequence[float] | NDArray[Any] | None = None,
    *,
    longer_waits_s: float = 0.0,
) -> Growth | None:
    """The trend of a backlog (requests) over time; None where it is too short to tell (under 20 values).

    `scatter` is the coefficient of variation of the gaps between arrivals: 1 for Poisson. Least squares through ten block
    means gives the slope; it grows when the slope is above 2 % of the arrivals, the last block lies four standard
    deviations above the first, and the second half lies above the first half throughout.

    `answered` is how many have left the backlog since the stage began, at each of the times: what lies before the first of
    them is not looked at, and nothing grows that may only be filling. `longer_waits_s` is by how much later requests wait
    longer for their first token than earlier ones: where a queue explains it, there is no doubt.
    """
    if answered is not None:
        seen = np.asarray(answered, np.float64) > 0
        times_s, backlog, answered = (np.asarray(one, np.float64)[seen] for one in (times_s, backlog, answered))
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
    grows = bool(share > LEAST_SHARE and deviations > DEVIATIONS and rises)
    if grows and answered is not None:
        is_queue = longer_waits_s > LEAST_WAIT_SHARE * share * float(times_s[-1] - times_s[0])
        grows = is_queue or not _fills(np.asarray(times_s), np.asarray(backlog), np.asarray(answered))
    return Growth(slope, share, deviations, grows)


def _fills(times_s: NDArray[Any], backlog: NDArray[Any], answered: NDArray[Any]) -> bool:
    """Whether the first responses may still be under way, so that a backlog rises without anything being wrong."""
    if answered[-1] < LEAST_ANSWERED_SHARE * (backlog[-1] + answered[-1]):
        return True
    middle = len(times_s) // 2
    one_s, two_s = float(times_s[middle] - times_s[0]), float(times_s[-1] - times_s[middle])
    one, two = float(answered[middle] - answered[0]), float(answered[-1] - answered[middle])
    if one_s <= 0 or two_s <= 0:
        return True
    return two / two_s - one / one_s > RISING * math.sqrt(one / one_s**2 + two / two_s**2)


def longer_waits_s(due_ns: NDArray[Any], ttft_ns: NDArray[Any]) -> float:
    """By how much the last fifth of the answered requests waited longer than the first one, by their medians; 0 for few."""
    in_order = np.argsort(due_ns, kind="stable")
    fifth = len(in_order) // 5
    if fifth < LEAST_WAITS:
        return 0.0
    first, last = (np.median(ttft_ns[some]) for some in (in_order[:fifth], in_order[-fifth:]))
    return float(last - first) / NS_PER_S


def scatter_of(arrivals: str) -> float:
    """The coefficient of variation of the gaps of a process as run.json names it: poisson, gamma:2, burst:50@2s ..."""
    kind, _, detail = arrivals.partition(":")
    if kind == "gamma":
        return float(detail or 1)
    return math.sqrt(float(detail.partition("@")[0] or 1)) if kind == "burst" else 1.0
