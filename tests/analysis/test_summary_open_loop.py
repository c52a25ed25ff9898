from itertools import accumulate

import pytest
import reference
from summed import accounts_are_even, only_stage, same
from synthetic import (
    MS,
    START_NS,
    S,
    frozen_server,
    mark,
    open_plan,
    row,
    steady_rows,
    write_run,
)

from analysis import summary

WARM_MARK = mark(measure_ns=START_NS + S)


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
