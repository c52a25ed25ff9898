"""Valid or suspect: the result doubts itself.

A doubt is a small pure function over a stage's (or the whole run's) part of summary.json: None, or a code, one sentence with
the numbers, and the next thing to try. The thresholds are constants of the judgement, not knobs.
"""

from collections.abc import Callable
from typing import Final

from analysis.verdict.client import (
    backwards,
    busy_workers,
    client_exhausted,
    clock_step,
    coalesced,
    lag,
    silent_workers,
    suspended,
    unstamped,
)
from analysis.verdict.doubt import Doubt, Facts
from analysis.verdict.load import (
    late_sends,
    load_below_plan,
    over_saturated,
    still_filling,
    unprepared,
    unsteady_throughput,
    unsteady_ttft,
)
from analysis.verdict.nodes import clocks_unsure, lost_nodes, slow_node
from analysis.verdict.of_a_run import cut_captures, interrupted, missing_workers, stages_missing, throttled, unpinned
from analysis.verdict.requests import (
    broken_off,
    failing_targets,
    failures,
    mostly_cancelled,
    nothing_completed,
    retried,
    too_few_samples,
    unfinished,
)

OF_A_RUN: Final[tuple[Callable[[Facts], Doubt | None], ...]] = (
    interrupted,
    lost_nodes,
    cut_captures,
    missing_workers,
    stages_missing,
    unpinned,
    throttled,
)

OF_A_STAGE: Final[tuple[Callable[[Facts], Doubt | None], ...]] = (
    nothing_completed,
    failures,
    failing_targets,
    unfinished,
    mostly_cancelled,
    retried,
    over_saturated,
    still_filling,
    too_few_samples,
    load_below_plan,
    late_sends,
    unprepared,
    lag,
    coalesced,
    unstamped,
    busy_workers,
    slow_node,
    clocks_unsure,
    unsteady_throughput,
    unsteady_ttft,
    clock_step,
    suspended,
    silent_workers,
    client_exhausted,
    backwards,
)

OF_THE_CLIENT: Final[tuple[Callable[[Facts], Doubt | None], ...]] = (
    coalesced,
    unstamped,
    busy_workers,
    slow_node,
    clocks_unsure,
    clock_step,
    backwards,
)
"""What a stage can be doubted for even when the endpoint was meant to be beyond its limit."""


def verdict(summary: Facts) -> Facts:
    """{"ok", "reasons"} over a whole summary; a reason is {"stage": name or None, "code", "words", "try"}."""
    reasons = [_reason(None, doubt) for doubt in (ask(summary) for ask in OF_A_RUN) if doubt]
    for stage in summary["stages"]:
        # A search goes beyond the limit on purpose, and a stage that was cut is no result: the client alone can be wrong.
        is_result = not summary["question"] and _reason_of(stage) != "cut"
        asked = OF_A_STAGE if is_result else OF_THE_CLIENT
        # Where --early-stop asks for it, a cut is what the run was to find out.
        if not is_result and not summary["question"] and not (summary["spec"] or {}).get("early_stop"):
            asked = (broken_off, *OF_THE_CLIENT)
        reasons += [_reason(stage["name"], doubt) for doubt in (ask(stage) for ask in asked) if doubt]
    return {"ok": not reasons, "reasons": reasons}


def _reason_of(stage: Facts) -> str | None:
    reason: str | None = (stage["outcome"] or {}).get("reason")
    return reason


def _reason(stage: str | None, doubt: Doubt) -> Facts:
    return {"stage": stage, "code": doubt.code, "words": doubt.words, "try": doubt.try_}
