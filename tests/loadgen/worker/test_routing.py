from collections import Counter

import pytest
from by_hand import HOUR_NS, ByHand, closed_plan, drive, open_plan, pool

from loadgen.clock import NS_PER_MS
from loadgen.dealing import deal
from loadgen.plan import Endpoint, Route, Target
from loadgen.wording import Wording
from loadgen.worker.routing import KNOWN_SESSIONS, Router, shares


def routed(*endpoints_of: tuple[int, ...], weights: tuple[float, ...] = (), **changes):
    """What a WorkerPlan has of targets at these endpoints, each an origin of its own."""
    routes = [
        Route(target, endpoint, endpoint, b"POST /%d-%d HTTP/1.1" % (target, endpoint))
        for target, endpoints in enumerate(endpoints_of)
        for endpoint in endpoints
    ]
    targets = tuple(
        Target(
            f"t{number}", Wording("chat"), pool(), tuple(p for p, route in enumerate(routes) if route.target == number)
        )
        for number in range(len(endpoints_of))
    )
    count = max(route.endpoint for route in routes) + 1
    return {
        "targets": targets,
        "routes": tuple(routes),
        "origins": tuple(Endpoint("127.0.0.1", 9 + number, False, "") for number in range(count)),
        "deal": deal(5, weights or [1.0] * len(targets)),
    } | changes


def router(plan, balance="round-robin", worker=0) -> Router:
    return Router(plan["targets"], plan["routes"], plan["deal"], balance, worker)


def test_urls_take_turns_and_workers_begin_at_different_ones():
    plan = routed((0, 1, 2))
    for worker in range(4):
        made = router(plan, worker=worker)
        assert [made.route(0).endpoint for _ in range(6)] == [(worker + turn) % 3 for turn in range(6)]


def test_the_targets_take_turns_each_for_itself():
    made = router(routed((0, 1), (2, 3)))
    assert [made.route(target).endpoint for target in (0, 1, 1, 0, 1)] == [0, 2, 3, 1, 2]


def test_the_one_with_the_fewest_requests_in_flight_is_next():
    made = router(routed((0, 1, 2)), "least-in-flight")
    made.in_flight[:] = [2, 1, 3]
    assert made.route(0).endpoint == 1
    made.in_flight[:] = [1, 1, 1]
    assert {made.route(0).endpoint for _ in range(3)} == {0, 1, 2}, "among equals they take turns"


def test_the_requests_of_a_session_go_where_the_first_went_and_not_for_ever():
    made = router(routed((0, 1)))
    first = made.route(0, session=77)
    assert {made.route(0, session=77) for _ in range(9)} == {first}
    for session in range(KNOWN_SESSIONS):
        made.route(0, session=1000 + session)
    assert len(made._known) == KNOWN_SESSIONS


def test_expected_shares_go_by_weight_and_by_the_number_of_urls():
    plan = routed((0,), (1, 2), weights=(3.0, 1.0))
    assert shares(plan["targets"], plan["routes"], plan["deal"], 3) == pytest.approx([0.75, 0.125, 0.125])


def test_a_closed_loop_sends_each_request_to_its_target_with_the_head_of_its_url():
    plan = routed((0, 1), (2,), weights=(3.0, 1.0))
    driven = drive(closed_plan(4, units=400), ByHand(NS_PER_MS), of_worker=plan)
    for exchange in driven.transport.all:
        assert exchange.target == plan["deal"].target(exchange.request_id)
        assert exchange.data.startswith(b"POST /%d-%d " % (exchange.target, exchange.endpoint))
        assert driven.transport.origins[exchange.slot] == exchange.endpoint
    counts = Counter(exchange.endpoint for exchange in driven.rows)
    assert abs(counts[0] - counts[1]) <= 1
    assert sum(counts.values()) == 400


def test_any_number_of_workers_deals_the_same():
    plan = routed((0,), (1,), (2,), weights=(1.0, 2.0, 3.0))
    alone = drive(closed_plan(4, units=300), ByHand(NS_PER_MS), of_worker=plan)
    expected = {exchange.request_id: exchange.target for exchange in alone.rows}
    found = {}
    for worker in range(2):
        shared = closed_plan(2, units=150, all_slots=4)
        driven = drive(shared, ByHand(NS_PER_MS), worker=worker, workers=2, of_worker=plan)
        found |= {exchange.request_id: exchange.target for exchange in driven.rows}
    assert found == expected


def test_the_faster_of_two_gets_more_where_they_are_balanced_by_what_is_in_flight():
    def service_ns(exchange):
        return (1 if exchange.endpoint == 0 else 4) * NS_PER_MS

    plan = routed((0, 1), balance="least-in-flight")
    driven = drive(closed_plan(8, units=1000), ByHand(service_ns), of_worker=plan)
    counts = Counter(exchange.endpoint for exchange in driven.rows)
    assert 3.5 < counts[0] / counts[1] < 4.5, "as its speed"
    evenly = drive(closed_plan(8, units=1000), ByHand(service_ns), of_worker=routed((0, 1)))
    assert Counter(exchange.endpoint for exchange in evenly.rows) == {0: 500, 1: 500}
    assert driven.router.in_flight == [0, 0], "what was counted up was counted down"


def test_all_turns_of_a_session_go_to_one_url_over_one_connection():
    driven = drive(closed_plan(3, units=60), ByHand(NS_PER_MS), of_worker=routed((0, 1), (2,)), turns="3")
    by_session = {}
    for exchange in driven.rows:
        by_session.setdefault(exchange.session_id, set()).add((exchange.target, exchange.endpoint, exchange.slot))
    assert len(by_session) == 60
    assert all(len(places) == 1 for places in by_session.values())


def test_a_request_that_is_tried_again_goes_to_the_same_url():
    driven = drive(
        closed_plan(2, units=20),
        ByHand(NS_PER_MS, error=lambda exchange: None if exchange.retries else "http-503"),
        of_worker=routed((0, 1)),
        retries=1,
    )
    first = {exchange.request_id: exchange.endpoint for exchange in driven.transport.all if not exchange.retries}
    again = {exchange.request_id: exchange.endpoint for exchange in driven.transport.all if exchange.retries}
    assert first == again
    assert driven.router.in_flight == [0, 0]


def test_a_dropped_arrival_has_a_target_and_went_nowhere():
    plan = routed((0,), (1,))
    driven = drive(
        open_plan([0] * 40, max_in_flight=1, late_drop_ns=0, duration_ns=HOUR_NS), ByHand(NS_PER_MS), of_worker=plan
    )
    dropped = [exchange for exchange in driven.rows if exchange.error == "dropped"]
    assert len(dropped) == 39
    assert {exchange.endpoint for exchange in dropped} == {None}
    assert [exchange.target for exchange in dropped] == [plan["deal"].target(e.request_id) for e in dropped]
    assert {exchange.target for exchange in dropped} == {0, 1}
