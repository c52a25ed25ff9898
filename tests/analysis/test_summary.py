from collections import Counter

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import runs_of_requests
from summed import LATENCIES, accounts_are_even, by_timeline, in_ms, only_stage, same
from synthetic import (
    MS,
    START_NS,
    S,
    mark,
    open_plan,
    row,
    stage_plan,
    steady_rows,
    write_run,
)

from analysis import summary

WINDOW = (START_NS + S, START_NS + 10 * S)
WARM = stage_plan(warmup_s=1.0)
WARM_MARK = mark(measure_ns=WINDOW[0])


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


def test_answers_of_one_token_are_no_part_of_the_share_that_met_a_limit_on_what_they_have_not(tmp_path):
    one_token = [row(START_NS + k * 100 * MS, [START_NS + k * 100 * MS + 50 * MS], output_tokens=1) for k in range(90)]
    slow = {"tpot": {"percentile": 50, "limit_ms": 4.0}, "itl": {"percentile": 50, "limit_ms": 4.0}}
    mixed = only_stage(write_run(tmp_path / "mixed", one_token + steady_rows(1), spec={"slo": slow}))
    for name in slow:
        told = mixed["slo"][name]
        assert (told["value_ms"], told["met"], told["met_share"]) == (5.0, False, 0.0)
        assert (told["attained"]["requests"], told["attained"]["met"]) == (mixed["tpot_ms"]["count"], 0)
    assert mixed["goodput_per_s"] == 9.0  # nobody waits between the tokens of an answer that has but one
    alone = only_stage(write_run(tmp_path / "alone", one_token, spec={"slo": slow}))
    for name in slow:
        assert (alone["slo"][name]["met_share"], alone["slo"][name]["attained"]) == (None, None)
    failed = [row(one["sent_ns"], error="http-500") for one in one_token[:10]]
    told = only_stage(write_run(tmp_path / "failed", one_token + failed, spec={"slo": slow}))["slo"]["tpot"]["attained"]
    assert (told["requests"], told["met"]) == (10, 0)


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
