"""Connections by origin: who begins takes one that is open, if there is one, and gives it back when it is through.

Of the idle ones of an origin the last that was used goes first, so that few are kept busy and the others may be closed by
their server in peace. One that is closed is anybody's. A few more than are needed are opened ahead of an open loop's
arrivals (`spare`), so that an arrival does not have to wait for a connect.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from loadgen.clock import NS_PER_MS, monotonic_ns
from loadgen.worker.transport import Transport

# Behind a connect that failed: the next spare connection is tried so much later.
PREPARE_RETRY_NS: Final = 100 * NS_PER_MS

DEVIATIONS: Final = 3
"""Of the requests in flight at an origin: for so many more than the mean connections are opened before the start."""


class Pools:
    """The connections of a worker; `shares` are those that each origin is expected to have of the requests."""

    def __init__(self, transport: Transport, shares: Sequence[float], most: int) -> None:
        self._transport = transport
        self._shares = shares
        self._most = most  # that this process can hold
        self._limit = most
        self._spare = 0
        self._open: list[list[int]] = [[] for _ in shares]  # idle, by origin
        self._closed: list[int] = []
        self._preparing = [0 for _ in shares]
        self._prepare_after_ns = [0 for _ in shares]
        self.on_room: Callable[[], None] = lambda: None
        """Called when a connection that was being prepared has become free."""

    def wanted(self, connections: int) -> list[int]:
        """How many of each origin to open before so many are used at once."""
        if len(self._shares) == 1:
            return [connections]
        expected = [connections * share for share in self._shares]
        slack = [DEVIATIONS * math.sqrt(mean * (1 - share)) for mean, share in zip(expected, self._shares, strict=True)]
        wanted = [min(math.ceil(mean + more), connections) for mean, more in zip(expected, slack, strict=True)]
        return wanted if sum(wanted) <= self._most else [math.floor(mean) for mean in expected]

    def begin_stage(self, places: int, spare: int = 0) -> None:
        """Nothing is in use, and at most so many will be at a time."""
        # With several origins more than that are kept, for who comes to one finds no use in those of another.
        self._limit = min(places * len(self._shares), self._most)
        self._spare = spare
        self._open = [[] for _ in self._shares]
        self._closed = []
        for slot in range(self._transport.slots - 1, -1, -1):
            self._put(slot)

    def _put(self, slot: int) -> None:
        if self._transport.is_open(slot):
            self._open[self._transport.origin(slot)].append(slot)
        else:
            self._closed.append(slot)

    @property
    def has_room(self) -> bool:
        """Whether a connection can be taken now: not while the last ones are still being prepared."""
        return bool(self._closed) or any(self._open) or self._transport.slots < self._limit

    def take(self, origin: int) -> int:
        """A connection of this origin, open where there is such a one."""
        idle = self._open[origin]
        while idle:
            slot = idle.pop()
            if self._transport.is_open(slot):
                break
            self._closed.append(slot)
        else:
            slot = self._closed_one(origin)
        if self._spare:
            self._keep_spare(origin)
        return slot

    def give_back(self, slot: int) -> None:
        """Who took it is through with it."""
        self._put(slot)

    def _closed_one(self, origin: int) -> int:
        if self._closed:
            slot = self._closed.pop()
        elif self._transport.slots < self._limit or not any(self._open):
            return self._transport.add_slot(origin)
        else:  # of whoever has most to spare, the one that has been idle longest
            slot = max(self._open, key=len).pop(0)
        self._transport.move(slot, origin)
        return slot

    def _keep_spare(self, origin: int) -> None:
        wanted = self._spare - len(self._open[origin]) - self._preparing[origin]
        if wanted <= 0 or monotonic_ns() < self._prepare_after_ns[origin]:
            return
        for _ in range(wanted):
            if not self._closed and self._transport.slots >= self._limit:
                return
            slot = self._closed_one(origin)
            self._preparing[origin] += 1
            self._transport.prepare(slot, self._prepared)

    def _prepared(self, slot: int) -> None:
        origin = self._transport.origin(slot)
        self._preparing[origin] -= 1
        if not self._transport.is_open(slot):
            self._prepare_after_ns[origin] = monotonic_ns() + PREPARE_RETRY_NS
        self._put(slot)
        self.on_room()
