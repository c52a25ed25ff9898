from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import runs_of_requests, seldom
from synthetic import MS, START_NS, S, file_facts, mark, row, stage_plan, watch, write_capture, write_run

from analysis import jobs, summary
from analysis.captures import open_run
from analysis.pieces import Span, shares, span_rows, stage_rows
from analysis.tally import COUNTS, LISTS, POOLS, StageTally

SPEC = {"model": "m", "slo": {name: {"percentile": None, "limit_ms": 150.0} for name in ("ttft", "tpot", "itl", "e2e")}}


def two_workers(folder, every):
    """The requests dealt to two workers, three a batch."""
    write_run(folder, every[::2], file={"workers": 2}, batch_rows=3, spec=SPEC)
    facts = file_facts([stage_plan()], worker=1, workers=2, spec=SPEC)
    others = [row | {"worker": 1} for row in every[1::2]]
    batches = [(others[first : first + 3], watch([], [mark()])) for first in range(0, len(others), 3)]
    write_capture(folder / "capture" / "worker-01.arrow", facts, batches or [([], watch([], [mark()]))])
    return folder


def summary_of_shares(run_dir, monkeypatch, count):
    """The summary as `count` processes would make it, one after the other in this one."""

    def in_turn(captures, order, _jobs):
        return jobs.merged(jobs.share_tallies(spans, order) for spans in shares(captures, count))

    with monkeypatch.context() as patched:
        patched.setattr(summary, "stage_tallies", in_turn)
        return summary.as_text(summary.summarize(run_dir))


@seldom
@given(every=runs_of_requests, count=st.integers(1, 7))
def test_a_summary_is_the_same_to_the_last_bit_however_the_batches_are_shared(tmp_path_factory, every, count):
    run_dir = two_workers(tmp_path_factory.mktemp("run"), every)
    with pytest.MonkeyPatch.context() as monkeypatch:
        shared = summary_of_shares(run_dir, monkeypatch, count)
    assert shared == summary.as_text(summary.summarize(run_dir))


def test_several_processes_give_the_bytes_of_one(tmp_path):
    """Tokens in thirds and sevenths, whose sums as floats depend on their order."""
    every = [
        row(
            START_NS + k * MS,
            [START_NS + k * MS + (1 + i) * 5 * MS for i in range(3 + 4 * (k % 2))],
            output_tokens=4 + k,
        )
        for k in range(400)
    ]
    run_dir = two_workers(tmp_path, every)
    one, three = summary.analyse(run_dir), summary.analyse(run_dir, jobs=3)
    assert summary.as_text(one.summary) == summary.as_text(three.summary)
    assert one.log == three.log
    assert one.details == three.details
    assert one.summary["stages"][0]["requests"]["completed"] == 400


def test_more_processes_than_batches_are_as_many_as_there_are_batches(tmp_path):
    run_dir = write_run(tmp_path, [row(START_NS, [START_NS + MS])], closed=False)
    assert [len(spans) for spans in shares(open_run(run_dir).captures, 16)] == [1]


@given(count=st.integers(1, 12))
@seldom
def test_shares_hold_every_batch_once_and_in_order(tmp_path_factory, count):
    run = open_run(two_workers(tmp_path_factory.mktemp("run"), [row(START_NS + k, [START_NS + k]) for k in range(20)]))
    dealt = [span for spans in shares(run.captures, count) for span in spans]
    numbers = [(span.capture.worker, number) for span in dealt for number in range(span.first, span.after)]
    assert numbers == [(capture.worker, number) for capture in run.captures for number in range(capture.batches)]


def test_a_capture_read_from_the_middle_knows_the_words_of_its_errors(tmp_path):
    """The dictionary of a column stands before the first batch that uses it, and is written anew when it changes."""
    words = ["http-429", None, "truncated", "truncated", None, "http-500", "empty"]
    rows = [row(START_NS + k, [START_NS + S], error=word) for k, word in enumerate(words)]
    (capture,) = open_run(write_run(tmp_path, rows, batch_rows=1)).captures
    assert [word for _, part in stage_rows(capture) for word in part.error.to_pylist()] == words
    for first in range(capture.batches):
        parts = [part for _, part in span_rows(Span(capture, first, capture.batches))]
        assert [word for part in parts for word in part.error.to_pylist()] == words[first:]
        left = [word not in (None, "cancelled", "dropped") for word in words[first:]]
        assert [not good for part in parts for good in part.completed.tolist()] == left


def test_a_stage_that_another_share_has_no_row_of_is_added_up_all_the_same(tmp_path):
    rows = [row(START_NS + k, [START_NS + S], stage=k // 3) for k in range(6)]
    plans, marks = [stage_plan(0), stage_plan(1)], [mark(0), mark(1)]
    run = open_run(write_run(tmp_path, rows, plans, marks, batch_rows=3))
    told = jobs.stage_tallies(run.captures, jobs.order_of(run), jobs=2)
    assert [told[stage].sent for stage in (0, 1)] == [3, 3]


def test_no_field_of_a_tally_is_forgotten_when_shares_are_put_together():
    by_hand = {"latencies", "workers", "turns", "errors", "met", "prompts_told", "timeline", "judged", "judged_met"}
    by_hand |= {"kept", "lengths", "parts", "concerned", "judged_concerned"}
    same = {"window", "limits"}
    names = {field.name for field in fields(StageTally)}
    assert names == {*COUNTS, *LISTS, *POOLS} | by_hand | same
