"""Kernel stamps (CLOCK_REALTIME) -> CLOCK_MONOTONIC, and the client's own lag.

The offset between the clocks is constant until somebody steps the wall clock (see loadgen.clock), so it is measured
at the start and watched through the run. A read that fell between a step and its discovery is converted with whichever
of the two offsets makes sense of it: a stamp is never later than its read.
"""

from bisect import bisect_right
from typing import Final

import numpy as np
import numpy.typing as npt

from loadgen.clock import NS_PER_MS, NS_PER_S, STEP_NS, asleep_ns, monotonic_ns, realtime_offset_ns

Nanoseconds = npt.NDArray[np.int64]

NO_STAMP: Final = bytes(16)

LARGE_LAG_NS: Final = NS_PER_MS

# The two clocks are read one after the other; whoever suspends a machine does it for longer.
LEAST_SLEEP_NS: Final = 100 * NS_PER_MS


class StampClock:
    """The offsets seen so far; `convert` is the way of every stamp."""

    def __init__(self) -> None:
        self.offsets_ns = [realtime_offset_ns()]
        self._since_ns = [0]
        self.steps: list[tuple[int, int]] = []
        """(t_ns, step_ns) of each step of the wall clock."""
        self._asleep_ns = asleep_ns()
        self.sleeps: list[tuple[int, int]] = []
        """(t_ns, slept_ns) of each time that the machine was suspended; CLOCK_MONOTONIC stood still meanwhile."""

    def watch(self) -> int:
        """Measure the offset again; a change beyond the measuring error is recorded as a step. Returns the offset."""
        slept_ns = asleep_ns() - self._asleep_ns
        if slept_ns > LEAST_SLEEP_NS:
            self._asleep_ns += slept_ns
            self.sleeps.append((monotonic_ns(), slept_ns))
        offset_ns = realtime_offset_ns(tries=3)
        step_ns = offset_ns - self.offsets_ns[-1]
        if abs(step_ns) > STEP_NS:
            # Measured again and better: a descheduled clock call must not pass for a step.
            offset_ns = realtime_offset_ns(tries=20)
            step_ns = offset_ns - self.offsets_ns[-1]
            if abs(step_ns) > STEP_NS:
                now_ns = monotonic_ns()
                self.offsets_ns.append(offset_ns)
                self._since_ns.append(now_ns)
                self.steps.append((now_ns, step_ns))
        return offset_ns

    def convert(self, stamps: bytearray, read_ns: Nanoseconds) -> tuple[Nanoseconds, Nanoseconds, int]:
        """(stamp_ns, lag_ns, unstamped): int64 arrays, one entry a read, CLOCK_MONOTONIC; the count without a stamp.

        `stamps` holds 16 bytes a read (seconds, nanoseconds), zeros where the kernel gave none: there the stamp is the
        time of the read itself, or of what came behind it if that is earlier, and its lag 0.
        """
        pairs = np.frombuffer(stamps, np.int64).reshape(-1, 2)
        realtime_ns = pairs[:, 0] * NS_PER_S + pairs[:, 1]
        stamp_ns = realtime_ns - self.offsets_ns[-1]
        lag_ns = read_ns - stamp_ns
        missing = pairs[:, 0] == 0
        unstamped = int(np.count_nonzero(missing))
        if unstamped:
            stamp_ns[missing] = read_ns[missing]
            lag_ns[missing] = 0
        # A lag may be large for its own reasons; behind a step back, before it is found, every one is.
        if len(self.offsets_ns) > 1 or int(lag_ns.min()) < -STEP_NS or int(lag_ns.max()) > LARGE_LAG_NS:
            self.watch()
            self._choose_offsets(realtime_ns, read_ns, stamp_ns, missing)
            lag_ns = read_ns - stamp_ns
        if 0 < unstamped < len(missing):  # what came first lay there before what came next, whoever stamped it
            no_later_ns = np.minimum.accumulate(stamp_ns[::-1])[::-1]
            stamp_ns[missing] = no_later_ns[missing]
        # The offset is known to some 100 ns: a lag below zero is that error.
        np.maximum(lag_ns, 0, out=lag_ns)
        return stamp_ns, lag_ns, unstamped

    def _choose_offsets(
        self, realtime_ns: Nanoseconds, read_ns: Nanoseconds, stamp_ns: Nanoseconds, missing: npt.NDArray[np.bool_]
    ) -> None:
        """Rewrite `stamp_ns` with the offset in force at each read, or the next one where only that fits."""
        for i, read in enumerate(read_ns.tolist()):
            if missing[i]:
                continue
            in_force = bisect_right(self._since_ns, read) - 1
            candidates = self.offsets_ns[in_force : in_force + 2]
            lags_ns = [read - (int(realtime_ns[i]) - offset_ns) for offset_ns in candidates]
            sane = [lag_ns for lag_ns in lags_ns if lag_ns >= -STEP_NS]
            stamp_ns[i] = read - min(sane) if sane else read
