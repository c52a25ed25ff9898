"""The closed loop over a transport that is a list: what is in flight, what is sent next, and when it ends."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence

import pytest
from by_hand import ByHand, Driven, closed_plan, drive
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import planner
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.distribution import THINK, parse_distribution, uniform
from loadgen.worker import closed_loop
from loadgen.worker.requests import STAGE_SHIFT

many = settings(max_examples=60, deadline=None)


# slots and units


@many
@given(slots=st.integers(1, 20), units=st.integers(0, 60), service_ns=st.integers(1, 5))
def test_a_stage_bounded_by_units_sends_just_those_and_never_more_at_once(slots, units, service_ns):
    transport = ByHand(service_ns)
    marks = drive(closed_plan(slots, units), transport).stage.marks()
    assert sorted(exchange.request_id for exchange in transport.all) == list(range(units))
    assert transport.most == min(slots, units)
    assert marks["stop_ns"] is None
    assert marks["start_ns"] == marks["measure_ns"] <= marks["idle_ns"] <= marks["done_ns"]


def split(levels: list[tuple[int, int]], units: int | None, worker: int, workers: int, **changes):
    """A worker's part of a stage, dealt as the planner deals it."""
    all_slots = max(level for _, level in levels)
    mine = tuple((from_ns, planner.share(level, worker, workers)) for from_ns, level in levels)
    if units is not None:
        slots = planner.share(all_slots, worker, workers)
        units = units // all_slots * slots + planner.share(units % all_slots, worker, workers)
    return closed_plan(levels=mine, units=units, all_slots=all_slots, **changes)


@many
@given(
    level=st.integers(1, 12),
    units=st.integers(1, 80),
    workers=st.integers(1, 5),
    stage=st.sampled_from([0, 1, 1023]),
)
def test_ids_are_dealt_like_cards_whatever_the_number_of_workers(level, units, workers, stage):
    ids = []
    for worker in range(workers):
        transport = ByHand(1)
        drive(split([(0, level)], units, worker, workers, stage=stage), transport, worker=worker, workers=workers)
        ids += [exchange.request_id for exchange in transport.all]
    assert sorted(ids) == [stage << STAGE_SHIFT | number for number in range(units)]


def test_a_slot_sends_its_next_request_as_soon_as_the_one_before_has_ended():
    transport = ByHand()

    def act(driven: Driven) -> None:
        for number in range(50):
            ended = transport.flying[0]
            transport.end(ended)
            assert transport.flying[-1].slot == ended.slot
            assert transport.flying[-1].request_id == number + 3
            assert len(transport.flying) == driven.stage.users.in_flight == 3
        driven.stage.abort()

    assert drive(closed_plan(), transport, act).stage.users.sent == 53


def test_a_failed_request_is_followed_by_the_next_at_once_too():
    driven = drive(closed_plan(1, 200), ByHand(NS_PER_MS, "http-500"))
    assert [ns for ns, _ in driven.sent()] == [i * NS_PER_MS for i in range(200)]
    assert {exchange.error for exchange in driven.rows} == {"http-500"}


@pytest.mark.parametrize("error", sorted(closed_loop.NO_CONNECTION))
def test_a_slot_without_a_connection_waits_before_it_tries_again(error):
    driven = drive(closed_plan(1, 3), ByHand(0, error))
    assert [ns for ns, _ in driven.sent()] == [i * closed_loop.CONNECT_RETRY_NS for i in range(3)]


@many
@given(slots=st.integers(1, 6), units=st.integers(0, 20), think_ms=st.integers(0, 2), refused=st.booleans())
def test_a_stage_whose_last_units_come_behind_a_rest_ends(slots, units, think_ms, refused):
    """A slot that rests has its next unit laid by: the others do not wait for one that never comes."""
    transport = ByHand(1, "connect-refused" if refused else None)
    drive(closed_plan(slots, units), transport, think=f"{think_ms}ms")
    assert sorted(exchange.request_id for exchange in transport.all) == list(range(units))


def test_a_slot_with_nothing_left_to_begin_is_idle_though_another_still_rests():
    driven = drive(closed_plan(2, 3), ByHand(NS_PER_MS), think="1s")
    assert driven.stage.marks()["idle_ns"] == driven.start_ns + NS_PER_MS
    assert driven.stage.marks()["done_ns"] == driven.start_ns + NS_PER_S + 2 * NS_PER_MS


# levels over time


def test_a_rising_level_begins_at_the_instant_and_a_falling_one_as_units_end():
    transport = ByHand()

    def act(driven: Driven) -> None:
        def flying() -> int:
            return len(transport.flying)

        assert flying() == 2
        driven.run_until(99)
        assert flying() == 2
        driven.run_until(100)
        assert flying() == 5
        driven.run_until(200)
        assert flying() == 5, "nothing is cut off where the level falls"
        for left in (4, 3, 2, 1):
            transport.end(transport.flying[0])
            assert flying() == left
        transport.end(transport.flying[0])
        assert flying() == 1, "at the level: the slot goes on"
        driven.run_until(300)
        assert flying() == 1
        transport.end(transport.flying[0])
        assert flying() == 0
        driven.run_until(400)
        assert flying() == 3, "and back from nothing"
        assert not driven.stage.done.is_set()
        driven.stage.abort()

    drive(closed_plan(levels=((0, 2), (100, 5), (200, 1), (300, 0), (400, 3))), transport, act)
    assert [exchange.sent_ns - transport.all[0].sent_ns for exchange in transport.all] == [0] * 2 + [100] * 3 + [
        200
    ] + [400] * 3


def test_a_stage_that_begins_at_nothing_waits_for_its_first_level():
    driven = drive(closed_plan(levels=((0, 0), (500, 2)), duration_ns=1000), ByHand(100))
    assert driven.sent()[0][0] == 500
    assert driven.stage.marks()["stop_ns"] == driven.start_ns + 1000


@st.composite
def levels_over_time(draw):
    times = sorted(draw(st.sets(st.integers(1, 2_000), max_size=8)))
    levels = [draw(st.integers(0, 9)) for _ in range(len(times) + 1)]
    if not any(levels):
        levels[0] = 1
    return [(0, levels[0]), *zip(times, levels[1:], strict=True)]


def in_flight(transport: ByHand, start_ns: int) -> list[tuple[int, int]]:
    """(ns since the start, in flight from then on), ascending; one that follows another at its instant takes its place."""
    changes: dict[int, int] = {}
    for exchange in transport.all:
        changes[exchange.sent_ns] = changes.get(exchange.sent_ns, 0) + 1
        changes[exchange.ended_ns] = changes.get(exchange.ended_ns, 0) - 1
    times = sorted(changes)
    counts = itertools.accumulate(changes[ns] for ns in times)
    return [(ns - start_ns, count) for ns, count in zip(times, counts, strict=True)]


def last(steps: Sequence[tuple[int, int]], at_ns: int) -> int:
    """The value of a step function; 0 before its first step."""
    i = bisect_right(steps, at_ns, key=lambda step: step[0])
    return steps[i - 1][1] if i else 0


@many
@given(
    levels=levels_over_time(),
    workers=st.integers(1, 4),
    most_service_ns=st.integers(1, 300),
    think=st.sampled_from([None, "100ns", "uniform:0ns..300ns"]),
)
def test_workers_keep_their_parts_of_the_level_whatever_it_does(levels, workers, most_service_ns, think):
    ids = []
    flown = []
    for worker in range(workers):
        transport = ByHand(lambda exchange: 30 + (exchange.request_id * 7919) % most_service_ns)
        plan = split(levels, None, worker, workers, duration_ns=2_500)
        driven = drive(plan, transport, worker=worker, workers=workers, think=think)
        ids += [exchange.request_id for exchange in transport.all]
        flown.append(in_flight(transport, driven.start_ns))
        begun = {ns for ns, _ in driven.sent()}
        for at_ns, count in flown[-1]:
            if at_ns in begun:
                # What begins at the very instant of a change may still have been begun under the level before.
                level = max(last(plan.load.levels, at_ns), last(plan.load.levels, at_ns - 1))
                assert count <= level, "nothing begins above the level"
    assert len(set(ids)) == len(ids)
    if think is None:
        for at_ns, level in levels:
            assert sum(last(steps, at_ns) for steps in flown) >= level, "a level is filled at its instant"


def test_four_workers_have_exactly_the_level_between_them():
    levels = [(0, 5), (100, 9), (200, 0), (300, 3)]
    flown = []
    for worker in range(4):
        transport = ByHand(1)
        driven = drive(split(levels, None, worker, 4, duration_ns=400), transport, worker=worker, workers=4)
        flown.append(in_flight(transport, driven.start_ns))
    total = [sum(last(steps, at_ns) for steps in flown) for at_ns in range(400)]
    assert total == [5] * 100 + [9] * 100 + [0] * 100 + [3] * 100


# think time


def test_a_user_thinks_between_requests_and_not_before_the_first():
    transport = ByHand(5 * NS_PER_MS)
    driven = drive(closed_plan(1, 20), transport, think="exp:1s", seed=7)
    think = parse_distribution("exp:1s", "duration")
    for before, after in itertools.pairwise(transport.all):
        assert after.sent_ns - before.ended_ns == think.draw(uniform(7, THINK, before.request_id))
    assert driven.sent()[0][0] == 0
    assert {exchange.intended_ns for exchange in transport.all} == {None}


def test_two_stages_do_not_think_alike():
    gaps = []
    for stage in (0, 1):
        transport = ByHand(1)
        drive(closed_plan(1, 5, stage=stage), transport, think="exp:1s")
        gaps.append([after.sent_ns - before.ended_ns for before, after in itertools.pairwise(transport.all)])
    assert gaps[0] != gaps[1]


@pytest.mark.parametrize("how", ["stop", "abort", "time"])
def test_a_stage_does_not_wait_for_users_who_think_when_it_is_over(how):
    def act(driven: Driven) -> None:
        driven.run_until(NS_PER_MS)
        if how != "time":
            getattr(driven.stage, how)()

    driven = drive(closed_plan(4, None, duration_ns=NS_PER_S), ByHand(10), act, think="1h")
    marks = driven.stage.marks()
    assert marks["done_ns"] == marks["stop_ns"] == driven.start_ns + (NS_PER_S if how == "time" else NS_PER_MS)
    assert driven.stage.users.sent == 4


# the end


def test_a_stop_sends_no_more_and_lets_what_is_in_flight_end():
    transport = ByHand()

    def act(driven: Driven) -> None:
        stage = driven.stage
        driven.run_until(100)
        stage.stop()
        assert stage.stop_ns == driven.clock.now_ns
        driven.run_until(200)
        while transport.flying:
            assert not stage.done.is_set()
            transport.end(transport.flying[0])
        assert stage.done.is_set()
        stage.stop()

    driven = drive(closed_plan(), transport, act)
    marks = driven.stage.marks()
    assert (marks["stop_ns"], marks["idle_ns"], marks["done_ns"]) == tuple(
        driven.start_ns + ns for ns in (100, 100, 200)
    )
    assert {exchange.error for exchange in driven.rows} == {None}
    assert driven.stage.users.sent == 3


@pytest.mark.parametrize("stopped_before", [False, True])
def test_an_abort_gives_up_what_is_in_flight(stopped_before):
    transport = ByHand()

    def act(driven: Driven) -> None:
        if stopped_before:
            driven.stage.stop()
        driven.stage.abort()

    driven = drive(closed_plan(), transport, act)
    assert [(exchange.error, exchange.words) for exchange in driven.rows] == [("unfinished", "the run was stopped")] * 3


def test_what_still_runs_at_the_end_of_the_drain_is_cut_and_says_so():
    driven = drive(closed_plan(duration_ns=20, drain_ns=30), ByHand())
    assert {exchange.words for exchange in driven.rows} == {"still running at the end of the drain"}
    assert {exchange.error for exchange in driven.rows} == {"unfinished"}
    marks = driven.stage.marks()
    assert (marks["stop_ns"], marks["done_ns"]) == (driven.start_ns + 20, driven.start_ns + 50)


def test_a_stage_of_a_duration_sends_through_warm_up_and_window_and_not_behind_it():
    driven = drive(closed_plan(warmup_ns=1000, duration_ns=1000), ByHand(10))
    marks = driven.stage.marks()
    assert marks["measure_ns"] - marks["start_ns"] == 1000
    assert marks["stop_ns"] - marks["measure_ns"] == 1000
    assert [ns for ns, _ in driven.sent()][::3] == list(range(0, 2000, 10))
    assert marks["done_ns"] == marks["stop_ns"]


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_stage_that_is_stopped_before_its_start_sends_nothing(how):
    transport = ByHand(1)
    driven = drive(closed_plan(), transport, before_start=lambda stage: getattr(stage, how)())
    assert not transport.all
    assert driven.stage.done.is_set()


def test_a_worker_without_a_slot_is_done_at_once():
    driven = drive(closed_plan(0, 0), ByHand())
    assert driven.stage.users.sent == 0
    assert driven.stage.marks()["done_ns"] == driven.start_ns


# warm-up by requests


def test_the_window_opens_when_the_workers_share_of_the_warm_up_has_ended():
    driven = drive(closed_plan(2, None, warmup_requests=5, warmup_ns=0, duration_ns=1000), ByHand(100))
    marks = driven.stage.marks()
    assert marks["measure_ns"] == driven.start_ns + 300  # 2 at 100, 2 at 200, the fifth at 300
    assert marks["stop_ns"] == marks["measure_ns"] + 1000
    assert marks["done_ns"] == marks["stop_ns"]


def test_the_window_begins_no_later_than_the_first_request_behind_the_warm_up():
    transport = ByHand(100)
    driven = drive(closed_plan(1, 8, warmup_requests=3), transport)
    assert transport.all[3].sent_ns == driven.stage.marks()["measure_ns"]


def test_failures_end_the_warm_up_too():
    driven = drive(closed_plan(1, 4, warmup_requests=2), ByHand(100, "http-500"))
    assert driven.stage.marks()["measure_ns"] == driven.start_ns + 200


def test_a_refusal_that_is_tried_again_is_not_yet_a_request_of_the_warm_up():
    transport = ByHand(100, lambda exchange: "http-429" if exchange.retries == 0 else None)
    driven = drive(closed_plan(1, 4, warmup_requests=2), transport, retries=1)
    assert driven.stage.marks()["measure_ns"] == transport.all[3].ended_ns


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_warm_up_that_is_stopped_never_ends(how):
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.run_until(100)
        getattr(driven.stage, how)()
        while transport.flying:
            transport.end(transport.flying[0])

    driven = drive(closed_plan(3, None, warmup_requests=2), transport, act)
    marks = driven.stage.marks()
    assert (marks["measure_ns"], marks["stop_ns"]) == (None, driven.start_ns + 100)


def test_a_warm_up_longer_than_its_units_never_ends():
    marks = drive(closed_plan(1, 3, warmup_requests=4), ByHand(10)).stage.marks()
    assert (marks["measure_ns"], marks["stop_ns"]) == (None, None)
