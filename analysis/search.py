"""Points so far -> the next load to try, or the answer. Pure: it knows loads and results, no clock, no files, no endpoint.

Two questions. *slo*: the highest load that still meets every objective, by doubling and then bisection; each decision is
statistical (see Point.meets), and a load that is not decided is run again. *knee*: where throughput stops growing
(knee.py), by doubling until it does, then by points where they narrow the answer most.

Where the client is the limit (`client` of a Point) the search ends there: what lies beyond it is not the endpoint's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from analysis.bootstrap import Interval
from analysis.knee import Knee, Observed, closed_knee, open_knee

TOLERANCE_SHARE: Final = 0.025
"""How narrow the answer is to be: half of what is promised."""

KNEE_TOLERANCE_SHARE: Final = 0.04
"""The same for the load at a knee."""

STILL_GROWS: Final = 1.10
"""A doubled load that gives less than this much more has left the rising part behind."""

NEARLY_LINEAR: Final = 0.93
"""Of the growth in load: while throughput follows so closely, steps are of four."""

MOST_REPEATS: Final = 6
"""Of one load: a decision that is open after so many stages is left open."""

SAME_SHARE: Final = 0.1
"""Loads closer than this to one another are one and the same for the knee."""

FLAT_FROM: Final = 1.25
"""Times the knee: a flat part that is not seen so far out may be no more than noise on the rise."""

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
    """Whether its stage is one of the LONG_STAGES that share what is left of the budget: the answer hangs on rare requests."""


class Answer(NamedTuple):
    """The load asked for with its interval, the throughput there, who was the limit ("server" or "client"), and why."""

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

    def fit(self, load: float) -> float:
        """The nearest load that can be tried."""
        return min(float(max(round(load), 1)) if self.whole else float(f"{load:.4g}"), self.most)


NOTHING: Final = Interval(0.0, 0.0, 0.0)


def so_far(question: str, points: Sequence[Point], bounds: Bounds) -> Answer:
    """What can be said when the search has to end before its answer: the best load seen, and how far the truth may be."""
    known = sorted((point for point in points if not point.client), key=lambda point: point.load)
    if not known:
        return Answer(Interval(0.0, 0.0, bounds.most), NOTHING, "server", (), decided=False)
    long = [point for point in known if point.is_long]
    if question == "slo" and not bounds.whole and long:
        return _rate_answer(_crossing(long, _ceiling(known, bounds))[0], long, decided=False)
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


# --- the highest load within the objectives ---


def next_for_slo(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """The next step of the search for the highest load that meets every objective."""
    if not bounds.whole:
        return _next_rate(points, bounds)
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
        return _without_a_miss(low, clients, bounds)
    if low is None:
        if high.load > _least(bounds):
            return Try(bounds.fit(max(high.load / 4, _least(bounds))), "no load has met the objectives yet")
        if _wants_more(high):
            return Try(high.load, "to be sure that not even the least load meets the objectives")
        words = f"not even the least load ({high.load:g}) meets the objectives"
        return Answer(Interval(0.0, 0.0, high.load), NOTHING, "server", (words,), high.meets is False)
    is_narrow = high.load / low.load - 1 <= TOLERANCE_SHARE or (bounds.whole and high.load - low.load <= 1)
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
    if bounds.whole and not low.load < load < high.load:
        load = low.load + 1
    return load


def _without_a_miss(low: Point | None, clients: Sequence[Point], bounds: Bounds) -> Try | Answer:
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
        return Try(bounds.fit(low.load * (4 if 0 < low.strain <= EASY else 2)), "doubling")
    words = f"the highest load that can be tried here ({bounds.most:g}) meets the objectives"
    return Answer(Interval(low.load, low.load, bounds.most), low.output_tokens_per_s, "client", (words,), True)


# --- the highest rate within the objectives ---
#
# At a rate, what misses an objective are the few requests that meet a queue; how many do rises steeply with the rate, and a
# stage of some seconds that begins with an empty endpoint sees too few of them. Short stages therefore only find the
# neighbourhood. Then come LONG_STAGES that share what is left of the budget, each where the share of misses should be the
# allowed one, and the answer comes from all of them: ln(missed / allowed) over ln(rate) is a line near its zero (a
# stochastic root search, as in Robbins and Monro 1951, with the slope learnt on the way). A rate that is not below the
# throughput of an overloaded stage has no steady state, whatever a short look at it shows.

LONG_STAGES: Final = 4

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


def _next_rate(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    known = sorted(points, key=lambda point: point.load)
    if not known:
        return Try(bounds.fit(bounds.start), "the first")
    of_server = [point for point in known if not point.client]
    clients = [point for point in known if point.client]
    missed = [point for point in of_server if _is_missed(point)]
    if not missed:
        return _without_a_miss(of_server[-1] if of_server else None, clients, bounds)
    lone = [point for point in missed if point.saturated and point.stages == 1 and 0 < point.strain < SMOOTH]
    if lone and not lone[0].is_long:
        return Try(lone[0].load, "once more: requests piled up, and none was slow")
    ceiling = _ceiling(of_server, bounds)
    long = [point for point in of_server if point.is_long]
    if not long:
        high = min(missed[0].load, ceiling)
        low = max((point.load for point in of_server if point.load < high and not _is_missed(point)), default=0.0)
        if not low:
            least = _least(bounds)
            if missed[0].load > least:
                return Try(bounds.fit(max(missed[0].load / 4, least)), "no rate has met the objectives yet")
            words = f"not even the least rate ({missed[0].load:g}) meets the objectives"
            return Answer(Interval(0.0, 0.0, missed[0].load), NOTHING, "server", (words,), missed[0].meets is False)
        is_near = high / low <= NEIGHBOURHOOD or len(known) >= MOST_SHORT
        # What is served at most is known by then, and the limit is more often near it than not.
        load = max(math.sqrt(low * high), OF_CAPACITY * high if high == ceiling else 0.0)
        return Try(bounds.fit(load), "near the limit" if is_near else "bisection", is_near)
    found, slope = _crossing(long, ceiling)
    if len(long) >= LONG_STAGES:
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


def _is_missed(point: Point) -> bool:
    """Whether an objective is missed by more than a few requests that were unlucky."""
    return point.saturated or point.meets is False or (not point.leans and point.misses >= FEW_MISSES)


def _ceiling(points: Sequence[Point], bounds: Bounds) -> float:
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
    at = np.linspace(x.min() - 0.5, min(x.max() + 0.5, math.log(ceiling)), 400)
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


def _least(bounds: Bounds) -> float:
    return 1.0 if bounds.whole else bounds.start / 64


# --- the knee ---


def next_for_knee(points: Sequence[Point], bounds: Bounds) -> Try | Answer:
    """The next step of the search for the knee and the peak throughput."""
    known = sorted(points, key=lambda point: point.load)
    if not known:
        return Try(bounds.fit(bounds.start), "the first")
    of_server = [point for point in known if not point.client]
    clients = [point for point in known if point.client and (not of_server or point.load > of_server[0].load)]
    return _closed(of_server, clients, bounds) if bounds.whole else _open(of_server, clients, bounds)


def observed(point: Point) -> Observed:
    """What the fit of a closed loop takes."""
    low_high = point.output_tokens_per_s
    return Observed(point.load, low_high.value, _error(low_high))


def _closed(known: list[Point], clients: Sequence[Point], bounds: Bounds) -> Try | Answer:
    grow = _grow(known, clients, bounds)
    knee = closed_knee([observed(point) for point in known])
    if knee is None or knee.flat < 2 or known[-1].load < FLAT_FROM * knee.load.value:
        return grow or _look_for_the_flat(known, clients, bounds, knee)
    for factor, why in (
        (1.5, "beyond the knee"),
        (0.8, "below the knee"),
        (0.5, "the rise"),
        (1.2, "next to the knee"),
    ):
        load = bounds.fit(knee.load.value * factor)
        if _is_new(load, known, clients):
            return Try(load, why)
    near = [point for point in known if 0.6 <= point.load / knee.load.value <= 2.2]
    fewest = min(near, key=lambda point: (point.stages, abs(math.log(point.load / knee.load.value))))
    if _is_narrow(knee) or fewest.stages >= 2:
        return Answer(knee.load, knee.peak, "server", (), True)
    return Try(fewest.load, "once more, for a narrower answer")


def _look_for_the_flat(
    known: Sequence[Point], clients: Sequence[Point], bounds: Bounds, knee: Knee | None
) -> Try | Answer:
    """Throughput has stopped growing, or nothing higher can be tried, and that does not make a knee yet."""
    if not known:
        return _at_the_clients_end(known, clients, bounds)
    first, last = known[0], known[-1]
    if len(known) >= 4 and last.output_tokens_per_s.value < STILL_GROWS * first.output_tokens_per_s.value:
        if first.load > 1:
            return Try(bounds.fit(first.load / 2), "throughput does not grow from the first load on")
        return _flat_from_the_start(known)
    nearest = min((client.load for client in clients), default=math.inf)
    # Far enough out to be sure of the flat part, or at least one more on it.
    out = bounds.fit(max(last.load * 1.5, FLAT_FROM * 1.2 * knee.load.value if knee else 0.0))
    if last.load < out < nearest and _is_new(out, known, clients):
        return Try(out, "to see whether throughput stays flat")
    if clients or last.load >= bounds.most:
        return _at_the_clients_end(known, clients, bounds)
    _, middle = max((two.load / one.load, math.sqrt(one.load * two.load)) for one, two in pairwise(known[-4:]))
    return Try(bounds.fit(middle), "between the rise and the flat part")


def _is_new(load: float, known: Sequence[Point], clients: Sequence[Point]) -> bool:
    """Whether a load would tell something: not next to one that is known, and not where the client is the limit."""
    return all(load != point.load and abs(math.log(load / point.load)) > SAME_SHARE for point in known) and all(
        load < client.load for client in clients
    )


def _grow(known: Sequence[Point], clients: Sequence[Point], bounds: Bounds) -> Try | None:
    """The next load while throughput grows; None when it has stopped, or nothing higher can be tried."""
    if not known:
        return None
    last = known[-1]
    nearest = min((client.load for client in clients), default=math.inf)
    step = 2.0
    if len(known) > 1:
        before = known[-2]
        gain = last.output_tokens_per_s.value / max(before.output_tokens_per_s.value, 1e-9)
        ratio = last.load / before.load
        if gain < STILL_GROWS ** math.log2(ratio):
            return None
        if gain >= NEARLY_LINEAR * ratio:
            step = 4.0
    load = bounds.fit(last.load * step)
    if load >= nearest:
        load = bounds.fit(math.sqrt(last.load * nearest))
        if nearest / last.load < 1.2:
            return None
    return Try(load, "doubling") if last.load < load < nearest else None


def _open(known: list[Point], clients: Sequence[Point], bounds: Bounds) -> Try | Answer:
    over = [point for point in known if point.saturated]
    kept_up = [point for point in known if not point.saturated and (not over or point.load < over[0].load)]
    best = max((point.requests_per_s for point in kept_up), default=NOTHING)
    if not over:
        if clients:
            if kept_up and clients[0].load / kept_up[-1].load > 1.2:
                return Try(
                    bounds.fit(math.sqrt(kept_up[-1].load * clients[0].load)), "towards where this load generator ends"
                )
            return _at_the_clients_end(known, clients, bounds)
        if kept_up[-1].load >= bounds.most:
            return _at_the_clients_end(known, clients, bounds)
        step = 4.0 if len(kept_up) < 3 else 2.0
        return Try(bounds.fit(kept_up[-1].load * step), "doubling")
    full = [Observed(point.load, point.requests_per_s.value, _error(point.requests_per_s)) for point in over]
    knee = open_knee(full, best)
    assert knee is not None
    for factor, why in ((1.4, "beyond the knee"), (0.93, "below the knee"), (1.8, "beyond the knee")):
        load = bounds.fit(knee.load.value * factor)
        if _is_new(load, known, clients):
            return Try(load, why)
    if not (_is_narrow(knee) or min(point.stages for point in over) >= 2):
        return Try(min(over, key=lambda point: point.stages).load, "once more, for a narrower answer")
    tokens = [
        Observed(point.load, point.output_tokens_per_s.value, _error(point.output_tokens_per_s)) for point in over
    ]
    highest = max((point.output_tokens_per_s for point in kept_up), default=NOTHING)
    peak = open_knee(tokens, highest)
    assert peak is not None
    return Answer(knee.load, peak.peak, "server", (), True)


def _error(interval: Interval) -> float:
    return (interval.high - interval.low) / 3.92


def _is_narrow(knee: Knee) -> bool:
    """The peak more than the load at which it is reached: on a gentle bend that load is hardly defined."""
    wanted = ((knee.peak, TOLERANCE_SHARE), (knee.load, KNEE_TOLERANCE_SHARE))
    return all(max(one.high - one.value, one.value - one.low) <= share * one.value for one, share in wanted)


def _flat_from_the_start(known: Sequence[Point]) -> Answer:
    best = max(known, key=lambda point: point.output_tokens_per_s.value)
    words = "throughput does not grow with the load: one request at a time is all that is served at once"
    return Answer(Interval(1.0, 1.0, known[-1].load), best.output_tokens_per_s, "server", (words,), True)


def _at_the_clients_end(known: Sequence[Point], clients: Sequence[Point], bounds: Bounds) -> Answer:
    """Throughput was still growing where the client could not follow: the endpoint's knee lies beyond."""
    if not clients:
        words: tuple[str, ...] = (
            f"throughput still grows at the highest load that can be tried here ({bounds.most:g})",
        )
    else:
        words = clients[0].client
    if not known:
        return Answer(Interval(0.0, 0.0, bounds.most), NOTHING, "client", words, True)
    best = max(known, key=lambda point: point.output_tokens_per_s.value)
    return Answer(
        Interval(best.load, best.load, bounds.most),
        Interval(best.output_tokens_per_s.value, best.output_tokens_per_s.low, math.inf),
        "client",
        words,
        True,
    )
