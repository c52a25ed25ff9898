"""A summary as tables of plain columns, and the rows of a capture."""

import re

import pyarrow as pa
import pytest
from sweep_run import LOADS, hostile, sweep
from synthetic import START_NS, S, file_facts, mark, row, stage_plan, watch, write_capture, write_run

from analysis import frames
from analysis.summary import summarize
from loadgen.schema import CAPTURE_SCHEMA, CaptureError

UNITS = ("_ms", "_us", "_s", "_share", "_per_s", "_per_s_low", "_per_s_high", "_per_user", "_mean", "_max")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def summary(run_dir):
    return summarize(run_dir)


def test_the_curve_is_a_row_a_point_with_the_numbers_of_the_summary(summary):
    table = frames.points(summary)
    assert table.column("load").to_pylist() == [f"{load}" for load in LOADS]
    assert table.column("value").to_pylist() == [float(load) for load in LOADS]
    for row_, point in zip(table.to_pylist(), summary["curve"], strict=True):
        tokens, ttft = point["output_tokens_per_s"], point["ttft_ms"]["p99"]
        assert [row_[f"output_tokens_per_s{end}"] for end in ("", "_low", "_high")] == [
            tokens["value"],
            tokens["low"],
            tokens["high"],
        ]
        assert (row_["ttft_p99_ms"], row_["ttft_p99_low_ms"]) == (ttft["value"], ttft["low"])
        assert row_["failed_share"] == point["failed_share"]
        assert row_["ttft_intended_p50_ms"] is None  # a closed loop has no intended times


def test_stages_are_a_row_each(summary):
    table = frames.stages(summary)
    for row_, stage in zip(table.to_pylist(), summary["stages"], strict=True):
        assert (row_["stage"], row_["name"], row_["window_s"]) == (stage["stage"], stage["name"], stage["window_s"])
        assert {name: row_[name] for name in frames.COUNTS} == {name: stage["requests"][name] for name in frames.COUNTS}
        assert row_["itl_p95_ms"] == stage["itl_ms"]["p95"]


@pytest.mark.parametrize("schema", [frames.POINTS, frames.STAGES])
def test_every_number_says_its_unit_in_its_name(schema):
    counts = {"value", "stages", "stage", *frames.COUNTS}
    for column in schema:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            assert column.name in counts or column.name.endswith(UNITS), column.name


def test_a_run_without_a_single_stage_is_a_table_without_rows(summary):
    nothing = summary | {"stages": [], "curve": []}
    assert frames.points(nothing).num_rows == frames.stages(nothing).num_rows == 0
    assert frames.points(nothing).schema == frames.POINTS


def test_a_search_tells_by_point_whether_it_met_the_objectives_and_who_was_the_limit(summary):
    told = {
        "points": [
            {"load": 1, "meets": True, "client": []},
            {"load": 16, "meets": False, "client": ["no CPU left"]},
        ]
    }
    table = frames.points(summary, told)
    assert table.column("meets").to_pylist() == [True, None, False]
    assert table.column("limited_by_client").to_pylist() == [False, None, True]


def test_a_load_that_changes_over_time_has_no_one_value(tmp_path):
    assert frames.points(summarize(hostile(tmp_path))).column("value").to_pylist()[-1] is None


def test_requests_are_the_rows_of_all_workers_with_every_stamp(run_dir, summary):
    table = frames.requests(run_dir)
    assert table.schema.names == CAPTURE_SCHEMA.names
    assert table.num_rows == sum(stage["requests"]["sent"] for stage in summary["stages"]) + sum(
        stage["warmup_requests"] + stage["after_window_requests"] for stage in summary["stages"]
    )
    some = frames.requests(run_dir, ["error", "event_ns"])
    assert some.schema.names == ["error", "event_ns"]
    assert some.column("event_ns").to_pylist() == table.column("event_ns").to_pylist()
    assert set(some.column("error").to_pylist()) == {None, "truncated"}


def test_a_column_that_there_is_not_is_refused(run_dir):
    with pytest.raises(CaptureError, match=re.escape("a capture has no column 'ttft'; allowed are request_id,")):
        frames.requests(run_dir, ["ttft"])


def test_rows_of_a_stage_that_was_begun_again_are_those_of_its_last_part(tmp_path):
    plans = [stage_plan(0, duration_s=1.0), stage_plan(1, duration_s=1.0) | {"part": 2}]
    first = [row(START_NS, request_id=1, stage=0), row(START_NS + S, request_id=2, stage=1)]
    run_dir = write_run(tmp_path, first, plans, [mark(0, START_NS, 1.0)])
    again = run_dir / "capture" / "part-2"
    again.mkdir()
    write_capture(
        again / "worker-00.arrow",
        file_facts(plans),
        [([row(START_NS + 9 * S, request_id=3, stage=1)], watch(marks=[mark(1, START_NS + 9 * S, 1.0)]))],
    )
    assert frames.requests(run_dir, ["request_id"]).column("request_id").to_pylist() == [1, 3]
