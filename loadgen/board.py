"""The board: numbers in shared memory. Workers write theirs, the coordinator reads them; nothing is ever sent.

An anonymous file, mapped by every process: first the orders (the coordinator writes), then a block a worker (the
worker writes). Every number is one aligned int64, written by one process alone, so no lock is needed; a pair of
numbers that belong together is written payload first, key last.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Final

START_STAGE, START_NS, ORDER = range(3)
"""Orders: start stage START_STAGE at START_NS; RUN..ABORT for the stage that runs."""

NO_STAGE: Final = -1

RUN, STOP, ABORT = range(3)
"""ORDER: go on; send no more and drain; cancel what is in flight."""

(
    READY,  # k + 1 when stage k can start; stages come in ascending order
    DONE,  # k + 1 when stage k has ended here
    HEARTBEAT_NS,
    CPU_NS,
    IN_FLIGHT,
    SENT,
    COMPLETED,
    FAILED,
    EVENTS,
    LAG_NS,  # the worst lag of the last second
    READS,  # since the worker's start
    DECODED_READS,  # of the responses that EVENTS counts
    OFFERED,  # arrivals that have come due (open loop)
    DROPPED,
    CANCELLED,
    LATENESS_NS,  # the worst of the last second (open loop)
) = range(16)
"""A worker's numbers. SENT..EVENTS and OFFERED..CANCELLED count the current stage; FAILED holds none of the latter two."""

# Log-linear buckets, 8 an octave from 1 us up: 6 % wide, good for a live line and for nothing else.
BUCKETS: Final = 256
HISTOGRAMS: Final = 2
TTFT, TPOT = range(HISTOGRAMS)

WORDS_BYTES: Final = 512
_ORDERS: Final = 8
_BLOCK: Final = 16 + HISTOGRAMS * BUCKETS + WORDS_BYTES // 8


def bucket_of(duration_ns: int) -> int:
    """The bucket of a duration: its octave above 1 us, and the next three bits."""
    us = max(duration_ns // 1000, 1)
    octave = us.bit_length() - 1
    return min(octave * 8 + ((us << 3 >> octave) & 7), BUCKETS - 1)


def bucket_end_ns(bucket: int) -> int:
    """Where a bucket ends, ns."""
    octave, eighth = divmod(bucket, 8)
    return int((1 << octave) * (1 + (eighth + 1) / 8) * 1000)


def bucket_middle_ns(bucket: int) -> int:
    """The middle of a bucket, ns."""
    octave, eighth = divmod(bucket, 8)
    return int((1 << octave) * (1 + (eighth + 0.5) / 8) * 1000)


def percentile_ns(counts: Sequence[int], percentile: float) -> int | None:
    """A rough percentile (6 %) of a histogram's counts, ns; None without values."""
    total = sum(counts)
    wanted = total * percentile / 100
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if total and seen >= wanted:
            return bucket_middle_ns(bucket)
    return None


class Board:
    """The shared numbers; `fd` is what a worker inherits."""

    def __init__(self, workers: int, fd: int | None = None) -> None:
        self._bytes = 8 * (_ORDERS + workers * _BLOCK)
        if fd is None:
            fd = _anonymous_file()
            os.ftruncate(fd, self._bytes)
        self.fd = fd
        self.workers = workers
        self._map = mmap.mmap(fd, self._bytes)
        self.numbers = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Let go of the memory."""
        self.numbers.release()
        self._map.close()
        os.close(self.fd)

    def at(self, worker: int, number: int) -> int:
        """The index of a worker's number in `numbers`."""
        return _ORDERS + worker * _BLOCK + number

    def get(self, worker: int, number: int) -> int:
        """One number of one worker."""
        return self.numbers[self.at(worker, number)]

    def total(self, number: int) -> int:
        """One number, summed over the workers."""
        return sum(self.get(worker, number) for worker in range(self.workers))

    def histogram_at(self, worker: int, histogram: int) -> int:
        """The index of a worker's histogram in `numbers`."""
        return _ORDERS + worker * _BLOCK + 16 + histogram * BUCKETS

    def counts(self, histogram: int) -> tuple[int, ...]:
        """A histogram's counts by bucket over all workers."""
        firsts = [self.histogram_at(worker, histogram) for worker in range(self.workers)]
        return tuple(map(sum, zip(*(self.numbers[first : first + BUCKETS] for first in firsts), strict=True)))

    def clear_stage(self, worker: int) -> None:
        """Zero what counts one stage, and forget the words of its failures."""
        self.say(worker, "")
        for number in (SENT, COMPLETED, FAILED, EVENTS, DECODED_READS, OFFERED, DROPPED, CANCELLED):
            self.numbers[self.at(worker, number)] = 0
        first = self.histogram_at(worker, TTFT)
        for index in range(first, first + HISTOGRAMS * BUCKETS):
            self.numbers[index] = 0

    def say(self, worker: int, words: str) -> None:
        """Leave the words of a worker's latest failure; cut to what fits."""
        data = words.encode()[: WORDS_BYTES - 1].ljust(WORDS_BYTES, b"\0")
        first = 8 * (_ORDERS + worker * _BLOCK + 16 + HISTOGRAMS * BUCKETS)
        self._map[first : first + WORDS_BYTES] = data

    def words(self, worker: int) -> str:
        """The words of a worker's latest failure, or ""."""
        first = 8 * (_ORDERS + worker * _BLOCK + 16 + HISTOGRAMS * BUCKETS)
        return self._map[first : first + WORDS_BYTES].rstrip(b"\0").decode("utf-8", "ignore")


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("loadgen-board")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
