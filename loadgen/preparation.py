"""The preparer as its parent sees it: rings for the workers, the process that fills them, and what became of it."""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from loadgen.dealing import Deal
from loadgen.errors import RunError
from loadgen.plan import ScriptPlan, Share
from loadgen.ring import SKIPPED, Ring
from loadgen.wording import Wording
from loadgen.workload.script import Recipe

LEAVE_S: Final = 5.0

# Some seconds of requests for each worker, and in all not more memory than a worker has.
ALL_RING_BYTES: Final = 64 * 1024 * 1024
MOST_RING_BYTES: Final = 16 * 1024 * 1024
LEAST_RING_BYTES: Final = 2 * 1024 * 1024

# A longest prompt has to fit twice. Eight bytes a token are a long word of text, with its JSON.
BYTES_A_TOKEN: Final = 10


@dataclass(frozen=True, slots=True)
class Speaking:
    """How what a recipe asks is said to one target."""

    model: str
    ignore_eos: bool
    wording: Wording


@dataclass(frozen=True, slots=True)
class PreparerPlan:
    """All that the preparer knows: no key, and no address."""

    recipe: Recipe
    targets: tuple[Speaking, ...]
    deal: Deal
    rings: tuple[tuple[int, int], ...]
    """(descriptor, bytes) of each worker's on this machine."""
    first: int
    """The number in the run of the first of them; the others follow it."""
    workers: int
    """Of the whole run."""
    cpus: tuple[int, ...] | None
    """Where it may run; None: anywhere."""


def ring_bytes(workers: int, longest_tokens: int) -> int:
    """The size of each worker's ring."""
    usual = min(max(ALL_RING_BYTES // workers, LEAST_RING_BYTES), MOST_RING_BYTES)
    return max(usual, 2 * BYTES_A_TOKEN * longest_tokens + 4096)


class Preparation:
    """Use as a context manager: leaving it ends the process and gives the memory back."""

    def __init__(
        self,
        recipe: Recipe,
        targets: Sequence[Speaking],
        deal: Deal,
        share: Share,
        *,
        cpus: Sequence[int] | None,
        longest_tokens: int = 0,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._rings = [Ring(ring_bytes(share.count, longest_tokens)) for _ in range(share.count)]
        self._plan = PreparerPlan(
            recipe,
            tuple(targets),
            deal,
            tuple((ring.fd, ring.capacity) for ring in self._rings),
            share.first,
            share.workers,
            None if cpus is None else tuple(cpus),
        )
        self._python = python
        self._environment = environment
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def scripts(self) -> list[ScriptPlan]:
        """What each worker has to know."""
        return [ScriptPlan(ring.fd, ring.capacity) for ring in self._rings]

    @property
    def skipped_lines(self) -> int:
        """Lines of the file that could not be used, so far."""
        return self._rings[0].get(SKIPPED)

    def __enter__(self) -> "Preparation":
        self._process = subprocess.Popen(
            [self._python, "-P", "-m", "loadgen.preparer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            pass_fds=[ring.fd for ring in self._rings],
            process_group=0,  # Ctrl-C in the terminal is for the parent alone
            env=self._environment,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; check tells why
            pickle.dump(self._plan, self._process.stdin)
            self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            deadline_s = time.monotonic() + LEAVE_S
            try:
                process.wait(max(deadline_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for ring in self._rings:
            ring.close()
        self._log.close()

    def check(self) -> None:
        """RunError, in its own words, if the preparer is no longer there."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        self._log.seek(0, os.SEEK_SET)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        raise RunError(lines[-1] if lines else f"the preparer of requests ended in mid-run ({how})")
