from asked import spec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import planner


@given(total=st.integers(0, 10**6), workers=st.integers(1, 64))
def test_shares_add_up_exactly_and_differ_by_one_at_most(total, workers):
    shares = [planner.share(total, worker, workers) for worker in range(workers)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def stage_plans(asked, workers: int):
    """Each worker's stages."""
    planned = planner.schedules(asked)
    return [planner.worker_stages(asked, planned, worker, workers, 1000) for worker in range(workers)]


@given(
    levels=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    requests=st.one_of(st.none(), st.integers(1, 5000)),
    workers=st.integers(1, 9),
)
def test_slots_and_requests_are_all_dealt_and_none_to_a_worker_without_a_slot(levels, requests, workers):
    asked = spec(concurrency=tuple(levels), requests=requests, duration_s=None if requests else 2.0)
    plans = stage_plans(asked, workers)
    for stage, level in enumerate(levels):
        mine = [plan[stage] for plan in plans]
        assert sum(plan.load.slots for plan in mine) == level
        assert [plan.load.levels for plan in mine] == [((0, plan.load.slots),) for plan in mine]
        assert {plan.load.all_slots for plan in mine} == {level}
        if requests is None:
            assert {plan.load.units for plan in mine} == {None}
            assert {plan.duration_ns for plan in mine} == {2_000_000_000}
        else:
            assert sum(plan.load.units for plan in mine) == requests
            assert all(plan.load.slots or not plan.load.units for plan in mine)
            # By slot: nobody has a round more to go than another.
            rounds = [-(-plan.load.units // plan.load.slots) for plan in mine if plan.load.slots]
            assert max(rounds) - min(rounds) <= 1


@settings(deadline=None)
@given(
    rate=st.sampled_from(["7", "100", "1..50@2s", "sine:1..80@1s"]),
    arrivals=st.sampled_from(["poisson", "constant", "gamma:2"]),
    seed=st.integers(0, 99),
    workers=st.integers(1, 5),
)
def test_any_number_of_workers_together_offer_the_arrivals_of_one(rate, arrivals, seed, workers):
    asked = spec(rate=(rate,), arrivals=arrivals, requests=None, duration_s=3.0, warmup_s=0.5, seed=seed)
    alone = stage_plans(asked, 1)[0][0].load.due_ns
    dealt = [list(stages[0].load.due_ns) for stages in stage_plans(asked, workers)]
    together = [0] * sum(map(len, dealt))
    for worker, mine in enumerate(dealt):
        together[worker::workers] = mine
    assert together == list(alone), "arrival k goes to worker k % workers"
    assert together == sorted(together)
    assert all(0 <= due_ns < 3_500_000_000 for due_ns in together)


@given(level=st.sampled_from(["0..20@1s", "5@1s+17@1s", "30..0@2s+4@1s", "sine:2..19@1s"]), workers=st.integers(1, 6))
def test_the_levels_of_all_workers_add_up_to_the_profile_at_any_time(level, workers):
    asked = spec(concurrency=(level,), requests=None, duration_s=3.0)
    (made,) = planner.schedules(asked)
    plans = [stages[0].load for stages in stage_plans(asked, workers)]
    for at_ns, wanted in made.levels:
        assert sum(max(load.levels, key=lambda one: one if one[0] <= at_ns else (-1, 0))[1] for load in plans) == wanted
    assert sum(load.slots for load in plans) == made.most_in_flight


@given(level=st.integers(1, 20), warmup=st.integers(1, 100), workers=st.integers(1, 9))
def test_a_warm_up_is_dealt_to_those_who_have_slots(level, warmup, workers):
    asked = spec(concurrency=(level,), requests=50, warmup_requests=warmup)
    plans = [stages[0] for stages in stage_plans(asked, workers)]
    assert sum(plan.warmup_requests for plan in plans) == warmup
    assert all(plan.load.slots or not plan.warmup_requests for plan in plans)


def test_places_are_dealt_and_connections_opened_before_there_is_need():
    asked = spec(rate=(100.0,), arrivals="constant", requests=None, duration_s=10.0, max_in_flight=31)
    loads = [stages[0].load for stages in stage_plans(asked, 2)]
    assert [load.max_in_flight for load in loads] == [16, 15]
    assert [load.connections for load in loads] == [16, 15], "no more than there are places"
    asked = spec(rate=(100.0,), arrivals="constant", requests=None, duration_s=10.0)
    (load,) = [stages[0].load for stages in stage_plans(asked, 1)]
    assert (load.connections, load.spare, load.max_in_flight) == (100, 10, 1000)
