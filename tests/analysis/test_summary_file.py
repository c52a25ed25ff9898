import json
import math
import os
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from synthetic import (
    START_NS,
    S,
    file_facts,
    mark,
    row,
    stage_plan,
    steady_rows,
    watch,
    write_capture,
    write_run,
)

from analysis import summary
from loadgen.schema import CaptureError


def test_a_run_that_is_cut_or_missing_a_worker_is_summed_up_and_suspect(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(), marks=[mark(done_ns=None)], closed=False, file={"workers": 3})
    (run_dir / "capture" / "worker-02.arrow").write_bytes(b"\x00\x01")
    told = summary.summarize(run_dir)
    assert told["interrupted"]
    assert told["capture"] | {"stamp_source": 0} == {
        "workers": 3,
        "parts": 1,
        "missing_workers": [1],
        "cut_workers": [0, 2],
        "cut_requests": 0,
        "unpinned_workers": [],
        "requests": 160,
        "stages_planned": 1,
        "stages_begun": 1,
        "stamp_source": 0,
    }
    assert {"worker-missing", "capture-cut"} <= {reason["code"] for reason in told["verdict"]["reasons"]}
    assert told["stages"][0]["ttft_ms"]["p50"] == 50.0


def test_an_interrupted_run_has_the_stages_that_began(tmp_path):
    plans = [stage_plan(0), stage_plan(1)]
    ended = {"reason": "interrupted", "words": "Ctrl-C"}
    told = summary.summarize(write_run(tmp_path, steady_rows(), plans, [mark(0)], ended=ended))
    assert [stage["name"] for stage in told["stages"]] == ["concurrency 2"]
    assert [reason["code"] for reason in told["verdict"]["reasons"]] == ["run-interrupted"]
    assert "1 of 2 stages" in told["verdict"]["reasons"][0]["words"]


def test_the_file_is_the_same_to_the_byte_when_written_again_and_reads_back(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(intended_ns=None, event_tokens=[2] * 16))
    told = summary.report(run_dir)
    first = [(run_dir / name).read_bytes() for name in ("summary.json", "histograms.hlog")]
    summary.report(run_dir)
    assert first == [(run_dir / name).read_bytes() for name in ("summary.json", "histograms.hlog")]
    assert summary.read(run_dir) == told == json.loads(first[0], parse_constant=lambda word: pytest.fail(word))
    assert sorted(os.listdir(run_dir)) == ["capture", "histograms.hlog", "run.json", "summary.json"]


@pytest.mark.parametrize("name", ["summary.json", "histograms.hlog"])
def test_of_what_cannot_be_written_nothing_stays(tmp_path, name):
    run_dir = write_run(tmp_path, steady_rows())
    (run_dir / name).mkdir()
    with pytest.raises(OSError, match=name):
        summary.write(run_dir, summary.analyse(run_dir))
    assert not list(run_dir.glob("*.part"))


def test_the_histogram_log_holds_each_metric_of_each_stage(tmp_path):
    plans, marks = [stage_plan(0), stage_plan(1)], [mark(0), mark(1, START_NS + 20 * S)]
    rows = steady_rows(event_tokens=[2] * 16) + steady_rows(4, start_ns=START_NS + 20 * S, stage=1)
    run_dir = write_run(tmp_path, rows, plans, marks)
    told = summary.report(run_dir)
    reader = HistogramLogReader(str(run_dir / "histograms.hlog"), HdrHistogram(1, 3_600_000_000_000, 3))
    found = {}
    while histogram := reader.get_next_interval_histogram():
        found[histogram.get_tag()] = histogram
    reader.close()
    assert {"0.ttft", "0.itl", "0.itl_per_token", "0.lag", "1.tpot", "1.end_of_stream"} <= set(found)
    assert "1.itl_per_token" not in found
    p50_ms = found["1.itl"].get_value_at_percentile(50) / 1e6
    assert p50_ms == pytest.approx(told["stages"][1]["itl_ms"]["p50"], rel=0.001)
    assert found["1.ttft"].get_start_time_stamp() - found["0.ttft"].get_start_time_stamp() == pytest.approx(20_000)


def test_a_summary_of_another_version_is_refused(tmp_path):
    for text, words in (('{"schema": 9}', "version 9"), ("{", "no JSON")):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(CaptureError, match=words):
            summary.read(tmp_path)
    with pytest.raises(CaptureError, match="no summary"):
        summary.read(tmp_path / "none")


def test_no_number_of_a_summary_is_nan(tmp_path):
    def numbers(value: Any):
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from numbers(inner)
        elif isinstance(value, float):
            yield value

    for name, rows in (("none", []), ("one", [row(START_NS, [START_NS + 1])]), ("some", steady_rows())):
        told = summary.summarize(write_run(tmp_path / name, rows))
        assert all(math.isfinite(number) for number in numbers(told))


def test_rows_of_a_stage_that_nobody_planned_are_left_out(tmp_path):
    told = summary.summarize(write_run(tmp_path, [row(START_NS, [START_NS + 1], stage=7)]))
    assert told["stages"][0]["requests"]["sent"] == 0


def test_a_worker_that_wrote_nothing_yet_is_summed_up(tmp_path):
    write_capture(tmp_path / "capture" / "worker-00.arrow", file_facts([stage_plan()]), [([], watch())], closed=False)
    told = summary.summarize(tmp_path)
    assert told["stages"] == []
    assert not told["verdict"]["ok"]
