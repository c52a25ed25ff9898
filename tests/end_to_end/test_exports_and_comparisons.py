"""What is made of finished runs, with the installed command: files that other tools read, and what differs between two."""

import json

import duckdb
import pyarrow.parquet as pq
import pytest
from asked import rows, typed

from loadgen.simulator.process import serve

LOAD = (
    "--model",
    "sim",
    "--no-check",
    "--input-tokens",
    "16",
    "--output-tokens",
    "32",
    "--warmup",
    "0",
    "--workers",
    "1",
)


def run(folder, step, *load):
    with serve("--step", step, "--jitter", "normal:0.1") as served:
        ended = typed("run", "--url", served.url, *LOAD, *load, "--out", folder)
        assert ended.returncode == 0, ended
    return folder


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "fast", "8ms", "--rate", "60,100", "--duration", "2s")


def test_duckdb_finds_the_percentiles_of_a_real_run_in_its_exports(fast):
    ended = typed("export", fast, "--format", "parquet", "--format", "json-vllm")
    assert ended.returncode == 0, ended
    out = fast / "export"
    assert sorted(ended.stdout.split()) == sorted(str(path) for path in out.iterdir())
    captured = rows(fast)
    tokens = pq.read_metadata(out / "tokens.parquet").num_rows
    assert tokens == sum(len(row["event_ns"]) for row in captured) > 7_500
    assert pq.read_metadata(out / "requests.parquet").num_rows == len(captured)
    for stage in json.loads((fast / "summary.json").read_bytes())["stages"]:

        def found_ms(table, figure, number=stage["stage"]):
            path = out / f"{table}.parquet"
            (row,) = duckdb.sql(f"select {figure} / 1e6 from '{path}' where measured and stage = {number}").fetchall()
            return row[0]

        assert found_ms("tokens", "quantile_disc(gap_ns, 0.99)") == pytest.approx(stage["itl_ms"]["p99"], rel=0.001)
        assert found_ms("requests", "quantile_disc(ttft_ns, 0.99)") == pytest.approx(stage["ttft_ms"]["p99"])
        told = json.loads((out / f"stage-{stage['stage']}.vllm.json").read_bytes())
        assert told["completed"] == stage["requests"]["completed"]
        # vLLM's percentiles are linear, the summary's of nearest rank: one outlier is enough to set them far apart.
        assert told["p99_ttft_ms"] == pytest.approx(found_ms("requests", "quantile_cont(ttft_ns, 0.99)"))


@pytest.mark.alone
def test_a_slower_engine_is_found_out_and_stops_a_release(fast, tmp_path):
    slow = run(tmp_path / "slow", "16ms", "--rate", "60,100", "--duration", "2s")
    ended = typed("compare", fast, slow, "--fail-if", "tpot.p50 > +5%", "--junit", tmp_path / "junit.xml")
    assert ended.returncode == 4, ended
    assert ended.stderr == ""
    assert ended.stdout.count("failed   tpot.p50 > +5%") == 2
    assert '<testsuite name="loadgen compare" tests="2" failures="2"' in (tmp_path / "junit.xml").read_text()
    told = json.loads(typed("compare", fast, slow, "--json").stdout)
    for comparison in told["comparisons"]:
        (tpot,) = [figure for figure in comparison["figures"] if figure["name"] == "tpot.p50"]
        assert tpot["statement"] == "slower"
        assert tpot["change"] > 0.1, "twice as slow, on a machine that may be slow itself"


def test_another_workload_is_refused_in_a_sentence(fast, tmp_path):
    other = run(tmp_path / "other", "8ms", "--rate", "60", "--duration", "1s", "--prefix-tokens", "8")
    ended = typed("compare", fast, other)
    assert (ended.returncode, ended.stdout) == (2, "")
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("loadgen: fast and other cannot be compared: prefix_tokens differs: 0 and 8")
