from array import array
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.simulator import truth
from loadgen.simulator.truth import Row, TruthLog


def row(number: int, events: int = 3, tokens: list[int] | None = None) -> Row:
    stamps = array("q", [1000 * number + index for index in range(events)])
    return Row(number, 1, 200, response_id=f"r{number}", event_ns=stamps, event_tokens=tokens)


def test_a_row_comes_back_as_it_was_written(tmp_path):
    log = TruthLog(tmp_path / "t.arrow")
    log.add(row(1, 2))
    log.add(row(2, 3, [4, 4, 1]))
    log.add(Row(3, 9, 503, fault="error-503"))
    log.close()
    plain, several, refused = truth.read(tmp_path / "t.arrow").to_pylist()
    assert plain["token_ns"] == plain["event_ns"] == [1000, 1001]
    assert plain["first_token_ns"] == 1000
    assert several["event_ns"] == [2000, 2001, 2002]
    assert several["token_ns"] == [2000] * 4 + [2001] * 4 + [2002]
    assert several["output_tokens"] == 9
    assert refused["token_ns"] == []
    assert refused["first_token_ns"] is None
    assert (refused["status"], refused["fault"], refused["connection"], refused["ended"]) == (
        503,
        "error-503",
        9,
        "complete",
    )
    assert (log.requests, log.tokens) == (3, 11)


def test_what_was_flushed_can_be_read_while_the_log_is_open(tmp_path):
    log = TruthLog(tmp_path / "t.arrow")
    assert truth.read(tmp_path / "t.arrow").num_rows == 0
    log.add(row(1))
    log.flush()
    log.add(row(2))
    assert truth.read(tmp_path / "t.arrow")["response_id"].to_pylist() == ["r1"]
    log.close()
    assert truth.read(tmp_path / "t.arrow")["response_id"].to_pylist() == ["r1", "r2"]


def test_a_batch_is_written_before_it_grows_without_bound(tmp_path):
    log = TruthLog(tmp_path / "t.arrow")
    for number in range(truth.FLUSH_ROWS):
        log.add(row(number, 1))
    assert truth.read(tmp_path / "t.arrow").num_rows == truth.FLUSH_ROWS
    log.close()


@settings(max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(0, 1))
def test_wherever_the_file_is_cut_whole_batches_are_read_and_nothing_else(batches, where):
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.arrow")
        log = TruthLog(path)
        sizes = [path.stat().st_size]
        numbers = iter(range(100))
        for count in batches:
            for _ in range(count):
                log.add(row(next(numbers)))
            log.flush()
            sizes.append(path.stat().st_size)
        log.close()
        data = path.read_bytes()
        cut = int(len(data) * where)
        path.write_bytes(data[:cut])
        whole = sum(count for count, size in zip(batches, sizes[1:], strict=True) if size <= cut)
        assert truth.read(path)["response_id"].to_pylist() == [f"r{number}" for number in range(whole)]


def test_a_log_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        truth.read(tmp_path / "none.arrow")


def test_without_a_path_only_the_counts_are_kept():
    log = TruthLog(None)
    log.add(row(1, 5))
    log.close()
    assert (log.requests, log.tokens) == (1, 5)
