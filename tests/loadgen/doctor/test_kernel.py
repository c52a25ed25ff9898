"""Kernel stamps: those of this kernel, and those of kernels that lie or keep quiet."""

import sys
from itertools import pairwise

import pytest

from loadgen.doctor import BAD, OK, WARN
from loadgen.doctor.kernel import pings, stamps

US = 1000


def told(*, late_us: int = 3, unstamped: int = 0, wild: int = 0):
    """A kernel whose stamps come so late after the send, some of them missing, some of them behind their read."""

    def ping(count: int):
        sound = [(at_ns, at_ns + late_us * US, at_ns + 10 * US) for at_ns in range(count - unstamped - wild)]
        return sound + [(0, None, 10 * US)] * unstamped + [(0, 5000 * US, 10 * US)] * wild

    return ping


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone stamps reads")
def test_this_kernel_stamps_each_byte_between_its_send_and_its_read():
    seen = pings(50)
    assert len(seen) == 50
    assert all(stamp_ns is not None for _, stamp_ns, _ in seen)
    assert all(read_ns <= later_ns for (_, _, read_ns), (later_ns, _, _) in pairwise(seen))
    assert stamps().level == OK


def test_stamps_that_make_sense_are_told_with_their_distance():
    finding = stamps(told(late_us=4))
    assert finding.level == OK
    assert "on 200 of 200 reads, 200 of them between send and read; 4.0 us after the send" in finding.words


def test_a_kernel_without_stamps_is_bad_and_one_that_forgets_some_is_doubted():
    assert stamps(told(unstamped=200)).level == BAD
    assert stamps(told(unstamped=20)).level == WARN


def test_stamps_behind_their_read_are_bad():
    finding = stamps(told(wild=20))
    assert finding.level == BAD
    assert "180 of them between" in finding.words


def test_a_system_that_refuses_is_told_with_its_words():
    def refuses(_: int):
        raise OSError(92, "Protocol not available")

    finding = stamps(refuses)
    assert finding.level == BAD
    assert "Protocol not available" in finding.words
    assert "--transport aiohttp" in finding.todo
