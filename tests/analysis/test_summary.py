import json
import math
import os
from collections import Counter
from itertools import accumulate
from typing import Any

import pytest
import reference
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import runs_of_requests
from synthetic import (
    MS,
    START_NS,
    S,
    file_facts,
    frozen_server,
    mark,
    open_plan,
    row,
    stage_plan,
    steady_rows,
    watch,
    write_capture,
    write_run,
)

from analysis import summary
from analysis.latencies import PERCENTILES
from loadgen.schema import CaptureError

WINDOW = (START_NS + S, START_NS + 10 * S)
WARM = stage_plan(warmup_s=1.0)
WARM_MARK = mark(measure_ns=WINDOW[0])
LATENCIES = ("ttft", "ttft_intended", "ttfa", "tpot", "e2e", "e2e_intended", "end_of_stream", "connect")


def only_stage(run_dir) -> dict[str, Any]:
    (stage,) = summary.summarize(run_dir)["stages"]
    return stage


def same(told: dict[str, Any] | None, values: list[int]) -> bool:
    """Whether a percentile block is that of these ns values; an empty one is null."""
    if not values or told is None:
        return told is None and not values
    assert told["count"] == len(values)
    assert told["min"] == pytest.approx(min(values) / 1e6, abs=1e-6)
    assert told["max"] == pytest.approx(max(values) / 1e6, abs=1e-6)
    assert told["mean"] == pytest.approx(sum(values) / len(values) / 1e6, abs=1e-6)
    for name, percentile in PERCENTILES.items():
        assert told[name] == pytest.approx(reference.nearest_rank(values, percentile) / 1e6, rel=1e-12, abs=1e-6)
    return True


@settings(max_examples=40, deadline=None)
@given(every=runs_of_requests, open_loop=st.booleans())
def test_a_summary_is_that_of_the_slow_reference(tmp_path_factory, every, open_loop):
    plan = open_plan(seconds=9.0, warmup_s=1.0) if open_loop else WARM
    stage = only_stage(write_run(tmp_path_factory.mktemp("run"), every, [plan], [WARM_MARK], batch_rows=7))
    start_ns, stop_ns = WINDOW
    requests = [r for r in every if r["error"] != "dropped"]
    dropped = [r for r in every if r["error"] == "dropped" and start_ns <= reference.due(r) < stop_ns]
    sent = [r for r in requests if start_ns <= reference.due(r) < stop_ns]
    good = [r for r in sent if r["error"] is None]
    failed = [r for r in sent if r["error"] not in (None, "cancelled")]
    late = [r for r in sent if (reference.lateness(r) or 0) > 1 * MS]
    assert stage["requests"] == {
        "offered": len(sent) + len(dropped) if open_loop else None,
        "sent": len(sent),
        "completed": len(good),
        "failed": len(failed),
        "cancelled": sum(r["error"] == "cancelled" for r in sent),
        "late": len(late) if open_loop else None,
        "dropped": len(dropped) if open_loop else None,
        "retried": sum(r["retries"] > 0 for r in sent),
        "errors": dict(Counter(r["error"] for r in failed)),
    }
    accounts_are_even(stage)
    assert stage["warmup_requests"] == sum(reference.due(r) < start_ns for r in requests)
    assert stage["after_window_requests"] == sum(reference.due(r) >= stop_ns for r in requests)
    lateness = [late_ns for r in sent if (late_ns := reference.lateness(r)) is not None]
    assert same(in_ms(stage["client"]["lateness_us"]), lateness)
    assert same(in_ms(stage["client"]["lag_us"]), [r["max_lag_ns"] for r in sent])
    turns = {r["turn"] for r in sent} - {None}
    assert [one["turn"] for one in stage["by_turn"] or []] == sorted(turns)
    for one in stage["by_turn"] or []:
        of_turn = [r for r in sent if r["turn"] == one["turn"]]
        assert one["count"] == len(of_turn)
        measured = [r for r in of_turn if r["error"] is None]
        for name in ("ttft", "ttft_intended"):
            values = [value for r in measured if (value := getattr(reference, name)(r)) is not None]
            assert same(one[f"{name}_ms"], values)
        prompts = [r["prompt_tokens"] for r in measured if r["prompt_tokens"] is not None]
        assert one["prompt_tokens_mean"] == (pytest.approx(sum(prompts) / len(prompts), abs=1e-3) if prompts else None)
    for name in LATENCIES:
        values = [value for r in good if (value := getattr(reference, name)(r)) is not None]
        assert same(stage[f"{name}_ms"], values), name
    assert same(stage["itl_ms"], [gap for r in good for gap in reference.gaps(r)])
    if "itl_per_token_ms" in stage:
        assert same(stage["itl_per_token_ms"], [gap for r in good for gap in reference.gaps_per_token(r)])
    tokens = reference.tokens_between(requests, start_ns, stop_ns)
    assert stage["output_tokens_per_s"] == pytest.approx(tokens / 9.0, abs=1e-6)
    finished = [
        r for r in requests if r["error"] is None and r["last_byte_ns"] and start_ns <= r["last_byte_ns"] < stop_ns
    ]
    assert stage["requests_per_s"] == pytest.approx(len(finished) / 9.0, abs=1e-6)
    spans = [
        (r["sent_ns"], r["last_byte_ns"] if r["error"] is None and r["last_byte_ns"] else r["ended_ns"])
        for r in requests
    ]
    mean, peak = reference.in_flight(spans, start_ns, stop_ns)
    assert stage["concurrency"] == {"mean": pytest.approx(mean, abs=1e-6), "peak": peak}
    inside = [r["prompt_tokens"] for r in requests if r["event_ns"] and start_ns <= r["event_ns"][0] < stop_ns]
    if any(r["prompt_tokens"] for r in requests):
        assert stage["input_tokens_per_s"] == pytest.approx(sum(filter(None, inside)) / 9.0, abs=1e-6)
    assert by_timeline(stage) == pytest.approx(tokens, abs=1e-2)


def accounts_are_even(stage: dict[str, Any]) -> None:
    """The identities that summary.json promises."""
    told = stage["requests"]
    assert told["sent"] == told["completed"] + told["failed"] + told["cancelled"]
    assert sum(told["errors"].values()) == told["failed"]
    assert not {"cancelled", "dropped"} & set(told["errors"])
    if told["offered"] is not None:
        assert told["offered"] == told["sent"] + told["dropped"]
        assert told["late"] <= told["sent"]
        assert len(stage["timeline"]["offered"]) == len(stage["timeline"]["sent"])
    assert sum(worker["sent"] for worker in stage["by_worker"]) == told["sent"]
    assert sum(one["count"] for one in stage["by_turn"] or []) <= told["sent"]


def in_ms(block: dict[str, Any] | None) -> dict[str, Any] | None:
    return block and {
        name: value / 1e3 if name not in ("count", "unreliable") else value for name, value in block.items()
    }


def by_timeline(stage: dict[str, Any]) -> float:
    line = stage["timeline"]
    first = round(-line["start_s"] / line["bin_s"])
    count = round(stage["window_s"] / line["bin_s"])
    assert len(line["output_tokens"]) == len(line["in_flight"]) == len(line["ttft_p50_ms"])
    return sum(line["output_tokens"][first : first + count])


def test_a_failure_never_enters_a_latency(tmp_path):
    fast_failure = row(START_NS + 2 * S, [START_NS + 2 * S + 1_000], error="truncated")
    stage = only_stage(write_run(tmp_path, [*steady_rows(), fast_failure]))
    assert stage["ttft_ms"]["min"] == 50.0
    assert stage["requests"]["errors"] == {"truncated": 1}
    assert stage["requests"]["failed"] == 1


def test_who_left_is_no_failure_and_in_no_latency_but_what_was_delivered_counts(tmp_path):
    """Ten steady requests a second, and one user who leaves after 400 of the tokens, 900 ms after the send."""
    left_ns = START_NS + 2 * S
    left = row(
        left_ns, [left_ns + index * 2 * MS for index in range(1, 401)], error="cancelled", ended_ns=left_ns + 900 * MS
    )
    asked = {"slo": {"ttft": {"percentile": None, "limit_ms": 1.0}}}
    plain = only_stage(write_run(tmp_path / "plain", steady_rows(), spec=asked))
    stage = only_stage(write_run(tmp_path / "left", [*steady_rows(), left], spec=asked))
    assert stage["requests"] | {"errors": 0} == plain["requests"] | {"sent": 161, "cancelled": 1, "errors": 0}
    assert stage["requests"]["errors"] == {}
    for name in (*LATENCIES, "itl"):
        assert stage[f"{name}_ms"] == plain[f"{name}_ms"]
    for name in ("slo", "goodput_per_s", "requests_per_s"):
        assert stage[name] == plain[name], name
    assert stage["output_tokens_per_s"] == plain["output_tokens_per_s"] + 40
    assert stage["concurrency"]["mean"] == pytest.approx(plain["concurrency"]["mean"] + 0.09)


def test_what_was_never_sent_is_counted_and_takes_no_part_in_anything_else(tmp_path):
    rows = [one | {"intended_ns": one["sent_ns"]} for one in steady_rows()]
    never = [
        row(
            START_NS + S + index,
            intended_ns=START_NS + S,
            error="dropped",
            max_lag_ns=0,
            kernel_stamps=False,
            retries=1,
        )
        for index in range(5)
    ]
    before = row(START_NS + S, intended_ns=START_NS - 1, error="dropped")
    plan = open_plan()
    plain = only_stage(write_run(tmp_path / "plain", rows, [plan]))
    stage = only_stage(write_run(tmp_path / "never", [*never, *rows, before], [plan], batch_rows=5))
    assert stage["requests"] == plain["requests"] | {"offered": 165, "dropped": 5}
    assert sum(stage["timeline"].pop("offered")) == sum(plain["timeline"].pop("offered")) + 5
    for name in set(stage) - {"requests"}:
        assert stage[name] == plain[name], name


def test_nothing_but_dropped_arrivals_is_a_stage_too(tmp_path):
    never = [row(START_NS + S, intended_ns=START_NS + index * MS, error="dropped") for index in range(5)]
    told = summary.summarize(write_run(tmp_path, never, [open_plan()]))
    (stage,) = told["stages"]
    assert stage["requests"]["offered"] == stage["requests"]["dropped"] == 5
    assert stage["ttft_ms"] is stage["client"]["lateness_us"] is stage["client"]["lag_us"] is None
    assert stage["concurrency"] == {"mean": 0.0, "peak": 0}
    assert "5 dropped" in told["verdict"]["reasons"][0]["words"]


def test_in_open_loop_a_request_belongs_to_the_moment_at_which_it_was_due(tmp_path):
    """Due in the window and sent after it: it counts; due in the warm-up and sent in the window: it does not."""
    rows = [
        row(START_NS + 11 * S, [START_NS + 12 * S], intended_ns=START_NS + 9 * S),
        row(START_NS + 2 * S, [START_NS + 3 * S], intended_ns=START_NS + S // 2),
    ]
    plan = open_plan(warmup_s=1.0, seconds=9.0)
    stage = only_stage(write_run(tmp_path, rows, [plan], [WARM_MARK]))
    assert stage["requests"]["sent"] == stage["requests"]["late"] == 1
    assert stage["warmup_requests"] == 1
    assert stage["ttft_ms"]["max"] == 1_000.0
    assert stage["ttft_intended_ms"]["max"] == 3_000.0
    assert stage["requests_per_s"] == pytest.approx(1 / 9, abs=1e-6)  # by completions: the other one's
    assert "due inside the window" in stage["window"]["rule"]


def test_a_server_that_freezes_shows_from_the_intended_time_and_not_from_the_send(tmp_path):
    """1.4 s in a run of 30 s at 100/s, with 16 places: 16 requests see the freeze, some 140 more wait for it unsent."""
    rows = frozen_server()
    told = summary.summarize(
        write_run(tmp_path, rows, [open_plan(seconds=30.0, load_max_in_flight=16)], [mark(seconds=30)])
    )
    (stage,) = told["stages"]
    from_send = [reference.ttft(r) for r in rows]
    from_due = [reference.ttft_intended(r) for r in rows]
    assert same(stage["ttft_ms"], from_send)
    assert same(stage["ttft_intended_ms"], from_due)
    assert same(stage["e2e_intended_ms"], [reference.e2e_intended(r) for r in rows])
    # 3,000 arrivals, of which 140 fell due in the freeze: the 30 that waited longest decide p99.
    assert stage["ttft_intended_ms"]["p99"] > 1_000
    assert stage["ttft_ms"]["p99"] < 100
    assert stage["ttft_ms"]["max"] > 1_000
    assert stage["requests"]["offered"] == stage["requests"]["sent"] == 3_000
    assert 130 < stage["requests"]["late"] < 300
    assert stage["client"]["lateness_us"]["max"] > 1e6
    backlog = max(
        accumulate(d - s for d, s in zip(stage["timeline"]["offered"], stage["timeline"]["sent"], strict=True))
    )
    assert 100 <= backlog <= 140
    codes = {reason["code"]: reason for reason in told["verdict"]["reasons"]}
    assert "load-below-plan" not in codes
    assert "--max-in-flight" in codes["late-sends"]["words"]
    accounts_are_even(stage)


def test_a_freeze_with_dropping_shows_as_dropped_and_as_a_load_below_the_plan(tmp_path):
    rows = frozen_server(drop_after_s=0.05)
    plan = open_plan(seconds=30.0, load_max_in_flight=16, load_late_drop_s=0.05)
    told = summary.summarize(write_run(tmp_path, rows, [plan], [mark(seconds=30)]))
    (stage,) = told["stages"]
    gone = sum(r.get("error") == "dropped" for r in rows)
    assert stage["requests"]["dropped"] == gone
    assert 100 < gone < 140
    assert stage["requests"]["offered"] == 3_000
    assert stage["client"]["lateness_us"]["max"] <= 50_000
    reason = next(reason for reason in told["verdict"]["reasons"] if reason["code"] == "load-below-plan")
    assert f"{gone} were dropped because they waited longer than 50 ms" in reason["words"]
    assert "--max-in-flight" in reason["try"]
    accounts_are_even(stage)


def test_an_objective_in_open_loop_counts_from_the_intended_time(tmp_path):
    """The promise is to the user, who waits from then on; the requests that the client held back are not quick ones."""
    asked = {"slo": {"ttft": {"percentile": 99, "limit_ms": 500.0}, "tpot": {"percentile": None, "limit_ms": 50.0}}}
    rows = frozen_server()
    stage = only_stage(write_run(tmp_path, rows, [open_plan(seconds=30.0)], [mark(seconds=30)], spec=asked))
    quick = sum(reference.ttft_intended(r) <= 500 * MS for r in rows)
    assert sum(reference.ttft(r) <= 500 * MS for r in rows) > quick + 50
    assert stage["slo"]["ttft"]["met_share"] == quick / 3_000
    assert stage["slo"]["ttft"]["value_ms"] == stage["ttft_intended_ms"]["p99"]
    assert stage["slo"]["ttft"]["met"] is False
    walked = [reference.deadlines(r, 500 * MS, 50 * MS) for r in rows]
    met, missed = sum(one for one, _ in walked), sum(one for _, one in walked)
    assert stage["fluidity"] == pytest.approx(met / (met + missed))


def test_a_queue_that_grows_in_the_client_alone_is_not_steady(tmp_path):
    """Each request a little later than the one before: TTFT from the send stays, from the intended time it drifts."""
    rows = []
    for number in range(1_000):
        due_ns = START_NS + number * 10 * MS
        sent_ns = due_ns + number * MS
        rows.append(row(sent_ns, [sent_ns + 50 * MS, sent_ns + 60 * MS], intended_ns=due_ns))
    told = summary.summarize(write_run(tmp_path, rows, [open_plan()]))
    halves = told["stages"][0]["halves"]
    assert not halves["ttft_ms"]["differ"]
    assert halves["ttft_intended_ms"]["differ"]
    assert "unsteady-ttft" in {reason["code"] for reason in told["verdict"]["reasons"]}


def test_turns_of_a_session_are_told_apart(tmp_path):
    rows = []
    for turn, ttft_ms in enumerate((50.0, 20.0, 25.0)):
        facts = {"turn": turn, "session_id": 7, "prompt_tokens": 100 + 400 * turn}
        rows += steady_rows(1, ttft_ms=ttft_ms, **facts)
    rows.append(row(START_NS + S, [START_NS + 2 * S], turn=1, session_id=8, error="truncated"))
    run_dir = write_run(tmp_path, rows)
    summary.report(run_dir)
    (stage,) = summary.read(run_dir)["stages"]
    assert [one["turn"] for one in stage["by_turn"]] == [0, 1, 2]
    assert [one["ttft_ms"]["p50"] for one in stage["by_turn"]] == [50.0, 20.0, 25.0]
    assert [one["prompt_tokens_mean"] for one in stage["by_turn"]] == [100.0, 500.0, 900.0]
    assert [one["ttft_intended_ms"] for one in stage["by_turn"]] == [None] * 3
    assert stage["by_turn"][1]["count"] == stage["by_turn"][1]["ttft_ms"]["count"] + 1
    log = (run_dir / "histograms.hlog").read_text()
    assert "Tag=0.ttft_turn_2," in log
    assert "ttft_intended_turn" not in log
    assert only_stage(write_run(tmp_path / "plain", steady_rows()))["by_turn"] is None


def test_a_worker_that_spins_is_not_doubted_for_its_cpu(tmp_path):
    for spin in (False, True):
        run_dir = write_run(tmp_path / str(spin), steady_rows(), spec={"spin": spin, "slo": None}, cpu_share=0.99)
        told = summary.summarize(run_dir)
        assert told["stages"][0]["client"]["spin"] is spin
        assert told["verdict"]["ok"] is spin


def test_tokens_of_a_failed_request_were_delivered_and_count(tmp_path):
    rows = [row(START_NS + S, [START_NS + S + index * MS for index in range(1, 31)], error="truncated")]
    assert only_stage(write_run(tmp_path, rows))["output_tokens_per_s"] == 3.0


def test_a_request_that_ends_in_the_drain_keeps_its_latency_and_leaves_its_late_tokens_out(tmp_path):
    late = row(START_NS + 9 * S, [START_NS + round(9.5 * S), START_NS + round(10.5 * S)])
    stage = only_stage(write_run(tmp_path, [late]))
    assert stage["e2e_ms"]["max"] == 1_500.0
    assert stage["output_tokens_per_s"] == 0.1
    assert stage["requests_per_s"] == 0.0
    assert stage["requests"]["completed"] == 1


def test_a_stage_without_anything_says_null_and_not_zero(tmp_path):
    stage = only_stage(write_run(tmp_path, []))
    for name in (*LATENCIES, "itl"):
        assert stage[f"{name}_ms"] is None
    assert stage["goodput_per_s"] is None
    assert stage["input_tokens_per_s"] is None
    assert stage["token_source"] is None
    assert stage["client"]["lag_us"] is None
    assert stage["client"]["kernel_stamps"] is None


def test_a_window_of_no_length_gives_no_rate(tmp_path):
    stage = only_stage(write_run(tmp_path, steady_rows(), marks=[mark(measure_ns=START_NS + 20 * S)]))
    assert stage["window_s"] == 0
    assert stage["output_tokens_per_s"] is None
    assert stage["concurrency"] is None
    assert stage["warmup_requests"] == 160


@pytest.mark.parametrize(
    ("told", "source"),
    [([16, 16], "usage"), ([None, None], "events"), ([16, None], "mixed")],
)
def test_the_source_of_the_token_counts_is_told(tmp_path, told, source):
    rows = [one for usage in told for one in steady_rows(1, output_tokens=usage)]
    assert only_stage(write_run(tmp_path, rows))["token_source"] == source


def test_usage_is_spread_over_events_that_hold_several_tokens(tmp_path):
    stage = only_stage(write_run(tmp_path, steady_rows(output_tokens=32, event_tokens=None)))
    plain = only_stage(write_run(tmp_path / "plain", steady_rows()))
    assert stage["output_tokens_per_s"] == 2 * plain["output_tokens_per_s"]
    assert stage["tpot_ms"]["p50"] == pytest.approx(75 / 31, rel=1e-3)


def test_goodput_needs_every_limit_and_fluidity_needs_the_two_of_the_token(tmp_path):
    rows = steady_rows(1) + steady_rows(1, ttft_ms=90)
    both = {"ttft": {"percentile": 90, "limit_ms": 60.0}, "tpot": {"percentile": None, "limit_ms": 6.0}}
    stage = only_stage(write_run(tmp_path, rows, spec={"slo": both}))
    quick = len([r for r in steady_rows(1) if r["last_byte_ns"] < START_NS + 10 * S])
    assert stage["goodput_per_s"] == quick / 10
    attained = stage["slo"]["ttft"].pop("attained")
    assert (attained["requests"], attained["met"]) == (141, 80)
    assert attained["low"] < 80 / 141 < attained["high"]
    assert stage["slo"]["ttft"] | {"met_share": 0} == {
        "limit_ms": 60.0,
        "percentile": 90,
        "value_ms": 90.0,
        "met": False,
        "met_share": 0,
    }
    assert 0.5 < stage["slo"]["ttft"]["met_share"] < 0.6
    assert stage["slo"]["tpot"]["met_share"] == 1.0
    assert stage["slo"]["tpot"]["met"] is None
    # 80 quick requests meet 16 deadlines each; 61 slow ones miss six at first (30 ms late, 6 ms a token), then meet 15.
    assert stage["fluidity"] == pytest.approx((80 * 16 + 61 * 15) / (80 * 16 + 61 * 21))
    tpot = {"tpot": both["tpot"]}
    assert only_stage(write_run(tmp_path / "tpot", rows, spec={"slo": tpot}))["fluidity"] is None


def test_workers_are_told_apart_and_add_up(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(1), file={"workers": 2})
    late = [one | {"intended_ns": max(one["sent_ns"] - 30_000, START_NS)} for one in steady_rows(1, max_lag_ns=90_000)]
    write_run(tmp_path, late, file={"workers": 2, "worker": 1}, cpu_share=0.6)
    told = summary.summarize(run_dir)
    (stage,) = told["stages"]
    assert told["verdict"]["ok"]
    assert [worker["sent"] for worker in stage["by_worker"]] == [80, 80]
    assert [worker["lag_p99_us"] for worker in stage["by_worker"]] == [5.0, 90.0]
    assert [worker["lateness_p99_us"] for worker in stage["by_worker"]] == [None, 30.0]
    assert [worker["cpu_share"] for worker in stage["by_worker"]] == stage["client"]["cpu_share"] == [0.3, 0.6]
    assert sum(worker["output_tokens"] for worker in stage["by_worker"]) == stage["output_tokens_per_s"] * 10
    assert stage["concurrency"]["peak"] == 2


def test_the_clients_own_error_is_told(tmp_path):
    rows = steady_rows(intended_ns=None, coalesced_events=2)
    for one in rows:
        one["intended_ns"] = one["sent_ns"] - 40_000
    rows[3]["kernel_stamps"] = False
    told = {"reads": 1_000, "unstamped": 3, "reopened": 2}
    client = only_stage(write_run(tmp_path, rows, told=told))["client"]
    assert client["lateness_us"]["p99"] == 40.0
    assert client["coalesced_share"] == 2 / 16
    assert client["unstamped_share"] == 0.003
    assert client["reopened_connections"] == 2
    assert client["kernel_stamps"] is False
    assert client["unstamped_requests"] == 1


def test_a_percentile_without_enough_samples_is_named(tmp_path):
    stage = only_stage(write_run(tmp_path, steady_rows()))
    assert stage["ttft_ms"]["unreliable"] == ["p99", "p99_9", "p99_99"]
    assert stage["itl_ms"]["unreliable"] == ["p99_9", "p99_99"]


def test_a_run_that_is_cut_or_missing_a_worker_is_summed_up_and_suspect(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(), marks=[mark(done_ns=None)], closed=False, file={"workers": 3})
    (run_dir / "capture" / "worker-02.arrow").write_bytes(b"\x00\x01")
    told = summary.summarize(run_dir)
    assert told["interrupted"]
    assert told["capture"] | {"stamp_source": 0} == {
        "workers": 3,
        "parts": 1,
        "missing_workers": [1],
        "cut_workers": [0, 2],
        "cut_requests": 0,
        "unpinned_workers": [],
        "requests": 160,
        "stages_planned": 1,
        "stages_begun": 1,
        "stamp_source": 0,
    }
    assert {"worker-missing", "capture-cut"} <= {reason["code"] for reason in told["verdict"]["reasons"]}
    assert told["stages"][0]["ttft_ms"]["p50"] == 50.0


def test_an_interrupted_run_has_the_stages_that_began(tmp_path):
    plans = [stage_plan(0), stage_plan(1)]
    ended = {"reason": "interrupted", "words": "Ctrl-C"}
    told = summary.summarize(write_run(tmp_path, steady_rows(), plans, [mark(0)], ended=ended))
    assert [stage["name"] for stage in told["stages"]] == ["concurrency 2"]
    assert [reason["code"] for reason in told["verdict"]["reasons"]] == ["run-interrupted"]
    assert "1 of 2 stages" in told["verdict"]["reasons"][0]["words"]


def test_the_file_is_the_same_to_the_byte_when_written_again_and_reads_back(tmp_path):
    run_dir = write_run(tmp_path, steady_rows(intended_ns=None, event_tokens=[2] * 16))
    told = summary.report(run_dir)
    first = [(run_dir / name).read_bytes() for name in ("summary.json", "histograms.hlog")]
    summary.report(run_dir)
    assert first == [(run_dir / name).read_bytes() for name in ("summary.json", "histograms.hlog")]
    assert summary.read(run_dir) == told == json.loads(first[0], parse_constant=lambda word: pytest.fail(word))
    assert sorted(os.listdir(run_dir)) == ["capture", "histograms.hlog", "run.json", "summary.json"]


@pytest.mark.parametrize("name", ["summary.json", "histograms.hlog"])
def test_of_what_cannot_be_written_nothing_stays(tmp_path, name):
    run_dir = write_run(tmp_path, steady_rows())
    (run_dir / name).mkdir()
    with pytest.raises(OSError, match=name):
        summary.write(run_dir, summary.analyse(run_dir))
    assert not list(run_dir.glob("*.part"))


def test_the_histogram_log_holds_each_metric_of_each_stage(tmp_path):
    plans, marks = [stage_plan(0), stage_plan(1)], [mark(0), mark(1, START_NS + 20 * S)]
    rows = steady_rows(event_tokens=[2] * 16) + steady_rows(4, start_ns=START_NS + 20 * S, stage=1)
    run_dir = write_run(tmp_path, rows, plans, marks)
    told = summary.report(run_dir)
    reader = HistogramLogReader(str(run_dir / "histograms.hlog"), HdrHistogram(1, 3_600_000_000_000, 3))
    found = {}
    while histogram := reader.get_next_interval_histogram():
        found[histogram.get_tag()] = histogram
    reader.close()
    assert {"0.ttft", "0.itl", "0.itl_per_token", "0.lag", "1.tpot", "1.end_of_stream"} <= set(found)
    assert "1.itl_per_token" not in found
    p50_ms = found["1.itl"].get_value_at_percentile(50) / 1e6
    assert p50_ms == pytest.approx(told["stages"][1]["itl_ms"]["p50"], rel=0.001)
    assert found["1.ttft"].get_start_time_stamp() - found["0.ttft"].get_start_time_stamp() == pytest.approx(20_000)


def test_a_summary_of_another_version_is_refused(tmp_path):
    for text, words in (('{"schema": 9}', "version 9"), ("{", "no JSON")):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(CaptureError, match=words):
            summary.read(tmp_path)
    with pytest.raises(CaptureError, match="no summary"):
        summary.read(tmp_path / "none")


def test_no_number_of_a_summary_is_nan(tmp_path):
    def numbers(value: Any):
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from numbers(inner)
        elif isinstance(value, float):
            yield value

    for name, rows in (("none", []), ("one", [row(START_NS, [START_NS + 1])]), ("some", steady_rows())):
        told = summary.summarize(write_run(tmp_path / name, rows))
        assert all(math.isfinite(number) for number in numbers(told))


def test_rows_of_a_stage_that_nobody_planned_are_left_out(tmp_path):
    told = summary.summarize(write_run(tmp_path, [row(START_NS, [START_NS + 1], stage=7)]))
    assert told["stages"][0]["requests"]["sent"] == 0


def test_a_worker_that_wrote_nothing_yet_is_summed_up(tmp_path):
    write_capture(tmp_path / "capture" / "worker-00.arrow", file_facts([stage_plan()]), [([], watch())], closed=False)
    told = summary.summarize(tmp_path)
    assert told["stages"] == []
    assert not told["verdict"]["ok"]
