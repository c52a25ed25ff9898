import json
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.dialects.answer import CONTENT, REASONING
from loadgen.errors import RunError
from loadgen.schema import CAPTURE_SCHEMA, FILE_KEYS, WATCH_KEY, decode_metadata
from loadgen.worker import capture
from loadgen.worker.capture import CaptureWriter
from loadgen.worker.exchange import Exchange

FACTS: dict[str, Any] = {key: f"value of {key}" for key in FILE_KEYS} | {
    "schema": 1,
    "worker": 3,
    "stages": [{"stage": 0, "name": "ünï"}],
}


def exchange(number: int, events_ns: list[int], **fields: Any) -> Exchange:
    """An exchange that has been decoded; `answer_*` fields go into its answer."""
    made = Exchange(number, number % 3, 0, b"x" * 100, 1)
    made.sent_ns = 1000 + number
    if events_ns:
        made.event_ns = [np.array(events_ns[:1], np.int64), np.array(events_ns[1:], np.int64)]
    made.kinds = bytearray([CONTENT] * len(events_ns))
    made.cumulative = array("q", [-1] * len(events_ns))
    made.ended = True
    for name, value in fields.items():
        if name.startswith("answer_"):
            setattr(made.answer, name.removeprefix("answer_"), value)
        else:
            setattr(made, name, value)
    return made


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows, watches) of the whole batches, by pyarrow alone."""
    rows: list[dict[str, Any]] = []
    watches = []
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_stream(source)
        assert reader.schema.equals(CAPTURE_SCHEMA)
        while True:
            try:
                batch, told = reader.read_next_batch_with_custom_metadata()
            except (StopIteration, pa.ArrowInvalid, OSError):
                return rows, watches
            batch.validate(full=True)
            rows += batch.to_pylist()
            watches.append(json.loads(told[WATCH_KEY.encode()]))


def test_a_row_says_all_that_the_exchange_knew(tmp_path):
    path = tmp_path / "worker-03.arrow"
    writer = CaptureWriter(str(path), 3, FACTS)
    writer.append(
        exchange(
            7,
            [5000, 6000, 6000],
            session_id=(1 << 63) + 5,
            turn=2,
            intended_ns=900,
            retries=3,
            connect_ns=17,
            first_byte_ns=4000,
            last_byte_ns=7000,
            coalesced_events=1,
            max_lag_ns=99,
            unstamped=1,
            status=200,
            response_bytes=1234,
            ended_ns=8000,
            kinds=bytearray([REASONING, CONTENT, CONTENT]),
            cumulative=array("q", [2, 3, 70_000]),
            answer_prompt_tokens=11,
            answer_output_tokens=70_000,
            answer_reasoning_tokens=2,
            answer_cached_tokens=4,
            answer_finish_reason="length",
            answer_response_id="c-1",
            wanted_input_tokens=12,
            wanted_output_tokens=70_001,
            counted_tokens=69_999,
            target=3,
            endpoint=2,
        )
    )
    writer.append(exchange(8, [], error="connect-refused", ended_ns=9000))
    writer.close({"sent": 2})
    (full, bare), (watch,) = read(path)
    assert watch == {"sent": 2, "closing": True}
    assert full == {
        "request_id": 7,
        "stage": 1,
        "worker": 3,
        "session_id": (1 << 63) + 5,
        "turn": 2,
        "intended_ns": 900,
        "sent_ns": 1007,
        "connect_ns": 17,
        "first_byte_ns": 4000,
        "last_byte_ns": 7000,
        "event_ns": [5000, 6000, 6000],
        "event_kind": [REASONING, CONTENT, CONTENT],
        "event_tokens": [2, 1, 0xFFFF],
        "coalesced_events": 1,
        "max_lag_ns": 99,
        "kernel_stamps": False,
        "prompt_tokens": 11,
        "output_tokens": 70_000,
        "reasoning_tokens": 2,
        "cached_tokens": 4,
        "finish_reason": "length",
        "error": None,
        "status": 200,
        "request_bytes": 100,
        "response_bytes": 1234,
        "response_id": "c-1",
        "ended_ns": 8000,
        "retries": 3,
        "wanted_input_tokens": 12,
        "wanted_output_tokens": 70_001,
        "counted_tokens": 69_999,
        "target": 3,
        "endpoint": 2,
    }
    assert bare["event_ns"] == []
    assert bare["error"] == "connect-refused"
    nothing = ("event_kind", "event_tokens", "first_byte_ns", "last_byte_ns", "connect_ns", "status", "response_id")
    assert {bare[name] for name in (*nothing, "session_id", "turn", "intended_ns")} == {None}
    assert bare["retries"] == 0


def test_a_dropped_arrival_is_a_row_without_a_response(tmp_path):
    writer = CaptureWriter(str(tmp_path / "c"), 3, FACTS)
    dropped = Exchange(9, 1, -1, b"", 5000)
    dropped.intended_ns, dropped.sent_ns, dropped.ended_ns, dropped.error = 4000, 5000, 5000, "dropped"
    writer.append(dropped)
    writer.close({})
    ((row,), _) = read(tmp_path / "c")
    assert (row["intended_ns"], row["sent_ns"], row["ended_ns"], row["error"]) == (4000, 5000, 5000, "dropped")
    assert (row["event_ns"], row["status"], row["request_bytes"], row["response_bytes"]) == ([], None, 0, 0)


@pytest.mark.parametrize("n_rows", [0, 1, 10])
def test_a_batch_can_be_written_in_pieces_while_the_next_gathers(tmp_path, n_rows):
    writer = CaptureWriter(str(tmp_path / "c"), 0, FACTS)
    for number in range(n_rows):
        writer.append(exchange(number, [number] * 3))
    assert not writer.is_writing
    writer.begin({"sent": n_rows})
    pieces = 0
    while writer.is_writing:
        writer.append(exchange(n_rows + pieces, []))
        writer.step()
        pieces += 1
    assert pieces > 1
    writer.finish()  # a thread has the last of it
    rows, watches = read(tmp_path / "c")
    assert [row["request_id"] for row in rows] == list(range(n_rows))
    assert watches == [{"sent": n_rows}]
    writer.step()  # nothing to do
    writer.begin({"sent": n_rows + pieces})
    writer.step()
    writer.begin({"sent": -1})  # the one before is finished first
    writer.close({})
    rows, watches = read(tmp_path / "c")
    assert [row["request_id"] for row in rows] == list(range(n_rows + pieces))
    assert [watch["sent"] for watch in watches[:3]] == [n_rows, n_rows + pieces, -1]


def test_the_files_metadata_is_what_it_was_given(tmp_path):
    writer = CaptureWriter(str(tmp_path / "c"), 3, FACTS)
    writer.close({})
    with pa.OSFile(str(tmp_path / "c")) as source:
        assert decode_metadata(pa.ipc.open_stream(source).schema.metadata) == FACTS


STAMPS = st.lists(st.integers(0, (1 << 63) - 1), max_size=5)
WORDS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=50))


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(st.tuples(STAMPS, WORDS, WORDS, WORDS, st.booleans()), max_size=8))
def test_what_goes_in_comes_out_in_whatever_batches(asked, tmp_path_factory):
    path = tmp_path_factory.mktemp("capture") / "c"
    writer = CaptureWriter(str(path), 0, FACTS)
    for number, (events_ns, finish, name, error, write) in enumerate(asked):
        writer.append(exchange(number, events_ns, answer_finish_reason=finish, answer_response_id=name, error=error))
        if write:
            writer.write({"sent": number})
    writer.close({})
    rows, _ = read(path)
    names = ("request_id", "event_ns", "finish_reason", "response_id", "error")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (number, *one[:4]) for number, one in enumerate(asked)
    ]


def test_forty_thousand_finish_reasons_break_nothing(tmp_path):
    writer = CaptureWriter(str(tmp_path / "c"), 0, FACTS)
    written = 0
    for number in range(40_000):
        if writer.append(exchange(number, [], answer_finish_reason=f"why {number}", answer_response_id="\x1b[2J\0")):
            writer.write({})
            written += 1
    writer.close({})
    rows, watches = read(tmp_path / "c")
    assert [row["finish_reason"] for row in rows] == [f"why {number}" for number in range(40_000)]
    assert rows[-1]["response_id"] == "\x1b[2J\0"
    assert len(watches) == written + 1


def test_it_says_when_enough_has_gathered(tmp_path):
    writer = CaptureWriter(str(tmp_path / "c"), 0, FACTS)
    asked = [writer.append(exchange(number, [])) for number in range(capture.MAX_ROWS)]
    assert asked.index(True) == capture.MAX_ROWS - 1
    writer.write({})
    many = [1] * (capture.MAX_EVENTS // 4)
    assert [writer.append(exchange(number, many)) for number in range(4)] == [False, False, False, True]
    writer.close({})


def test_it_can_be_read_after_every_batch(tmp_path):
    path = tmp_path / "c"
    writer = CaptureWriter(str(path), 0, FACTS)
    writer.write({})
    assert read(path) == ([], [{}])
    for number in range(5):
        writer.append(exchange(number, [number]))
        assert len(read(path)[0]) == number
        writer.write({"sent": number + 1})
        rows, watches = read(path)
        assert len(rows) == number + 1
        assert watches[-1] == {"sent": number + 1}
    writer.write({"sent": 5})
    assert len(read(path)[1]) == 7, "a batch without rows carries the watch alone"
    writer.close({})


def test_a_kill_leaves_whole_batches(tmp_path):
    script = (
        "import sys, os, signal; sys.path[:0] = sys.argv[2:]\n"
        "from test_capture_writer import *\n"
        "writer = CaptureWriter(sys.argv[1], 0, FACTS)\n"
        "for number in range(25):\n"
        "    writer.append(exchange(number, [number]))\n"
        "    if number % 10 == 9: writer.write({'sent': number + 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "c"
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent)], timeout=120, check=False
    )
    assert killed.returncode == -9
    rows, watches = read(path)
    assert [row["request_id"] for row in rows] == list(range(20))
    assert watches[-1] == {"sent": 20}


def test_a_cut_at_any_byte_loses_no_batch_before_it(tmp_path):
    path, cut = tmp_path / "c", tmp_path / "cut"
    writer = CaptureWriter(str(path), 0, FACTS)
    writer.write({})
    sizes = [path.stat().st_size]
    for number in range(3):
        writer.append(exchange(number, [number], answer_finish_reason=f"r{number}"))
        writer.write({})
        sizes.append(path.stat().st_size)
    writer.close({})
    whole = path.read_bytes()
    for n_bytes in range(sizes[0], len(whole), 37):
        cut.write_bytes(whole[:n_bytes])
        rows = read(cut)[0]
        assert len(rows) >= sum(size <= n_bytes for size in sizes[1:])
        assert [row["request_id"] for row in rows] == list(range(len(rows)))


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self.left = file, left

    def write(self, data: Any) -> int:
        self.left -= len(memoryview(data).cast("B"))
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_until_it_fails(writer: CaptureWriter) -> None:
    for _ in range(9):
        writer.write({"samples": []})


@pytest.mark.parametrize("left", [0, 1, 500, 3_000, 9_000])
def test_a_full_disk_leaves_whole_batches_and_no_half_one(left, tmp_path, monkeypatch):
    opened = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode: Full(opened(path, mode), 1 << 20))
        writer = CaptureWriter(str(tmp_path / "c.arrow"), 0, FACTS)
    writer.append(exchange(1, [10]))
    writer.write({"samples": []})
    size = (tmp_path / "c.arrow").stat().st_size
    writer._file.left = left
    for number in range(2, 30):
        writer.append(exchange(number, [10, 20]))
    writer.begin({"samples": []})
    with pytest.raises(RunError, match="the capture cannot be written: No space left on device"):
        write_until_it_fails(writer)
    rows, watches = read(tmp_path / "c.arrow")
    assert rows[0]["request_id"] == 1
    assert (tmp_path / "c.arrow").stat().st_size >= size
    writer.append(exchange(99, [10]))
    writer.write({})
    writer.close({})
    assert read(tmp_path / "c.arrow") == (rows, watches), "nothing is written behind a failure"


def test_a_capture_that_cannot_be_made_says_why(tmp_path):
    with pytest.raises(RunError, match="the capture cannot be made: No such file or directory"):
        CaptureWriter(str(tmp_path / "none" / "c.arrow"), 0, FACTS)
