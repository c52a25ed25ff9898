import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.durations import MOST_NS, UNITS_NS, duration_ns, shown


@pytest.mark.parametrize(
    ("text", "span_ns"),
    [
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        ("20us", 20_000),
        ("2m", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        ("0", 0),
        ("7ns", 7),
        ("0.1us", 100),
        (".5s", 500_000_000),
        ("3.s", 3_000_000_000),
        (" 5 ms ", 5_000_000),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, span_ns):
    assert duration_ns(text) == span_ns


@pytest.mark.parametrize(
    "text", ["", "5", "ms", "-1s", "1 hour", "1e3s", "1s2ms", "nan s", "9999999999h", "٣s", "1,5s"]
)
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match=r"is no duration|is longer than"):
        duration_ns(text)


@given(st.integers(0, MOST_NS))
def test_what_is_shown_is_the_same_duration_when_typed(span_ns):
    assert duration_ns(shown(span_ns)) == span_ns


@given(st.integers(0, 9_999), st.integers(0, 10**9 - 1), st.sampled_from(list(UNITS_NS)))
def test_a_fraction_is_exact_to_the_nanosecond(whole, billionths, unit):
    span_ns = duration_ns(f"{whole}.{billionths:09}{unit}")
    assert abs(span_ns * 10**9 - (whole * 10**9 + billionths) * UNITS_NS[unit]) * 2 <= 10**9


def test_the_longest_duration_is_named_where_it_is_exceeded():
    assert duration_ns(shown(MOST_NS)) == MOST_NS
    with pytest.raises(ValueError, match=r"longer than the 10000h allowed"):
        duration_ns("10001h")
