"""A stage on a transport that is a list, in time that moves only from one due thing to the next.

So a test of an hour takes no time, "at the instant" is an equality, and a stage that waits for nothing is a failure at once.
"""

import asyncio
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from loadgen import board as b
from loadgen.board import Board
from loadgen.clock import NS_PER_S
from loadgen.dealing import deal
from loadgen.dialects import chat
from loadgen.distribution import Distribution, parse_distribution
from loadgen.plan import (
    ClosedLoad,
    Endpoint,
    Limits,
    OpenLoad,
    PromptPool,
    Route,
    StagePlan,
    Talk,
    Target,
    UsersPlan,
    WorkerPlan,
)
from loadgen.wording import Wording
from loadgen.worker import closed_loop, open_loop, pacer, pools, stage, users
from loadgen.worker.exchange import Exchange
from loadgen.worker.pacer import NEVER, Pacer
from loadgen.worker.pools import Pools
from loadgen.worker.requests import RequestMaker
from loadgen.worker.routing import Router, shares
from loadgen.worker.script import Script
from loadgen.worker.stage import Stage

HOUR_NS = 3600 * NS_PER_S


# plans


def closed_plan(slots: int = 3, units: int | None = None, **changes: Any) -> StagePlan:
    """One closed-loop stage of one worker. `levels`, `all_slots` and the stage's fields may be given."""
    levels = changes.pop("levels", ((0, slots),))
    slots = max(level for _, level in levels)
    load = ClosedLoad(levels, slots, changes.pop("all_slots", slots), units)
    return stage_plan(load, **{"duration_ns": HOUR_NS if units is None else None} | changes)


def open_plan(due_ns: list[int], **changes: Any) -> StagePlan:
    """One open-loop stage of one worker; ends 1 ns behind its last arrival."""
    load = OpenLoad(
        due_ns=None if changes.pop("recorded", False) else array("q", due_ns),
        connections=changes.pop("connections", 0),
        spare=changes.pop("spare", 0),
        max_in_flight=changes.pop("max_in_flight", 1 << 20),
        late_drop_ns=changes.pop("late_drop_ns", None),
    )
    return stage_plan(load, **{"duration_ns": (due_ns[-1] if due_ns else 0) + 1} | changes)


def stage_plan(load: ClosedLoad | OpenLoad, **changes: Any) -> StagePlan:
    fields = {"stage": 0, "warmup_ns": 0, "warmup_requests": 0, "duration_ns": None, "drain_ns": HOUR_NS}
    return StagePlan(load=load, **fields | changes)


def users_plan(**changes: Any) -> UsersPlan:
    """Distributions may be given as their text."""
    for name, unit in (("think", "duration"), ("turns", "count")):
        if isinstance(changes.get(name), str):
            changes[name] = parse_distribution(changes[name], unit)
    if isinstance(turns := changes.get("turns"), Distribution):
        changes.setdefault("most_turns", turns.most)
    return UsersPlan(**{"seed": 1} | changes)


def pool(**changes: Any) -> PromptPool:
    """Requests that say which one they are: the nonce is a word of its own for each of 4,096 ids."""
    talk = Talk("m", "Be brief.", 16, False, tuple(f"say {i}" for i in range(5)), changes.pop("answers", ()))
    words = tuple(f"w{i:02} ".encode() for i in range(64))
    bodies = tuple((b'{"prompt":"', b'say %d"}' % i) for i in range(5))
    fields = {"bodies": bodies, "vocabulary": words, "nonce_words": 2, "seed": 0}
    return PromptPool(**fields | {"talk": talk} | changes)


def worker_plan(users_: UsersPlan, worker: int = 0, workers: int = 1, **changes: Any) -> WorkerPlan:
    fields: dict[str, Any] = {
        "worker": worker,
        "workers": workers,
        "seat": worker,
        "seats": workers,
        "core": None,
        "transport": "kernel",
        "spin": False,
        "origins": (Endpoint("127.0.0.1", 9, False, ""),),
        "targets": (Target("m", Wording("chat"), changes.pop("pool", None) or pool(), (0,)),),
        "routes": (Route(0, 0, 0, b"POST / HTTP/1.1"),),
        "deal": deal(1, [1.0]),
        "balance": "round-robin",
        "limits": Limits(*[HOUR_NS] * 4),
        "users": users_,
        "script": None,
        "tokenizer": None,
        "capture_path": "",
        "metadata": {},
        "secrets": (),
        "board_fd": -1,
    }
    return WorkerPlan(**fields | changes)


# time


class Clock:
    """What everything on the worker's side asks for the time."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns


class NoTimer:
    """Time does not pass by itself: see Driven.step."""

    def __init__(self, _loop: object, _callback: object) -> None: ...

    def arm(self, due_ns: int) -> None: ...

    def close(self) -> None: ...


@contextmanager
def virtual_time() -> Iterator[Clock]:
    clock = Clock()
    patches = [
        patch.object(module, "monotonic_ns", clock) for module in (closed_loop, open_loop, pacer, pools, stage, users)
    ]
    patches += [patch.object(pacer, name, NoTimer) for name in ("TimerFd", "LoopTimer")]
    for each in patches:
        each.start()
    try:
        yield clock
    finally:
        for each in patches:
            each.stop()


# the transport


class ByHand:
    """A transport whose requests end when the test says so, or each `service_ns` after its send with this `error`.

    `service_ns` and `error` may be functions of the exchange. A connection takes `connect_ns` where one is prepared.
    """

    stamp_source = "read"
    reads = reopened = 0

    def __init__(self, service_ns: Any = None, error: Any = None, slots: int = 0, connect_ns: int = 0) -> None:
        self.origins: list[int] = [0] * slots
        self.service_ns, self.error, self.connect_ns = service_ns, error, connect_ns
        self.opened = set(range(slots))
        self.refuses = False  # to connect
        self.flying: list[Exchange] = []
        self.all: list[Exchange] = []
        self.aborted: list[tuple[Exchange, str]] = []
        self.prepared: list[tuple[int, int]] = []  # (when, slot)
        self.preparing: set[int] = set()
        self.cold: list[Exchange] = []  # those that had to connect first
        self.most = 0

    @property
    def slots(self) -> int:
        return len(self.origins)

    def add_slot(self, origin: int = 0) -> int:
        self.origins.append(origin)
        return self.slots - 1

    def origin(self, slot: int) -> int:
        return self.origins[slot]

    def move(self, slot: int, origin: int) -> None:
        assert slot not in self.preparing | {exchange.slot for exchange in self.flying}
        if self.origins[slot] != origin:
            self.opened.discard(slot)
            self.origins[slot] = origin

    def is_open(self, slot: int) -> bool:
        assert 0 <= slot < self.slots
        return slot in self.opened

    def prepare(self, slot: int, on_prepared: Callable[[int], None]) -> None:
        assert slot < self.slots
        assert slot not in self.opened | self.preparing | {exchange.slot for exchange in self.flying}
        self.prepared.append((self.clock.now_ns, slot))
        self.preparing.add(slot)

        def connected(_: object) -> None:
            self.preparing.remove(slot)
            if not self.refuses:
                self.opened.add(slot)
            on_prepared(slot)

        self.pacer.at(self.clock.now_ns + self.connect_ns, connected)

    def submit(self, exchange: Exchange) -> None:
        assert 0 <= exchange.slot < self.slots
        assert exchange.slot not in self.preparing | {other.slot for other in self.flying}, "two things on one slot"
        if exchange.slot not in self.opened:
            self.cold.append(exchange)
            self.opened.add(exchange.slot)
        exchange.sent_ns = self.clock.now_ns
        self.all.append(exchange)
        self.flying.append(exchange)
        self.most = max(self.most, len(self.flying))
        service_ns = self.service_ns(exchange) if callable(self.service_ns) else self.service_ns
        if service_ns is not None:
            self.pacer.at(self.clock.now_ns + service_ns, self._served, exchange)

    def _served(self, exchange: Exchange) -> None:
        error = self.error(exchange) if callable(self.error) else self.error
        status = int(error.removeprefix("http-")) if error and error.startswith("http-") else 200
        self.end(exchange, None if status != 200 else error, status)

    def end(self, exchange: Exchange, error: str | None = None, status: int = 200, **fields: Any) -> None:
        """A response ends; an error closes its connection. What the decoder finds out it finds out later."""
        if exchange.ended:
            return
        self.flying.remove(exchange)
        exchange.ended, exchange.error, exchange.ended_ns = True, error, self.clock.now_ns
        exchange.status = status
        for name, value in fields.items():
            setattr(exchange, name, value)
        if error is not None:
            self.opened.discard(exchange.slot)
        self.on_end(exchange)
        self.on_segment(exchange)

    def abort(self, exchange: Exchange, error: str, words: str = "") -> None:
        exchange.words = words
        self.aborted.append((exchange, error))
        self.end(exchange, error, exchange.status)

    def in_flight(self) -> list[Exchange]:
        return list(self.flying)


# the rest of a worker


class Driven:
    """A stage, with what a worker has around it. Decoding comes behind everything that is due, unless it is held back."""

    def __init__(
        self,
        plan: StagePlan,
        worker: WorkerPlan,
        transport: ByHand,
        board: Board,
        clock: Clock,
        script: Script | None = None,
    ) -> None:
        self.clock, self.transport, self.plan = clock, transport, plan
        self.pacer = Pacer()
        self.rows: list[Exchange] = []
        self.undecoded: list[Exchange] = []
        self.holds_decoding = False
        self.says: Callable[[Exchange], str] = lambda exchange: f"answer {exchange.request_id}"
        transport.clock, transport.pacer = clock, self.pacer
        transport.on_segment = self.undecoded.append
        self.makers = [RequestMaker(target.pool, chat.DIALECT) for target in worker.targets]
        self.router = Router(worker.targets, worker.routes, worker.deal, worker.balance, worker.worker)
        self.pools = Pools(transport, shares(worker.targets, worker.routes, worker.deal, len(worker.origins)), 1 << 20)
        if isinstance(plan.load, ClosedLoad):  # the worker has opened them all before the stage
            while transport.slots < plan.load.slots:
                transport.add_slot()
        self.stage = Stage(
            plan,
            worker,
            transport=transport,
            makers=self.makers,
            router=self.router,
            pools=self.pools,
            pacer=self.pacer,
            board=board,
            record=self.rows.append,
            script=script,
        )
        self.start_ns = clock.now_ns

    @property
    def since_start_ns(self) -> int:
        return self.clock.now_ns - self.start_ns

    def decode(self) -> None:
        """What Worker._decoded does, for all that has ended."""
        while self.undecoded:
            exchange = self.undecoded.pop(0)
            exchange.decoded = True
            if exchange.error is None and exchange.status != 200:
                exchange.error = f"http-{exchange.status}"
            if exchange.sent_ns and exchange.last_byte_ns is None:
                exchange.last_byte_ns = exchange.ended_ns
            if exchange.error is None and exchange.texts is not None:
                exchange.texts += [*self.says(exchange)]
            if not exchange.superseded:
                self.rows.append(exchange)
                self.stage.decoded(exchange)

    def step(self) -> None:
        """On to the next thing that is due."""
        due_ns = self.pacer.due_ns
        assert due_ns != NEVER, "nothing is due, and the stage is not done"
        self.clock.now_ns = max(self.clock.now_ns, due_ns)
        self.pacer.look()
        if not self.holds_decoding:
            self.decode()

    def run_until(self, ns: int) -> None:
        """Let time pass until `ns` behind the start, everything that is due then included."""
        if not self.holds_decoding:
            self.decode()
        while self.pacer.due_ns <= self.start_ns + ns:
            self.step()
        self.clock.now_ns = self.start_ns + ns

    def run_to_the_end(self) -> None:
        self.holds_decoding = False
        self.decode()
        while not self.stage.done.is_set():
            self.step()

    def sent(self) -> list[tuple[int, int]]:
        """(ns since the start, request_id) of everything that was submitted, in order."""
        return [(exchange.sent_ns - self.start_ns, exchange.request_id) for exchange in self.transport.all]


def drive(
    plan: StagePlan,
    transport: ByHand,
    act: Callable[[Driven], object] | None = None,
    *,
    before_start: Callable[[Stage], object] | None = None,
    worker: int = 0,
    workers: int = 1,
    **users_: Any,
) -> Driven:
    """Run a stage to its end; `act` is called once everything that starts at once has started."""
    pool_ = users_.pop("pool", None) or pool()
    script = users_.pop("script", None)
    plan_changes = users_.pop("of_worker", {})
    if script is not None:
        script.open_stage(plan.stage, plan.load)

    async def play(clock: Clock) -> Driven:
        whole = worker_plan(users_plan(**users_), worker, workers, pool=pool_, **plan_changes)
        driven = Driven(plan, whole, transport, board, clock, script)
        running = asyncio.create_task(driven.stage.run(clock.now_ns))
        await asyncio.sleep(0)
        if before_start is not None:
            before_start(driven.stage)
        for _ in range(3):
            await asyncio.sleep(0)
        if act is not None:
            act(driven)
        driven.run_to_the_end()
        await running
        assert board.get(worker, b.SENT) == driven.stage.users.sent
        assert board.get(worker, b.IN_FLIGHT) == driven.stage.users.in_flight == driven.stage.users.active == 0
        driven.offered = board.get(worker, b.OFFERED)
        # What is still to be called must know that the stage is over.
        sent = len(transport.all)
        while driven.pacer.due_ns != NEVER:
            driven.step()
        assert len(transport.all) == sent
        assert not transport.flying
        recorded = [exchange.request_id for exchange in driven.rows]
        assert len(set(recorded)) == len(recorded), "two rows of one request"
        driven.pacer.close()
        return driven

    board = Board(workers)
    try:
        with virtual_time() as clock:
            return asyncio.run(play(clock))
    finally:
        board.close()
