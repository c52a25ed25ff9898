import pyarrow as pa
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import runs_of_requests, seldom
from synthetic import MS, START_NS, row

from analysis.rows import Rows, to_rows
from analysis.slo import Limit, deadlines, limits, met
from loadgen.schema import CAPTURE_SCHEMA


def rows_of(requests: list[dict]) -> Rows:
    return to_rows(pa.RecordBatch.from_pylist(requests, schema=CAPTURE_SCHEMA))


@seldom
@given(runs_of_requests, st.integers(1, 900 * MS), st.integers(1, 300 * MS))
def test_deadlines_are_met_as_if_they_were_walked_through_one_by_one(requests, first_ns, each_ns):
    walked = [reference.deadlines(request, first_ns, each_ns) for request in requests]
    found = deadlines(rows_of(requests), first_ns, each_ns)
    assert found == (sum(met for met, _ in walked), sum(missed for _, missed in walked))


def test_time_won_is_carried_over_and_a_stall_misses_more_than_one_deadline():
    early = row(START_NS, [START_NS + 50 * MS, START_NS + 115 * MS])  # 50 ms early, then 65 ms for a token of 20
    stall = row(START_NS, [START_NS + 100 * MS, START_NS + 190 * MS])  # on time, then 70 ms too late
    assert deadlines(rows_of([early]), 100 * MS, 20 * MS) == (2, 0)
    assert deadlines(rows_of([stall]), 100 * MS, 20 * MS) == (1, 4)


def test_limits_come_from_the_spec():
    asked = {"slo": {"ttft": {"percentile": 99, "limit_ms": 500.0}, "itl": {"percentile": None, "limit_ms": 50}}}
    assert limits(asked) == {"ttft": Limit(500 * MS, 99), "itl": Limit(50 * MS, None)}
    assert limits({"slo": None}) == limits({}) == limits(None) == {}


@pytest.mark.parametrize(
    ("name", "limit_ms", "expected"),
    [
        ("ttft", 10, True),
        ("ttft", 9.9, False),
        ("e2e", 30, True),
        ("e2e", 29, False),
        ("tpot", 10, True),
        ("tpot", 9, False),
    ],
)
def test_a_limit_is_met_up_to_and_with_itself(name, limit_ms, expected):
    request = row(START_NS, [START_NS + 10 * MS, START_NS + 20 * MS, START_NS + 30 * MS])
    verdicts = met(rows_of([request]), {name: Limit(round(limit_ms * MS), None)})
    assert verdicts[name].tolist() == [expected]


def test_a_request_that_waited_unsent_has_waited_all_the_same():
    waited = row(START_NS, [START_NS + 10 * MS, START_NS + 30 * MS], intended_ns=START_NS - 40 * MS)
    limits_ms = {"ttft": 50, "e2e": 70, "tpot": 20}
    for missing_ms, expected in ((0, [True] * 3), (1, [False] * 3)):
        asked = {name: Limit((limit - missing_ms) * MS, None) for name, limit in limits_ms.items()}
        assert [meets.tolist()[0] for meets in met(rows_of([waited]), asked).values()] == expected
    assert deadlines(rows_of([waited]), 50 * MS, 20 * MS) == (2, 0)
    assert deadlines(rows_of([waited]), 49 * MS, 20 * MS) == (1, 1)


def test_itl_is_met_when_one_gap_in_a_hundred_is_longer_and_not_when_two_are():
    def with_long_gaps(count: int) -> dict:
        gaps = [10 * MS] * (100 - count) + [90 * MS] * count
        return row(START_NS, [START_NS + sum(gaps[:index]) for index in range(101)])

    verdicts = met(rows_of([with_long_gaps(0), with_long_gaps(1), with_long_gaps(2)]), {"itl": Limit(20 * MS, None)})
    assert verdicts["itl"].tolist() == [True, True, False]


def test_a_request_of_one_event_meets_tpot_and_itl_for_it_has_neither():
    verdicts = met(rows_of([row(START_NS, [START_NS + MS])]), {"tpot": Limit(1, None), "itl": Limit(1, None)})
    assert verdicts["tpot"].tolist() == verdicts["itl"].tolist() == [True]


def test_a_request_without_output_meets_no_limit_on_the_first_token():
    assert met(rows_of([row(START_NS)]), {"ttft": Limit(MS, None)})["ttft"].tolist() == [False]
