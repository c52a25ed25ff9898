import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.schedule import typical
from loadgen.schedule.arrivals import offsets_ns, parse_process
from loadgen.schedule.profile import parse_profile

S = 1_000_000_000


def due_ns(rate="20", *, seed=1, stage=0, seconds=20.0, process="typical:1s", warmup_s=5.0):
    return offsets_ns(
        parse_process(process), parse_profile(rate), seed=seed, stage=stage, until_ns=int(seconds * S),
        warmup_ns=int(warmup_s * S),
    )  # fmt: skip


def unit_poisson(n, seed=1):
    return np.cumsum(np.random.default_rng(seed).exponential(1, n))


@pytest.mark.parametrize("load", sorted(typical.QUEUES))
def test_the_levels_of_the_queues_are_those_of_erlang(load):
    waits = typical.waits_at(unit_poisson(2_000_000), load)
    for level, share in zip(typical.QUEUES[load], typical.SHARES, strict=True):
        # P(W <= t) = (1 - load) sum_k exp(load (t - k)) (load (k - t))^k / k! for unit service, where it can be summed.
        if level < 9:
            below = (1 - load) * sum(
                math.exp(load * (level - k)) * (load * (k - level)) ** k / math.factorial(k)
                for k in range(int(level) + 1)
            )
            assert 1 - below == pytest.approx(share, rel=1e-3)
        # A queue so full remembers thousands of arrivals.
        assert np.mean(waits > level) == pytest.approx(share, rel=0.1 if load < 0.9 else 0.3)


@given(st.floats(0.01, 2000))
@settings(deadline=None, max_examples=50)
def test_the_levels_of_the_counts_are_the_poisson_distributions(mean):
    for count, share in typical.poisson_levels(mean):
        exact = 1 - sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))
        assert share == pytest.approx(exact, abs=1e-9)
        assert share > 0


def test_waits_are_those_of_a_queue_walked_arrival_by_arrival():
    times, wait, walked = unit_poisson(500, seed=3), 0.0, []
    for k, at in enumerate(times):
        if k:
            wait = max(wait + 0.9 - (at - times[k - 1]), 0.0)
        walked.append(wait / 0.9)
    assert np.allclose(typical.waits_at(times, 0.9), walked)


def test_a_typical_plan_is_nearer_to_the_long_run_than_nearly_every_other():
    chosen = due_ns() / S * 20
    distance = typical.distance(chosen, 100, 20)
    others = [typical.distance(due_ns(process="poisson", seed=seed) / S * 20, 100, 20) for seed in range(40)]
    assert distance < np.quantile(others, 0.1)


def test_what_a_queue_makes_of_typical_plans_scatters_less_and_is_not_biased():
    # The share that waits for more than 8 at 85 %, a queue and a level that the choice does not look at.
    def share(process, seed):
        times = due_ns(process=process, seed=seed, seconds=30) / S * 20
        return float(np.mean(typical.waits_at(times, 0.85)[times >= 100] > 6))

    plain, chosen = (np.array([share(process, seed) for seed in range(60)]) for process in ("poisson", "typical:1s"))
    assert chosen.std() < 0.6 * plain.std()
    long_run = np.mean(typical.waits_at(unit_poisson(1_000_000, seed=5), 0.85) > 6)
    assert chosen.mean() == pytest.approx(long_run, abs=4 * chosen.std() / math.sqrt(60) + 0.01)


@given(st.integers(0, 1 << 32), st.integers(0, 5), st.sampled_from(["5", "0.2", "1..40@10s", "sine:0..30@6s"]))
@settings(deadline=None, max_examples=30)
def test_a_plan_is_reproducible_ascending_and_within_its_span(seed, stage, rate):
    one, two = (due_ns(rate, seed=seed, stage=stage, seconds=10, warmup_s=2) for _ in range(2))
    assert np.array_equal(one, two)
    assert (np.diff(one) >= 0).all()
    assert not len(one) or 0 <= one[0] <= one[-1] < 10 * S


def test_a_long_stage_is_chosen_among_fewer_plans():
    assert len(due_ns("40000", seconds=10)) == pytest.approx(400_000, rel=0.02)


def test_without_a_span_there_is_nothing_to_choose_by():
    with pytest.raises(ValueError, match=r"give --duration"):
        offsets_ns(parse_process("typical:1s"), parse_profile("5"), seed=1, stage=0, count=10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("typical", "is no process of arrivals"),
        ("typical:0s", "about how long one takes"),
        ("typical:", "no duration"),
        ("typical:x", "'x' is no duration"),
    ],
)
def test_a_response_has_a_length(text, words):
    with pytest.raises(ValueError, match=words):
        parse_process(text)


def test_it_is_typed_as_it_is_written():
    assert parse_process("typical:1.5s").text == "typical:1500ms"
    assert parse_process(parse_process("typical:850ms").text) == parse_process("typical:850ms")
