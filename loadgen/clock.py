"""The time: CLOCK_MONOTONIC in integer nanoseconds, and how CLOCK_REALTIME stands to it.

Kernel stamps come in CLOCK_REALTIME. Both clocks are slewed alike (adjtime and NTP turn the same knob), so
their difference is constant until somebody *steps* the wall clock; a change of it is that step.
"""

import time
from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000

monotonic_ns = time.monotonic_ns

# Two readings of the same offset differ by the length of the clock calls; a step that matters is far larger.
STEP_NS: Final = 20_000


def realtime_offset_ns(tries: int = 5) -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns; of `tries` readings the one that took the least time."""
    best_span_ns = best_offset_ns = 0
    for attempt in range(tries):
        before_ns = monotonic_ns()
        realtime_ns = time.time_ns()
        after_ns = monotonic_ns()
        span_ns = after_ns - before_ns
        if attempt == 0 or span_ns < best_span_ns:
            best_span_ns, best_offset_ns = span_ns, realtime_ns - (before_ns + after_ns) // 2
    return best_offset_ns


def asleep_ns() -> int:
    """How long the machine has been suspended since it was started: CLOCK_BOOTTIME goes on then; 0 where there is none."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def process_cpu_ns() -> int:
    """User and system time of this process, all threads, ns."""
    return time.process_time_ns()


def in_ns(seconds: float) -> int:
    """A time in seconds as whole ns."""
    return round(seconds * NS_PER_S)
