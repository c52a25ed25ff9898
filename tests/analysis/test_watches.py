import pytest
from synthetic import MS, START_NS, S, file_facts, steady_samples, watch

from analysis.captures import Capture
from analysis.watches import clock_steps, counted, cpu_share, longest_silence_ns, sleeps


def capture(*watches: dict) -> Capture:
    return Capture(None, 1, 0, file_facts([]), list(watches), len(watches), 0, True)


def test_cpu_share_is_that_of_the_window_and_not_of_the_run():
    busy = [[START_NS + index * S, (0, 0, 900 * MS, 1_800 * MS)[index], 0, 0] for index in range(4)]
    one = capture(watch(busy[:2]), watch(busy[2:]))
    assert cpu_share(one, START_NS, START_NS + S) == 0
    assert cpu_share(one, START_NS + S, START_NS + 3 * S) == pytest.approx(0.9)
    assert cpu_share(one, START_NS + S // 2, START_NS + 3 * S // 2) == pytest.approx(0.45)


def test_cpu_share_reaches_as_far_as_the_samples():
    one = capture(watch(steady_samples(START_NS, START_NS + S, 0.5)))
    assert cpu_share(one, START_NS - S, START_NS + 9 * S) == pytest.approx(0.5)
    assert cpu_share(one, START_NS + 2 * S, START_NS + 3 * S) is None
    assert cpu_share(capture(watch([[START_NS, 0, 0, 0]])), START_NS, START_NS + S) is None
    assert cpu_share(capture(), START_NS, START_NS + S) is None


def test_running_counts_are_split_between_stages():
    first = watch([[START_NS, 0, 0, 0], [START_NS + S, 0, 0, 0]], reads=1_000)
    second = watch([[START_NS + 2 * S, 0, 0, 0]], reads=3_000)
    one = capture(first, second)
    assert counted(one, "reads", START_NS, START_NS + S) == 1_000
    assert counted(one, "reads", START_NS + S, START_NS + 2 * S) == 2_000
    assert counted(one, "reads", START_NS, START_NS + 9 * S) == 3_000


def test_what_only_the_closing_batch_tells_is_counted():
    one = capture(watch([[START_NS, 0, 0, 0], [START_NS + S, 0, 0, 0]], reads=10), watch(reads=12))
    assert counted(one, "reads", START_NS, START_NS + 2 * S) == 12
    assert counted(capture(watch(reads=7)), "reads", START_NS, START_NS + S) == 7
    assert counted(capture(), "reads", START_NS, START_NS + S) == 0


def test_a_clock_step_seen_by_all_workers_is_one_step():
    one = capture(watch(clock_steps=[[START_NS + S, 4 * MS]]))
    two = capture(watch(clock_steps=[[START_NS + S, 4 * MS], [START_NS + 20 * S, MS]]))
    assert clock_steps([one, two], START_NS, START_NS + 10 * S) == [(START_NS + S, 4 * MS)]
    assert clock_steps([one, two], START_NS + 15 * S, START_NS + 30 * S) == [(START_NS + 20 * S, MS)]
    assert clock_steps([capture()], START_NS, START_NS + S) == []


def test_a_sleep_of_the_machine_is_counted_where_it_was():
    one = capture(watch(sleeps=[[START_NS + S, 60 * S]]))
    assert sleeps([one, capture(watch())], START_NS, START_NS + 10 * S) == [(START_NS + S, 60 * S)]
    assert sleeps([one], START_NS + 2 * S, START_NS + 10 * S) == []


def test_the_longest_silence_is_that_between_two_moments():
    one = capture(watch([[START_NS, 0, 0, 0], [START_NS + 3 * S, 0, 0, 0]]), watch([[START_NS + 4 * S, 0, 0, 0]]))
    assert longest_silence_ns(one, START_NS, START_NS + 9 * S) == 3 * S
    assert longest_silence_ns(one, START_NS + 2 * S, START_NS + 9 * S) == S
    assert longest_silence_ns(capture(watch()), START_NS, START_NS + S) == 0
