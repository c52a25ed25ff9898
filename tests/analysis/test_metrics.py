import pyarrow as pa
import pytest
import reference
from hypothesis import given
from strategies import runs_of_requests, seldom
from synthetic import MS, START_NS, row

from analysis import metrics
from analysis.rows import ABSENT, Rows, to_rows
from loadgen.schema import CAPTURE_SCHEMA


def rows_of(requests: list[dict]) -> Rows:
    return to_rows(pa.RecordBatch.from_pylist(requests, schema=CAPTURE_SCHEMA))


def listed(values) -> list[int | None]:
    return [None if value == ABSENT else value for value in values.tolist()]


@pytest.mark.parametrize("name", metrics.A_REQUEST)
@seldom
@given(requests=runs_of_requests)
def test_each_definition_is_that_of_the_slow_reference(name, requests):
    expected = [getattr(reference, name)(request) for request in requests]
    assert listed(metrics.A_REQUEST[name](rows_of(requests))) == expected


@seldom
@given(runs_of_requests)
def test_a_request_is_due_when_it_was_intended_or_else_when_it_was_sent(requests):
    rows = rows_of(requests)
    assert metrics.due_ns(rows).tolist() == [reference.due(request) for request in requests]
    assert listed(metrics.lateness_ns(rows)) == [reference.lateness(request) for request in requests]


@seldom
@given(runs_of_requests)
def test_gaps_are_pooled_over_requests_and_never_between_them(requests):
    rows = rows_of(requests)
    assert metrics.gap_ns(rows).tolist() == [gap for request in requests for gap in reference.gaps(request)]
    per_token = [gap for request in requests for gap in reference.gaps_per_token(request)]
    assert metrics.gap_per_token_ns(rows).tolist() == per_token


@seldom
@given(runs_of_requests)
def test_output_tokens_are_usage_then_event_tokens_then_events(requests):
    rows = rows_of(requests)
    assert metrics.output_tokens(rows).tolist() == [reference.output_tokens(request) for request in requests]
    weights = metrics.tokens_per_event(rows)
    expected = [count for request in requests for count in reference.event_tokens(request)]
    assert ([1.0] * len(expected) if weights is None else weights.tolist()) == pytest.approx(expected)


@seldom
@given(runs_of_requests)
def test_gaps_over_a_limit_are_counted_by_request(requests):
    counted = metrics.gaps_over(rows_of(requests), 20 * MS).tolist()
    assert counted == [sum(gap > 20 * MS for gap in reference.gaps(request)) for request in requests]


def test_tpot_leaves_out_the_tokens_of_the_first_event():
    events = [START_NS + 100 * MS, START_NS + 200 * MS, START_NS + 300 * MS]
    told = row(START_NS, events, event_tokens=[4, 5, 5], output_tokens=14)
    untold = row(START_NS, events, output_tokens=11)
    assert listed(metrics.tpot_ns(rows_of([told, untold]))) == [20 * MS, 20 * MS]


def test_a_request_of_one_event_has_a_ttft_but_no_itl_and_no_tpot():
    rows = rows_of([row(START_NS, [START_NS + 7 * MS], output_tokens=100)])
    assert listed(metrics.ttft_ns(rows)) == [7 * MS]
    assert listed(metrics.tpot_ns(rows)) == [None]
    assert not len(metrics.gap_ns(rows))


def test_the_first_answer_of_a_request_that_only_reasoned_is_not_the_next_ones():
    only = row(START_NS, [START_NS + MS, START_NS + 2 * MS], event_kind=[1, 1])
    then = row(START_NS, [START_NS + 3 * MS, START_NS + 9 * MS], event_kind=[1, 0])
    assert listed(metrics.ttfa_ns(rows_of([only, then]))) == [None, 9 * MS]


def test_connecting_is_not_in_ttft():
    rows = rows_of([row(START_NS, [START_NS + 7 * MS], connect_ns=30 * MS)])
    assert listed(metrics.ttft_ns(rows)) == [7 * MS]
    assert listed(metrics.connect_ns(rows)) == [30 * MS]


def test_requests_without_any_event_have_no_latency():
    rows = rows_of([row(START_NS, [], error="timeout-first-byte")])
    for name in ("ttft", "ttfa", "tpot", "e2e"):
        assert listed(metrics.A_REQUEST[name](rows)) == [None]
    assert not len(metrics.gap_ns(rows))
    assert metrics.gaps_over(rows, 1).tolist() == [0]
