"""The floor of pacing: how late clock_nanosleep to an absolute time comes back, 1,000 times a second on one core.

python benchmarks/wakeups.py CORE    (us, as JSON)
"""

import ctypes
import json
import os
import sys
import time

import numpy as np

from analysis.truth import figures

TIMER_ABSTIME = 1
PERIOD_NS = 1_000_000
TIMES = 3000


class TimeSpec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


def lateness_us() -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Of TIMES wake-ups."""
    sleep, until = ctypes.CDLL(None).clock_nanosleep, TimeSpec()
    pointer = ctypes.byref(until)
    late_ns = np.empty(TIMES)
    first_ns = time.monotonic_ns() + PERIOD_NS
    for k in range(TIMES):
        due_ns = first_ns + k * PERIOD_NS
        until.s, until.ns = divmod(due_ns, 1_000_000_000)
        sleep(time.CLOCK_MONOTONIC, TIMER_ABSTIME, pointer, None)
        late_ns[k] = time.monotonic_ns() - due_ns
    return late_ns / 1000


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    print(json.dumps(figures(lateness_us())))
