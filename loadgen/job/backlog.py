"""Whether an open loop has lost its endpoint: a judge of the stage (coordinator.Judge) that looks at its backlog."""

from typing import TYPE_CHECKING, Any, Final

from loadgen.clock import NS_PER_S

if TYPE_CHECKING:
    from loadgen.coordinator import Judge

LEAST_COMPLETED: Final = 20
"""Requests before the median wait of a stage is one."""


def backlog_judge(stage: dict[str, Any], least_s: float = 3.0) -> "Judge | None":
    """Cuts a stage of the open loop once its backlog grows all the time since the warm-up; None for a closed loop."""
    from analysis.queueing import growth, scatter_of

    if stage["load"]["mode"] != "rate" or "profile" in stage["load"] or not stage["load"].get("value"):
        return None
    rate_per_s, scatter = float(stage["load"]["value"]), scatter_of(stage["load"].get("arrivals", ""))
    from_s = stage["ramp_up_s"] + stage["warmup_s"]
    times_s: list[float] = []
    backlog: list[int] = []
    answered: list[int] = []
    ttft_ns: list[int] = []

    def judge(now: Any) -> str:
        over = now.completed + now.failed + now.cancelled + now.dropped
        if now.elapsed_s < from_s or not over:  # until the first response has ended, any backlog grows
            return ""
        times_s.append(now.elapsed_s)
        backlog.append(now.offered - over)
        answered.append(over)
        if now.ttft_p50_ns and now.completed >= LEAST_COMPLETED:
            ttft_ns.append(now.ttft_p50_ns)
        if now.elapsed_s - times_s[0] < least_s:
            return ""
        longer_waits_s = (ttft_ns[-1] - min(ttft_ns)) / NS_PER_S if ttft_ns else 0.0
        found = growth(times_s, backlog, rate_per_s, scatter, answered, longer_waits_s=longer_waits_s)
        if found is None or not found.grows:
            return ""
        return f"the backlog grows by {found.per_s:.3g} requests a second: the endpoint does not keep up"

    return judge
