"""What a search knows (points), what it asks for next (a try), what it finds (an answer); how it grows to a first miss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from analysis.bootstrap import Interval

TOLERANCE_SHARE: Final = 0.025
"""How narrow the answer is to be: half of what is promised."""

SMOOTH: Final = 0.5
"""An objective that is less strained than this at one end of the bracket, or more than its inverse at the other, goes up in
a step and not on a line: where it passes 1 cannot be told from its ends."""

EASY: Final = 0.35
"""Of a limit: while the worst objective is no more strained than this, steps are of four."""


@dataclass(frozen=True, slots=True)
class Point:
    """What the stages of one load came to."""

    load: float
    output_tokens_per_s: Interval
    requests_per_s: Interval
    stages: int = 1
    meets: bool | None = None
    """Every objective is met with 95 % confidence, or some one is missed with it; None: open."""
    leans: bool = True
    """What `meets` would be on the values alone."""
    strain: float = 0.0
    """The worst objective's value over its limit: above 1 where it is missed. 0: unknown."""
    misses: float = 0.0
    """Of the objective that is missed most: how many independent requests those that missed it are worth."""
    may_miss: float = 0.0
    """How many of those may."""
    is_long: bool = False
    """Whether its stage was as long as a Try that says so asks for."""
    saturated: bool = False
    """Open loop: it did not keep up; the throughputs are of the time in which it was full."""
    client: tuple[str, ...] = ()
    """Why this point tells of the load generator and not of the endpoint."""


class Try(NamedTuple):
    """The next load."""

    load: float
    why: str
    is_long: bool = False
    """Whether its stage is one of the long ones that share what is left of the budget: the answer hangs on rare requests."""


class Answer(NamedTuple):
    """The load asked for with its interval, the throughput there, who was the limit (server, client or bounds), and why."""

    load: Interval
    output_tokens_per_s: Interval
    limited_by: str
    reasons: tuple[str, ...]
    decided: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which loads to look: `whole` for concurrency, whose loads are whole numbers."""

    start: float
    most: float
    whole: bool
    is_wish: bool = False
    """`most` is what the user allows (--most), not what this machine can do."""

    def fit(self, load: float) -> float:
        """The nearest load that can be tried."""
        return min(float(max(round(load), 1)) if self.whole else float(f"{load:.4g}"), self.most)

    def limit(self) -> str:
        """Who was the limit where the highest load is no limit of the endpoint."""
        return "bounds" if self.is_wish else "client"

    def highest(self) -> str:
        return f"the highest load that {'--most allows' if self.is_wish else 'can be tried here'} ({self.most:g})"


NOTHING: Final = Interval(0.0, 0.0, 0.0)


def least(bounds: Bounds) -> float:
    return 1.0 if bounds.whole else bounds.start / 64


def without_a_miss(low: Point | None, clients: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """Every load that tells of the endpoint has met the objectives so far."""
    if clients:
        first = clients[0]
        if low is None or first.load / low.load <= 1 + 2 * TOLERANCE_SHARE or first.load - low.load <= 1:
            answer = low.load if low else 0.0
            throughput = low.output_tokens_per_s if low else NOTHING
            return Answer(Interval(answer, answer, bounds.most), throughput, "client", first.client, True)
        between = bounds.fit(math.sqrt(low.load * first.load))
        if low.load < between < first.load:
            return Try(between, "bisection towards where this load generator ends")
        return Answer(Interval(low.load, low.load, bounds.most), low.output_tokens_per_s, "client", first.client, True)
    assert low is not None
    if low.load < bounds.most:
        times, why = (
            (4, "four times as much, the objectives are far") if 0 < low.strain <= EASY else (2, "twice as much")
        )
        return Try(bounds.fit(low.load * times), why)
    words = f"{bounds.highest()} meets the objectives"
    return Answer(Interval(low.load, low.load, bounds.most), low.output_tokens_per_s, bounds.limit(), (words,), True)
