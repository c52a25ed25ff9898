import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.durations import MOST_NS, shown
from loadgen.schedule.profile import MOST_SEGMENTS, Profile, Segment, parse_profile

MS = 1_000_000
S = 1_000_000_000

often = settings(deadline=None)
seldom = settings(max_examples=40, deadline=None)

values = st.one_of(st.integers(0, 200).map(float), st.integers(0, 4000).map(lambda k: k / 16))
positive = st.integers(1, 4000).map(lambda k: k / 16)
spans_ns = st.one_of(st.integers(1, 90_000).map(lambda ms: ms * MS), st.integers(1, 100 * S))


@st.composite
def shapes(draw, spans_ns=spans_ns):
    """One part as it is typed: (kind, first, last, span_ns)."""
    kind = draw(st.sampled_from(["constant", "linear", "exp", "sine"]))
    first, last = draw(st.tuples(*[positive if kind == "exp" else values] * 2))
    return kind, first, first if kind == "constant" else last, draw(spans_ns)


def parts(spans_ns=spans_ns, most=5):
    some = st.lists(shapes(spans_ns), min_size=1, max_size=most)
    return some.filter(lambda parts: any(first or last for _, first, last, _ in parts))


def typed(parts) -> str:
    """The text, written without the module's help."""
    prefix = {"constant": "", "linear": "", "exp": "exp:", "sine": "sine:"}
    return "+".join(
        f"{prefix[kind]}{first!r}{'' if kind == 'constant' else f'..{last!r}'}@{span_ns}ns"
        for kind, first, last, span_ns in parts
    )


def value_of(part, tau_ns):
    """From the description of the shapes; exact where that is possible."""
    kind, first, last, span_ns = part
    if kind == "exp":
        return first * (last / first) ** (tau_ns / span_ns)
    if kind == "sine":
        return (first + last) / 2 - (last - first) / 2 * math.cos(2 * math.pi * tau_ns / span_ns)
    return Fraction(first) + (Fraction(last) - Fraction(first)) * tau_ns / span_ns


def value_at(parts, t_ns):
    for part in parts:
        if t_ns < part[3]:
            return value_of(part, t_ns)
        t_ns -= part[3]
    return 0


def area_until(parts, t_ns) -> float:
    """Value x seconds, by Gauss's quadrature in 32 pieces of each shape."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    area = 0.0
    for part in parts:
        length_ns = min(part[3], t_ns)
        for k in range(32):
            middle, half = (2 * k + 1) * length_ns / 64, length_ns / 64
            here = (
                [float(value_of(part, middle + half * node)) for node in nodes] if part[0] in ("exp", "sine") else None
            )
            area += half / S * (2 * float(value_of(part, middle)) if here is None else float(np.dot(here, weights)))
        t_ns -= length_ns
    return area


def times(*t_ns) -> np.ndarray:
    return np.array(t_ns, dtype=np.int64)


def refusal(text) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_profile(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("64", [Segment("constant", 64, 64, None)]),
        (" 0.5 ", [Segment("constant", 0.5, 0.5, None)]),
        ("1e3", [Segment("constant", 1000, 1000, None)]),
        ("20@30s", [Segment("constant", 20, 20, 30 * S)]),
        ("1..100@60s", [Segment("linear", 1, 100, 60 * S)]),
        ("100..0@1m", [Segment("linear", 100, 0, 60 * S)]),
        ("1...5@1s", [Segment("linear", 1, 0.5, S)]),
        ("exp:1..100@60s", [Segment("exp", 1, 100, 60 * S)]),
        ("sine:10..100@60s", [Segment("sine", 10, 100, 60 * S)]),
        ("1..100@60s/20s", [Segment("linear", 1, 100, 60 * S, 20 * S)]),
        ("1..100@60s/60s", [Segment("linear", 1, 100, 60 * S)]),
        ("20@30s/10s", [Segment("constant", 20, 20, 10 * S)]),
        (
            "0..64@30s + 64@60s + 64..0@30s",
            [Segment("linear", 0, 64, 30 * S), Segment("constant", 64, 64, 60 * S), Segment("linear", 64, 0, 30 * S)],
        ),
        ("0..64@30s+64", [Segment("linear", 0, 64, 30 * S), Segment("constant", 64, 64, None)]),
    ],
)
def test_a_profile_is_its_parts_in_order(text, segments):
    assert parse_profile(text) == Profile(tuple(segments))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no load; write 64, 20@30s"),
        ("a lot", "'a lot' is no number"),
        ("-5", "-5 is below 0"),
        ("1..-5@3s", "-5 is below 0"),
        ("nan", "is no number"),
        ("inf@3s", "is no number"),
        ("1e400", "is too large; allowed is up to 1000000000"),
        ("1000000001", "is too large"),
        ("1e-10", "is too small"),
        ("0", "is 0 all the time"),
        ("0@3s+0..0@5s", "is 0 all the time"),
        ("20+5@3s", "20 needs a time, as in 20@30s"),
        ("1..100", "1..100 needs a time, as in 1..100@60s"),
        ("20@0s", "20@0s has no length"),
        ("20@3", "is no duration"),
        ("20@", "is no duration"),
        ("5@-3s", "is no duration"),
        ("exp:0..5@3s", "which no exponential reaches"),
        ("exp:5..0@3s", "which no exponential reaches"),
        ("exp:5@3s", "exp:5@3s needs two values"),
        ("sine:5", "sine:5 needs two values"),
        ("step:1..5@3s", "'step' is no shape; allowed is exp: or sine:"),
        ("1..5@3s/4s", "is cut to 4s; allowed is above 0 and up to 3s"),
        ("1..5@3s/0s", "is cut to 0s"),
        ("5@6000h+6@6000h", "is longer than the 10000h allowed"),
        ("5@1s++6", "is no load"),
        ("9" * 2_000_000, "is no load"),
        ("٣", "is no number"),
        ("1_0", "is no number"),
        ("+".join(["1@1s"] * (MOST_SEGMENTS + 1)), "10001 parts joined by + are too many; allowed are 10000"),
    ],
)
def test_a_refusal_names_what_was_wrong(text, words):
    assert words in refusal(text)


@often
@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"(exp:|sine:)?[0-9.e-]{0,6}@?[0-9smh/]{0,5}(\+[0-9.@s]{0,6})?", fullmatch=True),
    )
)
def test_anything_typed_is_a_profile_or_a_value_error(text):
    try:
        profile = parse_profile(text)
    except ValueError:
        return
    assert parse_profile(profile.text) == profile


@often
@given(parts(), st.sampled_from(["", "+7", "+0.125"]))
def test_what_is_shown_is_the_same_profile_when_typed(parts, last):
    profile = parse_profile(typed(parts) + last)
    assert [(s.kind, s.first, s.last, s.span_ns) for s in profile.segments[: len(parts)]] == parts
    assert parse_profile(profile.text) == profile


@often
@given(parts(), st.integers(0, 10 * S), st.integers(0, 10 * S), st.integers(1, 300 * S))
def test_a_whole_stage_can_be_typed_too(parts, ramp_up_ns, warmup_ns, duration_ns):
    profile = parse_profile("+".join(["1..9@3s", typed(parts)]))
    whole = profile.whole(ramp_up_ns, warmup_ns, duration_ns)
    assert parse_profile(whole.text) == whole
    assert whole.length_ns == ramp_up_ns + warmup_ns + duration_ns


@often
@given(parts(), st.data())
def test_values_are_those_of_the_shapes(parts, data):
    profile = parse_profile(typed(parts))
    length_ns = sum(span_ns for *_, span_ns in parts)
    assert profile.length_ns == length_ns
    edges = [sum(span_ns for *_, span_ns in parts[:k]) + d for k in range(len(parts) + 1) for d in (-1, 0, 1)]
    asked = [t for t in edges if t >= 0] + data.draw(st.lists(st.integers(0, length_ns + S), max_size=20))
    expected = [float(value_at(parts, t_ns)) for t_ns in asked]
    assert profile.values(times(*asked)) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert profile.values(times(*asked).astype(float)) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert profile.values(times(-1, length_ns)).tolist() == [0, 0]
    assert profile.first == parts[0][1]


@seldom
@given(parts(st.integers(1, 100).map(lambda ms: ms * MS)), st.floats(0, 1))
def test_the_peak_is_reached_and_not_passed(parts, share):
    profile = parse_profile("+".join(["1@1ms", typed(parts)]))
    cut = profile.whole(0, 0, MS + round(share * sum(span_ns for *_, span_ns in parts)))
    for part in (profile, cut):
        # The value that a ramp reaches only in the limit stands a ns before its end; 0.1 ms apart is near enough to
        # the top of a sine for a tenth of its height.
        ends = np.cumsum([segment.length_ns for segment in part.segments]) - 1
        seen = part.values(np.concatenate([np.arange(0, part.length_ns, MS // 10), ends])).max()
        assert seen <= part.peak * (1 + 1e-9)
        assert seen >= part.peak * 0.9


def test_the_peak_of_a_shape_that_is_cut_is_that_of_what_is_left():
    for text, peak in (("1..100@60s/20s", 34), ("100..1@60s/20s", 100), ("exp:1..100@60s/30s", 10)):
        assert parse_profile(text).peak == pytest.approx(peak)
    for text, peak in (("sine:0..8@60s/15s", 4), ("sine:0..8@60s/45s", 8), ("sine:8..0@60s/45s", 8), ("5@1s+2", 5)):
        assert parse_profile(text).peak == pytest.approx(peak)


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("64", True),
        ("64@30s", True),
        ("64@3s+64@4s", True),
        ("5..5@3s", True),
        ("64@3s+65@3s", False),
        ("1..2@3s", False),
    ],
)
def test_a_profile_that_never_changes_is_constant_however_it_is_written(text, constant):
    profile = parse_profile(text)
    assert profile.is_constant is constant
    if constant:
        assert profile.whole(0, 0, None) == parse_profile(f"{profile.first:g}")


def test_a_ramp_up_goes_to_the_first_value_and_the_warm_up_holds_it():
    whole = parse_profile("10..20@4s").whole(2 * S, 3 * S, 10 * S)
    assert whole == parse_profile("0..10@2s+10@3s+10..20@4s+10..20@4s+10..20@4s/2s")
    asked = times(0, S, 2 * S, 5 * S - 1, 5 * S, 7 * S, 9 * S - 1, 9 * S, 15 * S - 1, 15 * S)
    assert whole.values(asked) == pytest.approx([0, 5, 10, 10, 10, 15, 20, 10, 15, 0], abs=1e-7)


def test_a_constant_needs_no_duration_and_what_ends_does():
    assert parse_profile("64").whole(S, 0, None) == parse_profile("0..64@1s+64")
    assert parse_profile("1..5@3s+5").whole(0, 0, None) == parse_profile("1..5@3s+5")
    with pytest.raises(ValueError, match=r"'1..5@3s' ends after 3s; give a duration with it"):
        parse_profile("1..5@3s").whole(0, 0, None)


def test_a_profile_with_an_endless_part_is_not_repeated():
    assert parse_profile("1..5@3s+5").whole(0, 0, 100 * S) == parse_profile("1..5@3s+5@97s")


def test_a_profile_that_would_be_repeated_too_often_is_refused():
    assert parse_profile("1..5@1ms").whole(0, 0, 1000 * S).length_ns == 1000 * S
    with pytest.raises(ValueError, match=r"repeated 3600000 times, allowed are 1000000"):
        parse_profile("1..5@1ms").whole(0, 0, 3600 * S)


@often
@given(parts(), st.integers(0, 400 * S), st.data())
def test_a_profile_begins_again_at_its_end_and_keeps_its_shape_where_it_is_cut(parts, more_ns, data):
    parts = [("linear", 3.0, 4.0, 10 * S), *parts]
    profile = parse_profile(typed(parts))
    duration_ns = profile.length_ns + more_ns
    whole = profile.whole(7, 0, duration_ns)
    asked = np.array(data.draw(st.lists(st.integers(0, duration_ns - 1), min_size=1, max_size=20)))
    np.testing.assert_array_equal(whole.values(7 + asked), profile.values(asked % profile.length_ns))


@seldom
@given(parts(), st.data())
def test_the_integral_is_the_numeric_one(parts, data):
    profile = parse_profile(typed(parts))
    asked = [*data.draw(st.lists(st.integers(0, profile.length_ns), min_size=1, max_size=3)), profile.length_ns + S]
    expected = [area_until(parts, t_ns) for t_ns in asked]
    assert profile.integral(times(*asked)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert profile.integral(times(-S, 0)).tolist() == [0, 0]


def test_the_mean_is_the_integral_by_the_time():
    profile = parse_profile("0..10@10s+20@10s+5")
    assert profile.mean(0, 10 * S) == 5
    assert profile.mean(5 * S, 15 * S) == pytest.approx((3.75 * 10 + 100) / 10)
    assert profile.mean(20 * S, 21 * S) == pytest.approx(5)
    assert parse_profile("sine:10..100@60s").mean(0, 60 * S) == pytest.approx(55)
    assert parse_profile("exp:1..100@60s").mean(0, 60 * S) == pytest.approx(99 / math.log(100))


@often
@given(parts(), st.data())
def test_the_inverse_of_the_integral_is_the_time_wherever_there_is_load(parts, data):
    profile = parse_profile("1@1s+" + typed(parts))
    profile = profile.whole(data.draw(st.integers(0, S)), 0, round(profile.length_ns * data.draw(st.floats(0.1, 4))))
    asked = np.sort(np.array(data.draw(st.lists(st.integers(0, profile.length_ns - 1), min_size=1, max_size=50))))
    reached = profile.integral(asked)
    back = profile.inverse(reached)
    # What the last digit of n can move the time by, besides the ns below which nothing is asked for.
    value = profile.values(asked)
    there = value > 0
    allowed = 0.5 + 8 * S * np.spacing(np.maximum(reached[there], 1e-3)) / value[there]
    assert (np.abs(back[there] - asked[there]) <= allowed).all()
    # And where there is none, the time comes before the pause.
    assert (back[~there] <= asked[~there] + 1).all()
    assert profile.integral(back) == pytest.approx(reached, rel=1e-12, abs=1e-9)


@often
@given(parts())
def test_everything_that_is_due_by_the_end_is_due_at_some_time(parts):
    # The integral at the end and at each edge is the very number that the inverse looks for, to the last digit.
    profile = parse_profile(typed(parts))
    edges = np.cumsum([span_ns for *_, span_ns in parts])
    assert (profile.inverse(profile.integral(edges)) <= edges).all()


@often
@given(parts(), st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_the_inverse_rises_and_has_an_end(parts, shares):
    profile = parse_profile(typed(parts))
    total = profile.integral(times(profile.length_ns))[0]
    t_ns = profile.inverse(np.sort(np.array(shares)) * total)
    assert (np.diff(t_ns) >= -0.01).all()
    assert (t_ns <= profile.length_ns).all()
    assert profile.inverse(np.array([total * 1.001 + 1e-6])).tolist() == [math.inf]


def test_the_inverse_is_exact_where_arithmetic_is():
    assert parse_profile("3").inverse(np.array([0.0, 3.0, 3_000_000.0])).tolist() == [0, S, 1_000_000 * S]
    assert parse_profile("0..10@10s").inverse(np.array([0.0, 12.5, 50.0])).tolist() == [0, 5 * S, 10 * S]
    # 0.3 is no binary fraction, ten of them are 3 all the same.
    assert parse_profile("0.3@1s+0.6@0.5s").whole(0, 0, 15 * S).integral(times(15 * S)).tolist() == [6.0]


def test_a_pause_is_jumped_over():
    profile = parse_profile("5@1s+0@2s+5@1s")
    asked = np.array([4.999, 5.0, 5.001, 10.0, 10.001])
    assert profile.inverse(asked) == pytest.approx([0.9998 * S, S, 3.0002 * S, 4 * S, math.inf])
    assert profile.inverse(asked, latest=True) == pytest.approx([0.9998 * S, 3 * S, 3.0002 * S, math.inf, math.inf])
    first = np.array([0.0])
    assert parse_profile("0@2s+5").inverse(first).tolist() == [0]
    assert parse_profile("0@2s+5").inverse(first, latest=True).tolist() == [2 * S]


def test_the_shape_of_what_is_asked_is_the_shape_of_the_answer():
    profile = parse_profile("sine:1..5@3s+2")
    for asked in (np.array(1.0), np.zeros((0,)), np.full((2, 3), 2.0)):
        assert (
            profile.values(asked).shape == profile.integral(asked).shape == profile.inverse(asked).shape == asked.shape
        )


def steps(levels, until_ns):
    """The level at each ns."""
    changes = dict(levels)
    level = None
    for t_ns in range(until_ns):
        level = changes.get(t_ns, level)
        yield level


@often
@given(parts(st.integers(1, 400), most=4), st.integers(1, 2000))
def test_levels_are_those_found_by_looking_at_every_nanosecond(parts, until_ns):
    levels = parse_profile(typed(parts)).levels(until_ns)
    assert levels[0][0] == 0
    assert all(before < after and lower != upper for (before, lower), (after, upper) in pairwise(levels))
    assert levels[-1][0] < until_ns
    for t_ns, level in enumerate(steps(levels, until_ns)):
        value = value_at(parts, t_ns)
        if isinstance(value, float):  # a shape whose values are not exact: on the edge either level is right
            assert abs(level - value) <= 0.5 + 1e-9
        else:
            assert level == math.floor(value + Fraction(1, 2))


@seldom
@given(parts(spans_ns, most=3), st.integers(0, 20 * S), st.floats(1, 3))
def test_each_change_stands_at_the_first_nanosecond_of_its_level(parts, ramp_up_ns, repeats):
    profile = parse_profile("1@1s+" + typed(parts))
    whole = profile.whole(ramp_up_ns, 0, round(profile.length_ns * repeats))
    levels = whole.levels(whole.length_ns)
    changed = np.array([t_ns for t_ns, _ in levels])
    level = np.array([level for _, level in levels])
    np.testing.assert_array_equal(np.floor(whole.values(changed) + 0.5), level)
    np.testing.assert_array_equal(np.floor(whole.values(changed[1:] - 1) + 0.5), level[:-1])
    # None is left out: between two changes the level is the same.
    between = np.linspace(0, whole.length_ns - 1, 1000).astype(np.int64)
    expected = level[np.searchsorted(changed, between, side="right") - 1]
    np.testing.assert_array_equal(np.floor(whole.values(between) + 0.5), expected)


def test_a_long_ramp_is_exact_to_the_nanosecond():
    span_ns = 36_000 * S + 7
    for first, last in ((0, 99_991), (99_991, 0)):
        levels = parse_profile(f"{first}..{last}@{span_ns}ns").levels(span_ns)
        assert len(levels) == 99_992
        for t_ns, level in levels[1:99_992:997]:
            here, before = (first + Fraction(last - first) * t / span_ns + Fraction(1, 2) for t in (t_ns, t_ns - 1))
            assert math.floor(here) == level
            assert abs(math.floor(before) - level) == 1


def test_levels_go_up_and_down_and_jump():
    assert parse_profile("64").levels(10 * S) == [(0, 64)]
    assert parse_profile("0..2@4s").levels(4 * S) == [(0, 0), (S, 1), (3 * S, 2)]
    # Falling, 1.5 still rounds to 2: the change is one ns later.
    assert parse_profile("2..0@4s").levels(4 * S) == [(0, 2), (S + 1, 1), (3 * S + 1, 0)]
    assert parse_profile("4@1s+4@1s+9@1s").levels(3 * S) == [(0, 4), (2 * S, 9)]
    assert parse_profile("4@1s+9@1s").levels(S) == [(0, 4)]
    assert parse_profile("1..3@2s+1..3@2s").levels(3 * S) == [
        (0, 1),
        (S // 2, 2),
        (3 * S // 2, 3),
        (2 * S, 1),
        (5 * S // 2, 2),
    ]
    assert parse_profile("4@1s+9@1s").levels(5 * S) == [(0, 4), (S, 9), (2 * S, 0)]
    assert parse_profile("1@1s+1..3@2s").whole(0, 0, 4 * S).levels(4 * S) == [
        *[(0, 1), (3 * S // 2, 2), (5 * S // 2, 3)],
        (3 * S, 1),
    ]
    # As typed, not as the nearest binary fractions: after 0.02 s of it 3.4..8.4 is at 3.5, 8.2..1.2 after 0.1 at 7.5.
    assert parse_profile("3.4..8.4@1s").levels(S)[:2] == [(0, 3), (20 * MS, 4)]
    assert parse_profile("8.2..1.2@100ns").levels(100)[:2] == [(0, 8), (11, 7)]


@pytest.mark.parametrize(
    "text", ["0..1000001@60s", "exp:1..1100000@60s", "sine:0..600000@60s", "0..200@1ms+200..0@1ms"]
)
def test_a_million_changes_of_the_level_are_allowed_and_no_more(text):
    profile = parse_profile(text).whole(0, 0, 60 * S)
    with pytest.raises(ValueError, match=r"allowed are 1000000 changes of the level"):
        profile.levels(60 * S)


def test_the_longest_profile_there_is_does_not_overflow():
    whole = parse_profile(f"1..1e9@{shown(MOST_NS)}").whole(MOST_NS, MOST_NS, MOST_NS)
    ends = times(0, MOST_NS, 3 * MOST_NS)
    assert whole.integral(ends) == pytest.approx([0, 0.5 * MOST_NS / S, 1.5 * MOST_NS / S + 5e8 * MOST_NS / S])
    assert whole.inverse(whole.integral(ends)) == pytest.approx(ends.astype(float), rel=1e-9)
