"""Doubts about a stage's requests: too few of them, or too many that did not complete at the first attempt."""

import math
from typing import Final

from analysis.confidence import sample_floor
from analysis.verdict.doubt import Doubt, Facts, value_of

MOST_FAILED_SHARE: Final = 0.01
MOST_UNFINISHED_SHARE: Final = 0.01
MOST_RETRIED_SHARE: Final = 0.01
MOST_CANCELLED_SHARE: Final = 0.5

UNFINISHED: Final = "unfinished"

FEWER_LEAVE: Final = "a smaller share or a later time in --cancel, or take the throughput alone"


def nothing_completed(stage: Facts) -> Doubt | None:
    """No latency can be told."""
    requests = stage["requests"]
    if requests["completed"]:
        return None
    outcome = stage["outcome"] or {}
    if not stage["window_s"]:
        if outcome.get("reason") == "failed":
            words = f"nothing but failures within the warm-up: {outcome.get('words') or 'no reason was noted'}"
            return Doubt("empty-window", words, "look at the errors; try a single request first")
        return Doubt("empty-window", "the stage ended within its warm-up: nothing was measured", "a shorter --warmup")
    if not requests["sent"] and not requests["dropped"] and outcome.get("reason") != "failed":
        words = f"no request was sent within the {stage['window_s']:,.3g} s of the window"
        return Doubt(
            "nothing-completed", words, "a longer --duration: responses that take longer than it leave no sends"
        )
    if requests["sent"] and requests["cancelled"] == requests["sent"]:
        words = f"all {requests['sent']:,} requests of the window were cancelled by their users: there are no latencies"
        return Doubt("nothing-completed", words, FEWER_LEAVE)
    return Doubt(
        "nothing-completed",
        f"none of the {requests['sent']:,} requests of the window that were sent completed{_others(requests)}",
        "look at the errors; try a single request first",
    )


def broken_off(stage: Facts) -> Doubt | None:
    """The circuit breaker cut the stage."""
    words = (stage["outcome"] or {}).get("words") or "no reason was noted"
    return Doubt(
        "broken-off",
        f"cut after {stage['window_s']:.1f} s of its window: {words}",
        "look at the errors; a lower load, or --abort-on never if the failures are what is to be measured",
    )


def too_few_samples(stage: Facts) -> Doubt | None:
    """Not even the median is sure, or the percentile that an SLO names is not."""
    count = int(value_of(stage, "ttft_ms", "count") or 0)
    if not count:
        return None
    wanted = max([50.0, *(limit["percentile"] or 0.0 for limit in (stage["slo"] or {}).values())])
    floor = sample_floor(min(wanted, 99.999))
    if count >= floor:
        return None
    return Doubt(
        "too-few-samples",
        f"{count:,} requests completed, p{wanted:g} wants {floor:,}",
        f"--duration {_at_least(stage['window_s'] * floor / count)}s, or {_as_many(stage, floor, count)}",
    )


def _as_many(stage: Facts, wanted: int, count: float) -> str:
    """The flag that ends a stage after so many requests; of sessions, which end it then, as many as have them."""
    if stage["load"].get("unit") != "session":
        return f"--requests {wanted}"
    begun = sum(turn["count"] for turn in stage["by_turn"] or () if turn["turn"] == 0)
    return f"--sessions {_at_least(begun * wanted / count)}"


def failures(stage: Facts) -> Doubt | None:
    """More than 1 % failed; those that the end of the stage cut off are another doubt's."""
    requests = stage["requests"]
    failed = requests["failed"] - requests["errors"].get(UNFINISHED, 0)
    if not requests["completed"] or failed <= MOST_FAILED_SHARE * requests["sent"]:
        return None
    return Doubt(
        "errors",
        f"{failed:,} of {requests['sent']:,} requests failed ({failed / requests['sent']:.1%}){_classes(requests)}",
        "look at the endpoint's log; a lower load shows whether it is the load",
    )


def failing_targets(stage: Facts) -> Doubt | None:
    """A target, or one endpoint of it, of which more than 1 % failed: of a whole that works it may be a small part."""
    found = []
    for target in stage.get("by_target") or ():
        parts = [(f"{target['name']} at {one['url']}", one) for one in target["by_endpoint"] or ()]
        for name, part in parts or [(target["name"], target)]:
            requests = part["requests"]
            failed = requests["failed"] - requests["errors"].get(UNFINISHED, 0)
            if failed > MOST_FAILED_SHARE * requests["sent"]:
                which = "all" if failed == requests["sent"] else f"{failed:,} of"
                found.append(f"{name}: {which} {requests['sent']:,} requests failed{_classes(requests)}")
    if not found:
        return None
    return Doubt(
        "target-errors", "; ".join(found), "look at that endpoint's log; its latencies are of the requests that worked"
    )


def unfinished(stage: Facts) -> Doubt | None:
    """More than 1 % were still in flight at the end: those are the longest, and not in the latencies."""
    requests = stage["requests"]
    cut = requests["errors"].get(UNFINISHED, 0)
    if cut <= MOST_UNFINISHED_SHARE * requests["sent"]:
        return None
    return Doubt(
        "unfinished",
        f"{cut:,} of {requests['sent']:,} requests ({cut / requests['sent']:.1%}) were still in flight when the drain "
        "ended or the run was stopped: the longest responses are missing from the latencies",
        "a longer --drain",
    )


def mostly_cancelled(stage: Facts) -> Doubt | None:
    """More than half of the users left: the latencies are of the others."""
    requests = stage["requests"]
    cancelled, sent = requests["cancelled"], requests["sent"]
    if cancelled <= MOST_CANCELLED_SHARE * sent or not requests["completed"]:  # then nothing_completed says so
        return None
    return Doubt(
        "mostly-cancelled",
        f"{cancelled:,} of {sent:,} requests ({cancelled / sent:.1%}) were cancelled by their users: the latencies are of "
        "those who stayed, and whoever waits long is likelier to leave",
        FEWER_LEAVE,
    )


def retried(stage: Facts) -> Doubt | None:
    """More than 1 % were refused at first: what they waited between two attempts is not in the latencies from the send."""
    requests = stage["requests"]
    again, sent = requests["retried"], requests["sent"]
    if again <= MOST_RETRIED_SHARE * sent:
        return None
    where = "the latencies from the intended time hold the waits, those from the send do not"
    if requests["offered"] is None:
        where = "their latencies begin with the last attempt, and do not hold the waits before it"
    return Doubt(
        "retried",
        f"{again:,} of {sent:,} requests ({again / sent:.1%}) were refused (429, 503) and tried again: {where}",
        "a lower load, or a higher limit at the endpoint",
    )


def _classes(requests: Facts) -> str:
    return (
        ": " + ", ".join(f"{count:,} {name}" for name, count in requests["errors"].items())
        if requests["errors"]
        else ""
    )


def _others(requests: Facts) -> str:
    """What became of the requests that did not complete."""
    words = _classes(requests)
    for name in ("cancelled", "dropped"):
        if requests[name]:
            words += f"{', ' if words else ': '}{requests[name]:,} {name}"
    return words


def _at_least(seconds: float) -> int:
    return max(1, math.ceil(seconds))
