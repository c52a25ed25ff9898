"""What the soak concludes from a run that is known."""

import pyarrow as pa
import pytest
from processes import Sample
from soak import between, judged, stretch, taken

S = 1_000_000_000


def samples(descriptors: list[int]) -> list[Sample]:
    return [Sample(i * S // 2, 1, 90.0, 99.0, count) for i, count in enumerate(descriptors)]


def errors(p50: float, p99: float) -> dict:
    return {"stamp_error_us": {"p50": p50, "p99": p99}}


STEADY, FLAT = samples([1020] * 100), {"grows": False, "rss_mb_at_half": 90.0, "rss_mb_at_end": 95.0}


def test_a_run_that_ends_as_it_began_is_well():
    told = judged(errors(4, 10), errors(4.2, 14), STEADY, FLAT)
    assert told == {"memory_flat": True, "descriptors_flat": True, "precision_kept": True}


@pytest.mark.parametrize(
    ("name", "last", "watched", "memory"),
    [
        ("memory_flat", errors(4, 10), STEADY, FLAT | {"grows": True}),
        ("descriptors_flat", errors(4, 10), samples([1020 + i // 10 for i in range(100)]), FLAT),
        ("precision_kept", errors(4, 30), STEADY, FLAT),
        ("precision_kept", errors(20, 20), STEADY, FLAT),
        ("precision_kept", {"stamp_error_us": None}, STEADY, FLAT),
    ],
)
def test_each_decline_is_seen_and_no_other(name, last, watched, memory):
    told = judged(errors(4, 10), last, watched, memory)
    assert [word for word, is_well in told.items() if not is_well] == [name]


def test_a_slope_that_comes_to_nothing_is_none():
    told = judged(errors(4, 10), errors(4, 10), STEADY, FLAT | {"grows": True, "rss_mb_at_end": 90.5})
    assert told["memory_flat"]


def written(path, table: pa.Table, rows: int):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def test_a_stretch_of_the_run_is_joined_by_itself(tmp_path):
    ids = [f"r{i}" for i in range(10)]
    true = [[i * S + 10, i * S + 20] for i in range(10)]
    # The second half is stamped later than the first.
    seen = [[at_ns + (3_000 if i < 5 else 9_000) for at_ns in each] for i, each in enumerate(true)]
    lists = pa.list_(pa.int64())
    capture = pa.table(
        {
            "response_id": ids,
            "sent_ns": pa.array([i * S for i in range(10)], pa.int64()),
            "event_ns": pa.array(seen, lists),
            "error": pa.array([None] * 9 + ["truncated"], pa.string()),
        }
    )
    truth = pa.table(
        {
            "response_id": ids,
            "request_read_ns": pa.array([i * S + 5 for i in range(10)], pa.int64()),
            "event_ns": pa.array(true, lists),
        }
    )
    paths = written(tmp_path / "capture", capture, 3), written(tmp_path / "truth", truth, 4)
    first, last = stretch(*paths, 0, 4 * S), stretch(*paths, 6 * S, 10 * S)
    assert (first["requests"], first["stamp_error_us"]["max"]) == (4, 3.0)
    assert (last["requests"], last["stamp_error_us"]["min"]) == (3, 9.0), "the one that failed is left out"
    assert first["unknown_requests"] == last["unknown_requests"] == first["lost_tokens"] == last["lost_tokens"] == 0
    assert len(taken(paths[0], between("sent_ns", 99 * S, 100 * S), ["sent_ns"])) == 0
