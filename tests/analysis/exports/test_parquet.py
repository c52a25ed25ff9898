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
from synthetic import MS, START_NS, S, batch_of, file_facts, mark, stage_plan, watch, write_capture, write_run

from analysis import summary
from analysis.exports import parquet
from analysis.exports.parquet import TOKENS, rounded_stamps
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


def test_every_token_has_a_row_and_its_stamp_can_be_had_to_half_a_microsecond(out_dir, everything):
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
    stamp_ns = 0
    for told, (_, _, index, t_ns, *_) in zip(found, wanted, strict=True):
        stamp_ns = stamp_ns + told["gap_ns"] if index else told["first_token_ns"]
        assert abs(stamp_ns - t_ns) <= 512
        assert abs(told["t_ms"] * MS - t_ns) <= 4 * MS + 512
    assert [f["gap_ns"] is None for f in found] == [w[4] is None for w in wanted]
    assert all(w[4] is None or abs(f["gap_ns"] - w[4]) <= w[4] / 2048 for f, w in zip(found, wanted, strict=True))


gaps_ns = st.one_of(st.just(0), st.integers(0, 3000), st.integers(0, 10**8), st.integers(-(10**6), 10**13))


@often
@given(st.lists(st.lists(gaps_ns, max_size=20), min_size=1), st.integers(0, 1 << 50))
def test_a_rounded_stamp_is_half_a_microsecond_off_and_no_gap_more_than_a_two_thousandth(requests, begin_ns):
    stamps_ns = np.concatenate([np.cumsum([begin_ns, *gaps]) for gaps in requests])
    is_first = np.concatenate([np.arange(len(gaps) + 1) == 0 for gaps in requests])
    rounded_ns = rounded_stamps(stamps_ns, is_first)
    assert np.abs(rounded_ns - stamps_ns).max() <= 512
    inside = ~is_first[1:]
    gaps, rounded = np.diff(stamps_ns)[inside], np.diff(rounded_ns)[inside]
    assert (np.abs(rounded - gaps) * 2048 <= np.abs(gaps)).all()


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


def in_lock_step(rng, requests, tokens):
    """An engine's ticks, with up to 200 us of noise on each event."""
    return 60 * MS + 20 * MS * np.arange(tokens) + rng.integers(0, 200_000, (requests, tokens))


def with_steps_that_wander(rng, requests, tokens):
    """An engine in lock step again, whose steps of 8 ms are each a tenth off, with up to 200 us of noise on each event."""
    ticks = rng.normal(8 * MS, 0.8 * MS, tokens).cumsum()
    return 60 * MS + ticks + rng.integers(0, 200_000, (requests, tokens))


def wandering(rng, requests, tokens):
    """Streams that share nothing: each gap is 30 % off its 30 ms, and one in a hundred is a stall of some 200 ms."""
    gaps = rng.lognormal(np.log(30 * MS), 0.3, (requests, tokens))
    gaps += (rng.random((requests, tokens)) < 0.01) * rng.exponential(200 * MS, (requests, tokens))
    return gaps.cumsum(axis=1)


def without_memory(rng, requests, tokens):
    """The most noise that a mean gap of 30 ms can have: at 1 us, 16 bits a gap."""
    return rng.exponential(30 * MS, (requests, tokens)).cumsum(axis=1)


@pytest.fixture(scope="module", params=[in_lock_step, with_steps_that_wander, wandering, without_memory])
def large(request, tmp_path_factory):
    """262,144 tokens, 256 streams of 128 tokens at a time."""
    run_dir = tmp_path_factory.mktemp("large") / "run"
    rng = np.random.default_rng(1)
    batches = []
    for k in range(8):
        sent_ns = START_NS + k * S + np.sort(rng.integers(0, S, 256))
        event_ns = sent_ns[:, None] + request.param(rng, 256, 128).astype(np.int64)
        batches.append((batch_of(256 * k, sent_ns, event_ns, seed=k), watch([], [mark(seconds=60)])))
    write_capture(run_dir / "capture" / "worker-00.arrow", file_facts([stage_plan()]), batches)
    return run_dir


def test_a_token_takes_no_more_than_three_bytes_however_its_streams_wander(large, tmp_path):
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
