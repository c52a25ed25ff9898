"""The closed loop over a transport that is a list: what is in flight, what is sent next, and when it ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import board as b
from loadgen import planner
from loadgen.board import Board
from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.plan import StagePlan
from loadgen.worker import drive
from loadgen.worker.drive import ClosedLoop
from loadgen.worker.exchange import Exchange
from loadgen.worker.requests import STAGE_SHIFT

# A loop's timer may fire so much early; the end of sending is then marked where it was.
TIMER_NS = 2 * NS_PER_MS


class ByHand:
    """A transport whose requests end when the test says so; `answer` ends each at once instead."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer = answer
        self.flying: list[Exchange] = []
        self.all: list[Exchange] = []
        self.most = 0

    def submit(self, exchange: Exchange) -> None:
        assert exchange.slot not in {other.slot for other in self.flying}, "two requests on one slot"
        exchange.sent_ns = monotonic_ns()
        self.all.append(exchange)
        self.flying.append(exchange)
        self.most = max(self.most, len(self.flying))
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(self.end, exchange, self.answer or None)

    def end(self, exchange: Exchange, error: str | None = None) -> None:
        if exchange.ended:
            return
        self.flying.remove(exchange)
        exchange.ended, exchange.error = True, error
        self.on_end(exchange)

    def abort(self, exchange: Exchange, error: str, words: str = "") -> None:
        exchange.words = words
        self.end(exchange, error)

    def in_flight(self) -> list[Exchange]:
        return list(self.flying)


def plan(**changes: Any) -> StagePlan:
    fields = {
        "stage": 0,
        "concurrency": 3,
        "all_slots": 3,
        "requests": None,
        "warmup_ns": 0,
        "duration_ns": 3600 * NS_PER_S,
        "drain_ns": 3600 * NS_PER_S,
    }
    return StagePlan(**fields | changes)


def drive_it(
    stage: StagePlan,
    transport: ByHand,
    act: Callable[[ClosedLoop], Any] | None = None,
    worker: int = 0,
    workers: int = 1,
) -> ClosedLoop:
    """Run a stage; `act` is awaited once everything that starts at once has started."""

    async def play() -> ClosedLoop:
        loop = ClosedLoop(stage, worker, workers, transport, lambda number: b"%d" % number, board)
        running = asyncio.create_task(loop.run(monotonic_ns()))
        if act is not None:
            await until(lambda: len(transport.flying) == stage.concurrency or loop.done.is_set())
            await act(loop)
        async with asyncio.timeout(20):
            await running
        assert board.get(worker, b.SENT) == loop.sent == len(transport.all)
        assert board.get(worker, b.IN_FLIGHT) == loop.in_flight == 0
        return loop

    board = Board(workers)
    try:
        return asyncio.run(play())
    finally:
        board.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@settings(max_examples=40, deadline=None)
@given(concurrency=st.integers(1, 20), requests=st.integers(0, 60))
def test_a_stage_bounded_by_requests_sends_just_those_and_never_more_at_once(concurrency, requests):
    transport = ByHand(answer="")
    loop = drive_it(
        plan(concurrency=concurrency, all_slots=concurrency, requests=requests, duration_ns=None), transport
    )
    assert loop.sent == requests
    assert transport.most == min(concurrency, requests)
    assert sorted(exchange.request_id for exchange in transport.all) == list(range(requests))
    marks = loop.marks()
    assert marks["stop_ns"] is None
    assert marks["start_ns"] == marks["measure_ns"] <= marks["idle_ns"] <= marks["done_ns"] or concurrency <= requests
    assert marks["done_ns"] >= marks["start_ns"]


@settings(max_examples=40, deadline=None)
@given(
    level=st.integers(1, 12),
    requests=st.integers(1, 80),
    workers=st.integers(1, 5),
    stage=st.sampled_from([0, 1, 1023]),
)
def test_ids_are_dealt_like_cards_whatever_the_number_of_workers(level, requests, workers, stage):
    ids = []
    for worker in range(workers):
        transport = ByHand(answer="")
        mine = plan(
            stage=stage,
            concurrency=planner.share(level, worker, workers),
            all_slots=level,
            requests=requests // level * planner.share(level, worker, workers)
            + planner.share(requests % level, worker, workers),
            duration_ns=None,
        )
        drive_it(mine, transport, worker=worker, workers=workers)
        ids += [exchange.request_id for exchange in transport.all]
    assert sorted(ids) == [stage << STAGE_SHIFT | number for number in range(requests)]


def test_a_slot_sends_its_next_request_as_soon_as_the_one_before_has_ended():
    transport = ByHand()

    async def act(loop: ClosedLoop) -> None:
        for _ in range(50):
            ended = transport.flying[0]
            transport.end(ended)
            assert transport.flying[-1].slot == ended.slot
            assert transport.flying[-1].request_id == loop.sent - 1
            assert len(transport.flying) == loop.in_flight == 3
        loop.abort()

    assert drive_it(plan(), transport, act).sent == 53


def test_a_failed_request_is_followed_by_the_next_at_once_too():
    transport = ByHand(answer="http-500")
    assert drive_it(plan(requests=200, duration_ns=None), transport).sent == 200


@pytest.mark.parametrize("error", sorted(drive.NO_CONNECTION))
def test_a_slot_without_a_connection_waits_before_it_tries_again(error, monkeypatch):
    monkeypatch.setattr(drive, "CONNECT_RETRY_S", 0.02)
    transport = ByHand(answer=error)
    drive_it(plan(concurrency=1, all_slots=1, requests=3, duration_ns=None), transport)
    gaps_ns = [later.due_ns - sooner.due_ns for sooner, later in zip(transport.all, transport.all[1:], strict=False)]
    assert min(gaps_ns) >= 15 * NS_PER_MS
    assert len(gaps_ns) == 2


def test_a_stop_sends_no_more_and_lets_what_is_in_flight_end():
    transport = ByHand()

    async def act(loop: ClosedLoop) -> None:
        before_ns = monotonic_ns()
        loop.stop()
        assert before_ns <= loop.stop_ns <= monotonic_ns()
        stopped_ns = loop.stop_ns
        assert not loop.done.is_set()
        while transport.flying:
            transport.end(transport.flying[0])
        assert loop.done.is_set()
        loop.stop()
        assert loop.marks()["stop_ns"] == stopped_ns
        assert loop.marks()["idle_ns"] == stopped_ns

    loop = drive_it(plan(), transport, act)
    assert loop.sent == 3
    assert {exchange.error for exchange in transport.all} == {None}


def test_an_abort_cancels_what_is_in_flight():
    transport = ByHand()

    async def act(loop: ClosedLoop) -> None:
        loop.abort()

    drive_it(plan(), transport, act)
    assert {exchange.error for exchange in transport.all} == {"cancelled"}
    assert {exchange.words for exchange in transport.all} == {"the run was stopped"}


def test_an_abort_while_it_drains_ends_it_too():
    transport = ByHand()

    async def act(loop: ClosedLoop) -> None:
        loop.stop()
        loop.abort()

    assert drive_it(plan(), transport, act).sent == 3
    assert {exchange.error for exchange in transport.all} == {"cancelled"}


def test_what_still_runs_at_the_end_of_the_drain_is_cut_and_says_so():
    transport = ByHand()
    loop = drive_it(plan(duration_ns=20 * NS_PER_MS, drain_ns=20 * NS_PER_MS), transport)
    assert {exchange.words for exchange in transport.all} == {"still running at the end of the drain"}
    marks = loop.marks()
    assert 0 <= 20 * NS_PER_MS - (marks["stop_ns"] - marks["measure_ns"]) < TIMER_NS
    assert marks["done_ns"] >= marks["stop_ns"] + 15 * NS_PER_MS


def test_a_stage_of_a_duration_sends_through_warm_up_and_window_and_not_behind_it():
    transport = ByHand(answer="")
    loop = drive_it(plan(warmup_ns=300 * NS_PER_MS, duration_ns=300 * NS_PER_MS), transport)
    marks = loop.marks()
    assert marks["measure_ns"] - marks["start_ns"] == 300 * NS_PER_MS
    assert 0 <= 300 * NS_PER_MS - (marks["stop_ns"] - marks["measure_ns"]) < TIMER_NS
    due_ns = [exchange.due_ns for exchange in transport.all]
    assert due_ns[0] >= marks["start_ns"]
    assert any(ns < marks["measure_ns"] for ns in due_ns)
    assert any(ns > marks["measure_ns"] for ns in due_ns)
    # The clock is looked at, then the request is made; a machine that is taken away in between is no fault of ours.
    assert sorted(due_ns)[len(due_ns) * 9 // 10] <= marks["stop_ns"]
    assert marks["done_ns"] >= marks["stop_ns"]


def test_nothing_is_sent_before_the_start():
    transport = ByHand(answer="")
    board = Board(1)

    async def play() -> int:
        start_ns = monotonic_ns() + 30 * NS_PER_MS
        loop = ClosedLoop(plan(requests=3, duration_ns=None), 0, 1, transport, lambda _: b"", board)
        await loop.run(start_ns)
        return start_ns

    try:
        assert asyncio.run(play()) <= transport.all[0].due_ns
    finally:
        board.close()


@pytest.mark.parametrize("stop", ["stop", "abort"])
def test_a_stage_that_is_stopped_before_its_start_sends_nothing(stop):
    transport = ByHand(answer="")
    board = Board(1)

    async def play() -> ClosedLoop:
        loop = ClosedLoop(plan(), 0, 1, transport, lambda _: b"", board)
        running = asyncio.create_task(loop.run(monotonic_ns() + 50 * NS_PER_MS))
        await asyncio.sleep(0)
        getattr(loop, stop)()
        async with asyncio.timeout(20):
            await running
        return loop

    try:
        assert asyncio.run(play()).sent == 0
    finally:
        board.close()


def test_a_worker_without_a_slot_is_done_at_once():
    loop = drive_it(plan(concurrency=0, requests=0), ByHand())
    assert loop.sent == 0
    assert loop.marks()["idle_ns"] is None, "it never had a slot that was free"
