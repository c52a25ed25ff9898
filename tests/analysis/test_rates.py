import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import often
from synthetic import MS, START_NS, S

from analysis.rates import (
    MOST_BINS_BESIDE,
    TOKEN,
    add_tokens,
    by_bin,
    concurrency,
    in_flight_means,
    parts_within,
    timeline_of,
)
from analysis.window import Window

moments = st.integers(0, 1_000)
spans = st.lists(st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair))), max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64)


def window(start_s: float, stop_s: float, end_s: float | None = None) -> Window:
    def at(seconds: float) -> int:
        return START_NS + round(seconds * S)

    return Window(at(start_s), at(stop_s), START_NS, at(stop_s if end_s is None else end_s), "")


@often
@given(spans, moments, st.integers(1, 500))
def test_concurrency_is_the_step_function_of_every_request(pairs, start, length):
    expected = reference.in_flight(pairs, start, start + length)
    assert concurrency(*arrays(pairs), start, start + length) == expected


@often
@given(spans)
def test_concurrency_by_bin_is_the_step_function_too(pairs):
    edges = np.arange(0, 1_001, 50)
    means = in_flight_means(*arrays(pairs), edges)
    expected = [reference.in_flight(pairs, int(edge), int(edge) + 50)[0] for edge in edges[:-1]]
    assert means.tolist() == pytest.approx(expected)


def test_concurrency_by_bin_survives_sums_beyond_64_bits():
    sent, hours = np.zeros(2_000_000, np.int64), 3_600 * S * np.arange(5)
    assert len(sent) * int(hours[-1]) > 1 << 63
    assert in_flight_means(sent, sent + hours[3], hours).tolist() == [2e6, 2e6, 2e6, 0.0]


def test_a_request_that_ends_when_the_next_is_sent_does_not_overlap_it():
    assert concurrency(*arrays([(0, 10), (10, 20)]), 0, 20) == (1.0, 1)


def test_concurrency_of_an_empty_window_is_not_zero_but_unknown():
    assert concurrency(*arrays([(0, 10)]), 5, 5) is None


@often
@given(st.lists(st.integers(-3_000, 15_000).map(lambda ms: START_NS + ms * MS), max_size=60), st.booleans())
def test_the_timeline_holds_every_token_within_its_edges(times, weighted):
    line = timeline_of(window(1, 9, 11))
    stamps = np.array(times, np.int64)
    weights = np.arange(len(times), dtype=np.float64) if weighted else None
    add_tokens(line, stamps, weights)
    inside = stamps < line.edges_ns[-1]
    expected, _ = np.histogram(stamps[inside], line.edges_ns, weights=None if weights is None else weights[inside])
    assert line.tokens.tolist() == pytest.approx(expected.tolist())


@often
@given(st.lists(st.integers(-3_000, 15_000).map(lambda ms: START_NS + ms * MS), max_size=60))
def test_moments_are_counted_in_their_bin_and_not_outside_the_timeline(times):
    line = timeline_of(window(1, 9, 11))
    moments = np.array(times, np.int64)
    expected, _ = np.histogram(moments[moments < line.edges_ns[-1]], line.edges_ns)
    assert by_bin(line, moments).tolist() == expected.tolist()


def test_the_window_starts_at_the_edge_of_a_bin():
    line = timeline_of(window(1.03, 9.04, 11))
    assert line.edges_ns[line.before] == START_NS + 1_030 * MS
    assert line.edges_ns[0] <= START_NS
    assert line.edges_ns[-1] >= START_NS + 11 * S
    assert 50 <= line.inside <= 100


def test_short_stages_have_bins_of_100_ms_and_a_hung_request_does_not_stretch_the_timeline():
    line = timeline_of(window(0, 1, 10_000))
    assert line.bin_ns == 100 * MS
    assert len(line.tokens) == 10 + MOST_BINS_BESIDE


@often
@given(st.lists(st.integers(-5, 25), max_size=30))
def test_tokens_within_a_window_are_half_open(offsets):
    stamps = START_NS + np.array(offsets, np.int64)
    small = Window(START_NS, START_NS + 20, START_NS, START_NS, "")
    inside = sum(0 <= offset < 20 for offset in offsets)
    assert parts_within(small, stamps, None) == inside * TOKEN
    assert parts_within(small, stamps, np.full(len(stamps), 0.5)) == inside * TOKEN / 2
