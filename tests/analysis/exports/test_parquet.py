import json

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference
from everything import measured_rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import often
from synthetic import START_NS, S, file_facts, lock_step_batch, mark, stage_plan, watch, write_capture, write_run

from analysis import summary
from analysis.exports import parquet
from analysis.exports.parquet import TOKENS, rounded_gap, rounded_time
from analysis.exports.requests import REQUESTS


@pytest.fixture(scope="module")
def out_dir(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("parquet")
    assert parquet.write(run_dir, out, 0) == [out / "requests.parquet", out / "tokens.parquet"]
    assert sorted(path.name for path in out.iterdir()) == ["requests.parquet", "tokens.parquet"]
    return out


def test_every_request_has_a_row_with_what_was_captured_and_measured(out_dir, everything):
    table = pq.read_table(out_dir / "requests.parquet")
    assert table.schema.equals(REQUESTS)
    rows = {one["request_id"]: one for one in table.to_pylist()}
    assert len(rows) == len(everything)
    for told in everything:
        found = rows[told["request_id"]]
        assert found["sent_ns"] == told["sent_ns"] - START_NS
        assert found["error"] == told.get("error")
        assert found["events"] == len(told["event_ns"])
        for name in ("ttft", "tpot", "e2e", "ttft_intended", "e2e_intended", "ttfa"):
            assert found[f"{name}_ns"] == getattr(reference, name)(told), name
        for name in ("stage", "response_id", "finish_reason", "prompt_tokens", "status", "reasoning_tokens"):
            assert found[name] == told.get(name), name
        if told.get("intended_ns") is not None:
            assert found["intended_ns"] == told["intended_ns"] - START_NS
    measured = {one["request_id"] for one in rows.values() if one["measured"]}
    assert measured == {r["request_id"] for stage in (0, 1) for r in measured_rows(everything, stage)}


def test_every_token_has_a_row_and_its_time_is_right_to_half_a_microsecond(out_dir, everything):
    table = pq.read_table(out_dir / "tokens.parquet")
    assert table.schema.equals(TOKENS)
    wanted = [
        (r["request_id"], r["stage"], index, t_ns - START_NS, gap, tokens, kind)
        for r in everything
        for index, (t_ns, gap, tokens, kind) in enumerate(
            zip(
                r["event_ns"],
                [None, *reference.gaps(r)][: len(r["event_ns"])],
                r.get("event_tokens") or [1] * len(r["event_ns"]),
                r.get("event_kind") or [0] * len(r["event_ns"]),
                strict=True,
            )
        )
    ]
    found = table.to_pylist()
    assert [(f["request_id"], f["stage"], f["index"], f["tokens"], f["kind"]) for f in found] == [
        (request, stage, index, tokens, kind) for request, stage, index, _, _, tokens, kind in wanted
    ]
    assert max(abs(f["t_ns"] - w[3]) for f, w in zip(found, wanted, strict=True)) <= 512
    assert [f["gap_ns"] is None for f in found] == [w[4] is None for w in wanted]
    assert all(w[4] is None or abs(f["gap_ns"] - w[4]) <= w[4] / 2048 for f, w in zip(found, wanted, strict=True))


@often
@given(st.integers(0, 1 << 42))
def test_a_rounded_gap_is_at_most_a_two_thousandth_off_and_small_ones_are_exact(gap_ns):
    (rounded,) = rounded_gap(np.array([gap_ns])).tolist()
    assert abs(rounded - gap_ns) <= gap_ns / 2048
    assert gap_ns >= 2048 or rounded == gap_ns


@often
@given(st.integers(0, 1 << 50))
def test_a_rounded_time_is_at_most_half_a_microsecond_off(t_ns):
    (rounded,) = rounded_time(np.array([t_ns])).tolist()
    assert abs(rounded - t_ns) <= 512
    assert rounded % 1024 == 0


@pytest.mark.parametrize("stage", [0, 1])
def test_percentiles_by_duckdb_are_those_of_the_summary(run_dir, out_dir, stage):
    told = summary.summarize(run_dir)["stages"][stage]
    gaps, requests = (str(out_dir / f"{name}.parquet") for name in ("tokens", "requests"))
    found = duckdb.sql(
        f"select quantile_disc(gap_ns, [0.5, 0.9, 0.99]), count(gap_ns) from '{gaps}' where measured and stage = {stage}"
    ).fetchall()[0]
    assert [ns / 1e6 for ns in found[0]] == pytest.approx([told["itl_ms"][p] for p in ("p50", "p90", "p99")], rel=0.001)
    assert found[1] == told["itl_ms"]["count"]
    for name in ("ttft", "tpot", "e2e"):
        p99 = duckdb.sql(f"select quantile_disc({name}_ns, 0.99) from '{requests}' where measured and stage = {stage}")
        assert p99.fetchall()[0][0] / 1e6 == pytest.approx(told[f"{name}_ms"]["p99"], abs=1e-6)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """262,144 tokens of an engine in lock step, 200 us of noise on each: 1,000 streams at a time."""
    run_dir = tmp_path_factory.mktemp("large") / "run"
    batches = [
        (lock_step_batch(256, 128, START_NS + k * 200_000_000, seed=k), watch([], [mark(seconds=30)])) for k in range(8)
    ]
    write_capture(run_dir / "capture" / "worker-00.arrow", file_facts([stage_plan()]), batches)
    return run_dir


def test_a_token_takes_no_more_than_three_bytes(large, tmp_path):
    parquet.write(large, tmp_path, 0)
    tokens = pq.read_metadata(tmp_path / "tokens.parquet").num_rows
    assert tokens == 8 * 256 * 128
    assert (tmp_path / "tokens.parquet").stat().st_size <= 3 * tokens


def test_duckdbs_p99_of_many_tokens_is_within_a_thousandth_of_the_summarys(large, tmp_path):
    parquet.write(large, tmp_path, 0)
    (stage,) = summary.summarize(large)["stages"]
    path = tmp_path / "tokens.parquet"
    p99 = duckdb.sql(f"select quantile_disc(gap_ns, 0.99) from '{path}' where measured").fetchall()[0][0]
    assert stage["itl_ms"]["count"] > 200_000
    assert p99 / 1e6 == pytest.approx(stage["itl_ms"]["p99"], rel=0.001)


def test_a_large_run_has_a_file_a_stage(run_dir, out_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    paths = parquet.write(run_dir, tmp_path, 0)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "requests.parquet",
        "tokens/stage-0.parquet",
        "tokens/stage-1.parquet",
    ]
    together = pa.concat_tables([pq.read_table(path) for path in paths[1:]])
    assert together.equals(pq.read_table(out_dir / "tokens.parquet"))


def test_row_groups_are_of_one_size_and_a_file_is_written_as_it_is_read(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP", 500)
    parquet.write(run_dir, tmp_path, 0)
    told = pq.read_metadata(tmp_path / "tokens.parquet")
    sizes = [told.row_group(number).num_rows for number in range(told.num_row_groups)]
    assert len(sizes) > 5
    assert max(sizes) <= 1_100  # what a piece adds to a group that is almost full
    facts = json.loads(json.dumps({key.decode(): value.decode() for key, value in told.metadata.items()}))
    assert facts["run_id"] == "synthetic"
    assert int(facts["start_monotonic_ns"]) == START_NS
    assert int(facts["start_unix_ns"]) == START_NS + 1_790_000_000 * S


def test_a_failed_export_leaves_no_half_a_file(run_dir, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(parquet, "token_batch", full)
    with pytest.raises(OSError, match="no space"):
        parquet.write(run_dir, tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_nothing_gives_empty_tables(tmp_path):
    run_dir = write_run(tmp_path / "run", [], marks=[])
    paths = parquet.write(run_dir, tmp_path / "out", 0)
    assert [pq.read_table(path).num_rows for path in paths] == [0, 0]
    assert pq.read_schema(paths[1]).equals(TOKENS)
