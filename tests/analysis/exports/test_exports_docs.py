"""What docs/exports.md says is so: its queries run, and give the numbers of the summary."""

import os
import re
from pathlib import Path

import duckdb
import pytest
from synthetic import START_NS

from analysis import summary
from analysis.exports import FORMATS, parquet
from analysis.exports.parquet import TOKENS
from analysis.exports.requests import REQUESTS

# What is said of several machines has a run of several machines: test_partitions.py.
DOCS, _, _ = (
    (Path(__file__).parents[3] / "docs" / "exports.md").read_text(encoding="utf-8").partition("## Several machines")
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    """The folder of an export, as the working directory; and the stages of the summary."""
    out = tmp_path_factory.mktemp("docs")
    parquet.write(run_dir, out, 0)
    before = Path.cwd()
    os.chdir(out)
    yield summary.summarize(run_dir)["stages"]
    os.chdir(before)


def in_order(rows):
    return [(stage, pytest.approx(p50, rel=0.001), pytest.approx(p99, rel=0.001)) for stage, p50, p99 in rows]


def wanted(stages):
    return [(stage["stage"], stage["itl_ms"]["p50"], stage["itl_ms"]["p99"]) for stage in stages]


def test_every_query_for_duckdb_runs(exported, everything):
    results = [duckdb.sql(query).fetchall() for query in blocks("sql")]
    assert len(results) == 5
    assert results[0] == in_order(wanted(exported))
    assert {stage for stage, _, _ in results[1]} == {0, 1}
    slowest = max(stage["ttft_ms"]["max"] for stage in exported)
    assert results[2][0][1] == pytest.approx(slowest, abs=1e-6)
    assert len(results[2]) == 10
    assert all(in_flight >= 1 for _, _, in_flight in results[2])
    captured = {
        (row["request_id"], index): t_ns - START_NS for row in everything for index, t_ns in enumerate(row["event_ns"])
    }
    exact = {(request_id, index): t_ns for request_id, index, _, t_ns in results[4]}
    assert exact.keys() == captured.keys()
    assert max(abs(t_ns - captured[token]) for token, t_ns in exact.items()) <= 512


def test_every_snippet_for_polars_and_pandas_runs_and_agrees(exported):
    found = []
    for snippet in blocks("python"):
        names: dict[str, object] = {}
        exec(snippet, names)
        found.append(names)
    polars, pandas, failures = found
    assert polars["itl"].rows() == in_order(wanted(exported))
    assert list(pandas["itl"].itertuples(index=False, name=None)) == in_order(wanted(exported))
    told = {(stage["stage"], name): count for stage in exported for name, count in stage["requests"]["errors"].items()}
    counted = failures["failures"].to_dict()
    assert {key: count for key, count in counted.items() if key[1] != "cancelled"} == told


def documented(title):
    """The names in the first column of the table below a title."""
    table = DOCS.split(title, 1)[1].split("|---|---|", 1)[1].split("\n\n", 1)[0]
    return [name for line in table.splitlines() if line for name in re.findall(r"`(\w+)`", line.split("|")[1])]


def test_every_column_is_described_and_no_other(exported):
    assert sorted(documented("### requests.parquet")) == sorted(REQUESTS.names)
    assert documented("### tokens.parquet") == TOKENS.names


def test_every_format_is_described_and_no_other():
    assert re.findall(r"^\| `([a-z-]+)` \|", DOCS, re.MULTILINE)[1 : len(FORMATS) + 1] == list(FORMATS)
