"""Valid or suspect: the result doubts itself.

A doubt is a small pure function over a stage's (or the whole run's) part of summary.json: None, or a code, one sentence with
the numbers, and the next thing to try. The thresholds are constants of the judgement, not knobs.

What the client's own delay means depends on the stamps. With kernel stamps the time of the read moves no stamp; it only
matters when it grows to the tick of the engine, for then events pile up in a socket, one read takes several, and they share
a stamp. Without kernel stamps the delay is in every stamp, and is held against the metrics as lateness is.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from analysis.confidence import sample_floor

LEAST_LOAD_SHARE: Final = 0.99
MOST_ERROR_SHARE: Final = 0.01  # of the metric that lateness or lag touches
MOST_COALESCED_SHARE: Final = 0.01
MOST_UNSTAMPED_SHARE: Final = 0.01
MOST_UNPREPARED_SHARE: Final = 0.01
MOST_FAILED_SHARE: Final = 0.01
MOST_UNFINISHED_SHARE: Final = 0.01
MOST_RETRIED_SHARE: Final = 0.01
MOST_CANCELLED_SHARE: Final = 0.5
MOST_CPU_SHARE: Final = 0.85
MOST_THROTTLED_MS: Final = 10

Facts = dict[str, Any]


class Doubt(NamedTuple):
    """Why a result may not be what it says: `words` has the numbers, `try_` the next thing to do."""

    code: str
    words: str
    try_: str


def verdict(summary: Facts) -> Facts:
    """{"ok", "reasons"} over a whole summary; a reason is {"stage": name or None, "code", "words", "try"}."""
    reasons = [_reason(None, doubt) for doubt in (ask(summary) for ask in OF_A_RUN) if doubt]
    for stage in summary["stages"]:
        # A search goes beyond the limit on purpose, and a stage that was cut is no result: the client alone can be wrong.
        is_result = not summary["question"] and _reason_of(stage) != "cut"
        asked = OF_A_STAGE if is_result else OF_THE_CLIENT
        reasons += [_reason(stage["name"], doubt) for doubt in (ask(stage) for ask in asked) if doubt]
    return {"ok": not reasons, "reasons": reasons}


def _reason_of(stage: Facts) -> str | None:
    reason: str | None = (stage["outcome"] or {}).get("reason")
    return reason


def _reason(stage: str | None, doubt: Doubt) -> Facts:
    return {"stage": stage, "code": doubt.code, "words": doubt.words, "try": doubt.try_}


# --- of a run ---


def interrupted(summary: Facts) -> Doubt | None:
    """The run did not come to its end."""
    ended = summary["ended"] or {}
    if ended.get("reason", "finished") == "finished":
        return None
    capture = summary["capture"]
    words = (
        f"the run was {ended['reason']} after {capture['stages_begun']} of {capture['stages_planned']} stages had begun"
    )
    if ended.get("words"):
        words += f": {ended['words']}"
    return Doubt(f"run-{ended['reason']}", words, "read what is there with care, or run it again")


def cut_captures(summary: Facts) -> Doubt | None:
    """A worker did not close its capture: killed, or still running."""
    cut, workers = summary["capture"]["cut_workers"], summary["capture"]["workers"]
    if not cut:
        return None
    return Doubt(
        "capture-cut",
        f"{len(cut)} of {workers} workers did not close their capture (worker {_listed(cut)}): killed, or still at work. "
        f"It reads up to its last whole batch; {summary['capture']['cut_requests']:,} requests that had been sent by then "
        "have no row, and what came later is not known",
        "wait for the run to end and report again; if it has ended, look for a worker killed for its memory",
    )


def missing_workers(summary: Facts) -> Doubt | None:
    """A planned worker left no file at all."""
    missing, workers = summary["capture"]["missing_workers"], summary["capture"]["workers"]
    if not missing:
        return None
    return Doubt(
        "worker-missing",
        f"{len(missing)} of {workers} workers left no capture (worker {_listed(missing)}), and its load is missing",
        "bring their files into capture/, or run it again",
    )


def unpinned(summary: Facts) -> Doubt | None:
    """The system refused a worker the core that it was to have."""
    refused = summary["capture"]["unpinned_workers"]
    if not refused:
        return None
    return Doubt(
        "unpinned",
        f"worker {_listed(refused)} could not be bound to a core of its own: the system refused it, and may move it about",
        "allow sched_setaffinity in the container, or give --cpus that it may use",
    )


def throttled(summary: Facts) -> Doubt | None:
    """The CPU quota of a control group stopped the run's processes."""
    held_ms = summary["throttled_ms"] or 0
    if held_ms <= MOST_THROTTLED_MS:
        return None
    return Doubt(
        "throttled",
        f"the CPU quota of the control group held its processes back for {held_ms:,.0f} ms in all",
        "fewer --workers, or a higher quota (cpu.max, docker --cpus)",
    )


def stages_missing(summary: Facts) -> Doubt | None:
    """Stages that were planned and never began, in a run that does not say that it was stopped."""
    begun, planned = summary["capture"]["stages_begun"], summary["capture"]["stages_planned"]
    if begun == planned or interrupted(summary):
        return None
    return Doubt("stages-missing", f"{planned - begun} of {planned} stages have not begun", "wait for the run to end")


# --- of a stage ---


def nothing_completed(stage: Facts) -> Doubt | None:
    """No latency can be told."""
    requests = stage["requests"]
    if requests["completed"]:
        return None
    if not stage["window_s"]:
        return Doubt("empty-window", "the stage ended within its warm-up: nothing was measured", "a shorter --warmup")
    return Doubt(
        "nothing-completed",
        f"none of the {requests['sent']:,} requests of the window that were sent completed{_others(requests)}",
        "look at the errors; try a single request first",
    )


def too_few_samples(stage: Facts) -> Doubt | None:
    """Not even the median is sure, or the percentile that an SLO names is not."""
    count = _of(stage, "ttft_ms", "count") or 0
    if not count:
        return None
    wanted = max([50.0, *(limit["percentile"] or 0.0 for limit in (stage["slo"] or {}).values())])
    floor = sample_floor(min(wanted, 99.999))
    if count >= floor:
        return None
    return Doubt(
        "too-few-samples",
        f"{count:,} requests completed, p{wanted:g} wants {floor:,}",
        f"--duration {_at_least(stage['window_s'] * floor / count)}s, or --requests {floor}",
    )


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
    if failed := stage["requests"]["failed"]:
        words += f"; {failed:,} failed, and a slot whose request fails is empty until the next is sent"
    if retried := stage["requests"]["retried"]:
        words += f"; {retried:,} were refused at first, and their slots empty until they were tried again"
    return Doubt("load-below-plan", words, "more --workers or --cpus, longer responses, or more requests than slots")


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
    late_us, ttft_ms = _of(stage["client"], "lateness_us", "p99"), _of(stage, "ttft_ms", "p50")
    if late_us is None or ttft_ms is None or late_us <= MOST_ERROR_SHARE * ttft_ms * 1000:
        return None
    words = f"p99 of the sends was {late_us:,.0f} us late, {_share(late_us, ttft_ms * 1000)} of TTFT p50 ({ttft_ms:,.3f} ms)"
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


def lag(stage: Facts) -> Doubt | None:
    """The client read late enough to be seen in the result.

    With kernel stamps: p99 of the worst lag of a request beyond the mean gap, from where on reads merge (the mean, because
    merging itself pulls the median to zero and leaves the mean alone). Without: the lag is in the stamps; p99 beyond 1 %
    of TTFT p50, or the median beyond 1 % of ITL p99. The latter pair fits because the worst of a request's hundred or so
    reads is about their p99.
    """
    client = stage["client"]
    p50_us, p99_us = _of(client, "lag_us", "p50"), _of(client, "lag_us", "p99")
    if p50_us is None or p99_us is None:
        return None
    gap_ms, ttft_ms, tail_ms = _of(stage, "itl_ms", "mean"), _of(stage, "ttft_ms", "p50"), _of(stage, "itl_ms", "p99")
    words = None
    # A few reads without a stamp do not make the others depend on the time of the read.
    most_unstamped = MOST_UNSTAMPED_SHARE * stage["requests"]["sent"]
    if client["stamp_source"] == "kernel" and client["unstamped_requests"] <= most_unstamped:
        if gap_ms is not None and p99_us > gap_ms * 1000:
            words = f"reads were {p99_us:,.0f} us late (p99), longer than the mean gap ({gap_ms * 1000:,.0f} us): they merge"
    elif ttft_ms is not None and p99_us > MOST_ERROR_SHARE * ttft_ms * 1000:
        share = _share(p99_us, ttft_ms * 1000)
        words = f"reads, and with them the stamps, were {p99_us:,.0f} us late (p99), {share} of TTFT p50"
    elif tail_ms is not None and p50_us > MOST_ERROR_SHARE * tail_ms * 1000:
        share = _share(p50_us, tail_ms * 1000)
        words = f"a request's worst read, and its stamp, was {p50_us:,.0f} us late (p50), {share} of ITL p99"
    return Doubt("lag", words, "more --workers, or --cpus that nothing else uses") if words else None


def coalesced(stage: Facts) -> Doubt | None:
    """More than 1 % of the events share a stamp with the one before."""
    share = stage["client"]["coalesced_share"]
    if share is None or share <= MOST_COALESCED_SHARE:
        return None
    return Doubt(
        "coalesced",
        f"{share:.1%} of the events came in one read with the event before and share its stamp: the client was late, "
        "or the server wrote them in one write, which cannot be told apart here",
        "if lag and CPU are low it is the server (or a proxy); else more --workers",
    )


def unstamped(stage: Facts) -> Doubt | None:
    """Kernel stamps were meant, and more than 1 % of the reads had none."""
    client = stage["client"]
    share = client["unstamped_share"]
    if client["stamp_source"] != "kernel" or share is None or share <= MOST_UNSTAMPED_SHARE:
        return None
    return Doubt(
        "unstamped", f"{share:.1%} of the reads had no kernel stamp and were stamped when read", "loadgen doctor"
    )


def busy_workers(stage: Facts) -> Doubt | None:
    """A worker had no CPU left to be on time with. One that spins is always busy, and lateness tells how it fared."""
    if stage["client"]["spin"]:
        return None
    shares = [(share, worker) for worker, share in enumerate(stage["client"]["cpu_share"]) if share is not None]
    share, place = max(shares, default=(0.0, 0))
    if share <= MOST_CPU_SHARE:
        return None
    worker = stage["by_worker"][place]["worker"]
    return Doubt("cpu", f"worker {worker} was busy {share:.0%} of the time", "more --workers, on more --cpus")


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
    return Doubt(
        code,
        f"the halves of the window disagree: {compared['first']:,.4g}, then {compared['second']:,.4g} {unit} "
        f"({compared['change_share']:+.1%}, t = {min(compared['t'], 999):.3g}, limit {compared['t_limit']:.3g})",
        "a longer --warmup and --duration; if it keeps on drifting, the endpoint does not hold this load",
    )


def clock_step(stage: Facts) -> Doubt | None:
    """The wall clock, which kernel stamps are made of, was set during the stage."""
    steps_ms = stage["client"]["clock_steps_ms"]
    if not steps_ms:
        return None
    worst = max(steps_ms, key=abs)
    words = f"the wall clock was set {len(steps_ms)} times during the stage, by up to {worst:+,.3f} ms"
    return Doubt(
        "clock-step", words.replace("1 times", "once"), "stop the clock's correction (chronyd, ntpd) during a run"
    )


def suspended(stage: Facts) -> Doubt | None:
    """The machine slept: its clock stood still while the endpoint's went on."""
    slept_ms = stage["client"]["suspended_ms"]
    if not slept_ms:
        return None
    return Doubt(
        "suspended",
        f"this machine was suspended for {slept_ms / 1000:,.1f} s during the stage: its clock stood still meanwhile, and "
        "the latencies lack that time",
        "keep the machine awake (systemd-inhibit, caffeinate) and run it again",
    )


def silent_workers(stage: Facts) -> Doubt | None:
    """A worker did nothing at all for a second or more."""
    silent_ms = stage["client"]["silent_ms"]
    if not silent_ms:
        return None
    worst = max(silent_ms, key=lambda worker: silent_ms[worker])
    return Doubt(
        "worker-silent",
        f"worker {worst} did nothing for {silent_ms[worst] / 1000:,.1f} s: it was stopped, swapped out, or had no CPU; what "
        "was due meanwhile was sent late, and reads merged",
        "leave the machine to the run alone (see what else it does), or fewer --workers",
    )


def client_exhausted(stage: Facts) -> Doubt | None:
    """Requests failed for want of ports or descriptors here."""
    count = stage["requests"]["errors"].get(CLIENT_EXHAUSTED, 0)
    if not count:
        return None
    return Doubt(
        "client-exhausted",
        f"{count:,} requests failed because this machine had no port, descriptor or memory left for a connection, which is "
        "not the endpoint's failure",
        "a wider net.ipv4.ip_local_port_range, a higher ulimit -n, or a lower load",
    )


def backwards(stage: Facts) -> Doubt | None:
    """A latency below zero: the stamps of cause and effect come from clocks that disagree."""
    below = [name for name in LATENCIES if (_of(stage, name, "min") or 0) < 0]
    if not below:
        return None
    lowest_ms = min(stage[name]["min"] for name in below)
    return Doubt(
        "time-backwards",
        f"there are latencies below zero ({', '.join(below)}; the lowest {lowest_ms:,.3f} ms)",
        "loadgen doctor: the clock offset that turns kernel stamps into CLOCK_MONOTONIC is in doubt",
    )


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
    if cancelled <= MOST_CANCELLED_SHARE * sent:
        return None
    return Doubt(
        "mostly-cancelled",
        f"{cancelled:,} of {sent:,} requests ({cancelled / sent:.1%}) were cancelled by their users: the latencies are of "
        "those who stayed, and whoever waits long is likelier to leave",
        "a smaller share or a later time in --cancel, or take the throughput alone",
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


UNFINISHED: Final = "unfinished"
CLIENT_EXHAUSTED: Final = "client-exhausted"

LATENCIES: Final = (
    "ttft_ms",
    "ttft_intended_ms",
    "ttfa_ms",
    "tpot_ms",
    "itl_ms",
    "e2e_ms",
    "e2e_intended_ms",
    "end_of_stream_ms",
)

OF_A_RUN: Final[tuple[Callable[[Facts], Doubt | None], ...]] = (
    interrupted,
    cut_captures,
    missing_workers,
    stages_missing,
    unpinned,
    throttled,
)

OF_A_STAGE: Final[tuple[Callable[[Facts], Doubt | None], ...]] = (
    nothing_completed,
    failures,
    unfinished,
    mostly_cancelled,
    retried,
    over_saturated,
    too_few_samples,
    load_below_plan,
    late_sends,
    unprepared,
    lag,
    coalesced,
    unstamped,
    busy_workers,
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
    clock_step,
    backwards,
)
"""What a stage can be doubted for even when the endpoint was meant to be beyond its limit."""


def _of(facts: Facts, block: str, name: str) -> float | None:
    value: float | None = (facts[block] or {}).get(name)
    return value


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole > 0 else "more than all"


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


def _listed(workers: list[int]) -> str:
    shown = ", ".join(str(worker) for worker in workers[:8])
    return shown + (" ..." if len(workers) > 8 else "")


def _at_least(seconds: float) -> int:
    return max(1, math.ceil(seconds))
