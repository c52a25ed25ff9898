"""A timer that an event loop wakes on to within tens of microseconds.

asyncio's call_at is whole milliseconds on uvloop and fires early, which would smear a 5 ms step. A timerfd armed with an
absolute time is a file descriptor like any other. Where there is none (macOS), call_at has to do; its early calls are
harmless, since an engine has nothing to give before its time and the timer is armed anew.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

from loadgen.clock import NS_PER_S, monotonic_ns

CLOCK_MONOTONIC: Final = 1
TFD_TIMER_ABSTIME: Final = 1
TFD_FLAGS: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class Timer(Protocol):
    """Calls back once after each `arm`, never before `due_ns` by more than a millisecond."""

    def arm(self, due_ns: int | None) -> None: ...
    def close(self) -> None: ...


def timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Timer:
    """The best timer that this platform has."""
    return TimerFd(loop, callback) if sys.platform == "linux" else LoopTimer(loop, callback)


class _ITimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class TimerFd:
    """timerfd through libc: the standard library has it from Python 3.13 on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(CLOCK_MONOTONIC, TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop, self._callback = loop, callback
        self._settime = libc.timerfd_settime
        self._spec = _ITimerSpec()
        self._spec_pointer = ctypes.byref(self._spec)
        self._due_ns: int | None = None
        loop.add_reader(self._fd, self._fired)

    def arm(self, due_ns: int | None) -> None:
        """Wake at `due_ns` (at once if it has passed); None disarms."""
        if due_ns == self._due_ns:
            return
        self._due_ns = due_ns
        self._spec.value_s, self._spec.value_ns = divmod(due_ns, NS_PER_S) if due_ns is not None else (0, 0)
        self._settime(self._fd, TFD_TIMER_ABSTIME, self._spec_pointer, None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed anew after the loop had seen it ready
            return
        self._due_ns = None
        self._callback()


class LoopTimer:
    """The event loop's own timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop, self._callback = loop, callback
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, due_ns: int | None) -> None:
        self.close()
        if due_ns is not None:
            wait_s = max(0, due_ns - monotonic_ns()) / NS_PER_S
            self._handle = self._loop.call_later(wait_s, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
