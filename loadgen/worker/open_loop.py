"""Open loop: users come when they come, whether or not those before them have been served.

Every arrival has its due time from the schedule, and keeps it: one that finds no free place (`max_in_flight`), or a worker
that is late, is sent late, and its latency counts from when it was due. Nothing is moved, and nothing is left out but
what `late_drop_ns` says, which is counted.

Where units are prepared while the run goes on (script), the next one is taken out of the ring ahead of its time; in a trace
it brings its time with it. One that is not there when it is due is late, and counted. The units of one session of a trace
wait for each other: a later one is due when it was recorded, or else when the one before it has ended.

A place is one of `max_in_flight`, with a connection out of the pool (pools.py).
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from loadgen import board as b
from loadgen.clock import monotonic_ns
from loadgen.plan import OpenLoad
from loadgen.worker.pacer import Pacer
from loadgen.worker.pools import Pools
from loadgen.worker.script import POLL_NS, Script, Scripted
from loadgen.worker.users import User, Users

# Of prepared requests that wait for a place; beyond, the next ones stay where they are, and keep their due times.
MOST_WAITING_BYTES: Final = 32 * 1024 * 1024


class Arrival(NamedTuple):
    """A unit whose time has come."""

    number: int
    intended_ns: int
    scripted: Scripted | None


class OpenLoop:
    """Who begins next in an open loop."""

    def __init__(
        self,
        load: OpenLoad,
        worker: int,
        workers: int,
        users: Users,
        pools: Pools,
        pacer: Pacer,
        drop: Callable[[int, int, Scripted | None], None],
        board: b.Board,
        seat: int,
        script: Script | None,
        on_through: Callable[[], None],
    ) -> None:
        self._load = load
        self._script = script
        self._on_through = on_through
        self._next: Scripted | None = None  # taken, and not due yet
        self._was_there = True
        self._is_through = False
        self._waiting_bytes = 0
        self._unfinished: dict[int, deque[Arrival]] = {}  # by session: those behind the one that is under way
        self._worker = worker
        self._workers = workers
        self._users = users
        self._pools = pools
        self._pacer = pacer
        self._drop = drop  # (number of the unit, intended_ns, scripted)
        self._numbers = board.numbers
        self._offered_at = board.at(seat, b.OFFERED)
        self._arrived = 0
        self._waiting: deque[Arrival] = deque()
        self._stopped = False
        self.idle_ns: int | None = None
        users.on_over = self._over
        pools.on_room = self._room

    @property
    def is_busy(self) -> bool:
        """Whether a unit will begin that has not."""
        if self._waiting or any(self._unfinished.values()):
            return True
        return not (self._stopped or self._is_through) and (
            self._load.due_ns is None or self._arrived < len(self._load.due_ns)
        )

    def start(self, start_ns: int) -> None:
        """The times of the schedule count from here."""
        self._start_ns = start_ns
        self._wait_for_next()

    def stop(self) -> None:
        """Begin no more: what has not come does not come, and what waits is dropped."""
        self._stopped = True
        self.idle_ns = self.idle_ns or monotonic_ns()
        behind = [arrival for queue in self._unfinished.values() for arrival in queue]
        self._unfinished.clear()
        while self._waiting:
            self._drop_first()
        for arrival in behind:
            self._drop(*arrival)

    # arrivals

    def _wait_for_next(self, _: object = None) -> None:
        due_ns = self._load.due_ns
        if self._stopped or self._is_through or (due_ns is not None and self._arrived == len(due_ns)):
            return
        if self._script is not None and self._next is None and not self._fetch(self._script):
            return
        if due_ns is not None:
            next_ns = due_ns[self._arrived]
        else:
            assert self._next is not None
            assert self._next.due_ns is not None
            next_ns = self._next.due_ns
        self._pacer.at(self._start_ns + next_ns, self._arrive, self._start_ns + next_ns)

    def _fetch(self, script: Script) -> bool:
        """Take the next unit out of the ring; False if there is none now, and then this is tried again."""
        if self._waiting_bytes > MOST_WAITING_BYTES:  # goes on when one of them begins
            return False
        self._next = script.take()
        if self._next is not None:
            due_ns = self._load.due_ns
            next_ns = due_ns[self._arrived] if due_ns is not None else self._next.due_ns or 0
            if not self._was_there and monotonic_ns() - self._start_ns > next_ns:
                script.waited += 1
            self._was_there = True
            return True
        self._was_there = False
        if script.is_over:
            self._is_through = True
            if self._load.due_ns is not None:
                self._on_through()
            return False
        self._pacer.at(monotonic_ns() + POLL_NS, self._wait_for_next)
        return False

    def _arrive(self, intended_ns: int) -> None:
        if self._stopped:
            return
        scripted, self._next = self._next, None
        number = self._worker + self._arrived * self._workers if scripted is None else scripted.number
        self._arrived += 1
        self._numbers[self._offered_at] = self._arrived
        arrival = Arrival(number, intended_ns, scripted)
        if scripted is not None and scripted.session is not None:
            behind = self._unfinished.get(scripted.session)
            if behind is not None:
                behind.append(arrival)
                self._wait_for_next()
                return
            self._unfinished[scripted.session] = deque()
        self._come(arrival)
        self._wait_for_next()  # may find that this was the last: then it has come

    def _come(self, arrival: Arrival) -> None:
        late_drop_ns = self._load.late_drop_ns
        if late_drop_ns is not None and monotonic_ns() - arrival.intended_ns > late_drop_ns:
            self._drop_one(arrival)
            return
        if not self._waiting and self._has_place:
            self._users.begin(0, *arrival)
            return
        self._waiting.append(arrival)
        if arrival.scripted is not None:
            self._waiting_bytes += arrival.scripted.size_bytes
        if late_drop_ns is not None:
            self._pacer.at(arrival.intended_ns + late_drop_ns, self._drop_late)

    def _pop_waiting(self) -> Arrival:
        arrival = self._waiting.popleft()
        if arrival.scripted is not None:
            was_full = self._waiting_bytes > MOST_WAITING_BYTES
            self._waiting_bytes -= arrival.scripted.size_bytes
            if was_full and self._waiting_bytes <= MOST_WAITING_BYTES:
                self._pacer.at(monotonic_ns(), self._wait_for_next)
        return arrival

    def _next_of_session(self, scripted: Scripted | None) -> None:
        """A unit is over: the next of its session may come, not before now."""
        if scripted is None or scripted.session is None or (behind := self._unfinished.get(scripted.session)) is None:
            return
        if not behind:
            del self._unfinished[scripted.session]
            return
        arrival = behind.popleft()
        self._come(arrival._replace(intended_ns=max(arrival.intended_ns, monotonic_ns())))

    def _drop_late(self, _: object) -> None:
        late_drop_ns = self._load.late_drop_ns
        assert late_drop_ns is not None
        before_ns = monotonic_ns() - late_drop_ns
        while self._waiting and self._waiting[0].intended_ns <= before_ns:
            self._drop_first()

    def _drop_first(self) -> None:
        self._drop_one(self._pop_waiting())

    def _drop_one(self, arrival: Arrival) -> None:
        self._next_of_session(arrival.scripted)
        self._drop(*arrival)

    # places

    @property
    def _has_place(self) -> bool:
        return self._users.active < self._load.max_in_flight and self._pools.has_room

    def _over(self, user: User, _error: str | None) -> None:
        self._room()
        self._next_of_session(user.scripted)

    def _room(self) -> None:
        """There may be a place for whoever waits."""
        if self._load.late_drop_ns is not None:
            self._drop_late(None)
        if self._waiting and self._has_place:
            self._users.begin(0, *self._pop_waiting())
