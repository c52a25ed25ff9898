import itertools
import math
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.simulator.engine import Engine, EngineParameters, Jitter, QueueFull, Sequence, State, capacity, jitter

MS = 1_000_000


@dataclass
class Played:
    """What an engine did: for each sequence its events as (time, tokens so far), and the most that ran at once."""

    sequences: list[Sequence]
    events: list[list[tuple[int, int]]] = field(default_factory=list)
    most_running: int = 0


def play(p: EngineParameters, arrivals: list[tuple[int, int, int]], seed: int = 0) -> Played:
    """Run an engine on exact times until it is idle; arrivals are (time, prompt tokens, output tokens), in order."""
    engine: Engine[Sequence] = Engine(p, seed)
    played = Played([Sequence(prompt, output) for _, prompt, output in arrivals], [[] for _ in arrivals])
    index = {id(sequence): number for number, sequence in enumerate(played.sequences)}
    coming = list(zip(arrivals, played.sequences, strict=True))[::-1]
    while coming or engine.next_due_ns is not None:
        due_ns = engine.next_due_ns
        if coming and (due_ns is None or coming[-1][0][0] <= due_ns):
            (arrived_ns, _, _), sequence = coming.pop()
            engine.submit(sequence, arrived_ns)
        else:
            assert due_ns is not None
            for sequence in engine.advance(due_ns):
                played.events[index[id(sequence)]].append((due_ns, sequence.tokens_done))
        played.most_running = max(played.most_running, engine.running)
    assert engine.running == engine.queued == engine.slips == 0
    return played


JITTERS = st.sampled_from(
    [Jitter(), Jitter("normal", 0.2), Jitter("uniform", 0.5), Jitter("exponential"), Jitter("lognormal", 0.5)]
)
PARAMETERS = st.builds(
    EngineParameters,
    ttft_ns=st.sampled_from([0, 1, 7 * MS, 50 * MS]),
    prefill_tokens_per_s=st.sampled_from([0, 1_000, 50_000]),
    step_ns=st.sampled_from([MS, 20 * MS]),
    step_per_running_ns=st.sampled_from([0, 100_000]),
    max_running=st.integers(1, 5),
    tokens_per_event=st.integers(1, 4),
    lock_step=st.booleans(),
    jitter=JITTERS,
)
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 200 * MS), st.integers(0, 50), st.integers(1, 12)), min_size=1, max_size=20
).map(sorted)


@given(PARAMETERS, ARRIVALS)
def test_every_sequence_gets_exactly_its_tokens(p, arrivals):
    played = play(p, arrivals)
    for sequence, events in zip(played.sequences, played.events, strict=True):
        tokens = [done for _, done in events]
        assert tokens[-1] == sequence.output_tokens
        assert tokens == [
            *range(p.tokens_per_event, sequence.output_tokens, p.tokens_per_event),
            sequence.output_tokens,
        ]
        assert sequence.state is State.ENDED


@given(PARAMETERS, ARRIVALS)
def test_no_more_than_max_running_run_and_the_queue_is_first_in_first_out(p, arrivals):
    played = play(p, arrivals)
    assert played.most_running <= p.max_running
    admitted = [sequence.admitted_ns for sequence in played.sequences]
    assert admitted == sorted(admitted)
    assert all(at >= arrived for at, (arrived, _, _) in zip(admitted, arrivals, strict=True))
    # Counted from the times alone: a slot is held from the admission to the last token.
    for at in admitted:
        held = [s for s, e in zip(played.sequences, played.events, strict=True) if s.admitted_ns <= at < e[-1][0]]
        assert len(held) <= p.max_running


@given(PARAMETERS, ARRIVALS, st.integers(0, 3))
def test_the_same_seed_gives_the_same_times(p, arrivals, seed):
    assert play(p, arrivals, seed).events == play(p, arrivals, seed).events


@given(PARAMETERS, ARRIVALS)
def test_no_token_comes_before_its_prompt_is_through(p, arrivals):
    played = play(p, arrivals)
    for sequence, events in zip(played.sequences, played.events, strict=True):
        prefill_ns = sequence.prompt_tokens * 1_000_000_000 // p.prefill_tokens_per_s if p.prefill_tokens_per_s else 0
        assert events[0][0] >= sequence.admitted_ns + prefill_ns + p.ttft_ns


@given(PARAMETERS, st.integers(0, 50))
def test_a_lone_request_waits_for_prefill_and_ttft_alone(p, prompt_tokens):
    prefill_ns = prompt_tokens * 1_000_000_000 // p.prefill_tokens_per_s if p.prefill_tokens_per_s else 0
    assert play(p, [(3, prompt_tokens, 2)]).events[0][0][0] == 3 + prefill_ns + p.ttft_ns


@given(PARAMETERS, ARRIVALS)
def test_prefill_takes_one_request_after_the_other(p, arrivals):
    p = replace(p, prefill_tokens_per_s=1_000)
    played = play(p, arrivals)
    through = [sequence.ready_ns - p.ttft_ns for sequence in played.sequences]
    for before, after, sequence in zip(through, through[1:], played.sequences[1:], strict=False):
        assert after - before >= sequence.prompt_tokens * MS


@given(PARAMETERS, ARRIVALS)
def test_in_lock_step_all_tokens_lie_on_common_ticks_of_the_stated_length(p, arrivals):
    p = replace(p, lock_step=True, jitter=Jitter(), step_per_running_ns=0)
    played = play(p, arrivals)
    for events in played.events:
        gaps = [b - a for (a, _), (b, _) in itertools.pairwise(events)]
        assert set(gaps) <= {p.step_ns}
    # Two that run at the same time share a grid.
    spans = [(events[0][0], events[-1][0]) for events in played.events]
    for begin, end in spans:
        assert all((other - begin) % p.step_ns == 0 for other, _ in spans if begin <= other <= end)


def test_a_step_grows_with_the_running_sequences():
    p = EngineParameters(step_ns=10 * MS, step_per_running_ns=MS, max_running=8)
    alone, crowd = play(p, [(0, 0, 3)]), play(p, [(0, 0, 3)] * 8)
    assert [at for at, _ in alone.events[0]] == [0, 11 * MS, 22 * MS]
    assert all([at for at, _ in events] == [0, 18 * MS, 36 * MS] for events in crowd.events)


def test_independent_sequences_keep_their_own_clocks():
    p = EngineParameters(ttft_ns=5 * MS, step_ns=20 * MS, lock_step=False)
    played = play(p, [(0, 0, 3), (7 * MS, 0, 3)])
    assert [at for at, _ in played.events[0]] == [5 * MS, 25 * MS, 45 * MS]
    assert [at for at, _ in played.events[1]] == [12 * MS, 32 * MS, 52 * MS]


@given(
    p=PARAMETERS.map(lambda p: replace(p, prefill_tokens_per_s=0, jitter=Jitter())),
    output_tokens=st.integers(1, 30),
    rounds=st.integers(2, 5),
)
def test_an_engine_in_saturation_gives_exactly_its_capacity(p, output_tokens, rounds):
    p = replace(p, ttft_ns=max(p.ttft_ns, 1))  # without any time at all, independent one-token requests have no limit
    played = play(p, [(0, 0, output_tokens)] * (p.max_running * rounds))
    ends = sorted(events[-1][0] for events in played.events)
    # From the end of the first generation on: before that the engine was filling.
    span_s = (ends[-1] - ends[0]) / 1e9
    most = capacity(p, 0, output_tokens)
    assert most.limit == "slots"
    assert p.max_running * (rounds - 1) / span_s == pytest.approx(most.requests_per_s, rel=1e-9)
    assert most.output_tokens_per_s == pytest.approx(most.requests_per_s * output_tokens)


@pytest.mark.parametrize("lock_step", [True, False])
@pytest.mark.parametrize(
    ("prefill_tokens_per_s", "limit"), [(50_000, "slots"), (2_000, "prefill")], ids=["slots full", "prefill full"]
)
def test_with_prefill_an_engine_nears_its_capacity_from_below(lock_step, prefill_tokens_per_s, limit):
    p = EngineParameters(
        ttft_ns=3 * MS, prefill_tokens_per_s=prefill_tokens_per_s, step_ns=20 * MS, max_running=32, lock_step=lock_step
    )
    most = capacity(p, 400, 64)
    played = play(p, [(0, 400, 64)] * 960)
    ends = sorted(events[-1][0] for events in played.events)
    middle = ends[320:]
    per_s = (len(middle) - 1) * 1e9 / (middle[-1] - middle[0])
    assert most.limit == limit
    assert 0.95 * most.requests_per_s < per_s <= 1.05 * most.requests_per_s


@given(st.floats(0.05, 0.9))
def test_below_its_capacity_the_queue_stays_empty(load):
    p = EngineParameters(step_ns=10 * MS, max_running=8)
    apart_ns = int(1e9 / (capacity(p, 0, 10).requests_per_s * load))
    played = play(p, [(number * apart_ns, 0, 10) for number in range(60)])
    assert all(s.admitted_ns == number * apart_ns for number, s in enumerate(played.sequences))


def test_a_tick_handled_late_does_not_move_the_next_one():
    engine: Engine[Sequence] = Engine(EngineParameters(step_ns=20 * MS), 0)
    engine.submit(Sequence(0, 5), 0)
    assert len(engine.advance(19 * MS)) == 1
    assert engine.next_due_ns == 20 * MS
    assert engine.slips == 0


@pytest.mark.parametrize("lock_step", [True, False])
def test_a_server_late_by_more_than_a_step_makes_no_burst(lock_step):
    engine: Engine[Sequence] = Engine(EngineParameters(step_ns=20 * MS, lock_step=lock_step), 0)
    engine.submit(Sequence(0, 5), 0)
    assert len(engine.advance(90 * MS)) == 1
    assert engine.next_due_ns == 110 * MS
    assert engine.slips == 1


def test_nothing_is_given_before_its_time():
    engine: Engine[Sequence] = Engine(EngineParameters(ttft_ns=10 * MS), 0)
    engine.submit(Sequence(0, 1), 0)
    assert list(engine.advance(10 * MS - 1)) == []
    assert len(engine.advance(10 * MS)) == 1


@pytest.mark.parametrize("lock_step", [True, False])
def test_a_cancelled_sequence_gives_its_slot_to_the_first_in_the_queue(lock_step):
    engine: Engine[Sequence] = Engine(EngineParameters(max_running=1, lock_step=lock_step), 0)
    first, gone, third = (Sequence(0, 3) for _ in range(3))
    for sequence in (first, gone, third):
        engine.submit(sequence, 0)
    assert (engine.running, engine.queued) == (1, 2)
    engine.cancel(gone, 1)
    assert (engine.running, engine.queued) == (1, 1)
    engine.cancel(first, 2)
    assert (engine.running, engine.queued) == (1, 0)
    assert third.admitted_ns == 2
    served = []
    while (due_ns := engine.next_due_ns) is not None:
        served += engine.advance(due_ns)
    assert served == [third] * 3
    engine.cancel(third, 99 * MS)  # it has ended: nothing to take back
    assert engine.running == 0


@pytest.mark.parametrize("lock_step", [True, False])
def test_an_engine_whose_sequences_were_all_cancelled_is_idle(lock_step):
    engine: Engine[Sequence] = Engine(EngineParameters(lock_step=lock_step, ttft_ns=MS), 0)
    sequences = [Sequence(0, 3) for _ in range(3)]
    for sequence in sequences:
        engine.submit(sequence, 0)
    engine.advance(MS)
    for sequence in sequences:
        engine.cancel(sequence, 2 * MS)
    assert engine.running == 0
    late = Sequence(0, 1)
    engine.submit(late, 500 * MS)
    served = []
    while (due_ns := engine.next_due_ns) is not None:
        served += [(due_ns, sequence) for sequence in engine.advance(due_ns)]
    assert served == [(501 * MS, late)]


def test_a_full_queue_refuses():
    engine: Engine[Sequence] = Engine(EngineParameters(max_running=1, max_queued=1), 0)
    for _ in range(2):
        engine.submit(Sequence(0, 1), 0)
    with pytest.raises(QueueFull):
        engine.submit(Sequence(0, 1), 0)
    assert (engine.running, engine.queued) == (1, 1)


@pytest.mark.parametrize("text", ["none", "uniform:1", "normal:0.33", "lognormal:0.5", "exponential"])
def test_jitter_keeps_the_mean_and_is_never_negative(text):
    draws = random.Random(7)
    factors = [jitter(text).factor(draws) for _ in range(20_000)]
    assert min(factors) >= 0
    assert sum(factors) / len(factors) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "text", ["", "gamma:1", "none:1", "uniform", "uniform:2", "normal:0.5", "normal:x", "normal:nan", "lognormal:-1"]
)
def test_a_jitter_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"is no distribution|takes no number|wants a number"):
        jitter(text)


def test_without_a_limit_capacity_is_infinite():
    assert capacity(EngineParameters(lock_step=False), 0, 1).requests_per_s == math.inf


@pytest.mark.parametrize("lock_step", [True, False])
def test_a_refused_draft_ends_the_tokens_of_a_step(lock_step):
    parameters = EngineParameters(step_ns=MS, tokens_per_event=4, acceptance=0.5, lock_step=lock_step)
    engine: Engine[Sequence] = Engine(parameters, 1)
    sequence = Sequence(0, 4000)
    engine.submit(sequence, 0)
    counts = []
    while sequence.state is not State.ENDED:
        before = sequence.tokens_done
        assert engine.next_due_ns is not None
        engine.advance(engine.next_due_ns)
        counts.append(sequence.tokens_done - before)
    assert set(counts) == {1, 2, 3, 4}
    # 1 + a + a^2 + a^3 tokens a step.
    assert 4000 / len(counts) == pytest.approx(parameters.mean_tokens_per_step, rel=0.05)
    assert parameters.mean_tokens_per_step == 1.875
