"""The scraping process as the coordinator's side has it: start it, tell it of stages, say what it says, end it.

Nothing here waits for it once the run goes on, and nothing that becomes of it ends the run.
"""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

import orjson

from loadgen.clock import NS_PER_S
from loadgen.scrape.plan import Borders, ScrapePlan

READY_S: Final = 10.0
"""For it to start: whoever starves it longer has a run without its first scrapes."""

LEAVE_S: Final = 5.0
"""For the last scrapes and the last batch, before it is killed."""

MOST_SAID_BYTES: Final = 1 << 16


class Scraper:
    """Use as a context manager: leaving it leaves no process behind. `say` gets each thing that is wrong, in a sentence."""

    def __init__(self, plan: ScrapePlan, say: Callable[[str], None], python: str = sys.executable) -> None:
        self._plan = plan
        self._say = say
        self._python = python
        self._said = b""
        self._lost = False
        self._stage_ns = 0

    def __enter__(self) -> "Scraper":
        line, end = os.pipe()
        self._ear, mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(mouth, False)
        self._process = subprocess.Popen(
            [self._python, "-P", "-m", "loadgen.scrape.sampler"],  # -P: not the folder that the user happens to be in
            env=self._plan.environment,
            stdin=line,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[mouth],
            process_group=0,
        )
        os.close(line)
        os.close(mouth)
        self._line: Connection[Any, None] = Connection(end, readable=False)
        self._send(replace(self._plan, saying_fd=mouth, environment=None))
        try:
            # It starts as slowly as a worker, and must not miss the first border; a pipe that closes is readable, too.
            select.select([self._ear], [], [], READY_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.listen()
        os.close(self._ear)

    def begin_stage(self, entry: dict[str, Any], start_ns: int) -> None:
        """A stage (its entry in run.json) starts at `start_ns`; called again for the same start it does nothing."""
        if start_ns == self._stage_ns:
            return
        self._stage_ns = start_ns
        self._send(Borders(borders(entry, start_ns)))

    def end_stage(self) -> None:
        """A stage has just ended."""
        self._send(Borders((time.monotonic_ns(),)))

    def listen(self) -> None:
        """Say what has come from the process, and that it is gone, once."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._said += os.read(self._ear, MOST_SAID_BYTES)
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            told = orjson.loads(line)
            if told["words"]:  # without: it is ready
                self._say(f"--scrape {self._plan.sources[told['source']].shown}: {told['words']}")
        if not self._lost and not self._line.closed and self._process.poll() is not None:
            self._lost = True
            self._say("--scrape: the scraping process has ended; the run goes on without it")

    def _send(self, value: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone; listen() says so
            self._line.send(value)


def borders(entry: dict[str, Any], start_ns: int) -> tuple[int, ...]:
    """When a stage's parts begin and end, as far as that is known before; `entry` is the stage's in run.json."""
    at_ns = [start_ns]
    measure_s = entry["ramp_up_s"] + entry["warmup_s"]
    if measure_s and not entry["warmup_requests"]:
        at_ns.append(start_ns + round(measure_s * NS_PER_S))
    if entry["duration_s"] is not None and not entry["warmup_requests"]:
        at_ns.append(start_ns + round((measure_s + entry["duration_s"]) * NS_PER_S))
    return tuple(at_ns)
