from dataclasses import replace

import numpy as np
import pytest
from drawn import Drawn, searched
from hypothesis import given
from hypothesis import strategies as st
from strategies import often

from analysis.bootstrap import Interval
from analysis.search import LONG_SHARES, Answer, Bounds, Point, Try, long_share, next_for_knee, next_for_slo, so_far

CLOSED = Bounds(start=1, most=8192, whole=True)

ENDPOINTS = [
    Drawn(2.56, 0, 64),
    Drawn(0.5, 0, 7),
    Drawn(0.1, 0, 33),
    Drawn(1, 0.01, 100),
    Drawn(3, 0.001, 500),
    Drawn(0.3, 0.002, 20),
]


def knee(endpoint: Drawn, seed: int) -> tuple[Answer, list[float]]:
    rng = np.random.default_rng(seed)
    return searched(next_for_knee, lambda load: endpoint.closed(load, rng), CLOSED)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_the_knee_and_the_peak_are_found_within_five_per_cent_and_the_interval_holds_them(endpoint):
    held, peaks = 0, 100 * endpoint.peak_per_s
    for seed in range(10):
        answer, tried = knee(endpoint, seed)
        assert answer.limited_by == "server"
        assert len(tried) <= 25
        held += answer.load.low <= endpoint.slots <= answer.load.high
        assert answer.output_tokens_per_s.value == pytest.approx(peaks, rel=0.02)
        assert answer.load.value == pytest.approx(endpoint.slots, rel=0.06)
    assert held >= 8


def test_one_request_at_a_time_is_a_knee_at_one():
    answer, _ = knee(Drawn(3, 0, 1), 1)
    assert answer.load.value == 1
    assert "does not grow" in answer.reasons[0]


@pytest.mark.parametrize("client_from", [2, 30, 200, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_an_endpoint_that_outlasts_the_load_generator_is_never_given_its_knee(client_from, seed):
    answer, tried = knee(Drawn(1, 0, 100_000, client_from=client_from), seed)
    assert answer.limited_by == "client"
    assert answer.reasons == ("a worker was busy 99% of the time",)
    assert answer.load.value < client_from
    assert answer.load.high == CLOSED.most
    assert len(tried) < 20


def test_the_highest_load_that_can_be_tried_is_an_end_too():
    rng = np.random.default_rng(1)
    endless = Drawn(1, 0, 100_000)
    answer, _ = searched(next_for_knee, lambda load: endless.closed(load, rng), Bounds(1, 100, True))
    assert answer.limited_by == "client"
    assert "can be tried here (100)" in answer.reasons[0]


@pytest.mark.parametrize("question", ["knee", "slo"])
def test_what_the_user_does_not_allow_is_not_held_against_the_load_generator(question):
    rng = np.random.default_rng(1)
    endless = Drawn(1, 0, 100_000)
    allowed = Bounds(1, 100, True, is_wish=True)
    if question == "knee":
        answer, _ = searched(next_for_knee, lambda load: endless.closed(load, rng), allowed)
    else:
        answer, _ = searched(next_for_slo, lambda load: point(load, meets=True), allowed)
    assert (answer.limited_by, answer.load.value) == ("bounds", 100)
    assert "--most allows (100)" in answer.reasons[0]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_in_open_loop_the_knee_is_the_rate_that_is_served_at_most(endpoint, seed):
    rng = np.random.default_rng(seed)
    bounds = Bounds(start=endpoint.peak_per_s / 50, most=1e6, whole=False)
    answer, tried = searched(next_for_knee, lambda load: endpoint.open(load, rng), bounds)
    assert answer.load.value == pytest.approx(endpoint.peak_per_s, rel=0.025)
    assert answer.output_tokens_per_s.value == pytest.approx(100 * endpoint.peak_per_s, rel=0.025)
    assert len(tried) <= 12


@often
@given(st.floats(0.05, 5), st.floats(0.0001, 0.5), st.integers(1, 5000))
def test_the_highest_load_within_an_objective_is_found_to_the_tolerance(a, b, truth):
    # Response time a + b c meets its limit up to `truth` requests in flight, and not one beyond.
    endpoint, limit_s = Drawn(a, b, 1_000_000), a + b * (truth + 0.5)
    rng = np.random.default_rng(1)
    answer, tried = searched(next_for_slo, lambda load: endpoint.closed(load, rng, limit_s), CLOSED)
    assert answer.decided
    assert truth / 1.026 <= answer.load.value <= truth
    assert answer.load.low <= truth <= answer.load.high
    assert len(tried) <= 40


def test_a_step_is_found_as_well_as_a_slope():
    def steps(load: float) -> Point:
        return point(load, meets=load <= 67, strain=0.03 if load <= 67 else 6.0)

    answer, tried = searched(next_for_slo, steps, CLOSED)
    assert (answer.load.value, answer.load.high) in {(66, 68), (67, 68)}
    assert len(tried) <= 14


def point(load: float, *, meets: bool | None, leans: bool | None = None, strain: float = 0.5, stages: int = 1) -> Point:
    per_s = Interval(load, load, load)
    return Point(
        load,
        per_s,
        per_s,
        stages=stages,
        meets=meets,
        leans=meets is not False if leans is None else leans,
        strain=strain,
    )


def test_an_objective_that_nothing_meets_is_said_to_be_missed_at_the_least_load():
    answer, _ = searched(next_for_slo, lambda load: point(load, meets=False, strain=3.0), CLOSED)
    assert answer.load.value == 0
    assert answer.reasons == ("not even the least load (1) meets the objectives",)


def test_the_load_generators_end_is_no_missed_objective():
    def limited(load: float) -> Point:
        one = point(load, meets=True)
        return one if load < 50 else Point(load, one.output_tokens_per_s, one.requests_per_s, client=("busy",))

    answer, _ = searched(next_for_slo, limited, CLOSED)
    assert (answer.limited_by, answer.load.value, answer.load.high) == ("client", 49, CLOSED.most)


def test_an_open_decision_is_extended_and_then_said_to_be_open():
    asked: list[float] = []

    def vague(load: float) -> Point:
        asked.append(load)
        return point(load, meets=None if load in (10, 11) else load < 10, leans=load <= 10, stages=1)

    answer, tried = searched(next_for_slo, vague, Bounds(1, 64, True))
    assert tried.count(10) == tried.count(11) == 6
    assert not answer.decided
    assert answer.load.value == 10
    assert answer.load.low < 10
    assert answer.load.high > 11
    assert len(answer.reasons) == 2


def test_when_time_is_up_the_best_so_far_is_told_with_what_is_not_known():
    known = [point(1, meets=True), point(4, meets=None), point(16, meets=False)]
    answer = so_far("slo", known, CLOSED)
    assert (answer.load, answer.decided) == (Interval(4, 1, 16), False)
    assert so_far("slo", [], CLOSED).load == Interval(0, 0, CLOSED.most)
    assert so_far("knee", known, CLOSED).load.value == 16


def queued(
    rate: float,
    seconds: float,
    rng: np.random.Generator,
    limit: float = 40.0,
    served: float = 44.0,
    power: float = 12.0,
) -> Point:
    """A stage in which the share that waits too long is 5 % at `limit` requests a second, and rises with its power."""
    arrived = max(int(rng.poisson(rate * seconds)), 1)
    missed = int(rng.binomial(arrived, min(0.05 * (rate / limit) ** power, 1.0)))
    saturated = rate > 1.2 * served
    per_s = Interval(*[min(rate, served)] * 3)
    return Point(
        rate, per_s, per_s, meets=False if saturated else None, leans=not saturated and missed <= 0.05 * arrived,
        strain=(missed or 0.5) / arrived / 0.05, misses=float(missed), may_miss=0.05 * arrived, is_long=seconds > 10,
        saturated=saturated,
    )  # fmt: skip


@pytest.mark.parametrize("power", [6.0, 12.0, 40.0])
def test_the_highest_rate_comes_from_long_stages_near_the_limit_and_all_of_them(power):
    off, held = [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points: list[Point] = []
        while not isinstance(step := next_for_slo(points, Bounds(1, 1e5, False)), Answer):
            points.append(queued(step.load, 20.0 if step.is_long else 3.0, rng, power=power))
            assert len(points) <= 12
        assert sum(point.is_long for point in points) == len(LONG_SHARES)
        off.append(abs(step.load.value / 40 - 1))
        held += step.load.low <= 40 <= step.load.high
    assert sorted(off)[17] < 0.05
    assert held >= 17


def test_a_rate_that_is_not_below_what_is_served_at_most_is_never_the_answer():
    rng = np.random.default_rng(3)
    points = [queued(20, 3, rng), queued(60, 3, rng)] + [queued(rate, 20, rng, limit=400) for rate in (36, 39, 41)]
    answer = so_far("slo", points, Bounds(1, 1e5, False))
    assert answer.load.high <= 0.98 * 44


def test_a_few_unlucky_requests_do_not_end_the_growth():
    unlucky = Point(5, Interval(5, 5, 5), Interval(5, 5, 5), leans=False, strain=1.5, misses=1.0, may_miss=0.5)
    step = next_for_slo([unlucky], Bounds(1, 1e5, False))
    assert (step.load, step.is_long) == (10, False)


def test_a_queue_that_grew_while_nobody_waited_long_is_looked_at_once_more():
    rng = np.random.default_rng(3)
    easy = replace(queued(20, 3, rng), saturated=True, leans=False, meets=False, strain=0.1)
    step = next_for_slo([queued(5, 3, rng), easy], Bounds(1, 1e5, False))
    assert (step.load, step.is_long) == (20, False)
    assert "once more" in step.why
    again = next_for_slo([queued(5, 3, rng), replace(easy, stages=2)], Bounds(1, 1e5, False))
    assert again.load < 20


def test_a_rate_that_nothing_meets_is_said_after_looking_below():
    def hopeless(rate: float) -> Point:
        return Point(rate, Interval(1, 1, 1), Interval(1, 1, 1), meets=False, leans=False, strain=3.0, misses=9.0)

    answer, tried = searched(next_for_slo, hopeless, Bounds(1, 1e5, False))
    assert answer.load.value == 0
    assert min(tried) < 1
    assert "not even the least rate" in answer.reasons[0]


def test_a_long_stage_that_told_of_the_client_is_made_up_for_by_another():
    rng = np.random.default_rng(4)
    points = [queued(20, 3, rng), queued(60, 3, rng)] + [queued(rate, 20, rng) for rate in (36, 38, 39)]
    points.append(replace(queued(40, 20, rng), client=("a worker was busy",)))
    step = next_for_slo(points, Bounds(1, 1e5, False))
    assert isinstance(step, Try)
    assert step.is_long
    assert long_share(len(LONG_SHARES)) == long_share(len(LONG_SHARES) - 1) == 1.0


def test_an_endpoint_that_served_far_less_in_the_end_still_has_an_interval_in_order():
    rng = np.random.default_rng(5)
    points = [queued(20, 3, rng), *(queued(rate, 20, rng) for rate in (36, 38, 39)), queued(41, 20, rng, served=15)]
    assert points[-1].saturated
    answer = so_far("slo", points, Bounds(1, 1e5, False))
    assert answer.load.low <= answer.load.value <= answer.load.high <= 15
