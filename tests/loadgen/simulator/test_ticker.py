import asyncio
import sys

import pytest
import uvloop

from loadgen.clock import monotonic_ns
from loadgen.simulator.ticker import LoopTimer, TimerFd

MS = 1_000_000
KINDS = [LoopTimer, *([TimerFd] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_timer_fires_once_for_the_last_time_it_was_armed_with(kind):
    async def fired() -> list[int]:
        seen: list[int] = []
        timer = kind(asyncio.get_running_loop(), lambda: seen.append(monotonic_ns()))
        timer.arm(monotonic_ns() + 3_600_000 * MS)
        due_ns = monotonic_ns() + 5 * MS
        timer.arm(due_ns)
        while not seen:
            await asyncio.sleep(0.001)
        assert seen[0] >= due_ns - MS
        await asyncio.sleep(0.01)
        timer.close()
        return seen

    assert len(uvloop.run(fired())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_that_has_passed_fires_at_once_and_none_never(kind):
    async def fired() -> int:
        seen: list[int] = []
        timer = kind(asyncio.get_running_loop(), lambda: seen.append(1))
        timer.arm(monotonic_ns() + 2 * MS)
        timer.arm(None)
        await asyncio.sleep(0.01)
        assert not seen
        timer.arm(monotonic_ns() - MS)
        while not seen:
            await asyncio.sleep(0.001)
        timer.close()
        return len(seen)

    assert uvloop.run(fired()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")
def test_a_timerfd_is_never_early():
    async def earliest_ns() -> int:
        fired = asyncio.Event()
        timer = TimerFd(asyncio.get_running_loop(), fired.set)
        early_ns = []
        for number in range(20):
            due_ns = monotonic_ns() + 300_000 + 77_000 * number
            fired.clear()
            timer.arm(due_ns)
            await fired.wait()
            early_ns.append(due_ns - monotonic_ns())
        timer.close()
        return max(early_ns)

    assert uvloop.run(earliest_ns()) <= 0
