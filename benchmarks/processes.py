"""Worker processes seen from outside: the memory and the descriptors that the kernel says they hold."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadgen.clock import monotonic_ns

WORKER: Final = b"loadgen.worker.main"
MB: Final = 1 << 20
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one worker held at one moment. `peak_rss_mb` is the most since its start."""

    t_ns: int
    pid: int
    rss_mb: float
    peak_rss_mb: float
    descriptors: int


@dataclass(slots=True)
class Watched:
    """The samples so far, in the order of time."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def peak_rss_mb(self) -> float:
        """The most that one worker ever held. ValueError if none was seen."""
        return max(sample.peak_rss_mb for sample in self.samples)


@contextmanager
def watched_workers(every_s: float = 0.5) -> Iterator[Watched]:
    """Sample every worker that descends from this process, meanwhile."""
    watched, over = Watched(), threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            watched.samples += [sample for pid in workers_below(os.getpid()) if (sample := look_at(pid)) is not None]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield watched
    finally:
        over.set()
        watcher.join()


def workers_below(pid: int) -> list[int]:
    """The pids of worker processes among the descendants of a process."""
    found = []
    for child in _children(pid):
        found += [child] if WORKER in _read(f"/proc/{child}/cmdline") else workers_below(child)
    return found


def look_at(pid: int) -> Sample | None:
    """A process's memory and descriptors now; None if it has ended."""
    statm, status = _read(f"/proc/{pid}/statm").split(), _read(f"/proc/{pid}/status")
    peak_kb = [line.split()[1] for line in status.splitlines() if line.startswith(b"VmHWM:")]
    try:
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    if not statm or not peak_kb:  # a zombie has no memory
        return None
    return Sample(monotonic_ns(), pid, int(statm[1]) * PAGE_BYTES / MB, int(peak_kb[0]) / 1024, descriptors)


def _children(pid: int) -> list[int]:
    return [int(child) for task in _tasks(pid) for child in _read(f"{task}/children").split()]


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended
        return b""
