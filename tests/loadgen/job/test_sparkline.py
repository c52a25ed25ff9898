from hypothesis import given
from hypothesis import strategies as st

from loadgen.job.sparkline import ASCII, BLOCKS, sparkline


def test_the_largest_is_the_highest_and_nothing_is_the_lowest():
    assert sparkline([0, 1, 2, 4, 8], 5) == "▁▂▃▅█"
    assert sparkline([0, 4, 8], 3, levels=ASCII) == "_+@"


def test_the_newest_stand_at_the_right_and_what_is_not_known_is_blank():
    assert sparkline([9, 9, 1, None, 2], 3) == "▅ █"
    assert sparkline([1], 4) == "   █"
    assert sparkline([None, None], 2) == "  "
    assert sparkline([], 3) == "   "
    assert sparkline([1, 2], 0) == ""


@given(st.lists(st.none() | st.floats(0, 1e18)), st.integers(0, 200))
def test_a_line_is_as_wide_as_was_asked_for(values, width):
    line = sparkline(values, width)
    assert len(line) == width
    assert set(line) <= set(BLOCKS + " ")
