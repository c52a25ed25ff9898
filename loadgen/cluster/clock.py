"""How another machine's clock stands to ours, and how sure that is. Knows nothing of sockets, nodes or Ray.

A round trip leaves at `sent_ns` and is back at `back_ns` of our clock, and was there at `there_ns` of the other one.
Whatever became of the two ways, it was there after it left and before it was back:

    there - back  <=  other clock - our clock  <=  there - sent

So the offset is known to half a round trip, without any guess at which of the two ways was the longer one. Several such
bounds are all true, and the offset lies in what they have in common: of a burst of round trips the quickest counts (the
minimum filter), and more than that where one was quick on its way there and another on its way back.

Clocks drift apart. A bound of another moment is wider by MOST_DRIFT times the time in between, so that bounds from before,
during and after a run hold for every moment of it. Source of the interval arithmetic: K. Marzullo, S. Owicki, Maintaining
the Time in a Distributed System, 1983.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

MOST_DRIFT: Final = 100e-6
"""By how much a clock may run faster or slower than another one, beyond what is measured: quartz keeps to 50 ppm."""


class RoundTrip(NamedTuple):
    """`sent_ns` and `back_ns` of our clock, `there_ns` of the other one."""

    sent_ns: int
    there_ns: int
    back_ns: int


class Bound(NamedTuple):
    """At `at_ns` of our clock, other clock - ours is no less than `least_ns`, and no more than `most_ns`."""

    at_ns: int
    least_ns: int
    most_ns: int

    @property
    def offset_ns(self) -> int:
        return (self.least_ns + self.most_ns) // 2

    @property
    def uncertainty_ns(self) -> int:
        """Half the width, rounded up."""
        return -(-(self.most_ns - self.least_ns) // 2)


class Point(NamedTuple):
    """At `t_ns` of the other clock, ours shows t_ns + offset_ns, up to uncertainty_ns more or less."""

    t_ns: int
    offset_ns: int
    uncertainty_ns: int


def bound(trips: Sequence[RoundTrip]) -> Bound:
    """What a burst of round trips, all within a second or so, says of the moment of its quickest. ValueError without any."""
    quickest = min(trips, key=lambda trip: trip.back_ns - trip.sent_ns)
    at_ns = (quickest.sent_ns + quickest.back_ns) // 2
    return _common([_of(trip) for trip in trips], at_ns)


def carried_on(before: Bound, fresh: Bound) -> Bound:
    """A fresh bound with what the one before it says of the same moment: round trips may all be slow for a while."""
    return _common([fresh, before], fresh.at_ns)


def points(bounds: Sequence[Bound]) -> list[Point]:
    """What bounds over a whole run, in time's order, say together: the other clock's way to ours, a point for each bound.

    Between two points the way is taken to be straight; `uncertainty_between_ns` says what that costs.
    """
    narrowed = _narrowed(list(bounds))
    return [Point(one.at_ns + one.offset_ns, -one.offset_ns, one.uncertainty_ns) for one in narrowed]


def uncertainty_between_ns(found: Sequence[Point]) -> int:
    """How far off a straight line between the points may be, at most, over all of them. ValueError without any.

    Both clocks may bend between two points: by no more than MOST_DRIFT over half the time from one to the next.
    """
    most_apart_ns = max((after.t_ns - before.t_ns for before, after in pairwise(found)), default=0)
    return max(point.uncertainty_ns for point in found) + round(most_apart_ns / 2 * MOST_DRIFT)


def there_ns(latest: Bound, here_ns: int) -> int:
    """What the other clock will show at `here_ns` of ours, as far as the latest bound says it."""
    return here_ns + latest.offset_ns


def _of(trip: RoundTrip) -> Bound:
    # It was there at some moment of the round trip, which need not be its middle.
    drift_ns = _drift_ns(trip.back_ns - trip.sent_ns)
    return Bound(
        (trip.sent_ns + trip.back_ns) // 2,
        trip.there_ns - trip.back_ns - drift_ns,
        trip.there_ns - trip.sent_ns + drift_ns,
    )


def _at(one: Bound, at_ns: int) -> Bound:
    """The same at another moment: wider."""
    drift_ns = _drift_ns(abs(at_ns - one.at_ns))
    return Bound(at_ns, one.least_ns - drift_ns, one.most_ns + drift_ns)


def _drift_ns(span_ns: int) -> int:
    return math.ceil(span_ns * MOST_DRIFT)


def _common(bounds: Sequence[Bound], at_ns: int) -> Bound:
    """What bounds have in common at a moment; where they contradict one another (a clock was stepped), all of them."""
    moved = [_at(one, at_ns) for one in bounds]
    least_ns, most_ns = max(one.least_ns for one in moved), min(one.most_ns for one in moved)
    if least_ns > most_ns:
        least_ns, most_ns = min(one.least_ns for one in moved), max(one.most_ns for one in moved)
    return Bound(at_ns, least_ns, most_ns)


def _narrowed(bounds: list[Bound]) -> list[Bound]:
    """Each with what those before and after it say, too."""
    for order in (range(1, len(bounds)), range(len(bounds) - 2, -1, -1)):
        for place in order:
            neighbour = bounds[place - 1 if order.step > 0 else place + 1]
            bounds[place] = _common([bounds[place], neighbour], bounds[place].at_ns)
    return bounds
