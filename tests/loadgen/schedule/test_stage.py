"""A stage over time: where its window lies, and what is due in it."""

import numpy as np
import pytest
from asked import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.clock import NS_PER_S
from loadgen.errors import UsageError
from loadgen.schedule import stage as under_test
from loadgen.schedule.stage import Schedule, schedule


def made(number: int = 0, seed: int = 1, **changes):
    """The schedule of the only stage of a spec."""
    (stage,) = spec(**changes).stages
    return schedule(stage, number, seed)


def test_a_ramp_and_a_warm_up_go_before_the_window():
    one = made(rate=(10.0,), arrivals="constant", requests=None, duration_s=4.0, warmup_s=2.0, ramp_up_s=1.0)
    assert (one.warmup_ns, one.duration_ns) == (3 * NS_PER_S, 4 * NS_PER_S)
    # The ramp offers half of what the rate would, five arrivals.
    assert len(one.due_ns) == 5 + 20 + 40
    assert one.arrivals_planned == 40
    assert one.value == 10.0


def test_a_profile_begins_with_the_window_and_its_first_value_holds_before():
    one = made(rate=("10@2s+50@2s",), arrivals="constant", requests=None, duration_s=4.0, warmup_s=1.0)
    assert np.count_nonzero(one.due_ns < NS_PER_S) == 10
    assert np.count_nonzero((one.due_ns >= NS_PER_S) & (one.due_ns < 3 * NS_PER_S)) == 20
    assert np.count_nonzero(one.due_ns >= 3 * NS_PER_S) == 100
    assert one.value == pytest.approx(30)


@given(rate=st.sampled_from([3.0, 7.0, 100.0]), requests=st.integers(1, 300))
def test_so_many_arrivals_at_a_constant_rate_last_as_long_as_they_should(rate, requests):
    one = made(rate=(rate,), arrivals="constant", requests=requests)
    assert len(one.due_ns) == one.arrivals_planned == requests
    assert one.duration_ns == round(requests / rate * NS_PER_S)


@settings(deadline=None)
@given(
    arrivals=st.sampled_from(["constant", "poisson", "gamma:0.5"]),
    warmup=st.integers(0, 30),
    requests=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_a_warm_up_by_requests_ends_when_the_next_one_is_due(arrivals, warmup, requests, seed):
    one = made(seed=seed, rate=(40.0,), arrivals=arrivals, requests=requests, warmup_requests=warmup)
    assert len(one.due_ns) == warmup + requests
    assert one.arrivals_planned == requests
    if warmup:
        assert one.warmup_ns == one.due_ns[warmup]
    by_time = made(seed=seed, rate=(40.0,), arrivals=arrivals, requests=None, duration_s=2.0, warmup_requests=warmup)
    both = min(len(by_time.due_ns), len(one.due_ns))
    assert list(by_time.due_ns[:both]) == list(one.due_ns[:both]), "the bound does not change the process"
    assert by_time.due_ns[-1] < by_time.warmup_ns + 2 * NS_PER_S


def test_a_window_of_so_many_requests_holds_the_last_of_a_burst():
    one = made(arrivals="burst:5@1s", requests=7)
    assert list(one.due_ns) == [0] * 5 + [NS_PER_S] * 2
    assert (one.duration_ns, one.arrivals_planned) == (NS_PER_S + 1, 7)


def test_bursts_and_traces_bring_their_own_times(tmp_path):
    one = made(arrivals="burst:5@1s", requests=None, duration_s=3.0)
    assert list(one.due_ns) == [0] * 5 + [NS_PER_S] * 5 + [2 * NS_PER_S] * 5
    assert one.value == 5.0
    file = tmp_path / "trace.txt"
    file.write_text("0\n0.25\n2.5\n")
    one = made(arrivals=f"trace:{file}", requests=None, duration_s=None)
    assert list(one.due_ns) == [0, NS_PER_S // 4, 5 * NS_PER_S // 2]
    assert one.arrivals_planned == 3
    one = made(arrivals=f"trace:{file}", requests=None, duration_s=1.0)
    assert len(one.due_ns) == 2


def test_a_trace_that_cannot_be_read_is_told_in_a_sentence(tmp_path):
    file = tmp_path / "trace.txt"
    file.write_text("0\n1\nsoon\n")
    with pytest.raises(UsageError, match=r"^--arrivals: .*line 3 \('soon'\) is no number of seconds"):
        made(arrivals=f"trace:{file}", requests=None, duration_s=None)
    file.unlink()
    with pytest.raises(UsageError, match=r"^--arrivals: .*cannot be read \(No such file or directory\)"):
        made(arrivals=f"trace:{file}", requests=None, duration_s=None)


def test_concurrency_over_time_is_a_list_of_levels():
    assert made(concurrency=(8,)).levels == [(0, 8)]
    one = made(concurrency=("2@1s+4@1s",), requests=None, duration_s=2.0, warmup_s=1.0)
    assert one.levels == [(0, 2), (2 * NS_PER_S, 4)]
    assert (one.value, one.most_in_flight, one.arrivals_planned) == (pytest.approx(3.0), 4, None)
    ramped = made(concurrency=(4,), requests=None, duration_s=1.0, ramp_up_s=4.0)
    assert ramped.levels == [(0, 0), *((NS_PER_S // 2 + k * NS_PER_S, k + 1) for k in range(4))]


def test_what_cannot_be_planned_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"^--warmup-requests: a load over time begins when the warm-up ends"):
        made(rate=("1..9@4s",), requests=None, duration_s=4.0, warmup_requests=3)
    with pytest.raises(
        UsageError, match=r"^--rate: 3,600,000,000 arrivals are too many to plan; allowed are 200,000,000"
    ):
        made(rate=(1e6,), requests=None, duration_s=3600.0)
    monkeypatch.setattr(under_test, "MOST_ARRIVALS", 100)
    with pytest.raises(UsageError, match=r"^--rate: 101 arrivals are too many"):
        made(rate=(1.0,), requests=101)


def test_the_most_arrivals_within_a_span_are_counted():
    one = made(arrivals="burst:5@1s", requests=None, duration_s=3.0)
    assert [one.most_within(span_ns) for span_ns in (1, NS_PER_S, NS_PER_S + 1, 10 * NS_PER_S)] == [5, 5, 10, 15]
    assert made(concurrency=(8,)).most_within(NS_PER_S) == 0


@given(st.lists(st.integers(0, 400), min_size=1, max_size=80).map(sorted), st.integers(1, 450), st.integers(1, 9))
def test_they_are_those_of_the_definition_however_the_arrivals_are_cut_into_blocks(due_ns, span_ns, block):
    one = Schedule(0, 1000, 0.0, due_ns=np.array(due_ns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "BLOCK", block)
        found = one.most_within(span_ns)
    assert found == max(sum(first <= due < first + span_ns for due in due_ns) for first in due_ns)
    assert one.most_within(span_ns) == found


def test_another_stage_and_another_seed_have_other_arrivals():
    times = [
        tuple(made(number, seed, rate=(50.0,), requests=None, duration_s=1.0).due_ns)
        for number, seed in ((0, 1), (1, 1), (0, 2))
    ]
    assert len(set(times)) == 3
