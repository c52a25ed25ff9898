import json
import marshal
import os

import pytest
from by_hand import HOUR_NS, ByHand, closed_plan, drive, open_plan

from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.plan import ScriptPlan
from loadgen.ring import Ring
from loadgen.worker.script import Script

HEAD = b"POST / HTTP/1.1"


@pytest.fixture
def ring():
    made = Ring(1 << 16)
    yield made
    made.close()


@pytest.fixture
def script(ring):
    made = Script(ScriptPlan(os.dup(ring.fd), ring.capacity))
    yield made
    made.close()


def unit(number, due_ns=None, session=None, turn=0, turns=1, wanted=(None, 7)):
    requests = [(*wanted, b'{"n":%d}' % number, b"")]
    for later in range(1, turns):
        ask = {"model": "m", "prompt": f"and {later}?", "output_tokens": 3, "ignore_eos": False, "system": "Be brief."}
        ask |= {"token_ids": [], "images": [], "shown": [], "messages": [], "tools": [], "extra": {}}
        if later == 1:
            requests[0] = (*wanted, requests[0][2], json.dumps(ask | {"prompt": f"say {number}"}).encode())
        requests.append((None, 7, b"", json.dumps(ask).encode()))
    return marshal.dumps((number, due_ns, session, turn, 0, tuple(requests)))


def put(ring, *records, over=True):
    for record in records:
        assert ring.put(0, record)
    if over:
        ring.end(0)


def bodies(driven):
    return [exchange.data.partition(b"\r\n\r\n")[2] for exchange in driven.transport.all]


def test_a_request_is_the_workers_own_head_before_the_prepared_body(ring, script):
    put(ring, unit(5, wanted=(12, 34)))
    driven = drive(closed_plan(1, units=1), ByHand(NS_PER_MS), script=script)
    (exchange,) = driven.transport.all
    assert exchange.data == HEAD + b'\r\nContent-Length: 7\r\n\r\n{"n":5}'
    assert (exchange.request_id, exchange.wanted_input_tokens, exchange.wanted_output_tokens) == (5, 12, 34)
    assert (exchange.session_id, exchange.turn) == (None, None)


def test_a_closed_loop_takes_the_next_unit_when_a_slot_is_free_and_ends_with_the_last(ring, script):
    put(ring, *map(unit, range(7)))
    driven = drive(closed_plan(3), ByHand(NS_PER_MS), script=script)
    assert [ids for _, ids in driven.sent()] == list(range(7))
    assert [sent_ns for sent_ns, _ in driven.sent()] == [0] * 3 + [NS_PER_MS] * 3 + [2 * NS_PER_MS]
    marks = driven.stage.marks()
    assert marks["stop_ns"] == marks["idle_ns"] == driven.start_ns + 2 * NS_PER_MS, (
        "the planned load was there until then"
    )
    assert script.waited == 0


def test_a_stage_of_so_many_units_leaves_the_rest_alone(ring, script):
    put(ring, *map(unit, range(9)))
    driven = drive(closed_plan(2, units=4), ByHand(NS_PER_MS), script=script)
    assert [ids for _, ids in driven.sent()] == [0, 1, 2, 3]


def test_a_slot_without_a_unit_looks_again_and_is_counted(ring, script):
    put(ring, unit(0), over=False)

    def act(driven):
        driven.run_until(5 * NS_PER_MS)
        assert len(driven.transport.all) == 1
        put(ring, unit(1), unit(2))

    driven = drive(closed_plan(2), ByHand(NS_PER_MS), act, script=script)
    assert [ids for _, ids in driven.sent()] == [0, 1, 2]
    assert 5 * NS_PER_MS < driven.sent()[1][0] < 6 * NS_PER_MS
    assert script.waited >= 2


def test_an_open_loop_sends_the_next_unit_at_the_next_time(ring, script):
    put(ring, *map(unit, range(3)))
    due = [0, 2 * NS_PER_MS, 9 * NS_PER_MS]
    driven = drive(open_plan(due), ByHand(NS_PER_MS, slots=3), script=script)
    assert driven.sent() == list(zip(due, range(3), strict=True))
    assert bodies(driven) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert script.waited == 0


def test_a_unit_that_comes_late_is_sent_late_keeps_its_time_and_is_counted(ring, script):
    put(ring, unit(0), over=False)

    def act(driven):
        driven.run_until(20 * NS_PER_MS)
        put(ring, unit(1), unit(2))

    due = [0, 5 * NS_PER_MS, 40 * NS_PER_MS]
    driven = drive(open_plan(due), ByHand(NS_PER_MS, slots=3), act, script=script)
    sent = driven.sent()
    assert sent[0] == (0, 0)
    assert 20 * NS_PER_MS <= sent[1][0] < 21 * NS_PER_MS
    assert sent[2] == (40 * NS_PER_MS, 2)
    assert [row.intended_ns - driven.start_ns for row in driven.rows] == due
    assert script.waited == 1


def test_a_data_set_that_ends_before_the_schedule_ends_the_stage(ring, script):
    put(ring, unit(0))
    driven = drive(open_plan([0, NS_PER_S, HOUR_NS]), ByHand(NS_PER_MS, slots=2), script=script)
    assert driven.sent() == [(0, 0)]
    assert driven.stage.marks()["stop_ns"] < driven.start_ns + NS_PER_S


def test_a_trace_brings_its_own_times(ring, script):
    put(ring, unit(0, 3 * NS_PER_MS), unit(4, 3 * NS_PER_MS), unit(8, NS_PER_S))
    plan = open_plan([NS_PER_S], recorded=True)
    driven = drive(plan, ByHand(NS_PER_MS, slots=2), script=script)
    assert driven.sent() == [(3 * NS_PER_MS, 0), (3 * NS_PER_MS, 4), (NS_PER_S, 8)]
    assert driven.offered == 3


def test_the_units_of_a_session_wait_for_each_other_and_others_do_not(ring, script):
    times = [unit(0, 0, 77, 0), unit(1, NS_PER_MS, 77, 1), unit(2, NS_PER_MS, 88, 0), unit(3, 90 * NS_PER_MS, 77, 2)]
    put(ring, *times)
    driven = drive(open_plan([NS_PER_S], recorded=True), ByHand(10 * NS_PER_MS, slots=4), script=script)
    assert driven.sent() == [(0, 0), (NS_PER_MS, 2), (10 * NS_PER_MS, 1), (90 * NS_PER_MS, 3)]
    by_id = {row.request_id: row for row in driven.rows}
    assert by_id[1].intended_ns == driven.start_ns + 10 * NS_PER_MS, "no fault of the client"
    assert [(row.session_id, row.turn) for _, row in sorted(by_id.items())] == [(77, 0), (77, 1), (88, 0), (77, 2)]


@pytest.mark.parametrize("error", ["timeout-total", "http-500", None])
def test_a_session_goes_on_whatever_became_of_the_turn_before(ring, script, error):
    put(ring, unit(0, 0, 7, 0), unit(1, NS_PER_MS, 7, 1), unit(2, 2 * NS_PER_MS, 7, 2))
    driven = drive(open_plan([NS_PER_S], recorded=True), ByHand(10 * NS_PER_MS, error, slots=4), script=script)
    assert [ids for _, ids in driven.sent()] == [0, 1, 2]


def test_turns_that_wait_for_a_dropped_one_come_and_nobody_is_left_out(ring, script):
    put(ring, unit(0, 0), unit(1, 1, 7, 0), unit(2, 2, 7, 1))
    plan = open_plan([NS_PER_S], recorded=True, max_in_flight=1, late_drop_ns=5 * NS_PER_MS)
    driven = drive(plan, ByHand(8 * NS_PER_MS, slots=1), script=script)
    assert {row.request_id for row in driven.rows} == {0, 1, 2}
    assert [row.error for row in sorted(driven.rows, key=lambda row: row.request_id)][1] == "dropped"
    assert len(driven.rows) == 3


def test_what_waits_for_a_place_is_bounded_and_keeps_its_times(ring, script, monkeypatch):
    monkeypatch.setattr("loadgen.worker.open_loop.MOST_WAITING_BYTES", 20)
    put(ring, *(unit(number, number) for number in range(10)))
    plan = open_plan([NS_PER_S], recorded=True, max_in_flight=1)
    most = []

    def act(driven):
        for step in range(1, 100):
            driven.run_until(step * NS_PER_MS // 4)
            most.append(len(driven.stage._load._waiting))

    driven = drive(plan, ByHand(NS_PER_MS, slots=1), act, script=script)
    assert [ids for _, ids in driven.sent()] == list(range(10))
    assert max(most) <= 4
    assert [row.intended_ns - driven.start_ns for row in driven.rows] == list(range(10))


def test_later_turns_quote_what_was_really_answered(ring, script):
    put(ring, unit(0, turns=3))
    driven = drive(closed_plan(1, units=1), ByHand(NS_PER_MS), script=script, scripted_sessions=True, most_turns=128)
    first, second, third = driven.transport.all
    assert first.data.endswith(b'{"n":0}')
    assert [exchange.request_id for exchange in (first, second, third)] == [0, 1, 2]
    assert [exchange.turn for exchange in (first, second, third)] == [0, 1, 2]
    messages = json.loads(third.data.partition(b"\r\n\r\n")[2])["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "Be brief."),
        ("user", "say 0"),
        ("assistant", "answer 0"),
        ("user", "and 1?"),
        ("assistant", "answer 1"),
        ("user", "and 2?"),
    ]


def test_a_stopped_stage_drops_what_it_has_not_sent_and_takes_no_more(ring, script):
    put(ring, unit(0, 0, 5, 0), unit(1, 1, 5, 1), unit(2, NS_PER_S))

    def act(driven):
        driven.run_until(NS_PER_MS)
        driven.stage.stop()

    driven = drive(open_plan([2 * NS_PER_S], recorded=True), ByHand(5 * NS_PER_MS, slots=2), act, script=script)
    assert {row.request_id: row.error for row in driven.rows} == {0: None, 1: "dropped"}
