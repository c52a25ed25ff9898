"""Points so far -> the next load to try, or the answer. Pure: it knows loads and results, no clock, no files, no endpoint.

Two questions. *slo*: the highest load that still meets every objective (concurrency.py, rate.py). *knee*: where throughput
stops growing (peak.py). Where the client is the limit (`client` of a Point) the search ends there: what lies beyond it is
not the endpoint's.
"""

from collections.abc import Sequence

from analysis.bootstrap import Interval
from analysis.knee import closed_knee
from analysis.search.concurrency import next_concurrency
from analysis.search.peak import next_for_knee, observed
from analysis.search.points import NOTHING, Answer, Bounds, Point, Try
from analysis.search.rate import LONG_SHARES, long_share, next_rate, rate_so_far

__all__ = [
    "LONG_SHARES", "Answer", "Bounds", "Point", "Try", "long_share", "next_for_knee", "next_for_slo", "so_far",
]  # fmt: skip


def next_for_slo(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """The next step of the search for the highest load that meets every objective."""
    return (next_concurrency if bounds.whole else next_rate)(points, bounds)


def so_far(question: str, points: Sequence[Point], bounds: Bounds) -> Answer:
    """What can be said when the search has to end before its answer: the best load seen, and how far the truth may be."""
    known = sorted((point for point in points if not point.client), key=lambda point: point.load)
    if not known:
        return Answer(Interval(0.0, 0.0, bounds.most), NOTHING, "server", (), decided=False)
    long = [point for point in known if point.is_long]
    if question == "slo" and not bounds.whole and long:
        return rate_so_far(known, long, bounds)
    if question == "slo":
        missed = [point for point in known if not point.leans]
        met = [point for point in known if point.leans and (not missed or point.load < missed[0].load)]
        high = missed[0].load if missed else bounds.most
        if not met:
            return Answer(Interval(0.0, 0.0, high), NOTHING, "server", (), decided=False)
        sure = max((point.load for point in met if point.meets), default=0.0)
        at = met[-1]
        return Answer(Interval(at.load, sure, high), at.output_tokens_per_s, "server", (), decided=False)
    knee = closed_knee([observed(point) for point in known]) if bounds.whole else None
    if knee is not None:
        return Answer(knee.load, knee.peak, "server", (), decided=False)
    best = max(known, key=lambda point: point.output_tokens_per_s.value)
    over = [point.load for point in known if point.saturated]
    load = Interval(best.load, best.load, min(over, default=bounds.most))
    if best.saturated:
        kept = max((point.load for point in known if not point.saturated and point.load < best.load), default=0.0)
        served = best.requests_per_s
        load = Interval(served.value, max(min(kept, served.value), served.low), served.high)
    return Answer(load, best.output_tokens_per_s, "server", (), decided=False)
