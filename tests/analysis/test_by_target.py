"""Several targets: what is told of each, and that the parts make the whole."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic import START_NS, S, open_plan, row, steady_rows, write_run

from analysis import compare, tables
from analysis.exports import csv as csv_export
from analysis.exports import parquet
from analysis.frames import targets as target_frame
from analysis.page.listings import target_table
from analysis.summary import analyse, summarize
from analysis.targets import endpoint_words, keys_of, names_of, urls_of
from loadgen.schema import CaptureError


def target(name: str, *urls: str, weight: float = 1.0, api: str = "chat") -> dict:
    return {"name": name, "weight": weight, "url": list(urls), "model": name, "api": api}


SPEC = {
    "model": "base",
    "url": "http://h:1",
    "slo": {"ttft": {"percentile": None, "limit_ms": 70.0}},
    "targets": [target("base", "http://h:1", "http://h:2", weight=3.0), target("adapter", "http://h:2")],
}


def some_rows() -> list[dict]:
    """Endpoint 0 is fast, 1 slow for the base and in between for the adapter; all of them at once."""
    rows = steady_rows(ttft_ms=40.0, target=0, endpoint=0)
    rows += steady_rows(ttft_ms=80.0, target=0, endpoint=1)
    rows += steady_rows(ttft_ms=60.0, tokens=4, target=1, endpoint=1)
    rows += [row(START_NS + n * S // 4, target=1, endpoint=1, error="http-500", status=500) for n in range(4)]
    return sorted(rows, key=lambda one: one["ended_ns"])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("targets"), some_rows(), spec=SPEC)


@pytest.fixture(scope="module")
def stage(run_dir) -> dict:
    return summarize(run_dir)["stages"][0]


def test_each_target_and_endpoint_has_the_blocks_of_the_stage(stage):
    base, adapter = stage["by_target"]
    assert (base["name"], base["weight"], base["model"], base["urls"]) == (
        "base",
        3.0,
        "base",
        ["http://h:1", "http://h:2"],
    )
    assert [one["url"] for one in base["by_endpoint"]] == ["http://h:1", "http://h:2"]
    assert adapter["by_endpoint"] is None
    blocks = {
        "requests",
        "ttft_ms",
        "tpot_ms",
        "itl_ms",
        "e2e_ms",
        "output_tokens_per_s",
        "slo",
        "concurrency",
        "lengths",
    }
    for part in (base, adapter, *base["by_endpoint"]):
        assert blocks <= part.keys() & stage.keys()
    fast, slow = base["by_endpoint"]
    assert [one["ttft_ms"]["p50"] for one in (fast, slow, adapter)] == [40.0, 80.0, 60.0]
    assert [one["slo"]["ttft"]["met_share"] for one in (fast, slow, adapter)] == [1.0, 0.0, 1.0]
    assert fast["concurrency"]["peak"] == 2


def test_the_parts_make_the_whole(stage):
    base, adapter = stage["by_target"]
    for parts, whole in ((stage["by_target"], stage), (base["by_endpoint"], base)):
        for name in ("sent", "completed", "failed"):
            assert sum(part["requests"][name] for part in parts) == whole["requests"][name]
        for name in ("output_tokens_per_s", "requests_per_s", "goodput_per_s"):
            assert sum(part[name] for part in parts) == pytest.approx(whole[name])
        assert sum(part["itl_ms"]["count"] for part in parts) == whole["itl_ms"]["count"]
        assert min(part["ttft_ms"]["min"] for part in parts) == whole["ttft_ms"]["min"]
        assert max(part["ttft_ms"]["max"] for part in parts) == whole["ttft_ms"]["max"]
        assert sum(part["concurrency"]["mean"] for part in parts) == pytest.approx(
            whole["concurrency"]["mean"], abs=1e-5
        )
    assert adapter["requests"]["errors"] == {"http-500": 4}


def test_a_target_alone_tells_what_a_run_of_it_alone_would(tmp_path, stage):
    alone = summarize(write_run(tmp_path, [one for one in some_rows() if one["target"] == 1], spec=SPEC))["stages"][0]
    told = stage["by_target"][1]
    assert {name: alone[name] for name in told.keys() & alone.keys()} == {
        name: told[name] for name in told.keys() & alone.keys() if name != "name"
    } | {"name": alone["name"]}


def test_several_processes_tell_the_same(run_dir):
    one, two = (json.dumps(analyse(run_dir, jobs).summary) for jobs in (1, 2))
    assert one == two


def test_where_there_is_one_target_with_one_url_nothing_is_told_apart(tmp_path):
    told = summarize(write_run(tmp_path, steady_rows()))["stages"][0]
    assert told["by_target"] is None
    assert tables.target_table([told]) is None
    assert target_table([told]) is None


def test_endpoints_of_one_target_are_told_apart(tmp_path):
    spec = {"model": "m", "url": "http://h:1", "slo": None, "targets": [target("m", "http://h:1", "http://h:2")]}
    rows = steady_rows(endpoint=0) + steady_rows(endpoint=1, ttft_ms=90.0)
    (only,) = summarize(write_run(tmp_path, rows, spec=spec))["stages"][0]["by_target"]
    assert [one["ttft_ms"]["p50"] for one in only["by_endpoint"]] == [50.0, 90.0]
    assert only["requests"]["sent"] == sum(one["requests"]["sent"] for one in only["by_endpoint"])
    assert keys_of(spec) == ((0, 0), (0, 1))


def test_a_target_that_nothing_went_to_is_told_of_all_the_same(tmp_path):
    rows = [one for one in some_rows() if one["target"] == 0]
    adapter = summarize(write_run(tmp_path, rows, spec=SPEC))["stages"][0]["by_target"][1]
    assert (adapter["requests"]["sent"], adapter["ttft_ms"], adapter["output_tokens_per_s"]) == (0, None, 0.0)


def test_dropped_arrivals_are_their_targets(tmp_path):
    rows = [
        row(START_NS + n, request_id=n, intended_ns=START_NS + n, target=n % 2, endpoint=None, error="dropped")
        for n in range(5)
    ]
    base, adapter = summarize(write_run(tmp_path, rows, plans=[open_plan()], spec=SPEC))["stages"][0]["by_target"]
    assert (base["requests"]["dropped"], adapter["requests"]["dropped"]) == (3, 2)
    assert [one["requests"]["dropped"] for one in base["by_endpoint"]] == [0, 0], "they went nowhere"


def test_the_tables_have_a_row_each(stage):
    rows = target_table([stage])["rows"]
    assert [[cell["text"] for cell in one[1:3]] for one in rows] == [
        ["base", ""],
        ["base", "http://h:1"],
        ["base", "http://h:2"],
        ["adapter", "http://h:2"],
    ]
    assert rows[3][-1] == {"text": "4", "doubted": False, "bad": True}
    shown = tables.target_table([stage])
    assert [str(cell) for cell in shown.columns[1].cells] == ["base", "  h:1", "  h:2", "adapter"]


def test_exports_have_the_names(run_dir, tmp_path):
    parquet.write(run_dir, tmp_path, 10)
    table = pq.read_table(tmp_path / "requests.parquet")
    pairs = set(zip(table["target"].to_pylist(), table["endpoint"].to_pylist(), strict=True))
    assert pairs == {("base", "http://h:1"), ("base", "http://h:2"), ("adapter", "http://h:2")}
    csv_export.write(run_dir, tmp_path, 10)
    with (tmp_path / "targets.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["target"], line["endpoint"]) for line in lines] == [
        ("base", ""),
        ("base", "http://h:1"),
        ("base", "http://h:2"),
        ("adapter", ""),
    ]
    assert [float(line["ttft_p50_ms"]) for line in lines[1:]] == [40.0, 80.0, 60.0]


def test_a_table_for_notebooks_has_a_row_each(run_dir):
    table = target_frame(summarize(run_dir))
    assert table.column("target").to_pylist() == ["base", "base", "base", "adapter"]
    assert table.column("endpoint").to_pylist() == [None, "http://h:1", "http://h:2", None]
    assert table.column("ttft_p50_ms").to_pylist()[1:] == [40.0, 80.0, 60.0]


def test_an_early_capture_names_the_only_target():
    assert (names_of({"model": "m", "url": "u"}), urls_of({"model": "m", "url": "u"})) == (["m"], ["u"])
    assert endpoint_words(None) == ""
    assert endpoint_words(SPEC) == "base, adapter at 2 URLs"
    assert endpoint_words({"model": "m", "url": "u", "targets": []}) == "m at u"


def test_one_target_is_compared_by_itself_and_two_of_one_run_with_each_other(tmp_path):
    spec = {
        "model": "old",
        "url": "http://h:1",
        "slo": None,
        "targets": [target("old", "http://h:1"), target("new", "http://h:2")],
    }
    rows = steady_rows(target=0, endpoint=0, ttft_ms=50.0) + steady_rows(target=1, endpoint=1, ttft_ms=30.0)
    rows.sort(key=lambda one: one["ended_ns"])
    run_dir = write_run(tmp_path / "run", rows, spec=spec)
    old, new = compare.load([run_dir, run_dir], targets=["old", "new"])
    (match,) = compare.matches(old.summary, new.summary)
    found = {change.name: change for change in compare.changes(old, new, match)}
    assert (found["ttft.p50"].before, found["ttft.p50"].after, found["ttft.p50"].statement) == (50.0, 30.0, "faster")
    assert found["ttft.p50"].interval.high < 0
    whole, same = compare.load([run_dir, run_dir])
    assert (whole.name, same.name) == ("A", "B")
    with pytest.raises(CaptureError, match="has no target 'newer'; there are old, new"):
        compare.load([run_dir, run_dir], targets=["old", "newer"])


def test_the_target_of_a_run_that_has_but_one_is_the_run(tmp_path):
    run_dir = write_run(tmp_path / "run", steady_rows())
    (loaded,) = compare.load([run_dir], targets=["m"])
    assert loaded.summary["stages"][0]["requests"]["sent"] == 160


def test_mixes_of_other_weights_are_not_compared():
    mixes = [
        {
            "spec": SPEC | {"targets": [target("a", "http://h:1", weight=weight), target("b", "http://h:2")]},
            "stages": [],
        }
        for weight in (1.0, 1.0, 3.0)
    ]
    for mix in mixes:
        mix["capture"] = {"stamp_source": ["kernel"]}
    assert compare.differences_of_workload(mixes[0], mixes[1]) == []
    assert "the targets differ in number, weight or API" in compare.differences_of_workload(mixes[0], mixes[2])[0]
