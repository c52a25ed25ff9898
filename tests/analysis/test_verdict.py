import copy
import json
from typing import Any

import pytest
from synthetic import START_NS, steady_rows, write_run

from analysis import verdict
from analysis.summary import summarize


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
    assert names <= {name for doubted in DOUBTED for name in doubted.split("/")}


DOUBTED: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    # the doubt: [(what to change so that it is raised, what to change so that it is just not)]; paths are dotted
    "interrupted": [
        ({"ended": {"reason": "interrupted", "words": "Ctrl-C"}}, {"ended": {"reason": "finished", "words": ""}})
    ],
    "cut_captures": [({"capture.cut_workers": [0]}, {"capture.cut_workers": []})],
    "missing_workers": [({"capture.missing_workers": [1], "capture.workers": 2}, {"capture.missing_workers": []})],
    "stages_missing": [({"capture.stages_planned": 3}, {"capture.stages_planned": 1})],
    "nothing_completed": [
        ({"stages.0.requests.completed": 0}, {"stages.0.requests.completed": 1}),
        ({"stages.0.requests.completed": 0, "stages.0.window_s": 0.0}, {}),
    ],
    "too_few_samples": [
        ({"stages.0.ttft_ms.count": 10}, {"stages.0.ttft_ms.count": 11}),
        (
            {"stages.0.ttft_ms.count": 661, "stages.0.slo": {"ttft": {"percentile": 99}}},
            {"stages.0.ttft_ms.count": 662, "stages.0.slo": {"ttft": {"percentile": 99}}},
        ),
        ({"stages.0.ttft_ms.count": 10, "stages.0.slo": {"ttft": {"percentile": None}}}, {}),
    ],
    "load_below_plan": [
        ({"stages.0.concurrency.mean": 1.97}, {"stages.0.concurrency.mean": 1.98}),
        ({"stages.0.concurrency": None}, {}),
        ({"stages.0.concurrency.mean": 1.5, "stages.0.requests.failed": 40}, {}),
        # 1,000 planned: 990, less the one at the edge; and less 95 of chance where arrivals are random
        (
            {"stages.0.load": {"mode": "rate", "value": 100, "arrivals": "constant"}, "stages.0.requests.sent": 988},
            {"stages.0.load": {"mode": "rate", "value": 100, "arrivals": "constant"}, "stages.0.requests.sent": 989},
        ),
        (
            {"stages.0.load": {"mode": "rate", "value": 100}, "stages.0.requests.sent": 895},
            {"stages.0.load": {"mode": "rate", "value": 100}, "stages.0.requests.sent": 896},
        ),
    ],
    "late_sends": [({"stages.0.client.lateness_us": block(p99=501)}, {"stages.0.client.lateness_us": block(p99=499)})],
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
    "busy_workers": [({"stages.0.client.cpu_share": [0.86]}, {"stages.0.client.cpu_share": [0.85]})],
    "unsteady_throughput": [
        ({"stages.0.halves.output_tokens_per_s.differ": True}, {"stages.0.halves.output_tokens_per_s": None})
    ],
    "unsteady_ttft": [({"stages.0.halves.ttft_ms.differ": True}, {"stages.0.halves.ttft_ms": None})],
    "clock_step": [
        ({"stages.0.client.clock_steps_ms": [-12.5]}, {"stages.0.client.clock_steps_ms": []}),
        ({"stages.0.client.clock_steps_ms": [1.0, -12.5]}, {}),
    ],
    "backwards": [({"stages.0.ttft_ms.min": -0.001}, {"stages.0.ttft_ms.min": 0.0})],
    "failures": [
        ({"stages.0.requests": {"sent": 1_000, "completed": 989, "failed": 11, "errors": {"http-429": 11}}}, {}),
        (
            {"stages.0.requests": {"sent": 1_000, "completed": 989, "failed": 11, "errors": {"http-429": 11}}},
            {
                "stages.0.requests": {
                    "sent": 1_000,
                    "completed": 989,
                    "failed": 11,
                    "errors": {"cancelled": 1, "http-429": 10},
                }
            },
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


def test_with_kernel_stamps_a_lag_below_the_gap_moves_nothing(stage):
    stage["client"]["lag_us"] = block(p50=900, p99=4_000)
    assert verdict.lag(stage) is None


def test_a_load_of_another_kind_is_not_judged(stage):
    stage["load"] = {"mode": "trace", "value": None}
    assert verdict.load_below_plan(stage) is None


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
