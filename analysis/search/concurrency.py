"""The highest concurrency within objectives: each decision is statistical, and a load that is not decided is run again."""

import math
from collections.abc import Sequence
from typing import Final

from analysis.bootstrap import Interval
from analysis.search.points import NOTHING, SMOOTH, TOLERANCE_SHARE, Answer, Bounds, Point, Try, least, without_a_miss

MOST_REPEATS: Final = 6
"""Of one load: a decision that is open after so many stages is left open."""


def next_concurrency(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """The next step: doubling, bisection, and once more what is not decided."""
    known = sorted(points, key=lambda point: point.load)
    of_server = [point for point in known if not point.client]
    missed = [point for point in of_server if not point.leans]
    high = missed[0] if missed else None
    met = [point for point in of_server if point.leans and (high is None or point.load < high.load)]
    low = met[-1] if met else None
    if not known:
        return Try(bounds.fit(bounds.start), "the first")
    clients = [point for point in known if point.client]
    if high is None:
        return without_a_miss(low, clients, bounds)
    if low is None:
        if high.load > least(bounds):
            return Try(bounds.fit(max(high.load / 4, least(bounds))), "no load has met the objectives yet")
        if _wants_more(high):
            return Try(high.load, "to be sure that not even the least load meets the objectives")
        words = f"not even the least load ({high.load:g}) meets the objectives"
        return Answer(Interval(0.0, 0.0, high.load), NOTHING, "server", (words,), high.meets is False)
    is_narrow = high.load / low.load - 1 <= TOLERANCE_SHARE or high.load - low.load <= 1
    if not is_narrow:
        return Try(_between(low, high, bounds), "bisection")
    for point, word in ((high, "misses"), (low, "meets")):
        if _wants_more(point):
            return Try(point.load, f"to be sure that it {word} the objectives")
    open_ = [point for point in (low, high) if point.meets is None]
    reasons = tuple(f"at {point.load:g} it stays open whether the objectives are met" for point in open_)
    # A decision that stays open moves the end of the interval to the next load that is decided.
    sure_low = max((p.load for p in met if p.meets), default=0.0)
    sure_high = min((p.load for p in missed if p.meets is False), default=bounds.most)
    return Answer(
        Interval(low.load, min(sure_low, low.load), max(sure_high, high.load)),
        low.output_tokens_per_s,
        "server",
        reasons,
        not open_,
    )


def _wants_more(point: Point) -> bool:
    """Whether a load has to be run again before the answer may rest on it.

    What disturbs a measurement makes it worse and hardly ever better: so a miss has to be seen twice.
    """
    return point.stages < MOST_REPEATS if point.meets is None else not point.leans and point.stages < 2


def _between(low: Point, high: Point, bounds: Bounds) -> float:
    """Where to cut the bracket: where the strain should pass 1, first a little below that and then a little above.

    In the middle of the logarithms where the strain does not tell (an overloaded stage has no latency of its own), or
    where it would leave one end of the bracket standing.
    """
    middle = math.sqrt(low.load * high.load)
    load = middle
    if SMOOTH < low.strain < 1 < high.strain < 1 / SMOOTH:
        share = -math.log(low.strain) / (math.log(high.strain) - math.log(low.strain))
        crossing = low.load * (high.load / low.load) ** share
        aside = 1 + TOLERANCE_SHARE / 2
        load = crossing / aside if low.load < crossing / aside**2 else crossing * aside
    load = bounds.fit(load)
    if not low.load < load < high.load:
        load = bounds.fit(middle)
    if not low.load < load < high.load:
        load = low.load + 1
    return load
