"""--abort-on: what it takes, and what holds where nobody says anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.spec.conditions import AbortOn, conditions, parse_abort_on


def test_a_condition_is_a_share_and_a_time():
    assert parse_abort_on("error-rate>50%/30s") == (AbortOn(0.5, 30.0, "error-rate>50%/30s"),)
    assert parse_abort_on("error-rate > 0.25 / 1500ms")[0].share == 0.25
    assert [one.window_s for one in parse_abort_on("error-rate>90%/5s,error-rate>20%/1m")] == [5.0, 60.0]


def test_by_itself_it_guards_open_loops_and_no_others():
    assert [(one.share, one.window_s) for one in conditions("auto", is_open_loop=True)] == [(0.5, 30.0)]
    assert conditions("auto", is_open_loop=False) == ()


def test_what_is_asked_for_guards_both_and_never_neither():
    for is_open_loop in (True, False):
        assert len(conditions("error-rate>10%/5s", is_open_loop=is_open_loop)) == 1
        assert conditions("never", is_open_loop=is_open_loop) == ()


@pytest.mark.parametrize(
    "text", ["", "error-rate", "error-rate>50%", "error-rate<50%/30s", "ttft>1s/30s", "error-rate>50/30s",
             "error-rate>100%/30s", "error-rate>50%/30", "error-rate>50%/1ms", "error-rate>50%/2h", "never,never"]
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"allowed is|write a number and a unit"):
        parse_abort_on(text)


@given(st.text(max_size=40))
def test_no_text_breaks_it(text):
    try:
        found = parse_abort_on(text)
    except ValueError:
        return
    assert all(0 <= one.share < 1 and one.window_s >= 0.5 for one in found)
