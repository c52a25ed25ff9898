import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st
from strategies import latencies_ns, often

from analysis.histogram import (
    CEILING_NS,
    EXACT_UP_TO,
    HIGHEST_NS,
    Histogram,
    LogLine,
    encode,
    fill,
    filled,
    merge,
    percentiles,
    rank,
    write_log,
)


def array(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def recorded(values: list[int]) -> HdrHistogram:
    """HdrHistogram's own way: a value at a time."""
    histogram = HdrHistogram(1, HIGHEST_NS, 3)
    for value in values:
        assert histogram.record_value(value)
    return histogram


@often
@given(latencies_ns)
def test_filling_a_vector_counts_as_recording_each_value_does(values):
    theirs = recorded(values)
    ours = filled(array(values))
    assert np.array_equal(ours.counts, np.frombuffer(theirs.counts, np.uint64))
    assert encode(ours) == theirs.encode()
    assert (ours.total, ours.min_ns, ours.max_ns) == (theirs.total_count, min(values), max(values))


def test_every_place_border_is_where_hdrhistogram_has_it():
    borders = [(1 << power) + step for power in range(42) for step in (-1, 0, 1)]
    assert np.array_equal(filled(array(borders)).counts, np.frombuffer(recorded(borders).counts, np.uint64))


def test_an_empty_histogram_encodes_as_an_empty_one():
    assert encode(Histogram()) == HdrHistogram(1, HIGHEST_NS, 3).encode()


@often
@given(latencies_ns, latencies_ns, latencies_ns)
def test_merging_is_recording_together_in_any_order(a, b, c):
    one, two, three = filled(array(a)), filled(array(b)), filled(array(c))
    together = filled(array(c + a + b))
    assert merge([one, two, three]) == merge([three, one, two]) == together
    assert merge([merge([one, two]), three]) == together
    assert merge([Histogram(), one]) == one


def test_histograms_that_differ_in_one_count_are_not_equal():
    assert filled(array([5_000, 7_000])) != filled(array([5_000, 9_000]))
    assert Histogram() != 0


PERCENTS = [0.01, 1, 50, 90, 95, 99, 99.9, 99.99, 100]


@often
@given(latencies_ns, st.sampled_from(PERCENTS))
def test_a_percentile_of_a_small_sample_is_the_exact_nearest_rank(values, percentile):
    exact = int(np.percentile(array(values), percentile, method="inverted_cdf"))
    assert percentiles(filled(array(values)), [percentile]) == [exact]
    parts = [filled(array(values[::2])), filled(array(values[1::2]))]
    assert percentiles(merge(parts), [percentile]) == [exact]


@often
@given(latencies_ns, st.sampled_from(PERCENTS))
def test_a_percentile_of_counts_is_never_below_the_exact_one_and_at_most_a_thousandth_above(values, percentile):
    exact = int(np.percentile(array(values), percentile, method="inverted_cdf"))
    histogram = filled(array(values))
    histogram.pieces = None  # as of a sample that is too large to keep
    (found,) = percentiles(histogram, [percentile])
    assert exact <= found <= exact * (1 + 1 / 1024)


@pytest.mark.parametrize("draw", ["lognormal", "gamma", "ticks"])
def test_percentiles_of_a_million_values_are_within_a_thousandth_of_numpys(draw):
    rng = np.random.default_rng(5)
    values = {
        "lognormal": lambda: rng.lognormal(17, 0.5, 1_000_000),
        "gamma": lambda: rng.gamma(2, 8e6, 1_000_000),
        "ticks": lambda: 20e6 * rng.integers(1, 4, 1_000_000) + rng.integers(0, 300_000, 1_000_000),
    }[draw]().astype(np.int64)
    wanted = [50, 90, 95, 99, 99.9, 99.99]
    assert percentiles(filled(values), wanted) == pytest.approx(np.percentile(values, wanted).tolist(), rel=0.001)


@pytest.mark.parametrize("order", [1, -1])
def test_values_are_kept_up_to_a_number_and_the_way_to_it_makes_no_difference(order):
    values = np.arange(EXACT_UP_TO, dtype=np.int64) * 1_000
    parts = [filled(values[:100]), filled(values[100:])][::order]
    at_most = merge(parts)
    assert sorted(at_most.values_ns.tolist()) == values.tolist()
    one_more = merge([at_most, filled(array([7]))][::order])
    assert one_more.values_ns is None
    assert merge([one_more, Histogram()]).values_ns is None
    fill(at_most, array([7]))
    assert at_most.values_ns is None


@pytest.mark.parametrize(
    ("percentile", "total", "wanted"),
    [(50, 1, 1), (50, 2, 1), (50, 3, 2), (99, 100, 99), (99, 101, 100), (99.9, 1000, 999), (100, 7, 7), (0, 7, 1)],
)
def test_the_rank_is_rounded_up_and_exact(percentile, total, wanted):
    assert rank(percentile, total) == wanted


@often
@given(latencies_ns)
def test_count_min_max_and_mean_are_exact(values):
    histogram = filled(array(values))
    assert histogram.total == len(values)
    assert histogram.mean_ns == sum(values) / len(values)
    assert percentiles(histogram, [100]) == [max(values)]


def test_the_sum_stays_exact_beyond_64_bits():
    histogram = Histogram()
    for _ in range(4):
        fill(histogram, np.full(1 << 20, HIGHEST_NS))
    assert histogram.total_ns == (1 << 22) * HIGHEST_NS > 1 << 63


def test_what_is_out_of_range_is_counted_at_the_border_and_told():
    histogram = filled(array([-5, 10, CEILING_NS + 7]))
    assert (histogram.total, histogram.out_of_range) == (3, 2)
    assert (histogram.min_ns, histogram.max_ns) == (-5, CEILING_NS + 7)
    assert histogram.counts[0] == 1
    assert histogram.counts[-1] == 1
    encode(histogram)


def test_an_empty_vector_changes_nothing_and_an_empty_histogram_has_no_percentile():
    histogram = Histogram()
    fill(histogram, array([]))
    assert histogram == Histogram()
    assert percentiles(histogram, [50, 99]) == [None, None]
    assert histogram.mean_ns is None


def test_hdrhistograms_own_reader_reads_the_log(tmp_path):
    ttft, itl = [50_000_000, 51_000_000, 90_000_000], [20_000_000] * 5
    path = tmp_path / "histograms.hlog"
    with path.open("w") as out:
        lines = [LogLine("0.ttft", 1.5, 10.0, filled(array(ttft))), LogLine("0.itl", 1.5, 10.0, filled(array(itl)))]
        write_log(out, lines, 1_790_000_000.0, "a note")
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    first, second = reader.get_next_interval_histogram(), reader.get_next_interval_histogram()
    assert reader.get_next_interval_histogram() is None
    reader.close()
    assert (first.get_tag(), second.get_tag()) == ("0.ttft", "0.itl")
    assert first.get_total_count() == 3
    assert first.get_value_at_percentile(50) == recorded(ttft).get_value_at_percentile(50)
    assert first.get_start_time_stamp() == 1_790_000_001_500.0
    assert first.get_end_time_stamp() == 1_790_000_011_500.0


def test_a_tag_that_would_break_the_log_is_refused(tmp_path):
    with (tmp_path / "x").open("w") as out, pytest.raises(ValueError, match="comma"):
        write_log(out, [LogLine("a,b", 0, 1, filled(array([1])))], 0.0, "")
