"""The judge of a backlog, asked as the coordinator asks it: with what the board says, several times a second."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from loadgen.job.backlog import backlog_judge

RATE_PER_S = 20.0


def stage(**load: Any) -> dict[str, Any]:
    return {"load": {"mode": "rate", "value": RATE_PER_S, **load}, "ramp_up_s": 0.0, "warmup_s": 2.0}


def cut_at_s(response_s: float, slots: int, until_s: float = 60.0) -> float | None:
    """When it cuts a stage of constant arrivals at an endpoint of so many slots; None: never."""
    judge = backlog_judge(stage(arrivals="constant"))
    assert judge is not None
    due_s = np.arange(0, until_s, 1 / RATE_PER_S)
    turns = np.arange(len(due_s)) // slots
    began_s = np.maximum(due_s, turns * response_s)  # slots take turns
    for elapsed_s in np.arange(0, until_s, 0.1):
        over = began_s + response_s <= elapsed_s
        waits_s = (began_s - due_s)[over]
        now = SimpleNamespace(
            elapsed_s=float(elapsed_s),
            offered=int(np.count_nonzero(due_s <= elapsed_s)),
            completed=int(np.count_nonzero(over)),
            failed=0,
            cancelled=0,
            dropped=0,
            ttft_p50_ns=int((np.median(waits_s) + 0.05) * 1e9) if len(waits_s) else None,
        )
        if judge(now):
            return float(elapsed_s)
    return None


def test_an_endpoint_of_long_responses_that_keeps_up_is_not_cut_while_the_first_are_under_way():
    assert cut_at_s(response_s=10.0, slots=10_000) is None
    assert cut_at_s(response_s=30.0, slots=10_000) is None


def test_an_endpoint_that_does_not_keep_up_is_cut_once_it_shows():
    assert 2.0 < (cut_at_s(response_s=1.0, slots=10) or 0.0) < 20.0
    assert 10.0 < (cut_at_s(response_s=10.0, slots=100) or 0.0) < 40.0
    assert 10.0 < (cut_at_s(response_s=10.0, slots=20) or 0.0) < 40.0, "one in ten is all that is served"


def test_only_a_rate_that_stays_is_judged():
    assert backlog_judge(stage(profile="1..100@60s")) is None
    assert backlog_judge(stage() | {"load": {"mode": "concurrency", "value": 3}}) is None
