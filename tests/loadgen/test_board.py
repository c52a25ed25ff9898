import os
import subprocess
import sys

import pytest
from asked import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from loadgen import board as b
from loadgen.board import Board


@pytest.fixture
def board():
    made = Board(3)
    yield made
    made.close()


def test_a_new_board_is_all_zeros(board):
    assert not any(board.numbers)
    assert [board.words(worker) for worker in range(3)] == ["", "", ""]


def test_a_number_of_one_worker_is_no_other_number(board):
    for worker in range(3):
        for number in range(b.READS + 1):
            board.numbers[board.at(worker, number)] = 100 * worker + number + 1
        board.say(worker, f"words of {worker}")
        for histogram in range(b.HISTOGRAMS):
            first = board.histogram_at(worker, histogram)
            board.numbers[first] = board.numbers[first + b.BUCKETS - 1] = -1 - worker
    for order in (b.START_STAGE, b.START_NS, b.ORDER):
        assert board.numbers[order] == 0
    for worker in range(3):
        assert [board.get(worker, number) for number in range(b.READS + 1)] == [
            100 * worker + number + 1 for number in range(b.READS + 1)
        ]
        assert board.words(worker) == f"words of {worker}"
    assert board.total(b.SENT) == 3 * (b.SENT + 1) + 300


def test_another_process_sees_what_is_written_and_writes_back(board):
    board.numbers[b.START_STAGE] = 7
    script = (
        "import sys; from loadgen.board import *\n"
        "board = Board(3, int(sys.argv[1])); board.numbers[board.at(2, SENT)] = board.numbers[START_STAGE] * 6\n"
        "board.say(1, 'I was here'); board.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(board.fd)], pass_fds=[board.fd], check=True, timeout=PATIENCE_S)
    assert board.get(2, b.SENT) == 42
    assert board.words(1) == "I was here"


@given(st.integers(0, 60 * 60 * 10**9))
def test_a_bucket_holds_durations_within_seven_percent(duration_ns):
    bucket = b.bucket_of(duration_ns)
    assert 0 <= bucket < b.BUCKETS
    if duration_ns >= 8_000:  # below, the whole microseconds show
        middle_ns = b.bucket_middle_ns(bucket)
        assert abs(middle_ns - duration_ns) <= 0.07 * duration_ns + 1_000


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_longer_durations_never_fall_into_lower_buckets(a, c):
    assert (b.bucket_of(min(a, c)), b.bucket_of(max(a, c))) == tuple(sorted([b.bucket_of(a), b.bucket_of(c)]))


def test_a_percentile_is_of_all_workers_together(board):
    assert b.percentile_ns(board.counts(b.TTFT), 50) is None
    for worker, ms in enumerate((1, 10, 100)):
        board.numbers[board.histogram_at(worker, b.TTFT) + b.bucket_of(ms * 1_000_000)] = 10
    assert b.percentile_ns(board.counts(b.TPOT), 50) is None
    for percentile, ms in ((10, 1), (50, 10), (99, 100), (100, 100)):
        assert b.percentile_ns(board.counts(b.TTFT), percentile) == pytest.approx(ms * 1e6, rel=0.07)


def test_a_cleared_stage_leaves_the_other_workers_and_the_runs_own_numbers(board):
    for worker in range(3):
        for number in range(b.READS + 1):
            board.numbers[board.at(worker, number)] = 5
        board.numbers[board.histogram_at(worker, b.TPOT)] = 5
    board.clear_stage(1)
    assert [board.get(1, number) for number in (b.SENT, b.COMPLETED, b.FAILED, b.EVENTS)] == [0] * 4
    assert [board.get(1, number) for number in (b.READY, b.DONE, b.HEARTBEAT_NS, b.CPU_NS, b.READS)] == [5] * 5
    assert board.numbers[board.histogram_at(1, b.TPOT)] == 0
    assert board.numbers[board.histogram_at(2, b.TPOT)] == 5
    assert board.total(b.SENT) == 10


@given(st.text())
def test_words_are_cut_to_what_fits_and_never_in_the_middle_of_a_character(words):
    words = words.replace("\0", "").encode("utf-8", "ignore").decode()
    board = Board(1)
    try:
        board.say(0, "something long before " * 30)
        board.say(0, words)
        said = board.words(0)
    finally:
        board.close()
    assert words.startswith(said)
    assert said == words or len(said.encode()) > b.WORDS_BYTES - 5


def test_a_closed_board_has_let_go_of_its_descriptor():
    board = Board(1)
    fd = board.fd
    board.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
