import pytest
import reference
from everything import measured_rows
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from synthetic import REALTIME_OFFSET_NS, START_NS

from analysis.exports import hlog
from analysis.histogram import HIGHEST_NS


@pytest.fixture(scope="module")
def path(run_dir, tmp_path_factory):
    (path,) = hlog.write(run_dir, tmp_path_factory.mktemp("hlog"), 0)
    return path


@pytest.fixture(scope="module")
def intervals(path):
    """What HdrHistogram's own reader makes of the log."""
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    found = []
    while (one := reader.get_next_interval_histogram()) is not None:
        found.append(one)
    reader.close()
    return found


VALUES = {
    "ttft": lambda r: [(r["event_ns"][0], reference.ttft(r))],
    "e2e": lambda r: [(r["event_ns"][-1], reference.e2e(r))],
    "tpot": lambda r: [] if reference.tpot(r) is None else [(r["event_ns"][-1], reference.tpot(r))],
    "itl": lambda r: list(zip(r["event_ns"][1:], reference.gaps(r), strict=True)),
}


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("metric", list(VALUES))
def test_each_second_has_a_histogram_of_what_was_known_in_it(intervals, everything, stage, metric):
    by_second: dict[int, list[int]] = {}
    for told in measured_rows(everything, stage):
        for at_ns, value_ns in VALUES[metric](told):
            by_second.setdefault((at_ns - START_NS) // 10**9, []).append(value_ns)
    found = [one for one in intervals if one.get_tag() == f"{stage}.{metric}"]
    begin_ms = (START_NS + REALTIME_OFFSET_NS) / 1e6
    assert [(one.get_start_time_stamp() - begin_ms) / 1e3 for one in found] == sorted(by_second)
    for one, second in zip(found, sorted(by_second), strict=True):
        wanted = HdrHistogram(1, HIGHEST_NS, 3)
        for value in by_second[second]:
            wanted.record_value(value)
        assert one.get_end_time_stamp() - one.get_start_time_stamp() == 1_000
        assert one.get_total_count() == wanted.get_total_count()
        assert one.get_value_at_percentile(99) == wanted.get_value_at_percentile(99)


def test_lines_are_in_the_order_of_time_and_show_their_maximum_in_ms(path, intervals):
    starts = [one.get_start_time_stamp() for one in intervals]
    assert starts == sorted(starts)
    lines = [line.split(",") for line in path.read_text().splitlines() if line.startswith("Tag=")]
    assert len(lines) == len(intervals)
    for (_, _, length_s, most_ms, _), one in zip(lines, intervals, strict=True):
        assert length_s == "1.000"
        assert float(most_ms) == pytest.approx(one.get_max_value() / 1e6, rel=0.001)


def test_open_loop_stages_have_both_latencies(intervals):
    tags = {one.get_tag() for one in intervals}
    assert {"1.ttft_intended", "1.e2e_intended"} <= tags
    assert "0.ttft_intended" not in tags
