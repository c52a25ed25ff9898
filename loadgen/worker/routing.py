"""Which of several targets a unit goes to, and to which of its URLs.

The target follows from the seed and the unit's number (loadgen.dealing). The URLs of a target take turns, or the one with
the fewest requests in flight is next, as far as this worker knows: workers tell each other nothing. All requests of a
session go where its first one went.
"""

from collections.abc import Sequence
from typing import Final

from loadgen.dealing import Deal
from loadgen.plan import Route, Target

KNOWN_SESSIONS: Final = 1 << 16
"""Sessions of a trace whose route is remembered, the latest ones: some 8 MB."""


class Router:
    """The routes of one worker."""

    def __init__(
        self, targets: Sequence[Target], routes: Sequence[Route], deal: Deal, balance: str, worker: int = 0
    ) -> None:
        self._deal = deal
        self._of_target = [[routes[place] for place in target.routes] for target in targets]
        self._goes_by_load = balance == "least-in-flight"
        # Workers begin at different ones, or the first would get all first requests.
        self._turn = [worker % len(its) for its in self._of_target]
        self._known: dict[tuple[int, int], Route] = {}
        self.in_flight = [0] * (max(route.endpoint for route in routes) + 1)
        """Requests, by endpoint; who sends and receives them counts."""

    def target(self, unit: int) -> int:
        """The target of a unit, by its id."""
        return self._deal.target(unit)

    def route(self, target: int, session: int | None = None) -> Route:
        """Where the next unit of a target goes; one of a session of a trace where the others have gone."""
        routes = self._of_target[target]
        if len(routes) == 1:
            return routes[0]
        if session is None:
            return self._next(target, routes)
        found = self._known.get((target, session))
        if found is None:
            found = self._known[target, session] = self._next(target, routes)
            if len(self._known) > KNOWN_SESSIONS:
                del self._known[next(iter(self._known))]
        return found

    def _next(self, target: int, routes: list[Route]) -> Route:
        turn = self._turn[target]
        if self._goes_by_load:
            in_flight = self.in_flight
            # Of several with the same, the one whose turn it is.
            places = [(turn + k) % len(routes) for k in range(len(routes))]
            turn = min(places, key=lambda place: in_flight[routes[place].endpoint])
        self._turn[target] = (turn + 1) % len(routes)
        return routes[turn]


def shares(targets: Sequence[Target], routes: Sequence[Route], deal: Deal, origins: int) -> list[float]:
    """The share of the requests that each origin is expected to get."""
    bounds = (0.0, *deal.bounds, 1.0)
    expected = [0.0] * origins
    for number, target in enumerate(targets):
        for place in target.routes:
            expected[routes[place].origin] += (bounds[number + 1] - bounds[number]) / len(target.routes)
    return expected
