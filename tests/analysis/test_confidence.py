import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import often

from analysis.confidence import halves, sample_floor


@pytest.mark.parametrize(("percentile", "floor"), [(50, 11), (90, 64), (99, 662), (99.9, 6636)])
def test_the_floor_is_the_published_one(percentile, floor):
    assert sample_floor(percentile) == floor


@often
@given(st.floats(1, 99.9))
def test_the_floor_is_the_smallest_count_that_shows_two_beyond_with_99_per_cent_confidence(percentile):
    tail = 1 - percentile / 100

    def seen_less_than_twice(n):
        return sum(math.comb(n, k) * tail**k * (1 - tail) ** (n - k) for k in (0, 1))

    floor = sample_floor(percentile)
    assert seen_less_than_twice(floor) <= 0.01 * (1 + 1e-9)
    assert floor == 2 or seen_less_than_twice(floor - 1) > 0.01 * (1 - 1e-9)


def test_a_higher_percentile_wants_more():
    floors = [sample_floor(percentile) for percentile in (50, 90, 95, 99, 99.9, 99.99)]
    assert all(lower < higher for lower, higher in pairwise(floors))


def test_steady_noise_is_not_doubted():
    rng = np.random.default_rng(1)
    assert sum(halves(rng.normal(100, 20, 60)).differ for _ in range(300)) <= 2


def test_a_step_beyond_the_noise_is_found():
    rng = np.random.default_rng(2)
    series = np.concatenate([rng.normal(100, 3, 30), rng.normal(110, 3, 30)])
    compared = halves(series)
    assert compared.differ
    assert compared.change_share == pytest.approx(0.095, abs=0.02)


def test_a_difference_that_nobody_cares_for_is_not_doubted_however_sure_it_is():
    assert not halves([100.0] * 30 + [104.0] * 30).differ


def test_a_difference_without_any_noise_is_sure():
    assert halves([100.0] * 30 + [120.0] * 30).differ
    assert not halves([100.0] * 60).differ


def test_a_wave_longer_than_a_block_is_noise_and_not_a_drift():
    wave = 100 + 60 * np.sign(np.sin(np.arange(60) * 2 * np.pi / 26))
    assert not halves(wave).differ


def test_too_short_a_series_is_not_judged():
    assert halves([1.0, 2.0] * 5) is None
    assert halves([]) is None


def test_nothing_twice_is_steady():
    assert not halves([0.0] * 60).differ
