"""Who goes next. Closed loop: every slot sends its next request when the one before has ended."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from loadgen import board as b
from loadgen.clock import monotonic_ns
from loadgen.plan import StagePlan
from loadgen.worker.exchange import Exchange
from loadgen.worker.requests import STAGE_SHIFT
from loadgen.worker.transport import Transport

# A slot that could not even connect waits this long: a refused connect comes back in microseconds, and a closed loop over
# it would be a flood of connects, not a load.
CONNECT_RETRY_S: Final = 0.1
NO_CONNECTION: Final = frozenset({"dns", "connect-refused", "connect-failed", "tls", "tls-certificate"})

# The last stretch before the start is spun: timers of the loop are whole milliseconds.
SPIN_NS: Final = 2_000_000


class ClosedLoop:
    """One stage: a fixed number of requests in flight, until the time or the requests run out."""

    def __init__(
        self,
        plan: StagePlan,
        worker: int,
        workers: int,
        transport: Transport,
        request: Callable[[int], bytes],
        board: b.Board,
    ) -> None:
        self._plan = plan
        self._transport = transport
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._numbers = board.numbers
        self._sent_at = board.at(worker, b.SENT)
        self._in_flight_at = board.at(worker, b.IN_FLIGHT)
        # Requests are dealt to slots like cards, as slots are to workers: so the requests of a run are the same whatever the
        # number of workers, and with uneven slots no worker runs out of them before the others.
        self._first_id = (plan.stage << STAGE_SHIFT) + worker
        self._workers = workers
        self._left = plan.requests if plan.requests is not None else 1 << 62
        self._waiting = 0  # slots that are between two requests
        self._stopped = False
        self.sent = 0
        self.in_flight = 0
        self.start_ns = 0
        self.measure_ns = 0
        self.stop_ns: int | None = None
        self.idle_ns: int | None = None
        self.done_ns: int | None = None
        self.done = asyncio.Event()

    def marks(self) -> dict[str, Any]:
        """The stage's times, as they stand in the capture's batch metadata."""
        return {
            "stage": self._plan.stage,
            "start_ns": self.start_ns,
            "measure_ns": self.measure_ns,
            "stop_ns": self.stop_ns,
            "idle_ns": self.idle_ns,
            "done_ns": self.done_ns,
        }

    async def run(self, start_ns: int) -> None:
        """Start at `start_ns`, return when every request has ended."""
        self.start_ns = start_ns
        self.measure_ns = start_ns + self._plan.warmup_ns
        if self._plan.duration_ns is not None:
            self.stop_ns = self.measure_ns + self._plan.duration_ns
        self._transport.on_end = self._ended
        await asyncio.sleep(max(start_ns - monotonic_ns() - SPIN_NS, 0) / 1e9)
        while monotonic_ns() < start_ns:
            pass
        for slot in range(self._plan.concurrency):
            self._launch(slot)
        if self.stop_ns is not None:
            self._loop.call_at(self._loop.time() + (self.stop_ns - monotonic_ns()) / 1e9, self.stop)
        self._see_whether_done()
        await self.done.wait()

    def stop(self) -> None:
        """Send no more; what is in flight goes on until it ends, or until the drain's limit."""
        if self._stopped or self.done.is_set():
            return
        self._stopped = True
        now_ns = monotonic_ns()
        # A stop before its time is the true end of sending.
        self.stop_ns = now_ns if self.stop_ns is None else min(self.stop_ns, now_ns)
        if self.idle_ns is None:
            self.idle_ns = self.stop_ns
        self._loop.call_later(self._plan.drain_ns / 1e9, self._cut)
        self._see_whether_done()

    def abort(self) -> None:
        """Stop, and cancel what is in flight."""
        self.stop()
        for exchange in self._transport.in_flight():
            self._transport.abort(exchange, "cancelled", "the run was stopped")

    def _cut(self) -> None:
        if not self.done.is_set():
            for exchange in self._transport.in_flight():
                self._transport.abort(exchange, "cancelled", "still running at the end of the drain")

    def _launch(self, slot: int) -> None:
        if self._left <= 0 or self._stopped or (self.stop_ns is not None and monotonic_ns() >= self.stop_ns):
            if self.idle_ns is None:
                self.idle_ns = monotonic_ns()
            return
        turn, place = divmod(self.sent, self._plan.concurrency)
        request_id = self._first_id + turn * self._plan.all_slots + place * self._workers
        self._left -= 1
        self.sent += 1
        self.in_flight += 1
        self._numbers[self._sent_at] = self.sent
        self._numbers[self._in_flight_at] = self.in_flight
        exchange = Exchange(request_id, self._plan.stage, slot, self._request(request_id), monotonic_ns())
        self._transport.submit(exchange)

    def _ended(self, exchange: Exchange) -> None:
        self.in_flight -= 1
        self._numbers[self._in_flight_at] = self.in_flight
        if exchange.error in NO_CONNECTION and not self._stopped:
            self._waiting += 1
            self._loop.call_later(CONNECT_RETRY_S, self._launch_after_wait, exchange.slot)
        else:
            self._launch(exchange.slot)
        self._see_whether_done()

    def _launch_after_wait(self, slot: int) -> None:
        self._waiting -= 1
        self._launch(slot)
        self._see_whether_done()

    def _see_whether_done(self) -> None:
        if not self.in_flight and not self._waiting and not self.done.is_set():
            self.done_ns = monotonic_ns()
            self.done.set()
