import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from nodes_run import MOMENTS, on_clock
from synthetic import MS, START_NS, S, mark, row, watch

from analysis.clocks import Clock, clock_of, moved_batch, moved_watch
from loadgen.schema import CAPTURE_SCHEMA

NS_OF_DAYS = 10 * 86_400 * S


def batch_of(rows):
    return pa.RecordBatch.from_pylist(rows, schema=CAPTURE_SCHEMA)


@given(offset_ns=st.integers(-NS_OF_DAYS, NS_OF_DAYS), at_ns=st.integers(0, NS_OF_DAYS))
def test_one_point_moves_every_stamp_alike(offset_ns, at_ns):
    rows = [
        row(START_NS, [START_NS + MS, START_NS + 3 * MS], intended_ns=START_NS - 7),
        row(START_NS + S, [], error="timeout-first-byte", request_id=1, connect_ns=900),
        row(START_NS + 2 * S, [START_NS + 2 * S + 1], request_id=2),
    ]
    moved = moved_batch(batch_of([on_clock(one, offset_ns) for one in rows]), Clock(((at_ns, offset_ns),)))
    assert moved.to_pylist() == batch_of(rows).to_pylist()


def test_a_part_of_a_batch_is_moved_as_the_whole_would_be():
    rows = [row(START_NS + k * S, [START_NS + k * S + i * MS for i in range(k)], request_id=k) for k in range(6)]
    clock = Clock(((0, 5 * S),))
    part = batch_of(rows).slice(2, 3)
    assert moved_batch(part, clock).to_pylist() == moved_batch(batch_of(rows), clock).slice(2, 3).to_pylist()
    chosen = batch_of(rows).filter(pa.array([k % 2 == 0 for k in range(6)]))
    assert moved_batch(chosen, clock).column("event_ns").to_pylist() == [
        [t_ns + 5 * S for t_ns in rows[k]["event_ns"]] for k in (0, 2, 4)
    ]


def test_a_clock_that_drifts_moves_a_request_as_a_whole():
    """100 us a second: a request of two seconds keeps its latencies, and is moved by the offset at its send."""
    clock = Clock(((START_NS, 0), (START_NS + 100 * S, 10 * MS)))
    sent_ns = START_NS + 50 * S
    (moved,) = moved_batch(batch_of([row(sent_ns, [sent_ns + S, sent_ns + 2 * S])]), clock).to_pylist()
    assert moved["sent_ns"] == sent_ns + 5 * MS
    assert [t_ns - moved["sent_ns"] for t_ns in moved["event_ns"]] == [S, 2 * S]
    assert all(moved[name] == sent_ns + 5 * MS + 2 * S for name in ("last_byte_ns", "ended_ns"))


def test_between_two_points_the_offset_is_on_the_line_and_beyond_them_it_stays():
    clock = Clock(((10 * S, 100), (20 * S, 300)))
    times = np.array([0, 10 * S, 15 * S, 20 * S, 90 * S])
    assert clock.offsets_ns(times).tolist() == [100, 100, 200, 300, 300]
    assert clock.moved_ns(15 * S) == 15 * S + 200
    assert Clock().offsets_ns(times).tolist() == [0] * 5


def test_offsets_of_days_are_exact_to_the_nanosecond():
    offset_ns = 9_007_199_254_740_993  # no float has it
    clock = Clock(((3, offset_ns), (S + 3, offset_ns)))
    assert clock.moved_ns(S // 2) == S // 2 + offset_ns


def test_what_a_worker_says_of_itself_is_moved_too():
    told = watch(
        [[START_NS, 7, 1, 2], [START_NS + S, 8, 1, 2]],
        [mark(idle_ns=None)],
        clock_steps=[[START_NS, 50]],
        sleeps=[[START_NS + S, 60]],
        reads=12,
    )
    moved = moved_watch(told, Clock(((0, 1_000),)))
    assert moved["samples"] == [[START_NS + 1_000, 7, 1, 2], [START_NS + S + 1_000, 8, 1, 2]]
    assert moved["clock_steps"] == [[START_NS + 1_000, 50]]
    assert moved["sleeps"] == [[START_NS + S + 1_000, 60]]
    (stage,) = moved["stages"]
    assert stage == mark(start_ns=START_NS + 1_000) | {"idle_ns": None}
    assert moved["reads"] == 12
    assert moved_watch(told, Clock()) is told


def test_a_node_may_say_nothing_of_its_clock_and_points_in_any_order():
    assert clock_of({"node": 0}) == clock_of({"node": 0, "clock": None}) == Clock()
    assert clock_of({"node": 0, "clock": [[9, 1, 400], [3, 2, 500]]}) == Clock(((3, 2), (9, 1)))


def test_every_column_that_is_a_point_in_time_is_one_of_those_that_are_moved():
    in_time = {field.name for field in CAPTURE_SCHEMA if field.name.endswith("_ns") and pa.types.is_integer(field.type)}
    assert in_time == {*MOMENTS, "connect_ns", "max_lag_ns"}, "the latter two are durations"
