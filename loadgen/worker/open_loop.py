"""Open loop: users come when they come, whether or not those before them have been served.

Every arrival has its due time from the schedule, and keeps it: one that finds no free place (`max_in_flight`), or a worker
that is late, is sent late, and its latency counts from when it was due. Nothing is moved, and nothing is left out but
what `late_drop_ns` says, which is counted.

A place is a slot with its connection. Some are open before the start, and a few more than are needed are opened ahead of
the arrivals, so that an arrival does not have to wait for a connect.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from loadgen import board as b
from loadgen.clock import NS_PER_MS, monotonic_ns
from loadgen.plan import OpenLoad
from loadgen.worker.pacer import Pacer
from loadgen.worker.transport import Transport
from loadgen.worker.users import User, Users

# Behind a connect that failed: the next spare connection is tried so much later.
PREPARE_RETRY_NS: Final = 100 * NS_PER_MS


class OpenLoop:
    """Who begins next in an open loop."""

    def __init__(
        self,
        load: OpenLoad,
        worker: int,
        workers: int,
        users: Users,
        transport: Transport,
        pacer: Pacer,
        drop: Callable[[int, int], None],
        board: b.Board,
    ) -> None:
        self._load = load
        self._worker = worker
        self._workers = workers
        self._users = users
        self._transport = transport
        self._pacer = pacer
        self._drop = drop  # (number of the unit, intended_ns)
        self._numbers = board.numbers
        self._offered_at = board.at(worker, b.OFFERED)
        self._arrived = 0
        self._waiting: deque[tuple[int, int]] = deque()  # (arrival, intended_ns)
        self._open: list[int] = []  # idle slots, the one that was used last goes first
        self._closed: list[int] = []
        self._slots = 0  # how many the stage has taken into use
        self._preparing = 0
        self._prepare_after_ns = 0
        self._stopped = False
        self.idle_ns: int | None = None
        users.on_over = self._over

    @property
    def is_busy(self) -> bool:
        """Whether a unit will begin that has not."""
        return bool(self._waiting) or (not self._stopped and self._arrived < len(self._load.due_ns))

    def start(self, start_ns: int) -> None:
        """The times of the schedule count from here."""
        self._start_ns = start_ns
        self._slots = min(self._transport.slots, self._load.max_in_flight)
        for slot in range(self._slots - 1, -1, -1):
            (self._open if self._transport.is_open(slot) else self._closed).append(slot)
        self._wait_for_next()

    def stop(self) -> None:
        """Begin no more: what has not come does not come, and what waits is dropped."""
        self._stopped = True
        self.idle_ns = self.idle_ns or monotonic_ns()
        while self._waiting:
            self._drop_first()

    # arrivals

    def _wait_for_next(self) -> None:
        if self._arrived < len(self._load.due_ns) and not self._stopped:
            self._pacer.at(self._start_ns + self._load.due_ns[self._arrived], self._arrive)

    def _arrive(self, _: object) -> None:
        if self._stopped:
            return
        arrival, intended_ns = self._arrived, self._start_ns + self._load.due_ns[self._arrived]
        self._arrived += 1
        self._numbers[self._offered_at] = self._arrived
        self._wait_for_next()
        late_drop_ns = self._load.late_drop_ns
        if late_drop_ns is not None and monotonic_ns() - intended_ns > late_drop_ns:
            self._drop(self._unit(arrival), intended_ns)
            return
        slot = None if self._waiting else self._free_slot()
        if slot is not None:
            self._users.begin(slot, self._unit(arrival), intended_ns)
            return
        self._waiting.append((arrival, intended_ns))
        if late_drop_ns is not None:
            self._pacer.at(intended_ns + late_drop_ns, self._drop_late)

    def _unit(self, arrival: int) -> int:
        return self._worker + arrival * self._workers

    def _drop_late(self, _: object) -> None:
        late_drop_ns = self._load.late_drop_ns
        assert late_drop_ns is not None
        before_ns = monotonic_ns() - late_drop_ns
        while self._waiting and self._waiting[0][1] <= before_ns:
            self._drop_first()

    def _drop_first(self) -> None:
        arrival, intended_ns = self._waiting.popleft()
        self._drop(self._unit(arrival), intended_ns)

    # places

    def _free_slot(self) -> int | None:
        while self._open:
            slot = self._open.pop()
            if self._transport.is_open(slot):
                self._keep_spare()
                return slot
            self._closed.append(slot)
        closed = self._closed_slot()
        self._keep_spare()
        return closed

    def _closed_slot(self) -> int | None:
        if self._closed:
            return self._closed.pop()
        if self._slots == self._load.max_in_flight:
            return None
        self._slots += 1
        return self._transport.add_slot()

    def _keep_spare(self) -> None:
        wanted = self._load.spare - len(self._open) - self._preparing
        if wanted <= 0 or monotonic_ns() < self._prepare_after_ns:
            return
        for _ in range(wanted):
            slot = self._closed_slot()
            if slot is None:
                return
            self._preparing += 1
            self._transport.prepare(slot, self._prepared)

    def _prepared(self, slot: int) -> None:
        self._preparing -= 1
        if not self._transport.is_open(slot):
            self._prepare_after_ns = monotonic_ns() + PREPARE_RETRY_NS
        self._freed(slot)

    def _over(self, user: User, _error: str | None) -> None:
        self._freed(user.slot)

    def _freed(self, slot: int) -> None:
        if self._load.late_drop_ns is not None:
            self._drop_late(None)
        if self._waiting:
            arrival, intended_ns = self._waiting.popleft()
            self._users.begin(slot, self._unit(arrival), intended_ns)
        elif self._transport.is_open(slot):
            self._open.append(slot)
        else:
            self._closed.append(slot)
