"""Doubts about a stage's load: whether it was what the plan says, and whether the endpoint held it."""

import math
from typing import Final

from analysis.verdict.doubt import MOST_ERROR_SHARE, Doubt, Facts, share_of, span_of, value_of

LEAST_LOAD_SHARE: Final = 0.99
MOST_UNPREPARED_SHARE: Final = 0.01
MOST_FILLING_SHARE: Final = 0.05


def load_below_plan(stage: Facts) -> Doubt | None:
    """The endpoint was loaded less than the stage says."""
    mode = stage["load"]["mode"]
    if not stage["window_s"]:
        return None
    return _too_few_in_flight(stage) if mode == "concurrency" else _too_few_sent(stage) if mode == "rate" else None


def _too_few_in_flight(stage: Facts) -> Doubt | None:
    """Closed loop: the mean in flight over the window against the planned concurrency, or its mean over the window.

    A slot is empty between the end of a response and the next send; with responses that short, the plan is not what was
    driven either. Users who think between their requests are not in flight meanwhile: with those nothing can be held
    against the plan.
    """
    load = stage["load"]
    value = load.get("value")
    if not value or load.get("think") or load.get("unit") == "session" or ("profile" in load and not _is_whole(stage)):
        return None
    in_flight = (stage["concurrency"] or {"mean": 0.0})["mean"]
    if in_flight >= LEAST_LOAD_SHARE * value:
        return None
    words = f"{in_flight:,.4g} requests were in flight on average, {value:,.6g} were planned ({in_flight / value:.1%})"
    way = "more --workers or --cpus, longer responses, or more requests than slots"
    if failed := stage["requests"]["failed"]:
        words += f"; {failed:,} failed, and a slot whose request fails is empty until the next is sent"
        way = "look at the errors first"
    if retried := stage["requests"]["retried"]:
        words += f"; {retried:,} were refused at first, and their slots empty until they were tried again"
    return Doubt("load-below-plan", words, way)


def _too_few_sent(stage: Facts) -> Doubt | None:
    """Open loop: what was sent (with sessions: begun) against the arrivals of the plan.

    In a window that lasted as planned those are known to the last one. In one that was cut short they are rate x window,
    less what chance takes; and nothing is said where the rate itself was to change.
    """
    requests, load, unit = stage["requests"], stage["load"], "requests"
    sent, offered = requests["sent"], requests["offered"]
    if load.get("unit") == "session":
        turns = stage["by_turn"] or []
        unit, sent, offered = "sessions", sum(one["count"] for one in turns if one["turn"] == 0), None
    planned, chance = stage["arrivals_planned"], 0.0
    if planned is None or not _is_whole(stage):
        if not load.get("value") or _load_changes(stage):
            return None
        planned = load["value"] * stage["window_s"]
        chance = _chance(load.get("arrivals", "poisson"), planned)
        offered = None
    if not planned or sent >= LEAST_LOAD_SHARE * planned - chance:
        return None
    words = f"{sent:,} {unit} were sent in the window, {planned:,.6g} were planned ({sent / planned:.1%})"
    if requests["dropped"]:
        words += f"; {requests['dropped']:,} were dropped because they {_why_dropped(load)}"
    if offered is not None and offered < planned:
        words += f"; {planned - offered:,} never came due"
    if requests["dropped"]:
        return Doubt("load-below-plan", words, f"{_more_places(load)}a lower --rate: the endpoint does not keep up")
    return Doubt("load-below-plan", words, "more --workers or --cpus, or a lower --rate")


def _is_whole(stage: Facts) -> bool:
    """Whether the window lasted as long as was planned, to the microsecond that seconds in a float are good for."""
    return stage["duration_s"] is not None and abs(stage["window_s"] - stage["duration_s"]) < 1e-6


def _load_changes(stage: Facts) -> bool:
    """Whether the load is planned to change within the window."""
    load = stage["load"]
    return "profile" in load or str(load.get("arrivals", "")).startswith(("trace", "recorded"))


def _chance(arrivals: str, planned: float) -> float:
    """By how many arrivals a window may differ from rate x window: one, one burst, or three standard deviations."""
    kind, _, detail = arrivals.partition(":")
    if kind == "constant":
        return 1
    if kind == "burst":
        return float(detail.partition("@")[0] or 1)
    return 3 * math.sqrt(planned) * (float(detail or 1) if kind == "gamma" else 1)


def _why_dropped(load: Facts) -> str:
    if load.get("late_drop_s") is not None:
        return f"waited longer than {load['late_drop_s'] * 1000:g} ms (--late drop)"
    return "still waited for a place when the drain ended"


def _more_places(load: Facts) -> str:
    return "a higher --max-in-flight, or " if load.get("max_in_flight") else ""


def late_sends(stage: Facts) -> Doubt | None:
    """p99 of lateness beyond 1 % of the median TTFT.

    Where requests wait for a place in flight that is the plan and no fault of the client; but then the latencies from the
    send are not what a user sees, and that is said.
    """
    late_us, ttft_ms = value_of(stage["client"], "lateness_us", "p99"), value_of(stage, "ttft_ms", "p50")
    if late_us is None or ttft_ms is None or late_us <= MOST_ERROR_SHARE * ttft_ms * 1000:
        return None
    share = share_of(late_us, ttft_ms * 1000, "TTFT p50")
    words = f"p99 of the sends was {span_of(late_us)} late, {share} ({ttft_ms:,.3f} ms)"
    load = stage["load"]
    if load.get("max_in_flight") or load.get("late_drop_s") is not None:
        limit = (
            f"the {load['max_in_flight']:,} places of --max-in-flight" if load.get("max_in_flight") else "the client"
        )
        words += f"; requests waited for {limit}, and that wait is in the latencies from the intended time alone"
        return Doubt(
            "late-sends", words, f"{_more_places(load)}a lower --rate if it is the server that does not keep up"
        )
    return Doubt("late-sends", words, "more --workers, --cpus of their own, or a lower --rate")


def unprepared(stage: Facts) -> Doubt | None:
    """Requests that were made too late: what holds them up is not the endpoint, nor a worker."""
    count, sent = stage["client"].get("unprepared_requests") or 0, stage["requests"]["sent"]
    if count <= MOST_UNPREPARED_SHARE * sent:
        return None
    return Doubt(
        "unprepared",
        f"{count:,} requests were not prepared in time: the process that reads the data set and makes the prompts is behind",
        "a core for it that no worker has (--cpus), a lower load, or shorter prompts",
    )


def over_saturated(stage: Facts) -> Doubt | None:
    """Open loop: the backlog grows all through the window, so that every latency depends on how long one looked."""
    backlog = stage["backlog"]
    if not backlog or not backlog["grows"]:
        return None
    return Doubt(
        "over-saturated",
        f"the requests that are due and not answered grow by {backlog['growth_per_s']:,.4g} a second "
        f"({backlog['growth_share']:.1%} of the arrivals): the endpoint does not keep up, and the latencies have no end",
        "a lower --rate; loadgen saturate finds the highest that is kept up with",
    )


def still_filling(stage: Facts) -> Doubt | None:
    """Open loop: the window began so long before the first responses ended that the load was still rising in much of it.

    Requests in flight rise until a response time E after the first arrival. A window W from w on then lacks (E - w)^2 / 2EW
    of what the rate comes to (where all responses take E), and as many completions. With sessions of several turns E is that
    of a whole session: until then the later turns of the first ones are still to come.
    """
    load, response_ms = stage["load"], value_of(stage, "e2e_ms", "p50")
    if (
        load["mode"] != "rate"
        or not load.get("value")
        or _load_changes(stage)
        or not stage["window_s"]
        or not response_ms
    ):
        return None
    if load.get("max_in_flight") or (stage["backlog"] or {}).get("grows"):
        return None
    unit_s, window_s, before_s = response_ms / 1000, stage["window_s"], stage["window"]["start_s"]
    unit = "response"
    if session := load.get("session"):
        unit, unit_s = "session", session["turns"] * unit_s + (session["turns"] - 1) * session["think_s"]
    lacking = lacking_share(unit_s, before_s, window_s)
    if lacking <= MOST_FILLING_SHARE:
        return None
    return Doubt(
        "still-filling",
        f"the window began {before_s:,.3g} s after the first arrival, and {unit}s take {unit_s:,.3g} s: until they "
        f"ended the load was still rising, {lacking:.1%} of it is missing from concurrency and throughput",
        f"--warmup {math.ceil(unit_s)}s: in an open loop as long as a {unit} takes",
    )


def lacking_share(response_s: float, before_s: float, window_s: float) -> float:
    """Of the load of a rate, what a window lacks that begins so long after the first arrival; see still_filling."""
    filling_s = min(response_s - before_s, window_s)
    return max(filling_s / window_s * (1 - (before_s + filling_s / 2) / response_s), 0.0) if filling_s > 0 else 0.0


def unsteady_throughput(stage: Facts) -> Doubt | None:
    """The halves of the window differ in output tokens a second, though the load does not."""
    if _load_changes(stage):
        return None
    return _unsteady(stage["halves"]["output_tokens_per_s"], "output tokens/s", "unsteady-throughput")


def unsteady_ttft(stage: Facts) -> Doubt | None:
    """The halves of the window differ in TTFT, though the load does not; in open loop TTFT from the intended time."""
    halves = stage["halves"]
    if _load_changes(stage):
        return None
    if halves["ttft_intended_ms"] is not None:
        return _unsteady(halves["ttft_intended_ms"], "ms TTFT from the intended time", "unsteady-ttft")
    return _unsteady(halves["ttft_ms"], "ms TTFT", "unsteady-ttft")


def _unsteady(compared: Facts | None, unit: str, code: str) -> Doubt | None:
    if compared is None or not compared["differ"]:
        return None
    first, second = compared["first"], compared["second"]
    change = f"{second / first - 1:+.1%}" if first else "from nothing"
    return Doubt(
        code,
        f"the halves of the window disagree: {first:,.4g}, then {second:,.4g} {unit} "
        f"({change}, t = {min(compared['t'], 999):.3g}, limit {compared['t_limit']:.3g})",
        "a longer --warmup and --duration; if it keeps on drifting, the endpoint does not hold this load",
    )
