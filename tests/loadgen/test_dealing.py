import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.dealing import deal

UNITS = 20_000


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (5, 3, 1, 1), (1000, 1)])
def test_units_are_dealt_by_weight(weights):
    """Pearson's chi-square against its 99.9 % quantile; and the numbers a worker of three gets are dealt alike."""
    limits = {1: 10.83, 2: 13.82, 3: 16.27}
    for numbers in (range(UNITS), range(1, UNITS, 3)):
        counts = [0] * len(weights)
        for number in numbers:
            counts[deal(7, weights).target((2 << 32) + number)] += 1
        expected = [len(numbers) * weight / sum(weights) for weight in weights]
        assert sum((a - b) ** 2 / b for a, b in zip(counts, expected, strict=True)) < limits[len(weights) - 1]


@given(
    st.integers(0, (1 << 63) - 1),
    st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=50),
    st.integers(0, (1 << 64) - 1),
)
def test_a_unit_has_one_target_and_the_weights_have_no_unit(seed, weights, unit):
    target = deal(seed, weights).target(unit)
    assert 0 <= target < len(weights)
    assert deal(seed, [weight * 2 for weight in weights]).target(unit) == target


def test_one_target_takes_all_and_seeds_deal_differently():
    assert {deal(3, [5]).target(unit) for unit in range(100)} == {0}
    one, other = ([deal(seed, [1, 1]).target(unit) for unit in range(100)] for seed in (1, 2))
    assert one != other


def test_neighbours_are_dealt_independently():
    """Of a fair deal the runs of equal targets are as many as of coins: n/2, give or take four deviations."""
    drawn = [deal(11, [1, 1]).target(unit) for unit in range(UNITS)]
    runs = sum(a != b for a, b in itertools.pairwise(drawn))
    assert abs(runs - UNITS / 2) < 4 * (UNITS / 4) ** 0.5
