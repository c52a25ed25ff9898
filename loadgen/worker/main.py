"""A worker process from its first line to its last: pin, freeze, open, report ready, run each stage, write, leave.

Started as `python -m loadgen.worker.main`; its plan comes through standard input, and then the stages, one by one. When that
line closes there are no more, or the coordinator is gone: the worker gives up what is in flight, writes and leaves.
"""

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections import deque
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from loadgen import board as b
from loadgen.arrow import prepare_pyarrow
from loadgen.blotting import blotted
from loadgen.clock import NS_PER_S, monotonic_ns, process_cpu_ns
from loadgen.dialects import spoken
from loadgen.dialects.answer import MAX_SHORT_TEXT
from loadgen.errors import LoadgenError
from loadgen.host import keep_memory_private, memory_bytes, most_connections, raise_descriptor_limit, resident_bytes
from loadgen.plan import OpenLoad, StagePlan, WorkerPlan
from loadgen.tokens import load
from loadgen.worker.bodies import BodyWriter
from loadgen.worker.capture import CaptureWriter
from loadgen.worker.chores import Chores
from loadgen.worker.counting import OutputCounter
from loadgen.worker.decoding import Decoder
from loadgen.worker.exchange import Exchange
from loadgen.worker.pacer import Pacer
from loadgen.worker.pools import Pools
from loadgen.worker.requests import RequestMaker
from loadgen.worker.routing import Router, shares
from loadgen.worker.script import Script
from loadgen.worker.stage import Stage
from loadgen.worker.stamps import StampClock
from loadgen.worker.transport import Transport

WATCH_S: Final = 0.1
"""Between two samples of the worker's own state; also how exact a limit on a request is kept."""

ORDERS_S: Final = 0.01
"""Between two looks at the board."""

WRITE_NS: Final = NS_PER_S
"""A batch at least this often."""

# All workers together may take half of the memory. Thousands of ordinary streams need less than the least, so beyond it the
# endpoint is at work: the responses that hold most are given up, before the kernel gives up on the worker.
MEMORY_SHARE: Final = 0.5
LEAST_MEMORY_BYTES: Final = 512 * 1024 * 1024
LARGE_BYTES: Final = 64 * 1024


class Worker:
    """The parts of a worker, and its life."""

    def __init__(self, plan: WorkerPlan, line: "Connection[None, StagePlan]") -> None:
        self._plan = plan
        self._line = line
        self._to_come: deque[StagePlan] = deque()
        self._board = b.Board(plan.seats, plan.board_fd)
        self._numbers = self._board.numbers
        self._at = self._board.at(plan.seat, 0)
        self._clock = StampClock()
        self._pacer = Pacer()
        dialects = [spoken(target.wording) for target in plan.targets]
        self._decoder = Decoder(dialects, self._clock, self._decoded)
        self._transport = make_transport(plan, self._pacer)
        self._transport.on_segment = self._decoder.on_segment
        self._chores = Chores(self._decoder, self._pacer, gives_way=self._transport.stamp_source == "kernel")
        self._transport.decode_one = self._chores.do_one
        self._transport.decode_now = self._decoder.decode_now
        self._transport.decoded_bytes = lambda: self._decoder.decoded_bytes
        self._decoder.give_up = self._transport.abort
        self._bodies = BodyWriter(plan.bodies_path, plan.secrets) if plan.bodies_path is not None else None
        self._decoder.keeps_bodies = self._bodies is not None
        self._memory_limit_bytes = max(int(memory_bytes() * MEMORY_SHARE) // plan.seats, LEAST_MEMORY_BYTES)
        pairs = zip(plan.targets, dialects, strict=True)
        self._makers = [RequestMaker(target.pool, dialect) for target, dialect in pairs]
        self._router = Router(plan.targets, plan.routes, plan.deal, plan.balance, plan.worker)
        shares_ = shares(plan.targets, plan.routes, plan.deal, len(plan.origins))
        self._pools = Pools(self._transport, shares_, most_connections())
        self._called = {(route.target, route.endpoint): route.called for route in plan.routes}
        self._script = None if plan.script is None else Script(plan.script)
        self._capture = CaptureWriter(
            plan.capture_path,
            plan.worker,
            {
                **plan.metadata,
                "worker": plan.worker,
                "core": plan.core,
                "stamp_source": self._transport.stamp_source,
                "realtime_offset_ns": self._clock.offsets_ns[0],
            },
        )
        self._chores.capture = self._capture
        self._counter = (
            None if plan.tokenizer is None else OutputCounter(load(plan.tokenizer), self._record, len(plan.targets))
        )
        self._stages: list[Stage] = []
        self._samples: list[tuple[int, int, int, int]] = []
        self._written_ns = self._checked_ns = monotonic_ns()
        self._unstamped = 0
        self._lag_ns = 0
        self._lateness_ns = 0
        self._failure: BaseException | None = None

    async def work(self) -> None:
        """Every stage in turn, as they come; the capture is closed in every case. Raises what went wrong."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        loop.add_reader(self._line.fileno(), self._hear)
        # libuv has made it non-blocking, and the plan of a stage may be larger than the pipe: the rest is waited for.
        os.set_blocking(self._line.fileno(), True)
        self._write()  # a capture can be read, if only as an empty one, from the first moment
        if self._plan.spin:
            self._pacer.spin(self._transport.poll)
        working = loop.create_task(self._run_stages())
        self._working = working
        watching = loop.create_task(self._watch())
        try:
            await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            working.cancel()
            try:
                if self._stages:  # where the end came early: what was in flight is told too
                    self._stages[-1].abort()
                while self._decoder.decode_one():
                    pass
                if self._counter is not None:
                    self._counter.close()
                    while self._counter.pending:  # what it counted comes back
                        await asyncio.sleep(0.001)
            finally:
                self._pacer.close()
                self._transport.close()
                self._capture.close(self._said())
                if self._bodies is not None:
                    self._bodies.close()
                if self._script is not None:
                    self._script.close()
        for task in (working, watching):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise self._failure or error
        if self._failure is not None:
            raise self._failure

    async def _run_stages(self) -> None:
        numbers = self._numbers
        while True:  # until the line closes, which cancels this task
            while not self._to_come:
                await asyncio.sleep(ORDERS_S)
            plan = self._to_come.popleft()
            # Also where it is none: the stage before may still be connecting its spare ones.
            ahead = plan.load.connections if isinstance(plan.load, OpenLoad) else plan.load.slots
            await self._transport.open(self._pools.wanted(ahead))
            if self._script is not None:
                self._script.open_stage(plan.stage, plan.load)
                while not self._script.is_ready:
                    await asyncio.sleep(ORDERS_S)
            self._board.clear_stage(self._plan.seat)
            numbers[self._at + b.READY] = plan.stage + 1
            while numbers[b.START_STAGE] != plan.stage:
                await asyncio.sleep(ORDERS_S)
            stage = Stage(
                plan,
                self._plan,
                transport=self._transport,
                makers=self._makers,
                router=self._router,
                pools=self._pools,
                pacer=self._pacer,
                board=self._board,
                record=self._record,
                script=self._script,
                counter=self._counter,
            )
            self._stages.append(stage)
            await stage.run(numbers[b.START_NS])
            while self._decoder.decode_one() or (self._counter is not None and self._counter.pending):
                await asyncio.sleep(0)
            self._write()
            numbers[self._at + b.DONE] = plan.stage + 1

    async def _watch(self) -> None:
        """Look after everything that has no event of its own: orders, limits, samples, batches, the board."""
        check_ns = min(max(min(self._limits_ns()) // 50, int(WATCH_S * NS_PER_S)), NS_PER_S)
        numbers, at = self._numbers, self._at
        while True:
            await asyncio.sleep(WATCH_S)
            now_ns, cpu_ns = monotonic_ns(), process_cpu_ns()
            in_flight = self._stages[-1].users.in_flight if self._stages else 0
            self._samples.append((now_ns, cpu_ns, self._clock.watch(), in_flight))
            if self._stages and not self._stages[-1].done.is_set():
                order = numbers[b.ORDER]
                if order == b.STOP:
                    self._stages[-1].stop()
                elif order == b.ABORT:
                    self._stages[-1].abort()
            if resident_bytes() > self._memory_limit_bytes:
                self._save_memory()
            if now_ns - self._checked_ns >= check_ns:
                self._checked_ns = now_ns
                self._enforce_limits(now_ns)
            if now_ns - self._written_ns >= WRITE_NS:
                numbers[at + b.LAG_NS], self._lag_ns = self._lag_ns, 0
                numbers[at + b.LATENESS_NS], self._lateness_ns = self._lateness_ns, 0
                self._begin_writing()
                self._transport.wake()
            numbers[at + b.CPU_NS] = cpu_ns
            numbers[at + b.READS] = self._transport.reads
            numbers[at + b.HEARTBEAT_NS] = now_ns

    def _save_memory(self) -> None:
        """Give up the responses that hold most, a tenth of them at a time."""
        in_flight = self._transport.in_flight()
        large = sorted((e for e in in_flight if e.held_bytes() > LARGE_BYTES), key=Exchange.held_bytes, reverse=True)
        limit = f"this worker's limit of {self._memory_limit_bytes >> 20} MiB is reached"
        for exchange in large[: len(large) // 10 + 1]:
            words = f"it held {exchange.held_bytes() >> 10} KiB when {limit}"
            self._transport.abort(exchange, "too-large", words)

    def _limits_ns(self) -> tuple[int, int, int]:
        limits = self._plan.limits
        return limits.first_byte_ns, limits.idle_ns, limits.total_ns

    def _enforce_limits(self, now_ns: int) -> None:
        first_byte_ns, idle_ns, total_ns = self._limits_ns()
        for exchange in self._transport.in_flight():
            if now_ns - exchange.due_ns > total_ns:
                error, limit_ns = "timeout-total", total_ns
            elif not exchange.sent_ns:  # connecting, which has a limit of its own
                continue
            elif not exchange.response_bytes:
                if now_ns - exchange.sent_ns <= first_byte_ns:
                    continue
                error, limit_ns = "timeout-first-byte", first_byte_ns
            elif now_ns - exchange.last_read_ns > idle_ns:
                error, limit_ns = "timeout-idle", idle_ns
            else:
                continue
            self._transport.abort(exchange, error, f"over the limit of {limit_ns / NS_PER_S:g} s")

    def _decoded(self, exchange: Exchange) -> None:
        self._unstamped += exchange.unstamped
        self._lag_ns = max(self._lag_ns, exchange.max_lag_ns)
        if exchange.superseded:
            return
        if self._counter is None or not self._counter.takes(exchange):
            self._record(exchange)
        self._stages[-1].decoded(exchange)

    def _record(self, exchange: Exchange) -> None:
        """Count an exchange that is done with, and put it into the capture."""
        numbers, at = self._numbers, self._at
        numbers[at + b.EVENTS] += len(exchange.kinds)
        numbers[at + b.DECODED_READS] += exchange.n_reads
        if exchange.intended_ns is not None and not exchange.retries:
            self._lateness_ns = max(self._lateness_ns, exchange.sent_ns - exchange.intended_ns)
        if exchange.error is None:
            numbers[at + b.COMPLETED] += 1
            first_ns = int(exchange.event_ns[0][0])
            self._count(b.TTFT, first_ns - exchange.sent_ns)
            n_gaps = (exchange.answer.output_tokens or exchange.counted_tokens or len(exchange.kinds)) - 1
            if n_gaps > 0:
                self._count(b.TPOT, (int(exchange.event_ns[-1][-1]) - first_ns) // n_gaps)
        elif exchange.error == "dropped":
            numbers[at + b.DROPPED] += 1
        elif exchange.error == "cancelled":
            numbers[at + b.CANCELLED] += 1
        else:
            numbers[at + b.FAILED] += 1
            words = f"{exchange.error}: {exchange.words}" if exchange.words else exchange.error
            called = self._called.get((exchange.target, exchange.endpoint or 0))
            self._say(f"{called}: {words}" if called else words)
        if self._plan.secrets:  # a server may put a request's key into the ids, too
            answer = exchange.answer
            answer.response_id = self._harmless(answer.response_id)
            answer.finish_reason = self._harmless(answer.finish_reason)
        if self._bodies is not None:
            self._bodies.write(exchange)
        if self._capture.append(exchange):
            self._begin_writing()

    def _harmless(self, text: str | None) -> str | None:
        """An id or a reason without secrets; looked at closely only where one is in it, or it was cut."""
        secrets = self._plan.secrets
        if text is None or (len(text) < MAX_SHORT_TEXT and not any(secret in text for secret in secrets)):
            return text
        return blotted(text, secrets)

    def _count(self, histogram: int, duration_ns: int) -> None:
        self._numbers[self._board.histogram_at(self._plan.seat, histogram) + b.bucket_of(duration_ns)] += 1

    def _say(self, words: str) -> None:
        self._board.say(self._plan.seat, blotted(words, self._plan.secrets))

    def _write(self) -> None:
        self._begin_writing()
        self._capture.finish()

    def _begin_writing(self) -> None:
        self._written_ns = monotonic_ns()
        said = self._said()
        self._samples = []
        self._capture.begin(said)

    def _said(self) -> dict[str, Any]:
        """The batch metadata; see loadgen.schema."""
        return {
            "samples": self._samples,
            "stages": [stage.marks() for stage in self._stages],
            "sent": sum(stage.users.sent for stage in self._stages),
            "retried": sum(stage.users.retried for stage in self._stages),
            "reopened": self._transport.reopened,
            "unstamped": self._unstamped,
            "unprepared": self._script.waited if self._script is not None else 0,
            "reads": self._transport.reads,
            "clock_steps": self._clock.steps,
            "sleeps": self._clock.sleeps,
        }

    def _hear(self) -> None:
        try:
            self._to_come.append(self._line.recv())
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._working.cancel()

    def _callback_failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failure = self._failure or context.get("exception") or RuntimeError(context["message"])
        self._working.cancel()


def make_transport(plan: WorkerPlan, pacer: Pacer) -> Transport:
    """The transport that the plan names."""
    if plan.transport == "kernel":
        from loadgen.worker.receiver import Receiver

        return Receiver(plan.origins, plan.limits, pacer)
    from loadgen.worker.portable import Portable

    return Portable(plan.origins, plan.limits, pacer)


async def live(plan: WorkerPlan, line: "Connection[None, StagePlan]") -> None:
    """Build the worker, keep the collector from it, let it work."""
    worker = Worker(plan, line)
    # A collection in mid-run stops every stream at once; what is alive now stays alive, and the rest has no cycles.
    gc.collect()
    gc.freeze()
    gc.disable()
    await worker.work()


def main() -> None:
    """The process; exit status 0 if every stage was run or the coordinator said so, 1 with one line on stderr if not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    line: Connection[None, Any] = Connection(os.dup(sys.stdin.fileno()), writable=False)
    plan: WorkerPlan = line.recv()
    raise_descriptor_limit()
    prepare_pyarrow()
    if plan.secrets:
        keep_memory_private()
    if plan.core is not None:
        try:
            os.sched_setaffinity(0, {plan.core})
        except OSError:  # a container may refuse: then the kernel chooses, and the capture says so
            plan = replace(plan, core=None)
    try:
        uvloop.run(live(plan, line))
    except LoadgenError as error:
        sys.exit(f"worker {plan.worker}: {error}")
    except MemoryError:
        sys.exit(f"worker {plan.worker}: out of memory")
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"worker {plan.worker}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
