import json
import shutil
from dataclasses import fields

import pyarrow as pa
import pytest
from synthetic import (
    MS,
    START_NS,
    S,
    file_facts,
    lock_step_batch,
    mark,
    row,
    stage_plan,
    steady_rows,
    watch,
    write_capture,
    write_run,
)

from analysis import pieces
from analysis.captures import open_capture, open_run
from analysis.pieces import stage_rows
from analysis.rows import Rows, pick, to_rows
from analysis.summary import summarize
from loadgen.schema import CAPTURE_SCHEMA, CaptureError, encode_metadata


def sent(capture) -> list[int]:
    return [t for _, rows in stage_rows(capture) for t in rows.sent_ns.tolist()]


def test_a_capture_cut_at_any_byte_reads_to_its_last_whole_batch(tmp_path):
    rows = [row(START_NS + index, [START_NS + 10, START_NS + 20]) for index in range(6)]
    whole = tmp_path / "whole.arrow"
    batches = [(rows[first : first + 2], watch([[START_NS + first, 0, 0, 0]])) for first in (0, 2, 4)]
    write_capture(whole, file_facts([stage_plan()]), batches)
    content = whole.read_bytes()
    seen = []
    cut = tmp_path / "cut.arrow"
    for length in range(0, len(content), 7):  # prime to the alignment of 8, so that every kind of place is cut
        cut.write_bytes(content[:length])
        capture = open_capture(cut)
        if capture is None:
            assert not seen or seen[-1] == 0, "a longer cut can only tell more"
            seen.append(0)
            continue
        assert sent(capture) == [one["sent_ns"] for one in rows[: capture.rows]]
        assert len(capture.watches) == capture.batches
        assert not capture.closed or capture.batches == 4
        seen.append(capture.rows)
    assert seen == sorted(seen)
    assert set(seen) == {0, 2, 4, 6}


def test_what_is_written_after_the_first_look_is_left_alone(tmp_path):
    rows = [row(START_NS + index, [START_NS + 10]) for index in range(4)]
    path = tmp_path / "worker-00.arrow"
    write_capture(path, file_facts([stage_plan()]), [(rows[:2], watch())], closed=False)
    before = open_capture(path)
    write_capture(path, file_facts([stage_plan()]), [(rows[:2], watch()), (rows[2:], watch())])
    assert sent(before) == [START_NS, START_NS + 1]
    assert len(sent(open_capture(path))) == 4


def test_a_worker_that_has_not_written_its_head_yet_is_told_and_does_not_stop_the_others(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(), file={"workers": 2})
    (run_dir / "capture" / "worker-01.arrow").write_bytes(b"")
    run = open_run(run_dir)
    assert [capture.worker for capture in run.captures] == [0]
    assert run.unreadable == [(1, 1)]


@pytest.mark.parametrize("key", ["run_id", "workers", "transport", "stages"])
def test_captures_of_different_runs_are_not_mixed(tmp_path, key):
    run_dir = write_run(tmp_path, [])
    other = {"run_id": "other", "workers": 9, "transport": "aiohttp", "stages": []}[key]
    facts = file_facts([stage_plan()], worker=1) | {key: other}
    write_capture(run_dir / "capture" / "worker-01.arrow", facts, [([], watch())])
    with pytest.raises(CaptureError, match=f"disagree on {key}"):
        open_run(run_dir)


def test_a_capture_of_another_version_is_refused(tmp_path):
    write_run(tmp_path, [], file={"schema": 99})
    with pytest.raises(CaptureError, match="99"):
        open_run(tmp_path)


def test_a_run_json_of_another_version_or_another_run_is_refused(tmp_path):
    write_run(tmp_path, [])
    told = json.loads((tmp_path / "run.json").read_text())
    for wrong in ({"schema": 2}, {"run_id": "other"}):
        (tmp_path / "run.json").write_text(json.dumps(told | wrong))
        with pytest.raises(CaptureError):
            open_run(tmp_path)


@pytest.mark.parametrize("text", [None, '{"schema": 1, "run'])
def test_a_capture_alone_is_enough(tmp_path, text):
    write_run(tmp_path, [], spec={"model": "mine", "slo": None})
    (tmp_path / "run.json").unlink()
    if text:
        (tmp_path / "run.json").write_text(text)
    run = open_run(tmp_path)
    assert run.facts["spec"]["model"] == "mine"
    assert run.facts["stages"] == [stage_plan()]
    assert run.facts["host"]["name"] == "here"


def test_a_directory_without_captures_is_named(tmp_path):
    with pytest.raises(CaptureError, match="no capture"):
        open_run(tmp_path)


def test_a_file_that_is_no_capture_is_refused(tmp_path):
    with pa.OSFile(str(tmp_path / "x"), "wb") as out, pa.ipc.new_stream(out, pa.schema([("a", pa.int8())])):
        pass
    with pytest.raises(CaptureError, match="no loadgen capture"):
        open_capture(tmp_path / "x")


def test_stages_that_share_a_batch_are_kept_apart(tmp_path):
    rows = [row(START_NS + index, [START_NS + 50 + index], stage=index % 2) for index in range(6)]
    write_run(tmp_path, rows, [stage_plan(0), stage_plan(1)])
    parts = list(stage_rows(open_run(tmp_path).captures[0]))
    assert [stage for stage, _ in parts] == [0, 1]
    assert [part.sent_ns.tolist() for _, part in parts] == [
        [START_NS, START_NS + 2, START_NS + 4],
        [START_NS + 1, START_NS + 3, START_NS + 5],
    ]


def test_a_large_batch_is_taken_in_pieces_that_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "EVENTS_AT_ONCE", 1_000)
    batch = lock_step_batch(300, 16, START_NS, seed=1)
    write_capture(tmp_path / "worker-00.arrow", file_facts([stage_plan()]), [(batch, watch())])
    parts = [rows for _, rows in stage_rows(open_capture(tmp_path / "worker-00.arrow"))]
    assert max(len(rows.event_ns) for rows in parts) <= 1_000
    assert [t for rows in parts for t in rows.event_ns.tolist()] == to_rows(batch).event_ns.tolist()
    assert sum(len(rows) for rows in parts) == 300


def test_small_batches_that_follow_each_other_are_taken_together(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "EVENTS_AT_ONCE", 100)
    words = [None, "http-500", None, "cancelled", "empty"]
    rows = [
        row(
            START_NS + k,
            range(START_NS, START_NS + k % 7),
            stage=k // 40,
            error=words[k % 5],
            event_tokens=[2] * (k % 7),
        )
        for k in range(80)
    ]
    write_run(tmp_path, rows, [stage_plan(0), stage_plan(1)], batch_rows=3)
    parts = list(stage_rows(open_run(tmp_path).captures[0]))
    assert [stage for stage, _ in parts] == sorted(stage for stage, _ in parts)
    assert max(len(part.event_ns) for _, part in parts) <= 100
    assert len(parts) < 10
    assert [t for _, part in parts for t in part.sent_ns.tolist()] == [one["sent_ns"] for one in rows]
    assert [word for _, part in parts for word in part.error.to_pylist()] == [one["error"] for one in rows]
    assert [n for _, part in parts for n in part.events.tolist()] == [len(one["event_ns"]) for one in rows]


def test_a_request_larger_than_a_piece_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "EVENTS_AT_ONCE", 4)
    rows = [row(START_NS, []), row(START_NS, range(START_NS, START_NS + 9)), row(START_NS, [START_NS])]
    write_run(tmp_path, rows)
    parts = [part for _, part in stage_rows(open_run(tmp_path).captures[0])]
    assert [n for part in parts for n in part.events.tolist()] == [0, 9, 1]


def test_lists_that_do_not_go_with_their_events_are_refused():
    bad = row(START_NS, [START_NS + 1, START_NS + 2], event_tokens=[1])
    with pytest.raises(CaptureError, match="another length"):
        to_rows(pa.RecordBatch.from_pylist([bad], schema=CAPTURE_SCHEMA))


def test_picking_rows_picks_their_events():
    requests = [
        row(
            START_NS + index,
            range(START_NS, START_NS + index),
            event_tokens=[index] * index if index % 2 else None,
            error=(None, "cancelled", "dropped", "http-500", None, "unfinished")[index],
            intended_ns=START_NS - index,
            turn=index,
            retries=index,
        )
        for index in range(6)
    ]
    names = [field.name for field in fields(Rows) if field.name not in ("event_kind", "error")]
    batch = pa.RecordBatch.from_pylist(requests, schema=CAPTURE_SCHEMA)
    wanted = [True, False, False, True, True, True]
    picked = pick(to_rows(batch), pa.array(wanted).to_numpy(zero_copy_only=False))
    again = to_rows(batch.filter(pa.array(wanted)))
    assert {field.name for field in fields(Rows)} == set(names) | {"event_kind", "error"}
    for name in names:
        assert getattr(picked, name).tolist() == getattr(again, name).tolist(), name


def test_who_left_and_what_was_never_sent_are_no_failures(tmp_path):
    errors = [None, "dropped", "http-429", "cancelled", None, "unfinished", "dropped"]
    rows = [row(START_NS + index, error=error, retries=index) for index, error in enumerate(errors)]
    write_capture(tmp_path / "worker-00.arrow", file_facts([stage_plan()]), [(rows[:2], watch()), (rows[2:], watch())])
    parts = [part for _, part in stage_rows(open_capture(tmp_path / "worker-00.arrow"))]
    for name, wanted in (("completed", None), ("dropped", "dropped"), ("cancelled", "cancelled")):
        found = [one for part in parts for one in getattr(part, name).tolist()]
        assert found == [error == wanted for error in errors], name
    assert [count for part in parts for count in part.retries.tolist()] == list(range(7))


def test_a_capture_without_the_column_of_refusals_had_none(tmp_path):
    kept = [field for field in CAPTURE_SCHEMA if field.name != "retries"]
    schema = pa.schema(kept, metadata=encode_metadata(file_facts([stage_plan()])))
    batch = pa.RecordBatch.from_pylist([row(START_NS, [START_NS + 10])], schema=schema)
    with pa.OSFile(str(tmp_path / "worker-00.arrow"), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        writer.write_batch(batch)
    (part,) = [rows for _, rows in stage_rows(open_capture(tmp_path / "worker-00.arrow"))]
    assert part.retries.tolist() == [0]
    assert part.completed.tolist() == [True]


def test_a_cut_worker_is_known_until_its_last_sample(tmp_path):
    write_run(tmp_path, steady_rows(), marks=[mark(done_ns=None)], closed=False)
    capture = open_run(tmp_path).captures[0]
    assert not capture.closed
    assert capture.known_until_ns == START_NS + 10 * S


def test_a_damaged_batch_ends_the_reading_there(tmp_path):
    rows = [row(START_NS + index, range(START_NS, START_NS + 400)) for index in range(4)]
    write_run(tmp_path, rows, batch_rows=2)
    path = tmp_path / "capture" / "worker-00.arrow"
    whole = open_capture(path)
    content = bytearray(path.read_bytes())
    content[-len(content) // 3 :] = bytes(len(content[-len(content) // 3 :]))
    path.write_bytes(content)
    damaged = open_capture(path)
    assert damaged.batches < whole.batches
    assert not damaged.closed
    shutil.rmtree(tmp_path / "capture")


def test_a_request_is_in_flight_to_its_last_byte_or_if_it_failed_until_it_was_given_up(tmp_path):
    rows = [
        row(START_NS, [START_NS + 10], ended_ns=START_NS + 15),
        row(START_NS, [START_NS + 10], ended_ns=START_NS + 90, error="timeout-idle"),
        row(START_NS, ended_ns=START_NS + 70, error="timeout-first-byte"),
    ]
    write_capture(tmp_path / "worker-00.arrow", file_facts([stage_plan()]), [(rows, watch([]))])
    capture = open_capture(tmp_path / "worker-00.arrow")
    assert [t - START_NS for _, rows in stage_rows(capture) for t in rows.ended_ns.tolist()] == [10, 90, 70]


def test_a_stage_of_a_resumed_run_is_told_by_its_own_part_alone(tmp_path):
    """Part 1 ended stage 0 and was killed in stage 1; part 2 made that again, with another number of workers."""
    plans = [
        stage_plan(0, part=1, outcome={"reason": "finished"}),
        stage_plan(1, part=2, outcome={"reason": "finished"}),
    ]
    second_ns = START_NS + 20 * S
    lost = [row(second_ns + i, [second_ns + 1000 * i + MS], stage=1, output_tokens=99) for i in range(5)]
    marks = [mark(0), mark(1, second_ns, done_ns=None)]
    write_run(tmp_path, [*steady_rows(2), *lost], plans, marks, closed=False)
    again_ns = START_NS + 100 * S
    again = write_run(
        tmp_path / "again", steady_rows(4, start_ns=again_ns, stage=1), plans, [mark(1, again_ns)], file={"workers": 2}
    )
    folder = tmp_path / "capture" / "part-2"
    folder.mkdir()
    (again / "capture" / "worker-00.arrow").rename(folder / "worker-00.arrow")
    (folder / "worker-01.arrow").write_bytes(b"\xff")
    run = open_run(tmp_path)
    assert [(capture.part, capture.worker) for capture in run.captures] == [(1, 0), (2, 0)]
    assert (run.last_part, run.workers, run.unreadable) == (2, 2, [(2, 1)])
    assert [[c.part for c in run.of_stage(plan)] for plan in plans] == [[1], [2]]
    told = summarize(tmp_path)
    first, second = told["stages"]
    assert first["requests"]["sent"] == len(steady_rows(2))
    assert second["requests"]["sent"] == len(steady_rows(4))
    assert second["concurrency"]["peak"] == 4
    assert told["capture"]["cut_workers"] == [1]
    assert told["capture"]["parts"] == 2
