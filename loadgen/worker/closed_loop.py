"""Closed loop: so many slots are kept busy, each with the next unit when the one before is over.

Units are dealt to slots like cards, as slots are to workers: so the requests of a run are the same whatever the number of
workers, and with uneven slots no worker runs out of them before the others. Where they are prepared while the run goes on,
the preparer deals them so (loadgen.preparer); a slot whose unit is not there yet is hungry, and looks again.
"""

from collections.abc import Callable
from typing import Final

from loadgen.clock import NS_PER_MS, monotonic_ns
from loadgen.plan import ClosedLoad, UsersPlan
from loadgen.worker.pacer import Pacer
from loadgen.worker.script import POLL_NS, Script
from loadgen.worker.users import User, Users

# A slot that could not even connect waits this long: a refused connect comes back in microseconds, and a closed loop over
# it would be a flood of connects, not a load.
CONNECT_RETRY_NS: Final = 100 * NS_PER_MS
NO_CONNECTION: Final = frozenset(
    {"dns", "connect-refused", "connect-failed", "client-exhausted", "tls", "tls-certificate"}
)


class ClosedLoop:
    """Who begins next in a closed loop."""

    def __init__(
        self,
        load: ClosedLoad,
        worker: int,
        workers: int,
        users: Users,
        plan: UsersPlan,
        pacer: Pacer,
        script: Script | None,
        on_through: Callable[[], None],
    ) -> None:
        self._load = load
        self._script = script
        self._on_through = on_through
        self._hungry: list[int] = []
        self._worker = worker
        self._workers = workers
        self._users = users
        self._pacer = pacer
        # Between the turns of a session it is the session's; a new session is a new user, who has not been waiting.
        self._thinks = plan.think is not None and not plan.has_sessions
        self._left = load.units if load.units is not None else 1 << 62
        self._begun = 0
        self._level = self._level_number = 0
        self._idle = list(range(load.slots - 1, -1, -1))
        self._resting = 0  # slots between two units
        self._stopped = False
        self.idle_ns: int | None = None
        """The first moment with a free slot and nothing left to begin."""
        users.on_over = self._over

    @property
    def is_busy(self) -> bool:
        """Whether a unit will begin that has not."""
        if self._stopped:
            return False
        has_more_levels = self._level_number < len(self._load.levels)
        return self._resting > 0 or bool(self._hungry) or (self._left > 0 and has_more_levels)

    def start(self, start_ns: int) -> None:
        """Fill the slots of the first level; the others' times count from here."""
        self._start_ns = start_ns
        self._next_level(None)

    def stop(self) -> None:
        """Begin no more."""
        self._stopped = True
        self._idle += self._hungry
        self._hungry.clear()
        self.idle_ns = self.idle_ns or monotonic_ns()

    def _next_level(self, _: object) -> None:
        levels = self._load.levels
        _, self._level = levels[self._level_number]
        self._level_number += 1
        if self._level_number < len(levels) and not self._stopped:
            self._pacer.at(self._start_ns + levels[self._level_number][0], self._next_level)
        while self._idle and self._taken < self._level and self._may_begin():
            self._begin(self._idle.pop())

    @property
    def _taken(self) -> int:
        return self._load.slots - len(self._idle)

    def _may_begin(self) -> bool:
        # A slot that rests, or is hungry, has a unit laid by for it.
        if self._left > self._resting + len(self._hungry) and not self._stopped:
            return True
        self.idle_ns = self.idle_ns or monotonic_ns()
        return False

    def _begin(self, slot: int) -> None:
        if self._script is not None:
            self._begin_scripted(slot, self._script)
            return
        round_, place = divmod(self._begun, self._load.slots)
        self._begun += 1
        self._left -= 1
        self._users.begin(slot, self._worker + round_ * self._load.all_slots + place * self._workers)

    def _begin_scripted(self, slot: int, script: Script) -> None:
        unit = script.take()
        if unit is not None:
            self._left -= 1
            self._users.begin(slot, unit.number, scripted=unit)
        elif script.is_over:
            self._left = self._resting
            self._idle.append(slot)
            self.idle_ns = self.idle_ns or monotonic_ns()
            self._on_through()
        else:
            script.waited += 1
            self._hungry.append(slot)
            if len(self._hungry) == 1:
                self._pacer.at(monotonic_ns() + POLL_NS, self._feed)

    def _feed(self, _: object) -> None:
        """Begin for the slots whose units have come by now."""
        assert self._script is not None
        hungry, self._hungry = self._hungry, []
        for number, slot in enumerate(hungry):
            if self._taken > self._level:  # it has fallen since
                self._idle.append(slot)
                continue
            unit = self._script.take()
            if unit is None:
                if self._script.is_over:
                    self._left = self._resting
                    self._idle += hungry[number:]
                    self.idle_ns = self.idle_ns or monotonic_ns()
                    self._on_through()
                else:
                    self._hungry = hungry[number:] + self._hungry
                    self._pacer.at(monotonic_ns() + POLL_NS, self._feed)
                return
            self._left -= 1
            self._users.begin(slot, unit.number, scripted=unit)

    def _over(self, user: User, error: str | None) -> None:
        if self._taken > self._level or not self._may_begin():
            self._idle.append(user.slot)
            return
        rest_ns = CONNECT_RETRY_NS if error in NO_CONNECTION else 0
        if self._thinks:
            rest_ns = max(rest_ns, self._users.thinking_ns(user))
        if rest_ns:
            self._resting += 1
            self._pacer.at(monotonic_ns() + rest_ns, self._rested, user.slot)
        else:
            self._begin(user.slot)

    def _rested(self, slot: int) -> None:
        self._resting -= 1
        if self._taken > self._level or not self._may_begin():
            self._idle.append(slot)
        else:
            self._begin(slot)
