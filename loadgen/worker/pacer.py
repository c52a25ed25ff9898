"""When things are due: arrivals, turns, the end of a stage. To within tens of microseconds, and never early.

The event loop's own timers are whole milliseconds on uvloop and fire early, which bends a schedule of 1,000 arrivals a
second. A timerfd armed with an absolute time is a descriptor like any other and wakes the loop when it should. While there
is work the loop does not get round to its descriptors, so the transport looks at `due_ns` between any two pieces of
its work. Waking up takes some 50 us itself: the timer is armed as much earlier as it has usually been late, and the rest is
spun. Where there is no timerfd (macOS), the loop's timer wakes a little early, too.

With `spin` the worker never sleeps: waking up, some 50 us, is then not between the due time and the send.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns

NEVER: Final = 1 << 62

TFD_TIMER_ABSTIME: Final = 1
TFD_FLAGS: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)

# Between two turns of the loop while spinning: the loop's own callbacks (orders, the coordinator's end) can wait so long.
SPIN_TURN_NS: Final = NS_PER_MS

# More than this worker can send must not keep it from reading: so much at once, then the others' turn.
AT_ONCE_NS: Final = NS_PER_MS
PAUSE_NS: Final = NS_PER_MS // 2

# A timer that was far too late was held up by something else, which will not be the same the next time.
MOST_EARLY_NS: Final = 100_000

# The loop's own timer may be so early; that stretch is spun where it is all there is.
EARLY_NS: Final = 2 * NS_PER_MS


Due = list[Any]
"""[due_ns, a number that keeps equal times in order, what to call, with what]"""


class Timer(Protocol):
    """Calls back at the armed time or a little later; one time at once."""

    def arm(self, due_ns: int) -> None: ...
    def close(self) -> None: ...


class Pacer:
    """Calls what is due. `due_ns` is when the next thing is, for those who can look at the clock themselves."""

    def __init__(self) -> None:
        self.due_ns = NEVER
        self._heap: list[Due] = []
        self._number = 0
        self._is_firing = False
        self._loop = asyncio.get_running_loop()
        self._timer: Timer = (TimerFd if sys.platform == "linux" else LoopTimer)(self._loop, self.look)
        self._poll: Callable[[], None] | None = None

    def at(self, due_ns: int, call: Callable[[Any], None], argument: Any = None) -> Due:
        """Have `call(argument)` called at `due_ns`, or soon if that has passed. Gives what `cancel` takes."""
        self._number += 1
        due = [due_ns, self._number, call, argument]
        heappush(self._heap, due)
        if due_ns < self.due_ns and not self._is_firing:
            self._arm()
        return due

    def cancel(self, due: Due) -> None:
        """Let go of something that is no longer wanted; nothing happens if it has been called."""
        due[2] = due[3] = None

    def look(self) -> None:
        """Call what is due."""
        heap = self._heap
        self.due_ns = NEVER  # what is called sends, and a send looks at the sockets, and they at us
        self._is_firing = True
        until_ns = pause_ns = 0
        try:
            while heap and heap[0][0] <= (now_ns := monotonic_ns()):
                until_ns = until_ns or now_ns + AT_ONCE_NS
                if now_ns > until_ns:
                    pause_ns = now_ns + PAUSE_NS
                    break
                _, _, call, argument = heappop(heap)
                if call is not None:
                    call(argument)
        finally:
            self._is_firing = False
            self._arm(pause_ns)

    def spin(self, poll: Callable[[], None]) -> None:
        """Never sleep from here on: look at the clock and `poll` in turns."""
        self._poll = poll
        self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Call nothing any more."""
        self._heap.clear()
        self._timer.close()
        self._poll = None

    def _arm(self, not_before_ns: int = 0) -> None:
        if self._heap:
            self.due_ns = max(self._heap[0][0], not_before_ns)
            if self._poll is None:
                self._timer.arm(self.due_ns)

    def _turn(self) -> None:
        until_ns = monotonic_ns() + SPIN_TURN_NS
        while self._poll is not None and (now_ns := monotonic_ns()) < until_ns:
            if now_ns >= self.due_ns:
                self.look()
            self._poll()
        if self._poll is not None:
            self._loop.call_soon(self._turn)


class _ITimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def _libc_timerfd() -> tuple[int, Callable[[int], None]]:
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    settime, spec = libc.timerfd_settime, _ITimerSpec()
    pointer = ctypes.byref(spec)

    def set_ns(due_ns: int) -> None:
        spec.value_s, spec.value_ns = divmod(due_ns, NS_PER_S)
        settime(fd, TFD_TIMER_ABSTIME, pointer, None)

    return fd, set_ns


def _os_timerfd() -> tuple[int, Callable[[int], None]]:
    system: Any = os  # the type checker's oldest Python does not have it
    fd: int = system.timerfd_create(time.CLOCK_MONOTONIC, flags=system.TFD_NONBLOCK | system.TFD_CLOEXEC)
    settime_ns = system.timerfd_settime_ns

    def set_ns(due_ns: int) -> None:
        settime_ns(fd, flags=TFD_TIMER_ABSTIME, initial=due_ns)

    return fd, set_ns


class TimerFd:
    """The kernel's timer as a descriptor; the standard library has it from Python 3.13 on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._fd, self._set_ns = _os_timerfd() if hasattr(os, "timerfd_create") else _libc_timerfd()
        self._loop, self._callback = loop, callback
        self._due_ns = self._wake_ns = NEVER
        self._early_ns = 0
        self._is_ahead = False
        loop.add_reader(self._fd, self._fired)

    def arm(self, due_ns: int) -> None:
        """Wake at `due_ns`, at once if it has passed."""
        if due_ns != self._due_ns:
            self._due_ns = due_ns
            self._wake_ns = max(due_ns - self._early_ns, 1)  # zero would disarm it
            self._is_ahead = self._wake_ns > monotonic_ns()
            self._set_ns(self._wake_ns)

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed anew since the loop saw it ready
            return
        if self._is_ahead:
            late_ns = min(monotonic_ns() - self._wake_ns, MOST_EARLY_NS)
            self._early_ns += (late_ns - self._early_ns) // 16
        due_ns, self._due_ns = self._due_ns, NEVER
        while monotonic_ns() < due_ns:
            pass
        self._callback()


class LoopTimer:
    """The event loop's own timer, woken early and spun to the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop, self._callback = loop, callback
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, due_ns: int) -> None:
        """Wake at `due_ns`, at once if it has passed."""
        self.close()
        wait_ns = max(due_ns - EARLY_NS - monotonic_ns(), 0)
        self._handle = self._loop.call_later(wait_ns / NS_PER_S, self._fired, due_ns)

    def close(self) -> None:
        """Disarm."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fired(self, due_ns: int) -> None:
        while monotonic_ns() < due_ns:
            pass
        self._handle = None
        self._callback()
