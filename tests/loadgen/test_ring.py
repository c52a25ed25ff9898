import os
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.ring import ALL_SLOTS, WANTED, Ring


@pytest.fixture
def ring():
    made = Ring(4096)
    yield made
    made.close()


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=700), st.none()), max_size=200))
def test_what_is_written_is_read_in_order_however_often_it_goes_around(steps):
    """Data is written, None takes what is there; a writer that finds no room waits for a reader."""
    writer = Ring(2048)
    reader = Ring(writer.capacity, os.dup(writer.fd))
    waiting: deque[bytes] = deque()
    try:
        for data in steps:
            if data is not None and writer.put(0, data):
                waiting.append(data)
            elif waiting:
                assert reader.take(0) == waiting.popleft()
        while waiting:
            assert reader.take(0) == waiting.popleft()
        assert reader.take(0) is None
    finally:
        writer.close()
        reader.close()


def test_a_full_ring_takes_nothing_until_something_has_been_taken(ring):
    while ring.put(0, bytes(500)):
        pass
    assert not ring.put(0, bytes(500))
    assert ring.take(0) == bytes(500)
    assert ring.put(0, bytes(500))


def test_a_record_that_can_never_fit_is_refused_and_the_largest_that_can_always_fits(ring):
    with pytest.raises(ValueError, match="larger than"):
        ring.put(0, bytes(ring.most_bytes + 1))
    for _ in range(100):
        ring.put(0, b"x" * 33)
        while ring.take(0) is not None:
            pass
        assert ring.put(0, bytes(ring.most_bytes))
        assert ring.take(0) == bytes(ring.most_bytes)


def test_what_is_left_of_an_earlier_stage_is_passed_over(ring):
    for stage, data in ((0, b"a"), (0, b"b"), (1, b"c"), (2, b"d")):
        ring.put(stage, data)
    assert ring.take(0) == b"a"
    assert ring.take(1) == b"c"
    assert ring.take(2) == b"d"
    assert ring.take(2) is None


def test_a_stage_is_over_when_its_writer_says_so_and_all_has_been_taken(ring):
    ring.put(0, b"a")
    assert not ring.is_over(0)
    ring.end(0)
    assert not ring.is_over(0)
    assert ring.take(0) == b"a"
    assert ring.is_over(0)
    assert not ring.is_over(1)


def test_a_stage_is_ready_when_enough_waits_or_there_is_no_more(ring):
    assert not ring.is_ready(0, 100)
    ring.put(0, bytes(200))
    assert ring.is_ready(0, 100)
    assert not ring.is_ready(0, 1000)
    ring.end(0)
    assert ring.is_ready(0, 1000)
    while ring.put(1, bytes(200)):
        pass
    assert ring.is_ready(1, 1 << 30), "no more than it can hold is waited for"


def test_what_a_reader_wants_reaches_the_writer(ring):
    assert ring.get(WANTED) == -1
    ring.want(3, 17)
    assert (ring.get(WANTED), ring.get(ALL_SLOTS)) == (3, 17)
