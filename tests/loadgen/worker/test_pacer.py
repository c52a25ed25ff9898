"""When things are due, on real loops and in real time: never early, in order, and the others get their turn."""

import asyncio
import itertools
import os
import sys
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from asked import PATIENCE_S
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from loadgen.worker import pacer as pacing
from loadgen.worker.pacer import NEVER, LoopTimer, Pacer, TimerFd

TIMERS = {"loop": LoopTimer} | ({"timerfd": TimerFd} if sys.platform == "linux" else {})


@pytest.fixture(params=[uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def run(request):
    return request.param


@pytest.fixture(params=[*TIMERS, "spin"])
def play(request, run, monkeypatch):
    """Runs an async function of a pacer: over each timer and spinning, on each loop."""
    if request.param == "loop":
        monkeypatch.setattr(pacing, "TimerFd", LoopTimer)

    def play(act: Callable[[Pacer], Awaitable[None]]) -> None:
        async def main() -> None:
            failures = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
            pacer = Pacer()
            if request.param == "spin":
                pacer.spin(lambda: None)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await act(pacer)
            finally:
                pacer.close()
            await asyncio.sleep(0.001)
            assert not failures

        run(main())

    return play


class Calls:
    """What was called, and when."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.seen: list[tuple[object, int]] = []
        self.all_seen = asyncio.Event()

    def __call__(self, what: object) -> None:
        self.seen.append((what, monotonic_ns()))
        if len(self.seen) == self.wanted:
            self.all_seen.set()


def test_nothing_is_called_early_and_all_of_it_in_order(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(60)
        now_ns = monotonic_ns()
        # Odd fractions of a millisecond: a loop's own timers would round them.
        due_ns = [now_ns + (i * 977_353) % (40 * NS_PER_MS) - 2 * NS_PER_MS for i in range(60)]
        for each in due_ns:
            pacer.at(each, calls, each)
        await calls.all_seen.wait()
        assert [what for what, _ in calls.seen] == sorted(due_ns)
        assert all(called_ns >= what for what, called_ns in calls.seen)
        assert pacer.due_ns == NEVER

    play(act)


def test_equal_times_keep_their_order(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(50)
        due_ns = monotonic_ns() + NS_PER_MS
        for i in range(50):
            pacer.at(due_ns, calls, i)
        await calls.all_seen.wait()
        assert [what for what, _ in calls.seen] == list(range(50))

    play(act)


def test_what_is_due_sooner_is_not_held_up_by_what_was_armed_before(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(2)
        now_ns = monotonic_ns()
        pacer.at(now_ns + 3600 * NS_PER_S, calls, "far")
        pacer.at(now_ns + 20 * NS_PER_MS, calls, "near")
        assert pacer.due_ns == now_ns + 20 * NS_PER_MS
        pacer.at(now_ns + 5 * NS_PER_MS, calls, "nearer")
        await calls.all_seen.wait()
        assert [what for what, _ in calls.seen] == ["nearer", "near"]
        assert pacer.due_ns == now_ns + 3600 * NS_PER_S

    play(act)


def test_a_time_that_has_passed_is_called_soon_but_not_at_once(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(2)
        pacer.at(0, calls)
        pacer.at(monotonic_ns() - NS_PER_S, calls)
        assert not calls.seen
        await calls.all_seen.wait()

    play(act)


def test_what_was_cancelled_is_not_called(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(2)
        now_ns = monotonic_ns()
        dues = [pacer.at(now_ns + (i + 1) * NS_PER_MS, calls, i) for i in range(4)]
        pacer.cancel(dues[0])
        pacer.cancel(dues[2])
        await calls.all_seen.wait()
        assert [what for what, _ in calls.seen] == [1, 3]
        pacer.cancel(dues[3])  # it has been called: nothing happens
        pacer.cancel(dues[2])
        assert dues[2][2:] == [None, None], "it holds nothing alive"

    play(act)


def test_a_call_may_add_and_cancel_calls(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(4)
        now_ns = monotonic_ns()

        def first(_: object) -> None:
            calls("first")
            pacer.at(now_ns, calls, "overdue")  # called in the same go, before what is due later
            pacer.at(now_ns + 6 * NS_PER_MS, calls, "later")
            pacer.cancel(unwanted)

        pacer.at(now_ns + 2 * NS_PER_MS, first)
        unwanted = pacer.at(now_ns + 3 * NS_PER_MS, calls, "unwanted")
        pacer.at(now_ns + 4 * NS_PER_MS, calls, "then")
        await calls.all_seen.wait()
        assert [what for what, _ in calls.seen] == ["first", "overdue", "then", "later"]

    play(act)


def test_while_it_calls_it_is_not_due_itself(play):
    """A call sends, a send looks at the sockets, and they would call what is due again, within the call."""

    async def act(pacer: Pacer) -> None:
        calls = Calls(2)
        seen = []

        def first(_: object) -> None:
            seen.append(pacer.due_ns)
            pacer.at(0, calls)
            seen.append(pacer.due_ns)
            calls(None)

        pacer.at(monotonic_ns(), first)
        await calls.all_seen.wait()
        assert seen == [NEVER, NEVER]

    play(act)


def test_more_than_can_be_done_leaves_the_others_their_turn(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(40)
        now_ns = monotonic_ns()

        def costly(what: object) -> None:
            until_ns = monotonic_ns() + NS_PER_MS // 2
            while monotonic_ns() < until_ns:
                pass
            calls(what)

        for i in range(40):
            pacer.at(now_ns, costly, i)
        turns = []
        while not calls.all_seen.is_set():
            await asyncio.sleep(0)
            turns.append(len(calls.seen))
        done_in_a_turn = [after - before for before, after in itertools.pairwise([0, *turns])]
        assert max(done_in_a_turn) <= pacing.AT_ONCE_NS // (NS_PER_MS // 2) + 1
        assert [what for what, _ in calls.seen] == list(range(40))

    play(act)


def test_a_call_that_fails_is_told_and_costs_no_other(run):
    async def main() -> None:
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        pacer = Pacer()
        calls = Calls(2)

        def broken(_: object) -> None:
            raise RuntimeError("our bug")

        now_ns = monotonic_ns()
        pacer.at(now_ns, calls, 0)
        pacer.at(now_ns, broken)
        pacer.at(now_ns, calls, 1)
        async with asyncio.timeout(PATIENCE_S):
            await calls.all_seen.wait()
        pacer.close()
        assert [str(failure) for failure in failures] == ["our bug"]

    run(main())


def test_others_may_look_before_the_timer_does(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(2)
        now_ns = monotonic_ns()
        pacer.at(now_ns + NS_PER_MS, calls, "seen by another")
        far = pacer.at(now_ns + 3600 * NS_PER_S, calls, "far")
        while monotonic_ns() < now_ns + NS_PER_MS:
            pass
        assert monotonic_ns() >= pacer.due_ns
        pacer.look()
        assert len(calls.seen) == 1
        pacer.look()
        assert len(calls.seen) == 1, "the other is not due"
        pacer.cancel(far)
        due_ns = monotonic_ns() + 5 * NS_PER_MS
        pacer.at(due_ns, calls, "by the timer")
        await calls.all_seen.wait()
        assert calls.seen[1][0] == "by the timer"
        assert calls.seen[1][1] >= due_ns

    play(act)


def test_a_closed_pacer_calls_nothing(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(1)
        pacer.at(monotonic_ns() + NS_PER_MS, calls)
        closed = Pacer()
        closed.at(monotonic_ns() + NS_PER_MS, lambda _: pytest.fail("called"))
        closed.close()
        await calls.all_seen.wait()
        await asyncio.sleep(0.005)
        closed.look()

    play(act)


def test_a_call_may_close_it(play):
    async def act(pacer: Pacer) -> None:
        calls = Calls(1)
        other = Pacer()

        def close(_: object) -> None:
            other.close()
            calls(None)

        other.at(monotonic_ns(), close)
        other.at(monotonic_ns(), lambda _: pytest.fail("called"))
        await calls.all_seen.wait()
        await asyncio.sleep(0.002)

    play(act)


def test_spinning_polls_between_the_calls_and_lets_the_loop_turn(run):
    async def main() -> None:
        pacer = Pacer()
        calls = Calls(10)
        polls = []
        turns = 0
        pacer.spin(lambda: polls.append(monotonic_ns()))

        def call(due_ns: int) -> None:
            calls(due_ns)
            if len(calls.seen) < calls.wanted:  # counted from now: what holds up one does not make the next one due
                after_ns = monotonic_ns() + NS_PER_MS
                pacer.at(after_ns, call, after_ns)

        pacer.at(0, call, 0)
        async with asyncio.timeout(PATIENCE_S):
            while not calls.all_seen.is_set():
                await asyncio.sleep(0)
                turns += 1
        assert turns > 1
        assert all(called_ns >= what for what, called_ns in calls.seen)
        first_ns, last_ns = calls.seen[0][1], calls.seen[-1][1]
        assert any(first_ns <= ns <= last_ns for ns in polls), "the sockets are looked at between the calls"
        pacer.close()
        n_polls = len(polls)
        await asyncio.sleep(0.003)
        assert len(polls) == n_polls, "and none behind its end"

    run(main())


# the timers themselves


@pytest.mark.parametrize("timer", list(TIMERS))
def test_a_timer_is_never_early_and_keeps_one_time(timer, run):
    async def main() -> None:
        fired: list[int] = []
        made = TIMERS[timer](asyncio.get_running_loop(), lambda: fired.append(monotonic_ns()))
        now_ns = monotonic_ns()
        made.arm(now_ns + 3600 * NS_PER_S)
        made.arm(now_ns + 50 * NS_PER_MS)
        made.arm(now_ns + 7 * NS_PER_MS + 123)  # the last one counts
        async with asyncio.timeout(PATIENCE_S):
            while not fired:
                await asyncio.sleep(0.001)
        assert fired[0] >= now_ns + 7 * NS_PER_MS + 123
        await asyncio.sleep(max(0, now_ns + 60 * NS_PER_MS - monotonic_ns()) / NS_PER_S)
        assert len(fired) == 1, "what was armed before is forgotten"
        made.arm(1)  # long past: at once, and never "disarmed"
        async with asyncio.timeout(PATIENCE_S):
            while len(fired) < 2:
                await asyncio.sleep(0.001)
        made.arm(monotonic_ns() + 2 * NS_PER_MS)
        made.close()
        await asyncio.sleep(0.005)
        assert len(fired) == 2

    run(main())


@pytest.mark.parametrize("timer", list(TIMERS))
def test_a_timer_that_was_armed_again_from_its_call_fires_again(timer, run):
    async def main() -> None:
        fired: list[int] = []
        due: list[int] = []

        def again() -> None:
            fired.append(monotonic_ns())
            if len(fired) < 30:
                arm()

        def arm() -> None:
            due.append(monotonic_ns() + len(fired) * NS_PER_MS // 11)
            made.arm(due[-1])

        made = TIMERS[timer](asyncio.get_running_loop(), again)
        arm()
        async with asyncio.timeout(PATIENCE_S):
            while len(fired) < 30:
                await asyncio.sleep(0.001)
        made.close()
        assert all(fired_ns >= due_ns for fired_ns, due_ns in zip(fired, due, strict=True))

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="there is no timerfd")
def test_the_timers_descriptor_is_given_back():
    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        pacer = Pacer()
        assert len(set(os.listdir("/proc/self/fd")) - before) == 1
        pacer.at(monotonic_ns() + NS_PER_S, print)
        pacer.close()
        assert set(os.listdir("/proc/self/fd")) <= before

    asyncio.run(main())


# all together


@settings(max_examples=15, deadline=None)
@given(
    wanted=st.lists(
        st.tuples(st.integers(-NS_PER_MS, 6 * NS_PER_MS), st.booleans(), st.integers(-NS_PER_MS, 3 * NS_PER_MS)),
        min_size=1,
        max_size=30,
    ),
    loop=st.sampled_from(["uvloop", "asyncio"]),
)
def test_whatever_is_asked_for_is_called_once_when_it_is_due(wanted, loop):
    """Each entry: when, whether it is cancelled by a call, and when what its call asks for in turn is due."""

    async def main() -> None:
        pacer = Pacer()
        called: list[tuple[int, int]] = []
        expected = {i for i, (_, is_cancelled, _) in enumerate(wanted) if not is_cancelled}
        expected |= {i + len(wanted) for i in expected}
        done = asyncio.Event()

        def call(what: tuple[int, int]) -> None:
            number, due_ns = what
            assert monotonic_ns() >= due_ns
            called.append(what)
            if number < len(wanted):
                after_ns = monotonic_ns() + wanted[number][2]
                pacer.at(after_ns, call, (number + len(wanted), after_ns))
            if len(called) == len(expected):
                done.set()

        start_ns = monotonic_ns() + NS_PER_MS
        dues = []
        for i, (offset_ns, _, _) in enumerate(wanted):
            dues.append(pacer.at(start_ns + offset_ns, call, (i, start_ns + offset_ns)))
        for due, (_, is_cancelled, _) in zip(dues, wanted, strict=True):
            if is_cancelled:
                pacer.cancel(due)
        if expected:
            async with asyncio.timeout(PATIENCE_S):
                await done.wait()
        pacer.close()
        assert len(called) == len(expected)
        assert {number for number, _ in called} == expected
        first = [due_ns for number, due_ns in called if number < len(wanted)]
        assert first == sorted(first)

    {"uvloop": uvloop.run, "asyncio": asyncio.run}[loop](main())
