"""Trouble for a worker: Python runs this at its start where PYTHONPATH names this folder, and WORKER_TROUBLE says what.

What cannot be had for real on a machine that others use (a stepped clock, a suspended machine, a file system that turns
read-only) is put in at the seam where the worker asks the system for it.
"""

import errno
import os
import resource
import sys


def address_space_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def address_space(megabytes: str) -> None:
    """Once a stage begins, no more memory than now and so much."""
    from loadgen.worker import stage

    run = stage.Stage.run

    async def limited(self, start_ns):
        limit = address_space_bytes() + int(megabytes) * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        await run(self, start_ns)

    stage.Stage.run = limited


def file_size(kilobytes: str) -> None:
    """No file beyond this size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(kilobytes) * 1024,) * 2)


def descriptors(number: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number),) * 2)


def read_only(writes: str) -> None:
    """The file system of the capture turns read-only after so many writes."""
    from pathlib import Path

    opened = Path.open

    class Turning:
        def __init__(self, file):
            self._file, self._left = file, int(writes)

        def write(self, data):
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

    def turning(self, *arguments, **options):
        file = opened(self, *arguments, **options)
        return Turning(file) if self.suffix == ".arrow" else file

    Path.open = turning


def memory_full(_: str) -> None:
    """This process seems to hold far more than it may."""
    from loadgen import host

    host.resident_bytes = lambda: 1 << 50


def no_affinity(_: str) -> None:
    def refused(_pid, _cpus):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    os.sched_setaffinity = refused


def clock_step(seconds: str) -> None:
    """CLOCK_REALTIME, in the program's calls and in the kernel's stamps, is so much later from 1 s after a stage's start."""
    import time

    from loadgen import clock
    from loadgen.worker import stage, stamps

    stepped_from_ns = [1 << 62]
    run, convert = stage.Stage.run, stamps.StampClock.convert
    step_s = int(seconds)

    async def noticed(self, start_ns):
        stepped_from_ns[0] = min(stepped_from_ns[0], start_ns + 1_000_000_000)
        await run(self, start_ns)

    class Stepped:
        monotonic_ns = staticmethod(time.monotonic_ns)

        def __getattr__(self, name):
            return getattr(time, name)

        def time_ns(self):
            return time.time_ns() + (time.monotonic_ns() >= stepped_from_ns[0]) * step_s * 1_000_000_000

    def with_stepped_stamps(self, kernels, read_ns):
        import numpy as np

        pairs = np.frombuffer(bytes(kernels), np.int64).reshape(-1, 2).copy()
        pairs[(read_ns >= stepped_from_ns[0]) & (pairs[:, 0] != 0), 0] += step_s
        return convert(self, bytearray(pairs.tobytes()), read_ns)

    stage.Stage.run, stamps.StampClock.convert, clock.time = noticed, with_stepped_stamps, Stepped()


def asleep(seconds: str) -> None:
    """From 1 s after a stage's start the machine has slept for so long."""
    import time

    from loadgen.worker import stage, stamps

    slept_from_ns = [1 << 62]
    run = stage.Stage.run

    async def noticed(self, start_ns):
        slept_from_ns[0] = min(slept_from_ns[0], start_ns + 1_000_000_000)
        await run(self, start_ns)

    stage.Stage.run = noticed
    stamps.asleep_ns = lambda: (time.monotonic_ns() >= slept_from_ns[0]) * int(seconds) * 1_000_000_000


def quoting_error(_: str) -> None:
    """A bug whose message holds what was sent, key and all."""
    from loadgen.worker import stage

    async def broken(self, start_ns):
        raise RuntimeError(f"cannot go on with {self.users._router.route(0).head!r}")

    stage.Stage.run = broken


def segfault(_: str) -> None:
    """The process dies in C once a stage begins; a core is wanted."""
    import ctypes

    from loadgen.worker import stage

    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    async def broken(self, start_ns):
        ctypes.string_at(0)

    stage.Stage.run = broken


def peak_memory(path: str) -> None:
    """Writes the most memory that the process ever held, KiB, to a file at its end."""
    import atexit

    def tell():
        with open(path, "a") as told:
            told.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")

    atexit.register(tell)


TROUBLES = (
    address_space,
    file_size,
    descriptors,
    read_only,
    memory_full,
    no_affinity,
    clock_step,
    asleep,
    quoting_error,
    segfault,
    peak_memory,
)

if "loadgen.worker.main" in sys.orig_argv:
    kind, _, amount = os.environ["WORKER_TROUBLE"].partition(":")
    {trouble.__name__.replace("_", "-"): trouble for trouble in TROUBLES}[kind](amount)
