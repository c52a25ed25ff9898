import struct

import numpy as np
import pytest

from loadgen.clock import NS_PER_S, STEP_NS
from loadgen.worker import stamps
from loadgen.worker.stamps import NO_STAMP, StampClock

OFFSET_NS = 1_700_000_000 * NS_PER_S


@pytest.fixture
def wall(monkeypatch):
    """The wall clock: `offset_ns` ahead of the monotonic one, and `now_ns` is what that one says."""

    class Wall:
        offset_ns = OFFSET_NS
        now_ns = 5_000_000_000

        @staticmethod
        def stamp(monotonic_ns: int) -> bytes:
            return struct.pack("qq", *divmod(monotonic_ns + Wall.offset_ns, NS_PER_S))

        @staticmethod
        def step(step_ns: int) -> None:
            Wall.offset_ns += step_ns

    monkeypatch.setattr(stamps, "realtime_offset_ns", lambda tries=5: Wall.offset_ns)
    monkeypatch.setattr(stamps, "monotonic_ns", lambda: Wall.now_ns)
    return Wall


def reads(*read_ns: int) -> np.ndarray:
    return np.array(read_ns, np.int64)


def test_a_stamp_becomes_monotonic_and_the_lag_is_how_long_the_read_came_behind_it(wall):
    raw = bytearray(wall.stamp(1_000_000_007) + wall.stamp(2_000_000_000))
    stamp_ns, lag_ns, unstamped = StampClock().convert(raw, reads(1_000_004_007, 2_000_000_001))
    assert (stamp_ns.tolist(), lag_ns.tolist(), unstamped) == ([1_000_000_007, 2_000_000_000], [4_000, 1], 0)


def test_a_read_without_a_stamp_is_stamped_by_itself_and_counted(wall):
    raw = bytearray(NO_STAMP + wall.stamp(2_000) + NO_STAMP)
    stamp_ns, lag_ns, unstamped = StampClock().convert(raw, reads(1_000, 3_000, 4_000))
    assert (stamp_ns.tolist(), lag_ns.tolist(), unstamped) == ([1_000, 2_000, 4_000], [0, 1_000, 0], 2)


def test_a_read_without_a_stamp_is_no_later_than_what_came_behind_it(wall):
    raw = bytearray(NO_STAMP * 2 + wall.stamp(1_500) + NO_STAMP)
    stamp_ns, lag_ns, unstamped = StampClock().convert(raw, reads(1_000, 2_000, 3_000, 4_000))
    assert (stamp_ns.tolist(), lag_ns.tolist(), unstamped) == ([1_000, 1_500, 1_500, 4_000], [0, 0, 1_500, 0], 3)


@pytest.mark.parametrize("step_ns", [3 * NS_PER_S, -3 * NS_PER_S])
def test_nor_is_it_moved_by_a_step_of_the_clock(wall, step_ns):
    clock = StampClock()
    wall.step(step_ns)
    raw = bytearray(NO_STAMP + wall.stamp(4_500_000_000))
    clock.watch()
    stamp_ns, _, _ = clock.convert(raw, reads(4_400_000_000, 4_500_010_000))
    assert stamp_ns.tolist() == [4_400_000_000, 4_500_000_000]


def test_a_lag_below_zero_within_the_clocks_error_is_none(wall):
    _, lag_ns, _ = StampClock().convert(bytearray(wall.stamp(1_500)), reads(1_000))
    assert lag_ns.tolist() == [0]


def test_a_clock_that_stays_is_not_reported_as_stepped(wall):
    clock = StampClock()
    wall.step(STEP_NS)
    assert clock.watch() == wall.offset_ns
    assert clock.steps == []


@pytest.mark.parametrize("step_ns", [3 * NS_PER_S, -3 * NS_PER_S])
def test_a_step_is_found_by_watching_and_later_stamps_are_converted_with_the_new_offset(wall, step_ns):
    clock = StampClock()
    before = wall.stamp(4_000_000_000)
    wall.step(step_ns)
    clock.watch()
    assert clock.steps == [(wall.now_ns, step_ns)]
    after = wall.stamp(6_000_000_000)
    stamp_ns, lag_ns, _ = clock.convert(bytearray(before + after), reads(4_000_010_000, 6_000_010_000))
    assert stamp_ns.tolist() == [4_000_000_000, 6_000_000_000]
    assert lag_ns.tolist() == [10_000, 10_000]


@pytest.mark.parametrize("step_ns", [3 * NS_PER_S, -3 * NS_PER_S])
def test_a_read_between_the_step_and_its_discovery_is_converted_with_the_offset_that_makes_sense(wall, step_ns):
    clock = StampClock()
    wall.step(step_ns)
    between = wall.stamp(4_500_000_000)  # stepped, but not known yet
    clock.watch()
    stamp_ns, lag_ns, _ = clock.convert(bytearray(between), reads(4_500_010_000))
    assert (stamp_ns.tolist(), lag_ns.tolist()) == ([4_500_000_000], [10_000])


def test_a_step_forwards_is_found_by_a_stamp_from_the_future(wall):
    clock = StampClock()
    wall.step(3 * NS_PER_S)
    stamp_ns, lag_ns, _ = clock.convert(bytearray(wall.stamp(4_500_000_000)), reads(4_500_010_000))
    assert (stamp_ns.tolist(), lag_ns.tolist()) == ([4_500_000_000], [10_000])
    assert clock.steps == [(wall.now_ns, 3 * NS_PER_S)]


def test_after_a_step_reads_without_a_stamp_stay_what_they_are(wall):
    clock = StampClock()
    wall.step(NS_PER_S)
    clock.watch()
    stamp_ns, lag_ns, unstamped = clock.convert(bytearray(NO_STAMP), reads(7))
    assert (stamp_ns.tolist(), lag_ns.tolist(), unstamped) == ([7], [0], 1)


def test_a_stamp_that_no_offset_explains_is_never_later_than_its_read(wall):
    clock = StampClock()
    wall.step(NS_PER_S)
    clock.watch()
    future = bytearray(wall.stamp(90_000_000_000))
    stamp_ns, lag_ns, _ = clock.convert(future, reads(6_000_000_000))
    assert (stamp_ns.tolist(), lag_ns.tolist()) == ([6_000_000_000], [0])


def test_a_step_backwards_is_found_by_a_lag_beyond_belief(wall):
    clock = StampClock()
    wall.step(-3 * NS_PER_S)
    stamp_ns, lag_ns, _ = clock.convert(bytearray(wall.stamp(4_500_000_000)), reads(4_500_010_000))
    assert (stamp_ns.tolist(), lag_ns.tolist()) == ([4_500_000_000], [10_000])
    assert clock.steps == [(wall.now_ns, -3 * NS_PER_S)]


def test_a_machine_that_slept_is_seen_by_the_clock_that_went_on(wall, monkeypatch):
    slept_ns = [7 * NS_PER_S]  # before the worker began, which is nothing to it
    monkeypatch.setattr(stamps, "asleep_ns", lambda: slept_ns[0])
    clock = StampClock()
    clock.watch()
    assert clock.sleeps == []
    slept_ns[0] += 60 * NS_PER_S
    clock.watch()
    clock.watch()
    assert clock.sleeps == [(wall.now_ns, 60 * NS_PER_S)]
