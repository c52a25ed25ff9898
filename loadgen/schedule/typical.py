"""Of many Poisson plans the one whose bursts are most like those of the long run.

A stage of half a minute at a Poisson rate holds a handful of the bursts that fill an endpoint's queue: whether an objective
is met in it is chance, many times more than what the endpoint does. The plan is made before the stage, though, and how full
its bursts are can be told from the plan alone. So many plans are drawn and the most typical one is sent: rejective sampling
(Fuller, "Some design properties of a rejective sampling procedure", Biometrika 96, 2009) on what a queue would make of them.

What is compared, at every arrival behind the warm-up:

* how long it would wait at one server that takes the same time for each, loaded to the shares of QUEUES (the endpoint near
  its limit: the excess over a long time);
* how many others came in the span before it, for spans of half a response, one and two (the endpoint with room for all:
  how many are in flight).

For both the shares that are to exceed some level are known (Erlang's M/D/1 of 1909; the Poisson distribution).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PLANS: Final = 100

MOST_DRAWN: Final = 2_000_000
"""Arrivals over all plans: of a stage of more than this by PLANS fewer plans are drawn, so that planning takes a second."""

FEWEST_PLANS: Final = 8

SHARES: Final = (0.2, 0.1, 0.05, 0.02)
"""Of arrivals that find it fuller than the levels."""

QUEUES: Final = {
    0.6: (1.3748, 2.0984, 2.8295, 3.7980),
    0.7: (2.0482, 3.0771, 4.1029, 5.4593),
    0.8: (3.4027, 5.0115, 6.6203, 8.7471),
    0.88: (6.0932, 8.8609, 11.6286, 15.2873),
    0.94: (12.8049, 18.4633, 24.1216, 31.6015),
}
"""By how loaded an M/D/1 is: waits, in service times, that are exceeded by the SHARES of arrivals."""

SPANS: Final = (0.5, 1.0, 2.0)
"""In responses."""


def most_typical(plans: Iterable[Floats], since: float, in_flight: float) -> Floats:
    """Of plans of arrivals at rate 1, ascending, the one nearest to the long run from `since` on.

    `in_flight`: how many arrive while a response is under way. The first of plans that are alike.
    """
    return min(plans, key=lambda times: distance(times, since, in_flight))


def distance(times: Floats, since: float, in_flight: float) -> float:
    """How far a plan is from the long run: squared differences of the shares, each by the share; inf without arrivals."""
    first = int(np.searchsorted(times, since))
    if first == len(times):
        return float("inf")
    whole = 0.0
    for load, levels in QUEUES.items():
        waits = waits_at(times, load)[first:]
        for level, share in zip(levels, SHARES, strict=True):
            whole += (float(np.mean(waits > level)) - share) ** 2 / share
    for span in SPANS:
        others = np.arange(len(times)) - np.searchsorted(times, times - span * in_flight)
        for level, share in poisson_levels(span * in_flight):
            whole += (float(np.mean(others[first:] > level)) - share) ** 2 / share
    return whole


def waits_at(times: Floats, load: float) -> Floats:
    """How long each arrival waits at one server, in service times; it begins empty (Lindley 1952)."""
    excess = np.zeros(len(times))
    np.cumsum(1 - np.diff(times) / load, out=excess[1:])
    waits: Floats = excess - np.minimum.accumulate(excess)
    return waits


@lru_cache
def poisson_levels(mean: float) -> tuple[tuple[int, float], ...]:
    """(count, exact share of more than that) next to each of SHARES, without repeats."""
    if mean <= 0:
        return ()
    most = int(mean + 10 * np.sqrt(mean) + 20)
    counts = np.arange(most + 1)
    logs = counts * np.log(mean) - mean - np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
    above = 1 - np.cumsum(np.exp(logs))
    found = {int(np.searchsorted(-above, -share)): None for share in SHARES}
    return tuple((count, float(above[count])) for count in found if above[count] > 0)
