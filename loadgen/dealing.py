"""Which target a unit goes to: drawn from the seed and the unit's number alone.

So it is the same whoever draws, and however many workers there are; and of an open loop's Poisson arrivals each target gets
a Poisson process of its own (a process that is thinned by independent draws).
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from loadgen.distribution import TARGET, uniform


@dataclass(frozen=True, slots=True)
class Deal:
    """Units dealt to targets by weight."""

    seed: int
    bounds: tuple[float, ...]
    """The running sum of the targets' shares, without the last one, which is 1; () where there is one target."""

    def target(self, unit: int) -> int:
        """The target of a unit (its id in the run, or that of the session of a trace it belongs to)."""
        return bisect(self.bounds, uniform(self.seed, TARGET, unit)) if self.bounds else 0


def deal(seed: int, weights: Sequence[float]) -> Deal:
    """Targets with these weights."""
    total = sum(weights)
    return Deal(seed, tuple(upto / total for upto in accumulate(weights))[:-1])
