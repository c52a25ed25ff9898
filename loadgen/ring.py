"""The ring: prepared requests on their way to a worker, in shared memory. One process writes, one reads, nobody waits.

An anonymous file, mapped by both: a few numbers, then the records, one behind the other and around again. Each number
is an aligned int64 that one side alone writes; a record is written before WRITTEN says so, and read before READ does.

The reader asks for a stage (WANTED, and how its units are dealt: ALL_SLOTS); the writer goes on to a stage when all its
readers have. What is left of an earlier stage the reader passes over.
"""

import mmap
import os
import tempfile
from typing import Final

WRITTEN, READ, WANTED, ALL_SLOTS, OVER, SKIPPED = range(6)
"""Bytes written and read so far; the stage the reader is at; the slots of all workers (0: open loop); OVER: k + 1 when all
of stage k is written; lines of a file that the writer could not use."""

NO_STAGE: Final = -1

_HEAD: Final = 16
_RECORD: Final = 16
"""Before each record: its bytes, and its stage."""
_AROUND: Final = -1
"""In place of a length: the next record is at the beginning."""


class Ring:
    """Records between two processes; `fd` is what the other one inherits. A record is at most half of `capacity` bytes."""

    def __init__(self, capacity: int, fd: int | None = None) -> None:
        self.capacity = capacity - capacity % 16
        size = 8 * _HEAD + self.capacity
        is_new = fd is None
        if fd is None:
            fd = _anonymous_file()
            os.ftruncate(fd, size)
        self.fd = fd
        self._map = mmap.mmap(fd, size)
        self._numbers = memoryview(self._map)[: 8 * _HEAD].cast("q")
        self._bytes = memoryview(self._map)[8 * _HEAD :]
        self._lengths = self._bytes.cast("q")
        if is_new:
            self._numbers[WANTED] = NO_STAGE

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._lengths, self._bytes, self._numbers):
            view.release()
        self._map.close()
        os.close(self.fd)

    def get(self, number: int) -> int:
        """One of the numbers."""
        return self._numbers[number]

    @property
    def most_bytes(self) -> int:
        """The largest record that always finds its place."""
        return self.capacity // 2 - _RECORD

    # the writer's

    def put(self, stage: int, data: bytes) -> bool:
        """Write a record; False if there is no room for it now. ValueError if there never is."""
        if len(data) > self.most_bytes:
            raise ValueError(f"a record of {len(data)} bytes is larger than the {self.most_bytes} that fit")
        size = _RECORD + -(-len(data) // 16) * 16
        written = self._numbers[WRITTEN]
        at = written % self.capacity
        to_the_end = self.capacity - at
        skipped = to_the_end if size > to_the_end else 0
        if written + skipped + size - self._numbers[READ] > self.capacity:
            return False
        if skipped:
            self._lengths[at // 8] = _AROUND
            at = 0
        self._bytes[at + _RECORD : at + _RECORD + len(data)] = data
        self._lengths[at // 8] = len(data)
        self._lengths[at // 8 + 1] = stage
        self._numbers[WRITTEN] = written + skipped + size
        return True

    def end(self, stage: int) -> None:
        """There is no more of this stage."""
        self._numbers[OVER] = stage + 1

    def skipped(self, lines: int) -> None:
        """So many lines could not be used so far."""
        self._numbers[SKIPPED] = lines

    # the reader's

    def want(self, stage: int, all_slots: int) -> None:
        """Ask for the units of a stage, dealt over so many slots (0: by their number alone)."""
        self._numbers[ALL_SLOTS] = all_slots
        self._numbers[WANTED] = stage

    def take(self, stage: int) -> bytes | None:
        """The next record of a stage, those of earlier ones passed over; None where there is none yet."""
        self.pass_over(stage)
        read = self._numbers[READ]
        if read == self._numbers[WRITTEN]:
            return None
        at = read % self.capacity
        length = self._lengths[at // 8]
        data = bytes(self._bytes[at + _RECORD : at + _RECORD + length])
        self._numbers[READ] = read + _RECORD + -(-length // 16) * 16
        return data

    def pass_over(self, stage: int) -> None:
        """Make room by passing over what is left of earlier stages."""
        while (read := self._numbers[READ]) != self._numbers[WRITTEN]:
            at = read % self.capacity
            length = self._lengths[at // 8]
            if length == _AROUND:
                self._numbers[READ] = read + self.capacity - at
            elif self._lengths[at // 8 + 1] < stage:
                self._numbers[READ] = read + _RECORD + -(-length // 16) * 16
            else:
                return

    def is_over(self, stage: int) -> bool:
        """Whether all records of a stage have been taken, and no more come."""
        # The order matters: what was written before the end was said is seen after it.
        return self._numbers[OVER] > stage and self._numbers[READ] == self._numbers[WRITTEN]

    def is_ready(self, stage: int, least_bytes: int) -> bool:
        """Whether so much of a stage waits to be taken, or all there is of it."""
        waiting = self._numbers[WRITTEN] - self._numbers[READ]
        return self._numbers[OVER] > stage or waiting >= min(least_bytes, self.capacity // 4)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("loadgen-ring")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
