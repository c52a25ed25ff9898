import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import often

from analysis.bootstrap import (
    FEWEST,
    Interval,
    around,
    block_bootstrap,
    block_weights,
    design_effect,
    difference,
    drift_factor,
    mean_of_repeats,
    quantile_intervals,
    student_t,
    widened,
    wilson,
)


def correlated(rng, n, memory=0.9):
    """An autoregressive series with mean 100: neighbours are alike, and n of them are worth n / 19."""
    noise = rng.normal(0, 1, n)
    values = np.empty(n)
    values[0] = noise[0] / math.sqrt(1 - memory**2)
    for i in range(1, n):
        values[i] = memory * values[i - 1] + noise[i]
    return 100 + values


def covered(intervals, truth):
    return sum(one.low <= truth <= one.high for one in intervals)


def test_an_interval_holds_the_truth_as_often_as_it_says_though_neighbours_are_alike():
    rng = np.random.default_rng(1)
    series = [correlated(rng, 2000) for _ in range(150)]
    held = covered([block_bootstrap(one, np.mean, draws=200) for one in series], 100)
    naive = sum(abs(one.mean() - 100) <= 1.96 * one.std() / math.sqrt(len(one)) for one in series)
    assert held >= 0.85 * len(series)
    assert naive <= 0.6 * len(series)  # as one that takes them for independent does not


def test_the_same_series_gives_the_same_interval():
    series = np.random.default_rng(2).normal(5, 1, 300)
    assert block_bootstrap(series, np.median) == block_bootstrap(series, np.median)


def test_a_short_series_has_no_interval():
    assert block_bootstrap([1.0] * 7, np.mean) is None
    assert difference([1.0] * 7, [1.0] * 100, np.mean) is None
    assert mean_of_repeats([3.0]) is None


@pytest.mark.parametrize(("change", "differs"), [(0.0, False), (2.0, True)])
def test_a_difference_is_seen_when_there_is_one(change, differs):
    rng = np.random.default_rng(3)
    found = difference(rng.normal(10, 1, 500), rng.normal(10 + change, 1, 500), np.mean, relative=True)
    assert (not found.low <= 0 <= found.high) == differs


def test_repeats_have_students_interval():
    # three values 9, 10, 11: 4.303 x 1 / sqrt(3)
    low_high = mean_of_repeats([9.0, 10.0, 11.0])
    assert low_high.value == 10
    assert low_high.high - 10 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_what_is_independent_is_worth_itself_and_what_is_repeated_a_share():
    rng = np.random.default_rng(4)
    alone = rng.normal(0, 1, 4000)
    assert design_effect(alone) < 2.5
    assert design_effect(np.repeat(rng.normal(0, 1, 80), 50)) > 20


@given(st.integers(0, 500), st.integers(1, 500))
@often
def test_wilsons_interval_holds_the_share_and_never_leaves_0_to_1(successes, n):
    one = wilson(min(successes, n), n)
    assert 0 <= one.low <= one.value <= one.high <= 1


def test_wilsons_interval_is_the_published_one():
    one = wilson(90, 100)
    assert (one.low, one.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_a_quantile_lies_between_its_order_statistics():
    rng = np.random.default_rng(5)
    found = [quantile_intervals(rng.exponential(1, 2000), [99])[0] for _ in range(200)]
    assert covered(found, -math.log(0.01)) >= 0.88 * len(found)
    assert quantile_intervals([], [50]) == []


def test_a_percentile_that_so_few_values_do_not_bound_has_an_open_end():
    rng = np.random.default_rng(6)
    few = [rng.exponential(1, 92) for _ in range(400)]
    # 0.99^92: in four samples of ten even the largest value lies below the p99.
    assert np.mean([max(values) < -math.log(0.01) for values in few]) > 0.3
    p99s = [quantile_intervals(values, [99])[0] for values in few]
    assert {one.high for one in p99s} == {math.inf}
    assert covered(p99s, -math.log(0.01)) >= 0.93 * len(p99s)
    (of_five,), (of_six,) = (quantile_intervals(range(n), [50]) for n in (5, 6))
    assert (of_five.low, of_five.high) == (-math.inf, math.inf)
    assert (of_six.low, of_six.high) == (0, 5)
    slow = {50: 7.0, 150: 8.0, 250: 9.0}  # the others are alike
    enough, too_few = (quantile_intervals([slow.get(k, 1.0) for k in range(n)], [99])[0] for n in (368, 367))
    assert (enough.high, too_few.high) == (9.0, math.inf)


@pytest.mark.parametrize(
    ("freedom", "confidence", "point"),
    [
        (5, 0.999, 6.869), (8, 0.999, 5.041), (18, 0.999, 3.922), (100, 0.999, 3.390),
        (1, 0.95, 12.706), (2, 0.95, 4.303), (4, 0.95, 2.776), (5, 0.95, 2.571), (10, 0.95, 2.228), (30, 0.95, 2.042),
    ],
)  # fmt: skip
def test_students_t_is_the_tables(freedom, confidence, point):
    assert student_t(freedom, confidence) == pytest.approx(point, rel=0.03)


def test_weights_of_rows_draw_as_many_rows_as_there_are_and_neighbours_together():
    weights = block_weights(40, draws=200)
    assert weights.shape == (200, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert weights.mean() == 1
    alike = np.mean([np.corrcoef(row[:-1], row[1:])[0, 1] for row in weights])
    assert alike > 0.3  # blocks of two


def test_blocks_that_drift_ask_for_a_wider_interval_and_independent_ones_for_none():
    rng = np.random.default_rng(4)
    ones = np.ones(40)
    steady = np.mean([drift_factor(rng.normal(10, 1, 40), ones) for _ in range(100)])
    drifting = np.mean([drift_factor(np.cumsum(rng.normal(0, 1, 40)), ones) for _ in range(100)])
    assert 1 <= steady < 1.4
    assert drifting > 2
    assert drift_factor(ones, ones) == 1
    assert drift_factor(ones, np.repeat([1.0, 0.0], [2 * FEWEST - 2, 42 - 2 * FEWEST])) == 1
    assert widened(Interval(5.0, 4.0, 7.0), 2.0) == (5.0, 3.0, 9.0)


def test_resamples_that_are_mostly_no_numbers_give_no_interval():
    assert around(1.0, np.array([np.nan] * 20 + [1.0] * 80)) is None
    assert around(1.0, np.array([np.nan] * 5 + [1.0] * 95)) == (1.0, 1.0, 1.0)
