"""The circuit breaker: a stage whose requests mostly fail is cut, for the endpoint's sake and the others who use it."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from loadgen.spec.conditions import AbortOn, conditions

if TYPE_CHECKING:
    from loadgen.coordinator import Judge, StageNow

LEAST_ENDED: Final = 20
"""Requests that ended in the window: of fewer the share says nothing."""


def breaker(stage: dict[str, Any], abort_on: str) -> "Judge | None":
    """Cuts a stage (its entry in run.json) once a condition of --abort-on is met; None where there is none for it."""
    found = conditions(abort_on, is_open_loop=stage["load"]["mode"] == "rate")
    if not found:
        return None
    duration_s = stage.get("duration_s")
    # Whatever fails later fails without our doing: nothing is sent any more.
    until_s = None if duration_s is None else stage["ramp_up_s"] + (stage["warmup_s"] or 0) + duration_s
    watches = [_Watch(condition) for condition in found]

    def judge(now: "StageNow") -> str:
        if until_s is not None and now.elapsed_s > until_s:
            return ""
        return next((words for watch in watches if (words := watch.words(now))), "")

    return judge


class _Watch:
    """One condition over a window that moves with the stage."""

    def __init__(self, condition: AbortOn) -> None:
        self._condition = condition
        self._counts: deque[tuple[float, int, int]] = deque()
        """(elapsed_s, requests ended, failed); the first is as old as the window, or the oldest there is."""

    def words(self, now: "StageNow") -> str:
        counts, condition = self._counts, self._condition
        counts.append((now.elapsed_s, now.completed + now.failed, now.failed))
        while len(counts) > 1 and counts[1][0] <= now.elapsed_s - condition.window_s:
            counts.popleft()
        since_s, ended_before, failed_before = counts[0]
        if now.elapsed_s - since_s < condition.window_s:
            return ""
        ended, failed = now.completed + now.failed - ended_before, now.failed - failed_before
        if ended < LEAST_ENDED or failed <= condition.share * ended:
            return ""
        return (
            f"{failed:,} of the {ended:,} requests that ended in the last {condition.window_s:g} s failed "
            f"({failed / ended:.0%}): broken off by --abort-on {condition.text}"
        )


def first_of(judges: "Sequence[Judge | None]") -> "Judge | None":
    """All of them as one: the first that has something to say is heard, but every one is asked each time."""
    asked = [judge for judge in judges if judge is not None]
    if not asked:
        return None

    def judge(now: "StageNow") -> str:
        return next((words for words in [one(now) for one in asked] if words), "")

    return judge
