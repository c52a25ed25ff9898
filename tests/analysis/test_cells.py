from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import often

from analysis import cells
from analysis.cells import Cells
from analysis.histogram import CEILING_NS, PLACES, places

pieces = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, CEILING_NS - 1)), max_size=20), max_size=6)


@often
@given(pieces, st.sampled_from([1, 7, 1 << 20]))
def test_cells_count_every_value_once_in_its_interval_and_place(values, most):
    before, cells.MOST_CELLS = cells.MOST_CELLS, most
    try:
        counted = Cells()
        for piece in values:
            counted.add(*np.array(piece, np.int64).reshape(-1, 2).T)
        keys, counts = counted.settled()
    finally:
        cells.MOST_CELLS = before
    pairs = [pair for piece in values for pair in piece]
    wanted = Counter(interval * PLACES + int(places(np.array([value]))[0]) for interval, value in pairs)
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == wanted
    assert counted.most_ns == {i: max(v for j, v in pairs if j == i) for i in {i for i, _ in pairs}}


def test_values_out_of_range_are_counted_at_the_border():
    counted = Cells()
    counted.add(np.array([0, 0]), np.array([-5, CEILING_NS + 5]))
    keys, counts = counted.settled()
    assert (keys.tolist(), counts.tolist()) == ([0, PLACES - 1], [1, 1])
