"""One stage on one worker: start, warm-up, window, end of sending, drain."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from loadgen import board as b
from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.plan import OpenLoad, StagePlan, WorkerPlan
from loadgen.worker.closed_loop import ClosedLoop
from loadgen.worker.counting import OutputCounter
from loadgen.worker.exchange import Exchange
from loadgen.worker.open_loop import OpenLoop
from loadgen.worker.pacer import Pacer
from loadgen.worker.pools import Pools
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker
from loadgen.worker.routing import Router
from loadgen.worker.script import Script, Scripted
from loadgen.worker.transport import Transport
from loadgen.worker.users import Users

# The last stretch before the start is spun: timers of the loop are whole milliseconds.
SPIN_NS: Final = 2 * NS_PER_MS


class Stage:
    """Runs a stage; `marks()` are its times."""

    def __init__(
        self,
        plan: StagePlan,
        worker: WorkerPlan,
        *,
        transport: Transport,
        makers: Sequence[RequestMaker],
        router: Router,
        pools: Pools,
        pacer: Pacer,
        board: b.Board,
        record: Callable[[Exchange], None],
        script: Script | None = None,
        counter: OutputCounter | None = None,
    ) -> None:
        self._plan = plan
        self._script = script
        self._transport = transport
        self._pacer = pacer
        self._record = record
        self._is_open_loop = isinstance(plan.load, OpenLoad)
        self.users = Users(
            worker.users,
            plan.stage,
            transport=transport,
            makers=makers,
            router=router,
            pools=pools,
            pacer=pacer,
            record=record,
            board=board,
            seat=worker.seat,
            has_schedule=self._is_open_loop,
            counter=counter,
        )
        self._router, self._pools = router, pools
        self._load: ClosedLoop | OpenLoop
        if isinstance(plan.load, OpenLoad):
            self._load = OpenLoop(
                plan.load,
                worker.worker,
                worker.workers,
                self.users,
                pools,
                pacer,
                self._drop,
                board,
                worker.seat,
                script,
                self._through,
            )
        else:
            self._load = ClosedLoop(
                plan.load, worker.worker, worker.workers, self.users, worker.users, pacer, script, self._through
            )
        self._most_turns = worker.users.most_turns
        self._has_sessions = worker.users.has_sessions
        self._warming = plan.warmup_requests
        self._stopped = False
        self.start_ns = 0
        self.measure_ns: int | None = None
        self.stop_ns: int | None = None
        self.done_ns: int | None = None
        self.done = asyncio.Event()

    def marks(self) -> dict[str, Any]:
        """The stage's times, as they stand in the capture's batch metadata."""
        return {
            "stage": self._plan.stage,
            "start_ns": self.start_ns,
            "measure_ns": self.measure_ns,
            "stop_ns": self.stop_ns,
            "idle_ns": self._load.idle_ns,
            "done_ns": self.done_ns,
        }

    async def run(self, start_ns: int) -> None:
        """Start at `start_ns`, return when every request has ended."""
        self.start_ns = start_ns
        self._transport.on_end = self._ended
        load = self._plan.load
        if isinstance(load, OpenLoad):
            self._pools.begin_stage(load.max_in_flight, load.spare)
        else:
            self._pools.begin_stage(load.slots)
        if not self._warming:
            self._measure_from(start_ns + self._plan.warmup_ns)
        await asyncio.sleep(max(start_ns - monotonic_ns() - SPIN_NS, 0) / NS_PER_S)
        while monotonic_ns() < start_ns:
            pass
        self._load.start(start_ns)
        self._see_whether_done()
        await self.done.wait()

    def _measure_from(self, measure_ns: int) -> None:
        self.measure_ns = measure_ns
        if self._plan.duration_ns is not None:
            self.stop_ns = measure_ns + self._plan.duration_ns
            self._pacer.at(self.stop_ns, self._time_is_up)

    def stop(self) -> None:
        """Send no more, before the time or at its end; what is in flight goes on until the drain's limit."""
        if self.done.is_set():
            return
        if not self._stopped:
            self._end_sending()
        self._load.stop()
        self.users.stop()
        self._see_whether_done()

    def abort(self) -> None:
        """Stop, and give up what is in flight."""
        self.stop()
        self._give_up("the run was stopped")

    def _time_is_up(self, _: object) -> None:
        if not self._is_open_loop:
            self.stop()
        elif not self._stopped and not self.done.is_set():
            # All arrivals have come; those that still wait for a place are sent, however late.
            self._end_sending()
            self.users.end_turns()
            self._see_whether_done()

    def _end_sending(self) -> None:
        now_ns = monotonic_ns()
        # A stop before its time is the true end of sending.
        self.stop_ns = now_ns if self.stop_ns is None else min(self.stop_ns, now_ns)
        self._stopped = True
        self._pacer.at(now_ns + self._plan.drain_ns, self._cut)

    def _through(self) -> None:
        """The data set has no more: sending ends here, before its time or its number."""
        if not self._stopped and not self.done.is_set():
            self._end_sending()
        self._see_whether_done()

    def _cut(self, _: object) -> None:
        if not self.done.is_set():
            self._load.stop()
            self.users.stop()
            self._give_up("still running at the end of the drain")
            self._see_whether_done()

    def _give_up(self, why: str) -> None:
        for exchange in self._transport.in_flight():
            self._transport.abort(exchange, "unfinished", why)

    def _drop(self, number: int, intended_ns: int, scripted: Scripted | None) -> None:
        """An arrival that is not sent: a row all the same, for nothing is left out silently."""
        unit_id = (self._plan.stage << STAGE_SHIFT) + number
        request_id = (self._plan.stage << STAGE_SHIFT) + number * self._most_turns
        now_ns = monotonic_ns()
        exchange = Exchange(request_id, self._plan.stage, -1, b"", now_ns)
        exchange.intended_ns, exchange.sent_ns, exchange.ended_ns = intended_ns, now_ns, now_ns
        if self._has_sessions:
            exchange.session_id, exchange.turn = unit_id, 0
        elif scripted is not None and scripted.session is not None:
            exchange.session_id, exchange.turn = scripted.session, scripted.turn
        exchange.target = self._router.target(unit_id) if scripted is None else scripted.target
        exchange.error, exchange.ended, exchange.decoded = "dropped", True, True
        self._record(exchange)
        self._see_whether_done()

    def _ended(self, exchange: Exchange) -> None:
        ended_ns = monotonic_ns()  # before the next request is sent
        self.users.ended(exchange)
        if self._warming and not exchange.superseded and not self._stopped:
            self._warming -= 1
            if not self._warming:
                self._measure_from(ended_ns)
        self._see_whether_done()

    def decoded(self, exchange: Exchange) -> None:
        """An exchange of this stage has been decoded and recorded."""
        if exchange.user is not None:
            self.users.decoded(exchange)
            self._see_whether_done()

    def _see_whether_done(self) -> None:
        if not self.users.active and not self._load.is_busy and not self.done.is_set():
            self.done_ns = monotonic_ns()
            self.done.set()
