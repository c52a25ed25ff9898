"""The export of a run on several machines: one data set, by node and stage."""

import os
import re
import shutil
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from everything import drawn_rows
from nodes_run import write_nodes

from analysis import summary
from analysis.exports import parquet


@pytest.fixture(scope="module")
def nodes_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("nodes") / "run"
    write_nodes(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def out(nodes_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("partitioned")
    paths = parquet.write(nodes_dir, folder, 0)
    assert sorted(path.relative_to(folder).as_posix() for path in paths) == [
        f"{table}/node={node}/stage={stage}/part-0.parquet"
        for table in ("requests", "tokens")
        for node in (0, 1, 2)
        for stage in (0, 1)
    ]
    assert all(path.is_file() for path in paths)
    return folder


def test_node_and_stage_stand_in_the_path_and_nowhere_else(out):
    for path in out.rglob("*.parquet"):
        assert not {"node", "stage"} & set(pq.read_schema(path).names)
    table = ds.dataset(out / "tokens", partitioning="hive").to_table()
    assert {"node", "stage"} <= set(table.column_names)


def test_the_parts_hold_every_request_and_token_once_on_one_time_line(out):
    requests = ds.dataset(out / "requests", partitioning="hive").to_table().to_pylist()
    assert sorted(one["request_id"] for one in requests) == list(range(500))
    sent = {one["request_id"]: one["sent_ns"] for one in requests}
    origin_ns = drawn_rows()[0]["sent_ns"] - sent[0]
    assert all(one["sent_ns"] - origin_ns == sent[one["request_id"]] for one in drawn_rows())
    tokens = ds.dataset(out / "tokens", partitioning="hive").count_rows()
    assert tokens == sum(len(one["event_ns"]) for one in drawn_rows())


@pytest.mark.parametrize("stage", [0, 1])
def test_duckdb_over_the_parts_finds_the_percentiles_of_the_whole(out, nodes_dir, stage):
    told = summary.summarize(nodes_dir)["stages"][stage]
    files = f"read_parquet('{out}/tokens/**/*.parquet', hive_partitioning = true)"
    p99, count = duckdb.sql(
        f"select quantile_disc(gap_ns, 0.99), count(gap_ns) from {files} where measured and stage = {stage}"
    ).fetchall()[0]
    assert p99 / 1e6 == pytest.approx(told["itl_ms"]["p99"], rel=0.001)
    assert count == told["itl_ms"]["count"]


def test_a_query_for_one_node_opens_its_files_alone(out):
    files = f"read_parquet('{out}/requests/**/*.parquet', hive_partitioning = true)"
    plan = duckdb.sql(f"explain analyze select count(*) from {files} where node = 1").fetchall()[0][1]
    assert "Scanning Files: 2/6" in plan


DOCS = (
    (Path(__file__).parents[3] / "docs" / "exports.md").read_text(encoding="utf-8").partition("## Several machines")[2]
)


def snippets(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture
def in_out(out):
    """The folder of the export as the working directory."""
    before = Path.cwd()
    os.chdir(out)
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def gaps(nodes_dir):
    """(stage, p50, p99) of the summary."""
    return [
        (
            stage["stage"],
            pytest.approx(stage["itl_ms"]["p50"], rel=0.001),
            pytest.approx(stage["itl_ms"]["p99"], rel=0.001),
        )
        for stage in summary.summarize(nodes_dir)["stages"]
    ]


def test_the_queries_for_duckdb_run_and_agree_with_the_summary(in_out, nodes_dir, gaps):
    by_stage, by_node = [duckdb.sql(query).fetchall() for query in snippets("sql")]
    assert [(stage, p50, p99) for stage, node, p50, p99 in by_stage if node is None] == gaps
    assert [node for _, node, _, _ in by_stage] == [None, 0, 1, 2] * 2
    counted = {
        (stage["stage"], told["node"]): told
        for stage in summary.summarize(nodes_dir)["stages"]
        for told in stage["by_node"]
    }
    assert {(stage, node) for stage, node, *_ in by_node} == counted.keys()
    completed = [stage["requests"]["completed"] for stage in summary.summarize(nodes_dir)["stages"]]
    assert [sum(row[2] for row in by_node if row[0] == stage) for stage in (0, 1)] == completed


@pytest.mark.filterwarnings("default")
def test_the_query_for_spark_runs_and_agrees(in_out, gaps):
    """Needs pyspark and a Java of its own: run where both are."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    names = {}
    spark, _ = snippets("python")
    try:
        exec(spark, names)
        assert [(row["stage"], float(row["p50_ms"]), float(row["p99_ms"])) for row in names["itl"]] == gaps
    finally:
        names["spark"].stop()


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_the_query_for_ray_data_runs_and_agrees(in_out, gaps):
    import ray
    import ray.data

    names = {}
    _, data = snippets("python")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    try:
        exec(data, names)
        assert sorted((int(row["stage"]), row["p50_ms"], row["p99_ms"]) for row in names["itl"]) == gaps
    finally:
        ray.shutdown()
