import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import often

from analysis.charts import Point, draw, nice_ceiling, overlaid, throughput_latency, throughput_per_user

sizes = st.floats(0.01, 1e7)


@often
@given(st.lists(st.tuples(sizes, sizes), min_size=2, max_size=12), st.booleans(), st.integers(60, 120))
def test_no_line_of_a_picture_is_wider_than_asked_for(pairs, ascii_only, width):
    points = [Point(x, y, str(index)) for index, (x, y) in enumerate(pairs)]
    picture = draw([points], "output tokens/s", "E2E p50, ms", width, 12, ascii_only)
    assert max(map(len, picture.splitlines())) <= width
    assert len(picture.splitlines()) == 12 + 4
    assert not ascii_only or picture.isascii()


def test_points_stand_where_they_belong_with_their_load_beside_them():
    picture = draw(
        [[Point(10, 100, "1"), Point(20, 200, "2"), Point(40, 200, "8")]], "y", "x, ms", 60, 11, ascii_only=True
    )
    rows = picture.splitlines()[1:12]
    marked = [(row, column) for row, line in enumerate(rows) for column, char in enumerate(line) if char == "*"]
    assert [row for row, _ in marked] == [0, 0, 5]
    columns = [column - rows[0].index("|") - 1 for _, column in marked]
    assert columns[0] == pytest.approx(columns[1] / 2, abs=1)
    assert columns[2] == pytest.approx(columns[1] / 4, abs=1)
    assert all(label in picture for label in ("1", "2", "8"))


def test_axes_have_units_and_a_wide_range_is_logarithmic():
    narrow = draw([[Point(10, 1, ""), Point(100, 2, "")]], "output tokens/s", "E2E p50, ms", 80, 10)
    wide = draw([[Point(10, 1, ""), Point(1_000, 2, "")]], "output tokens/s", "E2E p50, ms", 80, 10)
    assert "output tokens/s" in narrow
    assert "E2E p50, ms" in narrow
    assert "log scale" in wide
    assert "log scale" not in narrow


@often
@given(sizes)
def test_the_top_of_an_axis_is_a_round_number_not_far_above(value):
    assert value * (1 - 1e-9) <= nice_ceiling(value) <= value * 1.6


def point(load: object, e2e: float | None, tokens: float | None) -> dict:
    return {
        "load": {"mode": "concurrency", "value": load},
        "e2e_ms": None if e2e is None else {"p50": {"value": e2e}},
        "output_tokens_per_s": None if tokens is None else {"value": tokens},
        "tokens_per_s_per_user": None if e2e is None else 1000 / e2e,
    }


def test_there_is_no_picture_of_one_point_and_none_of_stages_without_output():
    assert throughput_latency([point(1, 10.0, 100.0)]) is None
    assert throughput_latency([point(1, 10.0, 100.0), point(2, None, None), point(4, 10.0, 0.0)]) is None
    assert throughput_latency([]) is None


def test_open_loop_stages_stand_at_the_latency_that_their_users_had():
    """From the send all three are as quick; what waited in the client is in the other alone."""
    curve = [
        {
            **point(rate, 10.0, rate * 100.0),
            "load": {"mode": "rate", "value": rate},
            "e2e_intended_ms": {"p50": {"value": e2e}},
        }
        for rate, e2e in ((10.0, 11.0), (33.3333333, 12.0), (100.0, 400.0))
    ]
    picture = throughput_latency(curve)
    assert "E2E from due p50, ms (log scale)" in picture
    assert "33.33" in picture
    assert picture.count("●") == 3
    mixed = throughput_latency([*curve, point(4, 10.0, 100.0)])
    assert "E2E p50, ms" in mixed


def test_the_picture_of_a_sweep_names_each_load():
    picture = throughput_latency([point(1, 10.0, 100.0), point(64, 30.0, 900.0), point(None, 50.0, 950.0)])
    assert "64" in picture
    assert picture.count("●") == 3


def test_labels_of_points_side_by_side_do_not_run_into_each_other():
    curve = [point(44.19, 300.0, 1442.0), point(44.6, 301.0, 1445.0), point(39.82, 302.0, 1440.0), point(1, 30.0, 90.0)]
    picture = throughput_latency(curve)
    numbers = re.findall(r"[\d.]+", "\n".join(picture.splitlines()[1:-3]).replace(",", ""))
    assert {float(one) for one in numbers} <= {44.19, 44.6, 39.82, 1, 0, 750, 1000, 1500, 2000}
    assert "44.19" in picture


def test_runs_that_are_overlaid_share_their_axes_and_have_marks_of_their_own():
    fast = [point(1, 10.0, 100.0), point(64, 30.0, 900.0)]
    slow = [point(1, 20.0, 50.0), point(64, 90.0, 450.0)]
    picture = overlaid([fast, slow])
    assert (picture.count("●"), picture.count("○")) == (2, 2)
    assert "1,000" in picture  # the top of the faster one
    assert overlaid([fast[:1], slow]) is not None
    assert overlaid([fast[:1], slow[:1]]) is None
    assert overlaid([[], []]) is None
    assert overlaid([fast, slow], ascii_only=True).count("o") >= 2


def test_what_a_user_gets_stands_against_what_all_get():
    picture = throughput_per_user([point(1, 10.0, 100.0), point(8, 20.0, 400.0), point(64, 80.0, 800.0)])
    assert "tokens/s a user (1 / TPOT p50)" in picture
    assert picture.count("●") == 3
    assert throughput_per_user([point(1, 10.0, 100.0), point(2, None, 5.0)]) is None
