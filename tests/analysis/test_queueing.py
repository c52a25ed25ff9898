import heapq

import numpy as np
import pytest

from analysis.queueing import growth, scatter_of


def backlog(rate_per_s: float, slots: int, service_s: float, seconds: float, seed: int):
    """(times, backlog) every 0.1 s of Poisson arrivals at an endpoint of so many slots, after two response times."""
    rng = np.random.default_rng(seed)
    warm_s = 2 * service_s
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, int((seconds + warm_s) * rate_per_s * 2)))
    free_s = [0.0] * slots
    ends = []
    for arrival in arrivals:
        end = max(arrival, heapq.heappop(free_s)) + service_s
        heapq.heappush(free_s, end)
        ends.append(end)
    times = np.arange(warm_s, warm_s + seconds, 0.1)
    return times, np.searchsorted(arrivals, times) - np.searchsorted(np.sort(ends), times)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_backlog_that_wanders_does_not_grow(load):
    # 64 slots of 1.28 s serve 50/s; windows of two and a half responses, as a search has them.
    grown = [growth(*backlog(50 * load, 64, 1.28, 3.2, seed), 50 * load).grows for seed in range(200)]
    assert sum(grown) <= 1


@pytest.mark.parametrize("load", [1.5, 2.0])
def test_a_rate_above_capacity_shows_within_a_few_responses(load):
    grown = [growth(*backlog(50 * load, 64, 1.28, 5.0, seed), 50 * load).grows for seed in range(50)]
    assert sum(grown) >= 48


def test_slightly_above_capacity_it_takes_longer_and_then_is_seen():
    assert all(growth(*backlog(60, 64, 1.28, 20.0, seed), 60).grows for seed in range(20))


def test_bursty_arrivals_may_wander_further():
    times, values = np.arange(40) / 10, 50 + np.arange(40) * 1.6
    assert growth(times, values, 100).grows
    assert not growth(times, values, 100, scatter=scatter_of("burst:16@1s")).grows


def test_a_short_or_empty_series_is_not_judged():
    assert growth([0.1] * 19, [1] * 19, 5) is None
    assert growth(np.arange(30), np.zeros(30), 0) is None
    assert growth([1.0] * 30, [1] * 30, 5) is None


@pytest.mark.parametrize(
    ("arrivals", "scatter"), [("poisson", 1), ("constant", 1), ("gamma:2.5", 2.5), ("burst:25@2s", 5), ("", 1)]
)
def test_the_scatter_of_a_process_is_read_from_its_name(arrivals, scatter):
    assert scatter_of(arrivals) == scatter


LONG = {
    "all alike": lambda rng, n: np.full(n, 10.0),
    "of every length": lambda rng, n: rng.lognormal(np.log(8), 0.7, n),
    "a tenth short": lambda rng, n: np.where(rng.random(n) < 0.1, 0.5, 12.0),
}


def from_the_start(rate_per_s: float, length_s, slots: int, begin_s: float, end_s: float, seed: int):
    """(times, backlog, answered) every 0.1 s of a stage without any warm-up before `begin_s`."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, int(end_s * rate_per_s * 2)))
    free_s, ends = [0.0] * slots, []
    for arrival, taken_s in zip(arrivals, length_s(rng, len(arrivals)), strict=True):
        ends.append(max(arrival, heapq.heappop(free_s)) + taken_s)
        heapq.heappush(free_s, ends[-1])
    times = np.arange(begin_s, end_s, 0.1)
    answered = np.searchsorted(np.sort(ends), times)
    return times, np.searchsorted(arrivals, times) - answered, answered


@pytest.mark.parametrize("lengths", LONG)
@pytest.mark.parametrize("end_s", [6.0, 11.0, 16.0, 30.0])
def test_a_backlog_that_fills_with_long_responses_does_not_grow(lengths, end_s):
    blind, seeing = 0, 0
    for seed in range(100):
        times, backlog, answered = from_the_start(20, LONG[lengths], 10_000, 2.0, end_s, seed)
        found = growth(times, backlog, 20, answered=answered)
        seeing += found is not None and found.grows
        blind += growth(times, backlog, 20).grows
    assert seeing <= 3, f"{blind} without a look at what was answered"


@pytest.mark.parametrize("lengths", LONG)
def test_with_long_responses_a_rate_above_capacity_is_seen_once_they_end(lengths):
    # 100 slots of ten seconds or so serve some 10/s.
    grown = [
        growth(*series[:2], 20, answered=series[2], longer_waits_s=12.0).grows
        for series in (from_the_start(20, LONG[lengths], 100, 2.0, 60.0, seed) for seed in range(50))
    ]
    assert sum(grown) == 50
    # Without a word on the waits it takes longer, for some.
    times, backlog, answered = from_the_start(20, LONG["all alike"], 100, 2.0, 60.0, 1)
    assert growth(times, backlog, 20, answered=answered).grows


def test_few_answers_are_enough_where_the_waits_grow():
    series = from_the_start(100, LONG["all alike"], 50, 2.0, 40.0, 1)
    assert not growth(*series[:2], 100, answered=series[2]).grows
    assert growth(*series[:2], 100, answered=series[2], longer_waits_s=15.0).grows
    assert not growth(*series[:2], 100, answered=series[2], longer_waits_s=0.5).grows, (
        "a batch that fills is slower, too"
    )
