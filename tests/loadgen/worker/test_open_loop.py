"""The open loop over a transport that is a list: every arrival is sent once, at its time or late, or told as dropped."""

import itertools

import pytest
from by_hand import ByHand, Driven, drive, open_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.worker import pools
from loadgen.worker.pacer import AT_ONCE_NS
from loadgen.worker.requests import STAGE_SHIFT

many = settings(max_examples=80, deadline=None)

due_times = st.lists(st.integers(0, 3_000), max_size=40).map(sorted)


def intended(driven: Driven) -> list[int]:
    """ns since the start, in the order in which they were sent."""
    return [exchange.intended_ns - driven.start_ns for exchange in driven.transport.all]


def rows(driven: Driven, error: str | None) -> list[int]:
    return sorted(exchange.request_id for exchange in driven.rows if exchange.error == error)


# arrivals


@many
@given(due_ns=due_times, workers=st.integers(1, 4), stage=st.sampled_from([0, 3]), service_ns=st.integers(0, 500))
def test_every_arrival_is_sent_once_at_its_time_and_in_order(due_ns, workers, stage, service_ns):
    ids = []
    for worker in range(workers):
        mine = due_ns[worker::workers]
        driven = drive(open_plan(mine, stage=stage), ByHand(service_ns), worker=worker, workers=workers)
        assert intended(driven) == mine
        numbers = [worker + i * workers for i in range(len(mine))]
        assert driven.sent() == [(ns, stage << STAGE_SHIFT | number) for ns, number in zip(mine, numbers, strict=True)]
        assert driven.offered == len(mine)
        ids += numbers
    assert sorted(ids) == list(range(len(due_ns)))


def test_a_worker_that_is_late_sends_late_and_moves_nothing():
    due_ns = [i * NS_PER_MS for i in range(10)]

    def act(driven: Driven) -> None:
        driven.run_until(2 * NS_PER_MS)
        driven.clock.now_ns += 5 * NS_PER_MS  # something else had the processor
        driven.pacer.look()

    driven = drive(open_plan(due_ns), ByHand(1), act)
    assert intended(driven) == due_ns
    assert [ns // NS_PER_MS for ns, _ in driven.sent()] == [0, 1, 2, 7, 7, 7, 7, 7, 8, 9]


def test_more_arrivals_than_can_be_sent_at_once_let_others_have_their_turn():
    transport = ByHand()
    sends = []

    def costly(exchange) -> int:
        transport.clock.now_ns += NS_PER_MS // 4  # a send takes its time
        return 1

    transport.service_ns = costly

    def act(driven: Driven) -> None:
        while len(transport.all) < 20:
            before = len(transport.all)
            driven.step()
            if len(transport.all) > before:
                sends.append(len(transport.all) - before)

    drive(open_plan([10] * 20), transport, act)
    assert max(sends) <= AT_ONCE_NS // (NS_PER_MS // 4) + 1
    assert sum(sends) == 20


# places


def test_what_finds_no_place_waits_and_its_wait_counts():
    driven = drive(open_plan([0, 10, 20, 30], max_in_flight=1), ByHand(100))
    assert driven.sent() == [(0, 0), (100, 1), (200, 2), (300, 3)]
    assert intended(driven) == [0, 10, 20, 30]
    assert driven.transport.most == 1


def test_an_arrival_does_not_overtake_those_that_wait():
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.run_until(20)
        assert len(transport.all) == 1
        transport.end(transport.flying[0])
        driven.run_until(30)
        assert [exchange.request_id for exchange in transport.all] == [0, 1]
        driven.stage.abort()

    drive(open_plan([0, 10, 20, 30], max_in_flight=1), transport, act)


@many
@given(due_ns=due_times, max_in_flight=st.integers(1, 5), seed=st.integers(0, 1 << 32))
def test_waiting_keeps_order_and_limit_and_loses_nothing(due_ns, max_in_flight, seed):
    transport = ByHand(lambda exchange: (exchange.request_id + 1) * (seed | 1) % 700)
    driven = drive(open_plan(due_ns, max_in_flight=max_in_flight), transport)
    assert transport.most <= max_in_flight
    assert intended(driven) == due_ns
    assert [number for _, number in driven.sent()] == list(range(len(due_ns)))
    for exchange in transport.all:
        assert exchange.sent_ns >= exchange.intended_ns
        if exchange.sent_ns > exchange.intended_ns:  # then it had to: until its send every place was taken
            begun = [other for other in transport.all if other.request_id < exchange.request_id]
            assert sum(other.ended_ns >= exchange.sent_ns for other in begun) >= max_in_flight


# dropping


def test_what_has_waited_too_long_is_dropped_and_told():
    driven = drive(open_plan([0, 10, 20, 95], max_in_flight=1, late_drop_ns=50), ByHand(100))
    assert driven.sent() == [(0, 0), (100, 3)]
    dropped = [exchange for exchange in driven.rows if exchange.error == "dropped"]
    assert [(exchange.request_id, exchange.intended_ns - driven.start_ns) for exchange in dropped] == [(1, 10), (2, 20)]
    for exchange in dropped:
        assert exchange.sent_ns == exchange.ended_ns == exchange.intended_ns + 50
        assert (exchange.status, len(exchange.kinds), exchange.event_ns, exchange.request_bytes) == (0, 0, [], 0)
    assert driven.offered == 4


def test_an_arrival_that_the_worker_came_to_too_late_is_dropped_too():
    def act(driven: Driven) -> None:
        driven.clock.now_ns += 1000

    driven = drive(open_plan([900, 949, 950, 951], late_drop_ns=50), ByHand(1), act)
    assert rows(driven, "dropped") == [0, 1]
    assert driven.sent() == [(1000, 2), (1000, 3)]


def test_a_place_that_becomes_free_late_is_not_for_those_who_have_waited_too_long():
    """The drop is due, but the worker comes to the response's end first."""
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.run_until(30)
        driven.clock.now_ns = driven.start_ns + 61
        transport.end(transport.flying[0])
        transport.end(transport.flying[0])

    driven = drive(open_plan([0, 10, 30], max_in_flight=1, late_drop_ns=50), transport, act)
    assert rows(driven, "dropped") == [1]
    assert driven.sent() == [(0, 0), (61, 2)]


def test_a_dropped_session_is_its_first_turn():
    driven = drive(open_plan([0, 10], max_in_flight=1, late_drop_ns=5, stage=2), ByHand(100), turns="3")
    dropped = next(exchange for exchange in driven.rows if exchange.error == "dropped")
    first = 2 << STAGE_SHIFT
    assert (dropped.request_id, dropped.session_id, dropped.turn) == (first + 3, first + 1, 0)


@many
@given(
    due_ns=due_times,
    max_in_flight=st.integers(1, 4),
    late_drop_ns=st.one_of(st.none(), st.integers(0, 400)),
    seed=st.integers(0, 1 << 32),
    drain_ns=st.integers(0, 2_000),
    stop_ns=st.one_of(st.none(), st.integers(0, 4_000)),
    how=st.sampled_from(["stop", "abort"]),
    busy_ns=st.sampled_from([0, 0, 300]),
)
def test_what_was_offered_was_sent_or_dropped(
    due_ns, max_in_flight, late_drop_ns, seed, drain_ns, stop_ns, how, busy_ns
):
    transport = ByHand(lambda exchange: (exchange.request_id + 1) * (seed | 1) % 900)

    def act(driven: Driven) -> None:
        if stop_ns is not None:
            driven.run_until(stop_ns)
            driven.clock.now_ns += busy_ns
            getattr(driven.stage, how)()

    plan = open_plan(due_ns, max_in_flight=max_in_flight, late_drop_ns=late_drop_ns, drain_ns=drain_ns)
    driven = drive(plan, transport, act)
    begun = [number for _, number in driven.sent()]
    dropped = rows(driven, "dropped")
    assert sorted(begun + dropped) == list(range(driven.offered))
    assert begun == sorted(begun)
    assert sorted(exchange.request_id for exchange in driven.rows) == list(range(driven.offered))
    if stop_ns is None:
        assert driven.offered == len(due_ns)
    for exchange in transport.all:
        assert exchange.sent_ns >= exchange.intended_ns
        if late_drop_ns is not None:
            assert exchange.sent_ns - exchange.intended_ns <= late_drop_ns
    marks = driven.stage.marks()
    if marks["stop_ns"] is not None:
        assert marks["done_ns"] <= marks["stop_ns"] + drain_ns + busy_ns


# the end


def test_the_end_of_the_window_sends_what_still_waits():
    driven = drive(open_plan([0, 10, 20], max_in_flight=1), ByHand(100))
    assert driven.stage.marks()["stop_ns"] == driven.start_ns + 21
    assert [ns for ns, _ in driven.sent()] == [0, 100, 200]
    assert driven.stage.marks()["done_ns"] == driven.start_ns + 300


def test_the_end_of_the_drain_drops_what_waits_and_gives_up_the_rest():
    driven = drive(open_plan([0, 10, 20, 30], max_in_flight=2, drain_ns=100), ByHand())
    assert rows(driven, "unfinished") == [0, 1]
    assert rows(driven, "dropped") == [2, 3]
    assert driven.stage.marks()["done_ns"] == driven.start_ns + 31 + 100
    assert {exchange.words for exchange in driven.transport.all} == {"still running at the end of the drain"}


def test_a_stop_drops_what_waits_offers_no_more_and_lets_the_rest_end():
    transport = ByHand(100)

    def act(driven: Driven) -> None:
        driven.run_until(25)
        driven.stage.stop()
        assert rows(driven, "dropped") == [1, 2]
        assert not driven.stage.done.is_set()

    driven = drive(open_plan([0, 10, 20, 30, 40], max_in_flight=1), transport, act)
    assert driven.offered == 3
    assert rows(driven, None) == [0]
    marks = driven.stage.marks()
    assert (marks["stop_ns"], marks["done_ns"]) == (driven.start_ns + 25, driven.start_ns + 100)


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_stop_in_the_drain_drops_what_still_waits(how):
    """The window has ended by itself, and its last arrivals wait for a place: nobody wants them sent any more."""
    transport = ByHand(100)

    def act(driven: Driven) -> None:
        driven.run_until(50)
        assert driven.stage.marks()["stop_ns"] == driven.start_ns + 21
        getattr(driven.stage, how)()
        assert rows(driven, "dropped") == [1, 2]

    driven = drive(open_plan([0, 10, 20], max_in_flight=1), transport, act)
    assert len(transport.all) == 1
    marks = driven.stage.marks()
    assert marks["stop_ns"] == driven.start_ns + 21
    assert marks["done_ns"] == driven.start_ns + (100 if how == "stop" else 50)


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_stage_that_is_stopped_before_its_start_sends_nothing(how):
    driven = drive(open_plan([0, 5]), ByHand(1), before_start=lambda stage: getattr(stage, how)())
    assert (driven.sent(), driven.offered, driven.rows) == ([], 0, [])


def test_a_stage_without_arrivals_is_done_at_once():
    driven = drive(open_plan([], duration_ns=100), ByHand(1))
    assert driven.stage.marks()["done_ns"] == driven.start_ns


# connections


def test_an_arrival_takes_an_open_connection_where_there_is_one():
    driven = drive(open_plan([0, 0, 0, 10]), ByHand(5, slots=3))
    assert driven.transport.cold == []
    assert driven.transport.slots == 3
    assert driven.transport.all[3].slot == driven.transport.all[2].slot, "the one that was used last goes first"


def test_spare_connections_are_opened_ahead():
    transport = ByHand(10 * NS_PER_S, slots=2, connect_ns=5)
    driven = drive(open_plan([i * 10 for i in range(20)], spare=2), transport)
    assert transport.cold == [], "nobody had to wait for a connect"
    assert transport.slots == 22
    assert transport.prepared[0] == (driven.start_ns, 2)
    assert len(transport.prepared) == 20


def test_no_more_is_prepared_than_there_are_places():
    transport = ByHand(10 * NS_PER_S, slots=1, connect_ns=5)
    drive(open_plan([0, 10, 20], spare=8, max_in_flight=2), transport)
    assert transport.slots == 2
    assert len(transport.prepared) == 1


def test_a_place_that_is_being_connected_is_for_the_arrival_that_waits():
    transport = ByHand(1000, slots=1, connect_ns=100)
    driven = drive(open_plan([0, 10], spare=1, max_in_flight=2), transport)
    assert driven.sent() == [(0, 0), (100, 1)]
    assert transport.cold == []


def test_a_server_that_takes_no_connection_is_not_hammered():
    transport = ByHand(1, slots=1, connect_ns=5)
    transport.refuses = True
    due_ns = [i * NS_PER_MS for i in range(1000)]
    driven = drive(open_plan(due_ns, spare=4), transport)
    times = sorted({ns for ns, _ in transport.prepared})
    retry_ns = pools.PREPARE_RETRY_NS
    assert all(later - sooner >= retry_ns for sooner, later in itertools.pairwise(times))
    assert len(times) == 1000 * NS_PER_MS // retry_ns
    assert len(transport.prepared) <= 4 * len(times)
    assert intended(driven) == due_ns, "and the arrivals are sent all the same"


def test_slots_closed_by_errors_are_used_again():
    transport = ByHand(5, "truncated", slots=2)
    drive(open_plan([i * 10 for i in range(50)]), transport)
    assert transport.slots == 2
    assert len(transport.cold) == 48  # all but those that were open


def test_a_connection_that_the_server_has_closed_is_not_taken_while_another_is_open():
    transport = ByHand(1, slots=3)

    def act(driven: Driven) -> None:
        driven.run_until(5)
        transport.opened -= {0, 1}

    drive(open_plan([10, 10, 10]), transport, act)
    assert transport.all[0].slot == 2
    assert sorted(exchange.slot for exchange in transport.cold) == [0, 1]


def test_a_stage_uses_the_slots_of_the_one_before_but_not_more_than_its_places():
    transport = ByHand(100, slots=10)
    drive(open_plan([0] * 6, max_in_flight=3), transport)
    assert {exchange.slot for exchange in transport.all} == {0, 1, 2}
