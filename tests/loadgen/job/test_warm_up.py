"""How long an open loop warms up that was given no warm-up."""

from dataclasses import replace

import pytest
from asked import spec

from loadgen.job.warm_up import lengthened, longest, settled
from loadgen.probe import Pace
from loadgen.spec import spec_of_json
from loadgen.spec.file import layer_of
from loadgen.spec.layers import Document
from loadgen.spec.layers import settled as settled_layers


def warmups_s(one) -> list[float]:
    return [stage.warmup_s for stage in one.stages]


def open_loop(**changes):
    made = spec(**{"rate": (5.0,), "requests": None, "duration_s": 30.0, "warmup_s": 3.0} | changes)
    return replace(made, stages=tuple(replace(stage, warmup_follows=True) for stage in made.stages))


@pytest.mark.parametrize(
    ("response_s", "warmup_s"),
    [
        (2.0, 3.0),
        (4.0, 3.0),  # 1 s of filling: 0.4 % of the load is missing
        (6.0, 8.0),
        (8.0, 11.0),
        (60.0, 15.0),
    ],
)
def test_a_warm_up_is_longer_than_a_response_where_that_matters_and_never_beyond_half_of_the_duration(
    response_s, warmup_s
):
    assert warmups_s(lengthened(open_loop(), response_s)) == [warmup_s]


def test_half_of_a_ramp_up_is_part_of_the_time_in_which_the_load_rises():
    assert warmups_s(lengthened(open_loop(ramp_up_s=4.0), 8.0)) == [9.0]


def test_with_sessions_it_is_the_session_that_counts():
    # Three turns of 2 s, and 1.5 s between them.
    assert warmups_s(lengthened(open_loop(turns="3", think="1500ms"), 2.0)) == [12.0]


def test_a_warm_up_that_was_given_stays_as_it_is():
    given = spec(rate=(5.0,), requests=None, duration_s=30.0, warmup_s=3.0)
    assert lengthened(given, 8.0) is given
    assert longest(given) is given
    assert warmups_s(lengthened(settled(open_loop()), 8.0)) == [3.0]


def test_nothing_that_may_be_sent_is_beyond_the_longest_warm_up():
    for response_s in (0.1, 5.0, 11.4, 11.6, 1000.0):
        (found,), (most,) = warmups_s(lengthened(open_loop(), response_s)), warmups_s(longest(open_loop()))
        assert 3.0 <= found <= most == 15.0


def test_what_run_json_says_is_settled():
    (stage,) = spec_of_json(lengthened(open_loop(), 8.0).to_json()).stages
    assert (stage.warmup_s, stage.warmup_follows) == (11.0, False)


@pytest.mark.parametrize(
    ("values", "follows"),
    [
        ({"rate": 5}, True),
        ({"rate": 5, "warmup": "3s"}, False),
        ({"rate": 5, "warmup": "0s"}, False),
        ({"rate": 5, "warmup_requests": 3}, False),
        ({"rate": 5, "requests": 100}, False),
        ({"rate": "1..5@30s"}, False),
        ({"arrivals": "burst:5@1s"}, True),
        ({"concurrency": 5}, False),
    ],
)
def test_only_an_open_loop_without_a_warm_up_of_its_own_follows_the_response_time(values, follows):
    made = settled_layers(layer_of({"url": "http://h", "model": "m"} | values), Document({}), {})
    assert [stage.warmup_follows for stage in made.stages] == [follows]


def test_a_pace_tells_how_long_a_longer_answer_takes():
    pace = Pace(first_s=0.5, last_s=1.2, tokens=8)
    assert pace.response_s(8) == pytest.approx(1.2)
    assert pace.response_s(128) == pytest.approx(0.5 + 127 * 0.1)
    assert pace.response_s(0) == 0.5
    # All of it came at once, out of a proxy that holds answers back: who knows how it was made?
    assert Pace(2.0, 2.0, 8).response_s(128) == 2.0
    assert Pace(2.0, 2.0, 1).response_s(128) == 2.0
