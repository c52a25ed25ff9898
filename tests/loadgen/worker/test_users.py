"""What users do: turns of a session, another try, leaving. Over a transport that is a list."""

import datetime
import email.utils
import itertools
import json
import string
import time
from array import array

import pytest
from by_hand import HOUR_NS, ByHand, Driven, closed_plan, drive, open_plan, pool
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.distribution import CANCEL_WHEN, CANCEL_WHO, THINK, TURNS, parse_distribution, uniform
from loadgen.worker import users
from loadgen.worker.exchange import Exchange, Segment
from loadgen.worker.requests import STAGE_SHIFT
from loadgen.worker.stamps import NO_STAMP
from loadgen.worker.users import retry_after_ns

many = settings(max_examples=40, deadline=None)

NOW_S = 1_700_000_000.0


def messages(exchange: Exchange) -> list[str]:
    """What a chat request says, in order."""
    return [message["content"] for message in json.loads(exchange.data.partition(b"\r\n\r\n")[2])["messages"]]


def of_session(driven: Driven, number: int) -> list[Exchange]:
    return [exchange for exchange in driven.transport.all if exchange.session_id == number]


# sessions


@many
@given(slots=st.integers(1, 3), units=st.integers(1, 6), stage=st.sampled_from([0, 2]), seed=st.integers(0, 99))
def test_the_turns_of_a_session_come_in_order_on_one_slot(slots, units, stage, seed):
    transport = ByHand(10)
    driven = drive(closed_plan(slots, units, stage=stage), transport, turns="uniform:1..4", seed=seed)
    first = stage << STAGE_SHIFT
    turns = parse_distribution("uniform:1..4", "count")
    for unit in range(units):
        session = of_session(driven, first + unit)
        assert len(session) == turns.draw(uniform(seed, TURNS, first + unit))
        assert [exchange.turn for exchange in session] == list(range(len(session)))
        assert [exchange.request_id for exchange in session] == [
            first + unit * 4 + turn for turn in range(len(session))
        ]
        assert len({exchange.slot for exchange in session}) == 1
        assert all(after.sent_ns >= before.ended_ns for before, after in itertools.pairwise(session))
    assert len(driven.rows) == len(transport.all)
    assert transport.most <= slots


def test_a_session_has_no_more_turns_than_there_are_ids_for():
    driven = drive(closed_plan(1, 2), ByHand(1), turns="9", most_turns=2)
    assert [exchange.request_id for exchange in driven.transport.all] == [0, 1, 2, 3]


def test_single_requests_are_no_sessions():
    driven = drive(closed_plan(1, 2), ByHand(1))
    assert {(exchange.session_id, exchange.turn, exchange.texts) for exchange in driven.rows} == {(None, None, None)}


def test_a_turn_quotes_what_was_said_and_really_answered():
    driven = drive(closed_plan(1, 1), ByHand(1), turns="3")
    first, second, third = driven.transport.all
    said = [driven.makers[0].prompt(number) for number in range(3)]
    assert first.data == driven.makers[0].request(b"POST / HTTP/1.1", 0)
    assert messages(second) == ["Be brief.", said[0], "answer 0", said[1]]
    assert messages(third) == ["Be brief.", said[0], "answer 0", said[1], "answer 1", said[2]]
    assert third.texts is None, "nobody quotes the last one"


def test_a_turn_may_quote_what_the_workload_has_instead():
    answers = ("I see.", "Well.")
    driven = drive(closed_plan(1, 1), ByHand(1), turns="3", real_history=False, pool=pool(answers=answers))
    said = [driven.makers[0].prompt(number) for number in range(3)]
    assert messages(driven.transport.all[2]) == ["Be brief.", said[0], "I see.", said[1], "Well.", said[2]]
    assert {exchange.texts for exchange in driven.rows} == {None}


def test_a_turn_is_due_a_thought_after_the_last_byte_of_the_answer():
    think = parse_distribution("exp:1s", "duration")
    driven = drive(open_plan([0, 7], duration_ns=HOUR_NS), ByHand(100), turns="3", think="exp:1s", seed=5)
    for number in (0, 1):
        session = of_session(driven, number)
        assert len(session) == 3
        assert session[0].intended_ns == driven.start_ns + 7 * number
        for before, after in itertools.pairwise(session):
            thought_ns = think.draw(uniform(5, THINK, before.request_id))
            assert after.intended_ns == after.sent_ns == before.last_byte_ns + thought_ns


def test_the_time_that_the_client_needs_for_the_history_is_lateness():
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.holds_decoding = True
        driven.run_until(100)
        transport.end(transport.flying[0], last_byte_ns=driven.start_ns + 90)
        driven.run_until(500)
        assert len(transport.all) == 1
        driven.decode()
        driven.run_until(501)
        assert len(transport.all) == 2
        transport.service_ns = 1
        transport.end(transport.flying[0])

    driven = drive(open_plan([0], duration_ns=NS_PER_S), transport, act, turns="2", think="50ns")
    second = transport.all[1]
    assert second.intended_ns == driven.start_ns + 140
    assert second.sent_ns >= driven.start_ns + 500


def test_without_a_schedule_a_turn_has_no_due_time():
    driven = drive(closed_plan(1, 1), ByHand(1), turns="2", think="1s")
    assert {exchange.intended_ns for exchange in driven.rows} == {None}
    assert driven.transport.all[1].sent_ns - driven.transport.all[0].ended_ns == NS_PER_S


def test_users_do_not_think_between_sessions():
    driven = drive(closed_plan(1, 3), ByHand(10), turns="1", think="1h")
    assert [ns for ns, _ in driven.sent()] == [0, 10, 20]


@pytest.mark.parametrize("error", ["http-500", "truncated", "timeout-total"])
def test_a_failed_turn_ends_the_session_and_the_next_begins(error):
    transport = ByHand(1, lambda exchange: error if exchange.turn == 1 else None)
    driven = drive(closed_plan(1, 2), transport, turns="3")
    assert [(exchange.session_id, exchange.turn) for exchange in transport.all] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [exchange.error for exchange in driven.rows] == [None, error] * 2


def test_a_session_keeps_its_slot_while_its_user_thinks():
    driven = drive(open_plan([0, 10], max_in_flight=1, duration_ns=HOUR_NS), ByHand(100), turns="2", think="1s")
    assert [exchange.session_id for exchange in driven.transport.all] == [0, 0, 1, 1]
    assert driven.transport.all[2].intended_ns == driven.start_ns + 10


@pytest.mark.parametrize("plan", [closed_plan(1, None, duration_ns=NS_PER_MS), open_plan([0], duration_ns=NS_PER_MS)])
def test_the_end_of_the_window_ends_sessions_where_they_are(plan):
    driven = drive(plan, ByHand(1000), turns="5", think="1h")
    assert [exchange.turn for exchange in driven.rows] == [0]
    assert driven.stage.marks()["done_ns"] == driven.start_ns + NS_PER_MS


def test_a_turn_in_flight_at_the_end_of_the_window_is_the_last():
    driven = drive(open_plan([0], duration_ns=50), ByHand(100), turns="5")
    assert [(exchange.turn, exchange.error) for exchange in driven.rows] == [(0, None)]


def test_an_abort_in_mid_session_gives_up_the_turn_and_the_session():
    transport = ByHand(None)

    def act(driven: Driven) -> None:
        transport.end(transport.flying[0])
        driven.run_until(10)
        driven.stage.abort()
        assert not driven.stage.done.is_set(), "what was given up has to be decoded"

    driven = drive(closed_plan(1), transport, act, turns="5")
    assert [(exchange.turn, exchange.error) for exchange in driven.rows] == [(0, None), (1, "unfinished")]


# trying again


def refused(times: int, error: str = "http-429"):
    return lambda exchange: error if exchange.retries < times else None


@pytest.mark.parametrize("error", ["http-429", "http-503"])
def test_a_refused_request_is_tried_again_and_is_one_row(error):
    transport = ByHand(NS_PER_MS, refused(2, error))
    driven = drive(open_plan([5, 6], max_in_flight=1), transport, retries=3)
    assert [exchange.request_id for exchange in transport.all] == [0, 0, 0, 1, 1, 1]
    assert [(e.request_id, e.retries, e.error, e.intended_ns - driven.start_ns) for e in driven.rows] == [
        (0, 2, None, 5),
        (1, 2, None, 6),
    ]
    assert (driven.stage.users.sent, driven.stage.users.retried) == (2, 4)
    assert len({exchange.data for exchange in transport.all}) == 2, "the same words again"


def test_the_last_refusal_is_the_answer():
    driven = drive(closed_plan(1, 1), ByHand(1, refused(9)), retries=2)
    assert [(exchange.retries, exchange.error) for exchange in driven.rows] == [(2, "http-429")]
    assert len(driven.transport.all) == 3


@pytest.mark.parametrize("error", ["http-500", "http-404", "truncated", "timeout-first-byte"])
def test_other_failures_are_not_tried_again(error):
    driven = drive(closed_plan(1, 1), ByHand(1, error), retries=5)
    assert [(exchange.retries, exchange.error) for exchange in driven.rows] == [(0, error)]


def test_nothing_is_tried_again_unless_asked_for():
    driven = drive(closed_plan(1, 2), ByHand(1, "http-429"))
    assert [exchange.retries for exchange in driven.rows] == [0, 0]


def refuse(transport: ByHand, retry_after: str) -> None:
    transport.end(transport.flying[0], status=429, retry_after=retry_after)


@pytest.mark.parametrize(
    ("retry_after", "wait_ns"), [("7", 7 * NS_PER_S), ("0", 0), ("Tue, 14 Nov 2023 22:13:30 GMT", 10 * NS_PER_S)]
)
def test_the_server_says_when_to_come_again(retry_after, wait_ns, monkeypatch):
    monkeypatch.setattr(users.time, "time", lambda: NOW_S)
    transport = ByHand()

    def act(driven: Driven) -> None:
        refuse(transport, retry_after)
        driven.run_until(wait_ns)
        transport.end(transport.flying[0])

    driven = drive(closed_plan(1, 1), transport, act, retries=1)
    assert [ns for ns, _ in driven.sent()] == [0, wait_ns]


@pytest.mark.parametrize("body", [b'{"error":{"code":429,"retry_after":15}}', b'{"error": {"retry_after": "15"}}'])
def test_a_server_may_say_it_in_the_body(body):
    transport = ByHand()

    def act(driven: Driven) -> None:
        segment = Segment([body[:20], body[20:]], [2], bytearray(NO_STAMP), array("q", [0]))
        transport.end(transport.flying[0], status=429, segments=[segment])
        driven.run_until(15 * NS_PER_S)
        transport.end(transport.flying[0])

    driven = drive(closed_plan(1, 1), transport, act, retries=1)
    assert [ns for ns, _ in driven.sent()] == [0, 15 * NS_PER_S]


def test_where_it_does_not_say_the_wait_grows_and_is_not_the_same_for_all():
    driven = drive(closed_plan(20, 20), ByHand(0, refused(9)), retries=9)
    waits: list[list[int]] = [[] for _ in range(9)]
    for number in range(20):
        attempts = [exchange for exchange in driven.transport.all if exchange.request_id == number]
        for i, (before, after) in enumerate(itertools.pairwise(attempts)):
            waits[i].append(after.sent_ns - before.ended_ns)
    for i, of_all in enumerate(waits):
        middle_ns = users.FIRST_WAIT_NS << min(i, users.MOST_DOUBLINGS)
        assert len(set(of_all)) == 20
        assert all(middle_ns // 2 <= wait_ns <= middle_ns * 3 // 2 for wait_ns in of_all)


def test_the_slot_is_the_users_while_it_waits():
    transport = ByHand(NS_PER_MS, refused(1))
    driven = drive(open_plan([0, 1], max_in_flight=1), transport, retries=1)
    assert [exchange.request_id for exchange in transport.all] == [0, 0, 1, 1]
    assert driven.stage.users.active == 0


@pytest.mark.parametrize("decoded_first", [True, False])
@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_user_who_gives_up_while_waiting_was_refused_once(decoded_first, session, how):
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.holds_decoding = True
        refuse(transport, "60")
        if decoded_first:
            driven.decode()
            assert driven.rows == []
        driven.run_until(NS_PER_S)
        getattr(driven.stage, how)()

    driven = drive(closed_plan(1), transport, act, retries=3, turns="3" if session else None)
    assert [(exchange.error, exchange.retries) for exchange in driven.rows] == [("http-429", 0)]
    assert driven.stage.marks()["done_ns"] == driven.start_ns + NS_PER_S
    assert driven.stage.users.retried == 0


def test_a_refusal_behind_the_stop_is_not_tried_again():
    transport = ByHand()

    def act(driven: Driven) -> None:
        driven.stage.stop()
        refuse(transport, "0")

    driven = drive(closed_plan(1), transport, act, retries=3)
    assert [exchange.error for exchange in driven.rows] == ["http-429"]


def test_the_end_of_an_open_loops_window_lets_further_attempts_go_on():
    transport = ByHand(NS_PER_MS, refused(1))
    driven = drive(open_plan([0]), transport, retries=1)
    assert driven.stage.marks()["stop_ns"] == driven.start_ns + 1
    assert [(exchange.retries, exchange.error) for exchange in driven.rows] == [(1, None)]


def test_who_waits_for_a_further_attempt_as_the_window_ends_makes_it():
    driven = drive(open_plan([0], duration_ns=100 * NS_PER_MS), ByHand(NS_PER_MS, refused(1)), retries=1)
    assert driven.stage.marks()["stop_ns"] < driven.transport.all[1].sent_ns
    assert [(exchange.retries, exchange.error) for exchange in driven.rows] == [(1, None)]


def test_a_turn_that_was_tried_again_is_followed_by_the_next():
    transport = ByHand(1, lambda exchange: "http-503" if exchange.turn == 1 and not exchange.retries else None)
    driven = drive(open_plan([0], duration_ns=60 * NS_PER_S), transport, turns="3", retries=1)
    assert [(exchange.turn, exchange.retries) for exchange in driven.rows] == [(0, 0), (1, 1), (2, 0)]
    assert driven.rows[1].intended_ns == driven.rows[0].last_byte_ns, "the first due time stays"


def test_a_user_who_left_a_refusal_does_not_come_again():
    transport = ByHand()

    def act(driven: Driven) -> None:
        transport.flying[0].status = 503  # its head has come, its body has not
        driven.run_until(100)

    driven = drive(closed_plan(1, 1), transport, act, retries=3, cancel_share=1.0, cancel_after=AFTER_TIME)
    assert [(exchange.error, exchange.retries) for exchange in driven.rows] == [("cancelled", 0)]


# Retry-After


@pytest.mark.parametrize(
    ("header", "wait_ns"),
    [
        ("0", 0),
        ("120", 120 * NS_PER_S),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5 * NS_PER_S),
        ("Tuesday, 14-Nov-23 22:13:25 GMT", 5 * NS_PER_S),
        ("Tue Nov 14 22:13:25 2023", 5 * NS_PER_S),  # asctime has no zone, and means UTC
        ("Tue, 14 Nov 2023 22:13:19 GMT", 0),  # has passed
        ("999999999999999999999", users.MOST_WAIT_NS),
        ("Fri, 14 Nov 9999 22:13:25 GMT", users.MOST_WAIT_NS),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_how_long_a_retry_after_asks_to_wait(header, wait_ns, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after_ns(header, NOW_S) == wait_ns
    finally:
        monkeypatch.undo()
        time.tzset()


dates = st.datetimes(timezones=st.just(datetime.UTC)).map(email.utils.format_datetime)
like_dates = st.lists(
    st.sampled_from(["Tue,", "14", "Nov", "0", "-1", "99999", "22:13:25", "24:60:61", "GMT", "+9999"])
)


@settings(max_examples=400, deadline=None)
@given(
    header=st.text()
    | st.text(string.printable)
    | st.integers().map(str)
    | dates
    | dates.map(lambda date: date.removesuffix("+0000") + "-9999")
    | like_dates.map(" ".join),
    now_s=st.floats(0, 4e9),
)
@example("Mon, 01 Jan 0001 00:00:00 +2359", NOW_S)
@example("Mon, 01 Jan 0000 00:00:00 GMT", NOW_S)
@example("Tue, 14 Nov 99999999999999999999 22:13:25 GMT", NOW_S)
@example("0" * 5000, NOW_S)
@example("9" * 5000, NOW_S)
def test_no_retry_after_raises_or_asks_for_the_past(header, now_s):
    wait_ns = retry_after_ns(header, now_s)
    assert wait_ns is None or 0 <= wait_ns <= users.MOST_WAIT_NS


@given(wait_s=st.integers(0, 86_400))
def test_seconds_are_seconds(wait_s):
    assert retry_after_ns(str(wait_s), NOW_S) == wait_s * NS_PER_S


# leaving

AFTER_TOKENS = parse_distribution("uniform:1..50", "count")
AFTER_TIME = parse_distribution("50ns", "duration")


def test_a_user_leaves_after_a_time():
    driven = drive(closed_plan(1, 3), ByHand(100), cancel_share=1.0, cancel_after=AFTER_TIME)
    assert [(exchange.error, exchange.ended_ns - exchange.sent_ns) for exchange in driven.rows] == [
        ("cancelled", 50)
    ] * 3
    assert driven.rows[0].words == "left after 0.000 s"
    assert [ns for ns, _ in driven.sent()] == [0, 50, 100], "and the next one comes"


def test_who_is_answered_in_time_does_not_leave():
    driven = drive(closed_plan(1, 3), ByHand(40), cancel_share=1.0, cancel_after=AFTER_TIME)
    assert {exchange.error for exchange in driven.rows} == {None}
    assert driven.transport.aborted == []


def test_who_leaves_after_tokens_is_the_transports_to_see_to():
    driven = drive(closed_plan(1, 50), ByHand(1), cancel_share=1.0, cancel_after=AFTER_TOKENS, seed=3)
    for exchange in driven.transport.all:
        assert exchange.leave_tokens == AFTER_TOKENS.draw(uniform(3, CANCEL_WHEN, exchange.request_id))


@pytest.mark.parametrize("after", [AFTER_TOKENS, parse_distribution("exp:1ms", "duration")])
def test_who_leaves_and_when_does_not_depend_on_the_number_of_workers(after):
    seen = []
    for workers in (1, 3):
        leavers = {}
        for worker in range(workers):
            transport = ByHand(NS_PER_S)
            due_ns = [i * NS_PER_MS for i in range(200)][worker::workers]
            plan = open_plan(due_ns, stage=1)
            drive(plan, transport, worker=worker, workers=workers, cancel_share=0.3, cancel_after=after, seed=9)
            for exchange in transport.all:
                if exchange.leave_tokens or exchange.error == "cancelled":
                    leavers[exchange.request_id] = exchange.leave_tokens or exchange.ended_ns - exchange.sent_ns
        seen.append(leavers)
    assert seen[0] == seen[1]
    assert seen[0].keys() == {
        (1 << STAGE_SHIFT) + i for i in range(200) if uniform(9, CANCEL_WHO, (1 << STAGE_SHIFT) + i) < 0.3
    }
    assert 30 < len(seen[0]) < 90


def test_nobody_leaves_unless_asked_to():
    driven = drive(closed_plan(1, 20), ByHand(NS_PER_S), cancel_share=0.0, cancel_after=AFTER_TIME)
    assert {exchange.error for exchange in driven.rows} == {None}


def test_a_user_who_leaves_in_mid_session_has_left_the_session():
    transport = ByHand(lambda exchange: 100 if exchange.turn == 1 else 10)
    driven = drive(closed_plan(1, 1), transport, turns="3", cancel_share=1.0, cancel_after=AFTER_TIME)
    assert [(exchange.turn, exchange.error) for exchange in driven.rows] == [(0, None), (1, "cancelled")]


def test_each_attempt_has_its_own_patience():
    transport = ByHand(40, refused(1))
    driven = drive(closed_plan(1, 1), transport, retries=1, cancel_share=1.0, cancel_after=AFTER_TIME)
    assert [(exchange.error, exchange.retries) for exchange in driven.rows] == [(None, 1)]
