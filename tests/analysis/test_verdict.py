import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest
from synthetic import START_NS, mark, steady_rows, write_run

from analysis import verdict
from analysis.summary import summarize
from analysis.verdict.nodes import clocks_unsure, lost_nodes, slow_node


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Any]:
    """The summary of a run without a fault."""
    return summarize(write_run(tmp_path_factory.mktemp("run"), steady_rows(prompt_tokens=9)))


@pytest.fixture
def summary(sound) -> dict[str, Any]:
    return copy.deepcopy(sound)


@pytest.fixture
def stage(summary) -> dict[str, Any]:
    return summary["stages"][0]


def block(**values: float) -> dict[str, Any]:
    return {"count": 1_000, "mean": 1.0, "min": 0.0, "p50": 1.0, "p99": 1.0, "unreliable": []} | values


def test_a_run_without_a_fault_is_valid(summary):
    assert summary["verdict"] == {"ok": True, "reasons": []}
    assert verdict.verdict(summary)["ok"]


def test_every_doubt_is_shown_failing_below():
    """A check that cannot fail is none: each doubt has a test here by the name of its function."""
    names = {ask.__name__ for ask in (*verdict.OF_A_RUN, *verdict.OF_A_STAGE)}
    assert names - {one.__name__ for one in OF_NODES} <= {name for doubted in DOUBTED for name in doubted.split("/")}


# Those of several machines: test_verdict_nodes.py.
OF_NODES = (clocks_unsure, lost_nodes, slow_node)

CLOSED = {"mode": "concurrency", "value": 2}


def requests(failed: int = 0, cancelled: int = 0, **facts: Any) -> dict[str, Any]:
    """The accounts of 1,000 requests of a closed loop."""
    told = {"offered": None, "sent": 1_000, "completed": 1_000 - failed - cancelled, "failed": failed}
    told |= {"cancelled": cancelled, "late": None, "dropped": None, "retried": 0, "errors": {}}
    return told | facts


def apart(differ: bool) -> dict[str, Any]:
    """Halves that are compared."""
    return {"first": 50.0, "second": 80.0, "change_share": 0.46, "t": 40.0, "t_limit": 4.0, "differ": differ}


def turn(number: int, count: int) -> dict[str, Any]:
    return {"turn": number, "count": count, "ttft_ms": None, "ttft_intended_ms": None, "prompt_tokens_mean": None}


def target(name: str, failed: int = 0, endpoints: Sequence[int] = (), **facts: Any) -> dict[str, Any]:
    """A target of 1,000 requests, or endpoints of as many with so many failures."""
    by_endpoint = [{"url": f"http://h:{port}", "requests": requests(failed=n)} for port, n in enumerate(endpoints)]
    return {"name": name, "requests": requests(failed=failed, **facts), "by_endpoint": by_endpoint or None}


def open_loop(
    sent: int, dropped: int = 0, window_s: float = 10.0, arrivals: str = "constant", **load: Any
) -> dict[str, Any]:
    """What to change for a stage of 100/s for 10 s."""
    return {
        "stages.0.load": {"mode": "rate", "value": 100.0, "arrivals": arrivals, **load},
        "stages.0.window_s": window_s,
        "stages.0.arrivals_planned": 1_000,
        "stages.0.requests.offered": sent + dropped,
        "stages.0.requests.sent": sent,
        "stages.0.requests.dropped": dropped,
        "stages.0.requests.late": 0,
    }


DOUBTED: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    # the doubt: [(what to change so that it is raised, what to change so that it is just not)]; paths are dotted
    "interrupted": [
        ({"ended": {"reason": "interrupted", "words": "Ctrl-C"}}, {"ended": {"reason": "finished", "words": ""}})
    ],
    "cut_captures": [({"capture.cut_workers": [0]}, {"capture.cut_workers": []})],
    "missing_workers": [({"capture.missing_workers": [1], "capture.workers": 2}, {"capture.missing_workers": []})],
    "stages_missing": [({"capture.stages_planned": 3}, {"capture.stages_planned": 1})],
    "unpinned": [({"capture.unpinned_workers": [0, 3]}, {"capture.unpinned_workers": []})],
    "throttled": [({"throttled_ms": 11}, {"throttled_ms": 10}), ({"throttled_ms": 11}, {"throttled_ms": None})],
    "nothing_completed": [
        ({"stages.0.requests.completed": 0}, {"stages.0.requests.completed": 1}),
        ({"stages.0.requests.completed": 0, "stages.0.window_s": 0.0}, {}),
    ],
    "failing_targets": [
        (
            {"stages.0.by_target": [target("a"), target("b", failed=11)]},
            {"stages.0.by_target": [target("a"), target("b", failed=10)]},
        ),
        (
            {"stages.0.by_target": [target("a", endpoints=[0, 1000])]},
            {"stages.0.by_target": [target("a", endpoints=[0, 10])]},
        ),
        (
            {"stages.0.by_target": [target("a"), target("b", failed=11)]},
            {"stages.0.by_target": [target("a"), target("b", failed=1000, errors={"unfinished": 1000})]},
        ),
    ],
    "over_saturated": [
        (
            {"stages.0.backlog": {"growth_per_s": 9.5, "growth_share": 0.1, "deviations": 7.0, "grows": True}},
            {"stages.0.backlog": {"growth_per_s": 0.5, "growth_share": 0.01, "deviations": 7.0, "grows": False}},
        )
    ],
    "still_filling": [
        (
            open_loop(1_000) | {"stages.0.e2e_ms.p50": 4_000.0, "stages.0.window.start_s": 0.5},
            open_loop(1_000) | {"stages.0.e2e_ms.p50": 4_000.0, "stages.0.window.start_s": 3.0},
        ),
        # Three turns of 0.5 s with 3 s between them last 7.5 s.
        (
            open_loop(1_000, session={"turns": 3.0, "think_s": 3.0})
            | {"stages.0.e2e_ms.p50": 500.0, "stages.0.window.start_s": 1.0},
            open_loop(1_000, session={"turns": 3.0, "think_s": 0.0})
            | {"stages.0.e2e_ms.p50": 500.0, "stages.0.window.start_s": 1.0},
        ),
        (
            open_loop(1_000) | {"stages.0.e2e_ms.p50": 30_000.0, "stages.0.window.start_s": 0.5},
            {"stages.0.e2e_ms.p50": 30_000.0, "stages.0.window.start_s": 0.5},
        ),
    ],
    "too_few_samples": [
        ({"stages.0.ttft_ms.count": 10}, {"stages.0.ttft_ms.count": 11}),
        (
            {"stages.0.ttft_ms.count": 661, "stages.0.slo": {"ttft": {"percentile": 99}}},
            {"stages.0.ttft_ms.count": 662, "stages.0.slo": {"ttft": {"percentile": 99}}},
        ),
        ({"stages.0.ttft_ms.count": 10, "stages.0.slo": {"ttft": {"percentile": None}}}, {}),
    ],
    "unprepared": [
        (
            {"stages.0.requests": requests(), "stages.0.client.unprepared_requests": 11},
            {"stages.0.requests": requests(), "stages.0.client.unprepared_requests": 10},
        )
    ],
    "load_below_plan": [
        ({"stages.0.concurrency.mean": 1.97}, {"stages.0.concurrency.mean": 1.98}),
        ({"stages.0.concurrency": None}, {}),
        ({"stages.0.concurrency.mean": 1.5, "stages.0.requests.failed": 40}, {}),
        ({"stages.0.concurrency.mean": 1.5, "stages.0.requests.retried": 40}, {}),
        # Over a window that lasted as planned, the mean of a profile is what is held against it; over another, nothing.
        (
            {"stages.0.load": {**CLOSED, "profile": "1..3@10s"}, "stages.0.concurrency.mean": 1.97},
            {"stages.0.load": {**CLOSED, "profile": "1..3@10s"}, "stages.0.concurrency.mean": 1.98},
        ),
        (
            {"stages.0.load": {**CLOSED, "profile": "1..3@10s"}, "stages.0.concurrency.mean": 1.0},
            {
                "stages.0.load": {**CLOSED, "profile": "1..3@10s"},
                "stages.0.concurrency.mean": 1.0,
                "stages.0.window_s": 9.0,
            },
        ),
        # Who thinks is not in flight.
        (
            {"stages.0.concurrency.mean": 1.0},
            {"stages.0.concurrency.mean": 1.0, "stages.0.load": {**CLOSED, "think": "exp:2s"}},
        ),
        (
            {"stages.0.concurrency.mean": 1.0},
            {"stages.0.concurrency.mean": 1.0, "stages.0.load": {**CLOSED, "unit": "session"}},
        ),
        # The arrivals of a whole window are known to the last one.
        (open_loop(sent=989, dropped=11, late_drop_s=0.05), open_loop(sent=990, dropped=10, late_drop_s=0.05)),
        (open_loop(sent=989, dropped=11, max_in_flight=64), open_loop(sent=990, dropped=10, max_in_flight=64)),
        (open_loop(sent=989), open_loop(sent=990)),
        # Of one cut short: 900 expected, less 1 % and the one at the edge; the burst of 20; or the 90 of chance.
        (open_loop(sent=889, window_s=9.0), open_loop(sent=890, window_s=9.0)),
        (
            open_loop(sent=870, window_s=9.0, arrivals="burst:20@200ms"),
            open_loop(sent=871, window_s=9.0, arrivals="burst:20@200ms"),
        ),
        (
            open_loop(sent=800, window_s=9.0, arrivals="poisson"),
            open_loop(sent=801, window_s=9.0, arrivals="poisson"),
        ),
        (
            open_loop(sent=710, window_s=9.0, arrivals="gamma:2"),
            open_loop(sent=711, window_s=9.0, arrivals="gamma:2"),
        ),
        # Where the rate changes, a part of the window tells nothing.
        (open_loop(sent=500, profile="1..199@10s"), open_loop(sent=500, profile="1..199@10s", window_s=9.0)),
        (open_loop(sent=500, arrivals="trace:a"), open_loop(sent=500, arrivals="trace:a", window_s=9.0)),
        # With sessions the plan is of those, and their later turns do not make up for one that was not begun.
        (
            {**open_loop(sent=5_000, unit="session"), "stages.0.by_turn": [turn(0, 989), turn(1, 4_011)]},
            {**open_loop(sent=5_000, unit="session"), "stages.0.by_turn": [turn(0, 990), turn(1, 4_010)]},
        ),
    ],
    "late_sends": [
        ({"stages.0.client.lateness_us": block(p99=501)}, {"stages.0.client.lateness_us": block(p99=499)}),
        (
            {**open_loop(1_000, max_in_flight=64), "stages.0.client.lateness_us": block(p99=501)},
            {**open_loop(1_000, max_in_flight=64), "stages.0.client.lateness_us": block(p99=499)},
        ),
        (
            {**open_loop(1_000, late_drop_s=0.5), "stages.0.client.lateness_us": block(p99=501)},
            {**open_loop(1_000, late_drop_s=0.5), "stages.0.client.lateness_us": block(p99=499)},
        ),
    ],
    "lag": [
        ({"stages.0.client.lag_us": block(p99=5_001)}, {"stages.0.client.lag_us": block(p99=4_999)}),
        (
            {"stages.0.client.stamp_source": "read", "stages.0.client.lag_us": block(p99=501)},
            {"stages.0.client.stamp_source": "read", "stages.0.client.lag_us": block(p99=499)},
        ),
        (
            {"stages.0.client.stamp_source": "read", "stages.0.client.lag_us": block(p50=51)},
            {"stages.0.client.stamp_source": "read", "stages.0.client.lag_us": block(p50=49)},
        ),
        (
            {"stages.0.client.unstamped_requests": 2, "stages.0.client.lag_us": block(p99=600)},
            {"stages.0.client.unstamped_requests": 1, "stages.0.client.lag_us": block(p99=600)},
        ),
    ],
    "coalesced": [({"stages.0.client.coalesced_share": 0.011}, {"stages.0.client.coalesced_share": 0.01})],
    "unstamped": [
        ({"stages.0.client.unstamped_share": 0.011}, {"stages.0.client.unstamped_share": 0.01}),
        (
            {"stages.0.client.unstamped_share": 0.011},
            {"stages.0.client.unstamped_share": 1.0, "stages.0.client.stamp_source": "read"},
        ),
    ],
    "busy_workers": [
        ({"stages.0.client.cpu_share": [0.86]}, {"stages.0.client.cpu_share": [0.85]}),
        ({"stages.0.client.cpu_share": [0.99]}, {"stages.0.client.cpu_share": [0.99], "stages.0.client.spin": True}),
    ],
    "unsteady_throughput": [
        ({"stages.0.halves.output_tokens_per_s.differ": True}, {"stages.0.halves.output_tokens_per_s": None}),
        (
            {"stages.0.halves.output_tokens_per_s.differ": True},
            {"stages.0.halves.output_tokens_per_s.differ": True, "stages.0.load": {**CLOSED, "profile": "1..3@10s"}},
        ),
    ],
    "unsteady_ttft": [
        ({"stages.0.halves.ttft_ms.differ": True}, {"stages.0.halves.ttft_ms": None}),
        (
            {"stages.0.halves.ttft_ms.differ": True},
            {"stages.0.halves.ttft_ms.differ": True, "stages.0.load": {**CLOSED, "profile": "1..3@10s"}},
        ),
        # In open loop the one from the intended time is judged, whatever the other says.
        (
            {"stages.0.halves.ttft_intended_ms": apart(True)},
            {"stages.0.halves.ttft_intended_ms": apart(False), "stages.0.halves.ttft_ms.differ": True},
        ),
        (
            {"stages.0.halves.ttft_intended_ms": apart(True)},
            {
                "stages.0.halves.ttft_intended_ms": apart(True),
                "stages.0.load": {"mode": "rate", "value": 100.0, "arrivals": "trace:a"},
            },
        ),
    ],
    "clock_step": [
        ({"stages.0.client.clock_steps_ms": [-12.5]}, {"stages.0.client.clock_steps_ms": []}),
        ({"stages.0.client.clock_steps_ms": [1.0, -12.5]}, {}),
    ],
    "backwards": [({"stages.0.ttft_ms.min": -0.001}, {"stages.0.ttft_ms.min": 0.0})],
    "failures": [
        ({"stages.0.requests": requests(failed=11, errors={"http-429": 11})}, {}),
        (
            {"stages.0.requests": requests(failed=11, errors={"http-429": 11})},
            {"stages.0.requests": requests(failed=11, errors={"unfinished": 1, "http-429": 10})},
        ),
    ],
    "unfinished": [
        (
            {"stages.0.requests": requests(failed=11, errors={"unfinished": 11})},
            {"stages.0.requests": requests(failed=30, errors={"unfinished": 10, "http-429": 20})},
        )
    ],
    "suspended": [({"stages.0.client.suspended_ms": 4_000.0}, {"stages.0.client.suspended_ms": 0})],
    "silent_workers": [({"stages.0.client.silent_ms": {"1": 3_000.0}}, {"stages.0.client.silent_ms": {}})],
    "client_exhausted": [
        (
            {"stages.0.requests": requests(failed=1, errors={"client-exhausted": 1})},
            {"stages.0.requests": requests(failed=1, errors={"connect-failed": 1})},
        )
    ],
    "mostly_cancelled": [
        ({"stages.0.requests": requests(cancelled=501)}, {"stages.0.requests": requests(cancelled=500)})
    ],
    "retried": [
        ({"stages.0.requests": requests(retried=11)}, {"stages.0.requests": requests(retried=10)}),
        (
            {"stages.0.requests": requests(retried=11, offered=1_000, late=11, dropped=0)},
            {"stages.0.requests": requests(retried=10, offered=1_000, late=11, dropped=0)},
        ),
    ],
}


def change(summary: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(summary)
    for path, value in changes.items():
        *way, last = path.split(".")
        place: Any = changed
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("name", "failing", "passing"),
    [(name, *case) for name, cases in DOUBTED.items() for case in cases],
)
def test_each_doubt_is_raised_beyond_its_threshold_and_not_at_it(summary, name, failing, passing):
    def asked(changes: dict[str, Any]) -> verdict.Doubt | None:
        changed = change(summary, changes)
        facts = changed if getattr(verdict, name) in verdict.OF_A_RUN else changed["stages"][0]
        return getattr(verdict, name)(facts)

    doubt = asked(failing)
    assert doubt is not None
    assert doubt.words
    assert doubt.try_
    assert doubt.code == doubt.code.lower().replace("_", "-").replace(" ", "-")
    assert any(char.isdigit() for char in doubt.words) or doubt.code == "empty-window"
    assert asked(passing) is None
    told = verdict.verdict(change(summary, failing))
    assert not told["ok"]
    assert doubt.code in {reason["code"] for reason in told["reasons"]}
    json.dumps(told)


def test_a_reason_names_its_stage_and_a_runs_own_reason_names_none(summary):
    changed = change(summary, {"capture.cut_workers": [0], "stages.0.client.cpu_share": [0.99]})
    assert [reason["stage"] for reason in verdict.verdict(changed)["reasons"]] == [None, "concurrency 2"]


def test_as_many_samples_are_asked_for_by_the_flag_that_the_load_takes(stage):
    stage["ttft_ms"] |= {"count": 10}
    assert verdict.too_few_samples(stage).try_.endswith(", or --requests 11")
    stage["load"] = {"mode": "concurrency", "value": 2, "unit": "session"}
    stage["by_turn"] = [turn(0, 6), turn(1, 4)]
    assert verdict.too_few_samples(stage).try_.endswith(", or --sessions 7"), "ten requests of six sessions"


def test_where_all_users_left_the_reason_is_theirs_and_told_once(summary):
    told = verdict.verdict(change(summary, {"stages.0.requests": requests(cancelled=1_000)}))
    reasons = [one for one in told["reasons"] if one["code"] in ("nothing-completed", "mostly-cancelled")]
    assert [(one["code"], one["words"]) for one in reasons] == [
        ("nothing-completed", "all 1,000 requests of the window were cancelled by their users: there are no latencies")
    ]
    assert "--cancel" in reasons[0]["try"]


def test_with_kernel_stamps_a_lag_below_the_gap_moves_nothing(stage):
    stage["client"]["lag_us"] = block(p50=900, p99=4_000)
    assert verdict.lag(stage) is None


def test_a_load_of_another_kind_is_not_judged(stage):
    stage["load"] = {"mode": "trace", "value": None}
    assert verdict.load_below_plan(stage) is None


def test_what_did_not_become_of_the_planned_arrivals_is_told_apart(summary):
    told = change(summary, open_loop(sent=900, dropped=60, late_drop_s=0.05, max_in_flight=64))["stages"][0]
    doubt = verdict.load_below_plan(told)
    assert doubt.words == (
        "900 requests were sent in the window, 1,000 were planned (90.0%); "
        "60 were dropped because they waited longer than 50 ms (--late drop); 40 never came due"
    )
    assert doubt.try_.startswith("a higher --max-in-flight, or a lower --rate")
    told["load"] |= {"late_drop_s": None, "max_in_flight": None}
    assert "still waited for a place when the drain ended" in verdict.load_below_plan(told).words
    assert verdict.load_below_plan(told).try_.startswith("a lower --rate")


@pytest.mark.parametrize(
    ("late_us", "words"), [(501, "501 us"), (9_674, "9.67 ms"), (22_450, "22.4 ms"), (1_234_567, "1,235 ms")]
)
def test_a_lateness_is_told_in_three_digits_in_us_and_from_a_millisecond_on_in_ms(summary, late_us, words):
    late = open_loop(1_000) | {"stages.0.client.lateness_us": block(p99=late_us)}
    doubt = verdict.late_sends(change(summary, late)["stages"][0])
    assert doubt.words.startswith(f"p99 of the sends was {words} late, ")
    assert doubt.words.endswith(" TTFT p50 (50.000 ms)")


@pytest.mark.parametrize(
    ("late_us", "words"),
    [
        (501, "1.0% of TTFT p50"),
        (99_900, "199.8% of TTFT p50"),
        (100_000, "2 times TTFT p50"),
        (1e6, "20 times TTFT p50"),
    ],
)
def test_a_lateness_of_more_than_twice_what_it_spoils_is_told_in_times(summary, late_us, words):
    late = open_loop(1_000) | {"stages.0.client.lateness_us": block(p99=late_us)}
    doubt = verdict.late_sends(change(summary, late)["stages"][0])
    assert f", {words} (" in doubt.words


def test_lateness_that_is_the_plan_is_worded_so(summary):
    late = {"stages.0.client.lateness_us": block(p99=50_000)}
    own = verdict.late_sends(change(summary, open_loop(1_000) | late)["stages"][0])
    planned = verdict.late_sends(change(summary, open_loop(1_000, max_in_flight=64) | late)["stages"][0])
    assert own.code == planned.code
    assert "--workers" in own.try_
    assert "--workers" not in planned.try_
    assert "the 64 places of --max-in-flight" in planned.words
    assert planned.try_.startswith("a higher --max-in-flight")


def test_a_target_that_fails_is_named_where_the_whole_looks_well(summary, stage):
    stage["by_target"] = [
        target("base"),
        target("old", endpoints=[0, 1000]),
        target("new", failed=20, errors={"http-500": 20}),
    ]
    (reason,) = verdict.verdict(summary)["reasons"]
    assert reason["code"] == "target-errors"
    assert "old at http://h:1: all 1,000 requests failed" in reason["words"]
    assert "new: 20 of 1,000 requests failed: 20 http-500" in reason["words"]
    assert "base" not in reason["words"]


def test_a_stage_whose_warm_up_never_ended_says_so(tmp_path):
    told = summarize(write_run(tmp_path, steady_rows(), marks=[mark(measure_ns=None)]))
    assert told["stages"][0]["window_s"] == 0
    assert told["stages"][0]["requests"]["sent"] == 0
    assert told["stages"][0]["warmup_requests"] == 160
    (reason,) = told["verdict"]["reasons"]
    assert reason["code"] == "empty-window"
    assert "ended within its warm-up" in reason["words"]


def test_a_stage_without_latencies_raises_no_doubt_about_them(tmp_path):
    rows = steady_rows(error="http-500")
    told = summarize(write_run(tmp_path, rows))["verdict"]
    assert [reason["code"] for reason in told["reasons"]] == ["nothing-completed"]
    assert "160 http-500" in told["reasons"][0]["words"]


def test_a_drift_in_the_capture_is_found(tmp_path):
    slow = steady_rows(seconds=5, ttft_ms=80, start_ns=START_NS + 5_000_000_000)
    rows = steady_rows(seconds=4.9) + slow
    codes = {reason["code"] for reason in summarize(write_run(tmp_path, rows))["verdict"]["reasons"]}
    assert {"unsteady-throughput", "unsteady-ttft"} <= codes


def test_a_search_and_a_stage_that_was_cut_are_judged_by_the_client_alone(summary, stage):
    stage["backlog"] = {"growth_per_s": 9.5, "growth_share": 0.1, "deviations": 7.0, "grows": True}
    stage["requests"] = requests(failed=900)
    assert {one["code"] for one in verdict.verdict(summary)["reasons"]} >= {"errors", "over-saturated"}
    stopped_early = {"stages": [stage | {"outcome": {"reason": "cut"}}], "spec": {"early_stop": True}}
    for change in ({"question": {"question": "knee"}}, stopped_early):
        assert verdict.verdict(summary | change) == {"ok": True, "reasons": []}
    stage["client"]["cpu_share"] = [0.99]
    told = verdict.verdict(summary | {"question": {"question": "knee"}})
    assert [one["code"] for one in told["reasons"]] == ["cpu"]


def test_broken_off(summary, stage):
    stage["outcome"] = {
        "reason": "cut",
        "words": "30 of the 40 requests failed: broken off by --abort-on error-rate>50%/30s",
    }
    stage["client"]["cpu_share"] = [0.99]
    (first, second) = verdict.verdict(summary)["reasons"]
    assert (first["code"], second["code"]) == ("broken-off", "cpu")
    assert "broken off by --abort-on error-rate>50%/30s" in first["words"]


def test_a_stage_that_only_failed_in_its_warm_up_is_sent_to_its_errors(tmp_path):
    told = summarize(write_run(tmp_path, steady_rows(), marks=[mark(measure_ns=None)]))
    (stage,) = told["stages"]
    doubt = verdict.nothing_completed(stage | {"outcome": {"reason": "failed", "words": "truncated: no more came"}})
    assert doubt.words == "nothing but failures within the warm-up: truncated: no more came"
    assert "errors" in doubt.try_


def test_a_window_shorter_than_the_responses_wants_a_longer_one(summary):
    none = change(summary, {"stages.0.requests": requests(sent=0, completed=0)})["stages"][0]
    doubt = verdict.nothing_completed(none)
    assert "no request was sent within the 10 s of the window" in doubt.words
    assert doubt.try_.startswith("a longer --duration")
    failed = verdict.nothing_completed(none | {"outcome": {"reason": "failed", "words": "unfinished"}})
    assert "errors" in failed.try_


def test_slots_that_are_empty_for_failures_ask_for_no_more_workers(summary):
    stage = change(summary, {"stages.0.concurrency": {"mean": 1.0, "peak": 2}, "stages.0.load": CLOSED})["stages"][0]
    assert "--workers" in verdict.load_below_plan(stage).try_
    stage["requests"] = requests(failed=400)
    assert "--workers" not in verdict.load_below_plan(stage).try_
    assert "errors" in verdict.load_below_plan(stage).try_


def test_halves_are_told_as_a_change_from_the_first(summary):
    halves = {"output_tokens_per_s": apart(differ=True), "ttft_ms": None, "ttft_intended_ms": None}
    stage = change(summary, {"stages.0.halves": halves})["stages"][0]
    assert "50, then 80 output tokens/s (+60.0%," in verdict.unsteady_throughput(stage).words
    stage["halves"]["output_tokens_per_s"] |= {"second": 0.0}
    assert "50, then 0 output tokens/s (-100.0%," in verdict.unsteady_throughput(stage).words
    stage["halves"]["output_tokens_per_s"] |= {"first": 0.0, "second": 80.0}
    assert "0, then 80 output tokens/s (from nothing," in verdict.unsteady_throughput(stage).words


def test_a_run_whose_driver_was_killed_is_told_from_one_that_ended(tmp_path):
    told = summarize(write_run(tmp_path / "killed", steady_rows(), ended=None))
    (reason,) = told["verdict"]["reasons"]
    assert reason["code"] == "run-killed"
    assert "noted no end after 1 of 1 stages had begun" in reason["words"]
    assert summarize(write_run(tmp_path / "whole", steady_rows()))["verdict"]["ok"]
    cut = summarize(write_run(tmp_path / "cut", steady_rows(), ended=None, closed=False))
    assert "run-killed" not in {reason["code"] for reason in cut["verdict"]["reasons"]}
