"""A job in a thread of its own, so that it runs just as well under a running event loop; and how it is interrupted.

Nothing of a job happens in the caller's thread: no event loop is begun there, and no signal handler is set.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from loadgen.job import Job
    from loadgen.notebook.result import Result

LOOK_S: Final = 0.1

MOST_INTERRUPTS: Final = 2
"""The first ends the stage and drains, the second cancels what is in flight; one more does not wait for that either."""


class Errand:
    """`work` is given a function to call with its job before it makes load, and gives the result."""

    def __init__(self, work: "Callable[[Callable[[Job], None]], Result]") -> None:
        self._work = work
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._interrupts = 0
        self._outcome: Future[Result] = Future()
        self._thread = threading.Thread(target=self._run, name="loadgen", daemon=True)

    def wait(self) -> "Result":
        """Do it, and wait for the result. Ctrl-C once drains, and what was measured is the result; twice stops at once."""
        self._thread.start()
        while True:
            try:
                while not self._outcome.done():
                    self._thread.join(LOOK_S)
                break
            except KeyboardInterrupt:
                if self.interrupt() > MOST_INTERRUPTS or self._job is None:
                    raise
        return self._outcome.result()

    async def finished(self) -> "Result":
        """The same for a running event loop. A task that is cancelled cancels what is in flight, and ends when that has."""
        self._thread.start()
        try:
            return await asyncio.shield(asyncio.wrap_future(self._outcome))
        except asyncio.CancelledError:
            for _ in range(MOST_INTERRUPTS):
                self.interrupt()
            while self._job is not None and not self._outcome.done():
                await asyncio.sleep(LOOK_S)
            raise

    def interrupt(self) -> int:
        """Stop, as Run.interrupt; load that has not begun never will. Gives how often it has been asked for."""
        with self._lock:
            self._interrupts += 1
            if self._job is not None:
                self._job.run.interrupt()
            return self._interrupts

    def _begins(self, job: "Job") -> None:
        with self._lock:
            if self._interrupts:
                raise KeyboardInterrupt
            self._job = job

    def _run(self) -> None:
        self._outcome.set_running_or_notify_cancel()
        try:
            self._outcome.set_result(self._work(self._begins))
        except BaseException as error:
            self._outcome.set_exception(error)
