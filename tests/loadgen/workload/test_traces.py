import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.workload import traces
from loadgen.workload.containers import BadLine
from loadgen.workload.formats import reading
from loadgen.workload.formats.values import NS_PER_MS, NS_PER_S
from loadgen.workload.traces import Course, length_ns, play


def trace(tmp_path, rows):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return reading(str(path), None, {})


def at(*seconds: float, **more):
    return [{"time": second, "input_tokens": 10, "output_tokens": 5, **more} for second in seconds]


def due_s(how, course=Course(), seed=1):  # noqa: B008 - a value
    return [played.due_ns / NS_PER_S for played in play(how, course, seed)]


def test_times_count_from_the_first_row(tmp_path):
    assert due_s(trace(tmp_path, at(100, 100.5, 103))) == [0, 0.5, 3]


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (Course(from_ns=NS_PER_S), [0, 2]),
        (Course(to_ns=3 * NS_PER_S), [0, 1]),
        (Course(from_ns=NS_PER_S, to_ns=3 * NS_PER_S), [0]),
        (Course(time_scale=0.5), [0, 0.5, 1.5]),
        (Course(from_ns=NS_PER_S, time_scale=2), [0, 4]),
    ],
)
def test_a_part_is_played_from_its_beginning_and_as_fast_as_asked(tmp_path, course, expected):
    assert due_s(trace(tmp_path, at(7, 8, 10)), course) == expected


def test_rows_a_little_out_of_order_are_put_into_it(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "REORDERED", 3)
    assert due_s(trace(tmp_path, at(0, 2, 1, 3, 5, 4))) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(BadLine, match="line 6: it is earlier than one 3 lines before it; sort the file by time"):
        due_s(trace(tmp_path, at(0, 2, 3, 4, 5, 0.5)))


def test_the_turns_of_a_session_are_counted_and_chains_of_parents_are_one_session(tmp_path):
    chats = [(1, -1), (2, -1), (3, 1), (4, 3), (5, 2), (6, 1)]
    rows = [
        {
            "chat_id": chat,
            "parent_chat_id": parent,
            "timestamp": n,
            "input_length": 9,
            "output_length": 1,
            "hash_ids": [1],
        }
        for n, (chat, parent) in enumerate(chats)
    ]
    played = list(play(trace(tmp_path, rows), Course(), 1))
    assert [one.turn for one in played] == [0, 0, 1, 2, 1, 1]
    first, second = played[0].session, played[1].session
    assert [one.session for one in played] == [first, second, first, first, second, first]


def test_a_sample_is_of_whole_sessions_and_about_as_large_as_asked(tmp_path):
    randomness = random.Random(1)
    rows = sorted(
        (row for n in range(1000) for row in at(*(randomness.random() * 50 for _ in range(3)), session_id=f"s{n}")),
        key=lambda row: row["time"],
    )
    how = trace(tmp_path, rows)
    played = list(play(how, Course(sample_share=0.2), 7))
    by_session = {}
    for one in played:
        by_session.setdefault(one.session, []).append(one.turn)
    assert 150 < len(by_session) < 250
    assert all(turns == [0, 1, 2] for turns in by_session.values())
    assert played == list(play(how, Course(sample_share=0.2), 7))
    assert played != list(play(how, Course(sample_share=0.2), 8))


@given(
    gaps=st.lists(st.integers(0, 3000), min_size=2, max_size=30),
    from_=st.integers(0, 2000),
    to=st.one_of(st.none(), st.integers(2001, 9000)),
    scale=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_length_is_known_before_and_every_row_is_due_within_it(tmp_path_factory, gaps, from_, to, scale):
    times = [sum(gaps[: n + 1]) / 1000 for n in range(len(gaps))]
    how = trace(tmp_path_factory.mktemp("t"), at(*times))
    course = Course(from_ * NS_PER_MS, None if to is None else to * NS_PER_MS, scale)
    told = length_ns(how, course)
    due = [played.due_ns for played in play(how, course, 1)]
    assert all(0 <= one < told for one in due)
    if due and to is None:
        assert told == due[-1] + 1


def test_a_packed_trace_is_read_through_for_its_length(tmp_path):
    import gzip

    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in at(3, 4, 9)).encode()))
    assert length_ns(reading(str(path), None, {}), Course()) == 6 * NS_PER_S + 1
