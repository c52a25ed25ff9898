"""Where throughput stops growing (analysis/knee.py): doubling until it does, then points that narrow the answer most."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from analysis.bootstrap import Interval
from analysis.knee import Knee, Observed, closed_knee, open_knee
from analysis.search.points import NOTHING, TOLERANCE_SHARE, Answer, Bounds, Point, Try

KNEE_TOLERANCE_SHARE: Final = 0.04
"""The same for the load at a knee."""

STILL_GROWS: Final = 1.10
"""A doubled load that gives less than this much more has left the rising part behind."""

NEARLY_LINEAR: Final = 0.93
"""Of the growth in load: while throughput follows so closely, steps are of four."""

SAME_SHARE: Final = 0.1
"""Loads closer than this to one another are one and the same for the knee."""

FLAT_FROM: Final = 1.25
"""Times the knee: a flat part that is not seen so far out may be no more than noise on the rise."""


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
    return Try(load, "throughput still grows") if last.load < load < nearest else None


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
        return Try(bounds.fit(kept_up[-1].load * step), "what came was answered")
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
        words: tuple[str, ...] = (f"throughput still grows at {bounds.highest()}",)
    else:
        words = clients[0].client
    if not known:
        return Answer(Interval(0.0, 0.0, bounds.most), NOTHING, "client", words, True)
    best = max(known, key=lambda point: point.output_tokens_per_s.value)
    return Answer(
        Interval(best.load, best.load, bounds.most),
        Interval(best.output_tokens_per_s.value, best.output_tokens_per_s.low, math.inf),
        "client" if clients else bounds.limit(),
        words,
        True,
    )
