"""summary.json: what a run comes down to, and what tools read.

`summarize` reads a run directory and gives the summary as plain values; `write` puts it, and the histograms that it was
read from, beside the capture. The same capture gives the same bytes.

Version history
    1: first
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis import metrics, rates, slo, watches
from analysis.bootstrap import block_bootstrap, design_effect, quantile_intervals, wilson
from analysis.captures import ABSENT, Capture, Integers, Run, open_run, part_of
from analysis.closeups import CloseUp
from analysis.confidence import MOST_BLOCKS, halves, sample_floor
from analysis.curves import curve
from analysis.histogram import Histogram, LogLine, merge, percentiles, write_log
from analysis.jobs import stage_tallies
from analysis.queueing import growth, scatter_of
from analysis.server import read_scrapes, run_server, stage_server
from analysis.tally import StageTally
from analysis.verdict import verdict
from analysis.window import is_open_loop, stage_marks, stage_window
from loadgen.schema import CaptureError

SUMMARY_SCHEMA: Final = 1

PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}

NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000
NS_PER_S: Final = 1_000_000_000

LONG_SILENCE_NS: Final = NS_PER_S
"""Samples are taken every 100 ms: a worker that takes none for so long was held up."""

TOKEN_RULE: Final = (
    "a token counts at the stamp of its event: event tokens where told, else the request's usage spread evenly over its "
    "events, else one an event"
)


class Details(NamedTuple):
    """What pictures of a stage are drawn from beside its summary: histograms by name (ttft, itl, ...), and requests."""

    histograms: dict[str, Histogram]
    sample: list[CloseUp]
    slowest_ttft: list[CloseUp]
    slowest_e2e: list[CloseUp]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A run's summary, and the histograms that it was read from, as lines of a log that begins at `log_start_s`.

    `details` go by the number of the stage.
    """

    summary: dict[str, Any]
    log: list[LogLine]
    log_start_s: float
    details: dict[int, Details]


def report(run_dir: Path, jobs: int = 1) -> dict[str, Any]:
    """Analyses a run, writes summary.json and histograms.hlog into it, and gives the summary. Errors as `analyse`."""
    analysis = analyse(run_dir, jobs)
    write(run_dir, analysis)
    return analysis.summary


def summarize(run_dir: Path, jobs: int = 1) -> dict[str, Any]:
    """The summary of a run, finished or not. CaptureError if there is no capture that can be read."""
    return analyse(run_dir, jobs).summary


def analyse(run_dir: Path, jobs: int = 1) -> Analysis:
    """The summary and its histograms; two passes over the capture, memory by the piece. CaptureError as above.

    `jobs` processes share the second pass; the result does not depend on how many.
    """
    try:
        return _analyse(run_dir, jobs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        # Values that no worker writes: a flipped bit, an edited file. The chain tells where, should it be our own doing.
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CaptureError(f"{run_dir} is damaged, or was not written by this loadgen ({what})") from error


def _analyse(run_dir: Path, jobs: int) -> Analysis:
    run = open_run(run_dir)
    plans = {plan["stage"]: plan for plan in run.facts["stages"]}
    windows = {stage: stage_window(plan, stage_marks(run.of_stage(plan), stage)) for stage, plan in plans.items()}
    begun = {stage: window for stage, window in windows.items() if window is not None}
    tallies = stage_tallies(run, begun, slo.limits(run.facts["spec"]), jobs)

    shown = {stage: tally for stage, tally in tallies.items() if not plans[stage].get("warms_up")}
    summary: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "run_id": run.facts["run_id"],
        "loadgen": run.facts["loadgen"],
        "started_at": run.facts["started_at"],
        "verdict": None,
        "interrupted": _interrupted(run),
        "ended": run.facts["ended"],
        "capture": _capture_facts(run, plans, len(tallies)),
        "host": run.facts["host"],
        "throttled_ms": run.facts.get("throttled_ms"),
        "floor": run.facts.get("floor"),
        "spec": run.facts["spec"],
        "command": run.facts.get("command"),
        "question": run.facts.get("question"),
        "warm_up": _warm_up([tally for stage, tally in tallies.items() if plans[stage].get("warms_up")], run),
        "stages": [_stage(plans[stage], tally, run) for stage, tally in shown.items()],
        "skipped": [_skipped(plan) for plan in plans.values() if _outcome(plan) == "skipped"],
    }
    scrapes = read_scrapes(run_dir)
    summary["server"] = run_server(scrapes.values())
    for told in summary["stages"]:
        plan, window = plans[told["stage"]], tallies[told["stage"]].window
        told["server"] = stage_server(scrapes.get(part_of(plan)), window, told)
    summary["curve"] = curve(summary["stages"], {stage: _histograms(tally) for stage, tally in shown.items()})
    summary["verdict"] = verdict(summary)
    first_ns = min((tally.window.begin_ns for tally in tallies.values()), default=0)
    start_s = (first_ns + int(run.captures[0].facts["realtime_offset_ns"])) / NS_PER_S
    log = [line for stage in shown for line in _log(stage, shown[stage], first_ns)]
    return Analysis(summary, log, start_s, {stage: _details(tally) for stage, tally in shown.items()})


def write(run_dir: Path, analysis: Analysis) -> None:
    """Writes summary.json and histograms.hlog, each whole or not at all."""
    _replace(run_dir / "summary.json", as_text(analysis.summary))
    log = run_dir / "histograms.hlog.part"
    with log.open("w", encoding="utf-8") as out:
        note = f"loadgen {analysis.summary['loadgen']}, run {analysis.summary['run_id']}, values in ns"
        write_log(out, analysis.log, analysis.log_start_s, note.replace("\n", " "))
    os.replace(log, run_dir / "histograms.hlog")


def as_text(summary: dict[str, Any]) -> str:
    """summary.json's text. ValueError for a NaN, which no summary has."""
    return json.dumps(summary, indent=1, allow_nan=False) + "\n"


def read(run_dir: Path) -> dict[str, Any]:
    """The summary that was written. CaptureError if there is none, or one of a version not known here."""
    try:
        summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    except FileNotFoundError:
        raise CaptureError(f"{run_dir} holds no summary.json: `loadgen report` writes it") from None
    except ValueError:
        raise CaptureError(f"{run_dir / 'summary.json'} is no JSON") from None
    if summary.get("schema") != SUMMARY_SCHEMA:
        raise CaptureError(f"summary.json has version {summary.get('schema')}, this loadgen reads {SUMMARY_SCHEMA}")
    return summary


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _interrupted(run: Run) -> bool:
    ended = run.facts["ended"] or {}
    in_last = [capture for capture in run.captures if capture.part == run.last_part]
    return ended.get("reason", "finished") != "finished" or any(not capture.closed for capture in in_last)


def _capture_facts(run: Run, plans: dict[int, dict[str, Any]], begun: int) -> dict[str, Any]:
    """Of a part that was resumed, what was cut counts no more: the stages that it did not end were run again."""
    of_last = [capture for capture in run.captures if capture.part == run.last_part]
    unreadable = [worker for part, worker in run.unreadable if part == run.last_part]
    found = {capture.worker for capture in of_last} | set(unreadable)
    planned = [plan for plan in plans.values() if _outcome(plan) != "skipped"]
    return {
        "workers": run.workers,
        "parts": run.last_part,
        "missing_workers": sorted(set(range(run.workers)) - found),
        "cut_workers": sorted([capture.worker for capture in of_last if not capture.closed] + unreadable),
        "cut_requests": sum(_rowless(capture) for capture in of_last if not capture.closed),
        "unpinned_workers": _unpinned(run, of_last),
        "requests": sum(capture.rows for capture in run.captures),
        "stages_planned": len(planned),
        "stages_begun": begun,
        "stamp_source": sorted({capture.facts["stamp_source"] for capture in run.captures}),
    }


def _rowless(capture: Capture) -> int:
    """The requests that a cut capture says were sent, and has no row of."""
    sent = capture.watches[-1].get("sent", 0) if capture.watches else 0
    return max(sent - capture.rows, 0)


def _unpinned(run: Run, captures: Sequence[Capture]) -> list[int]:
    """The workers that were to have a core of their own, and were refused it."""
    if (run.facts["host"] or {}).get("system", "Linux") != "Linux":
        return []
    planned = {entry["worker"]: entry["core"] for entry in run.facts["workers"]}
    return sorted({c.worker for c in captures if c.facts["core"] is None and planned.get(c.worker) is not None})


def _outcome(plan: dict[str, Any]) -> str | None:
    reason: str | None = (plan.get("outcome") or {}).get("reason")
    return reason


def _skipped(plan: dict[str, Any]) -> dict[str, Any]:
    return {"stage": plan["stage"], "name": plan["name"], "load": plan["load"], "words": plan["outcome"]["words"]}


def _warm_up(tallies: Sequence[StageTally], run: Run) -> dict[str, Any] | None:
    """What the requests before the first stage showed: that it works, and how the server counts a prompt."""
    if not tallies:
        return None
    spec = run.facts["spec"] or {}
    wanted = spec.get("input_tokens")
    prompts = _joined([piece for tally in tallies for piece in tally.all_prompt_tokens])
    told: dict[str, Any] = {
        "requests": sum(sum(map(len, tally.all_sent_ns)) for tally in tallies),
        "prompt_tokens": None,
    }
    if len(prompts):
        mean = float(prompts.mean())
        is_number = isinstance(wanted, int) and spec.get("turns") is None
        whole = wanted + spec.get("prefix_tokens", 0) if is_number else None
        told["prompt_tokens"] = {
            "wanted": whole,
            "mean": round(mean, 3),
            "min": int(prompts.min()),
            "max": int(prompts.max()),
            "off_share": round(mean / whole - 1, 9) if whole else None,
        }
    return told


def _stage(plan: dict[str, Any], tally: StageTally, run: Run) -> dict[str, Any]:
    window, open_loop, captures = tally.window, is_open_loop(plan), run.of_stage(plan)
    length_s = window.length_ns / NS_PER_S
    flow = _flow(tally)
    sent_ns, ended_ns = flow.sent_ns, flow.ended_ns
    in_flight = rates.concurrency(sent_ns, ended_ns, window.start_ns, window.stop_ns)
    latencies = {f"{name}_ms": _block(histogram, NS_PER_MS, 6) for name, histogram in _histograms(tally).items()}

    def per_s(amount: float) -> float | None:
        return round(amount / length_s, 6) if length_s else None

    return {
        "name": plan["name"],
        "stage": plan["stage"],
        "outcome": plan.get("outcome"),
        "load": plan["load"],
        "duration_s": plan.get("duration_s"),
        "arrivals_planned": plan.get("arrivals_planned"),
        "window_s": length_s,
        "window": {
            "start_ns": window.start_ns,
            "stop_ns": window.stop_ns,
            "start_s": (window.start_ns - window.begin_ns) / NS_PER_S,
            "rule": window.rule,
        },
        "requests": {
            "offered": tally.sent + tally.dropped if open_loop else None,
            "sent": tally.sent,
            "completed": tally.completed,
            "failed": tally.sent - tally.completed - tally.cancelled,
            "cancelled": tally.cancelled,
            "late": tally.late if open_loop else None,
            "dropped": tally.dropped if open_loop else None,
            "retried": tally.retried,
            "errors": dict(sorted(tally.errors.items(), key=lambda item: (-item[1], item[0]))),
        },
        "warmup_requests": tally.warmup,
        "after_window_requests": tally.after_window,
        **latencies,
        "by_turn": _by_turn(tally),
        "output_tokens_per_s": per_s(tally.output_tokens),
        "input_tokens_per_s": per_s(tally.input_tokens) if tally.prompts_told else None,
        "requests_per_s": per_s(tally.finished),
        "inputs_per_s": per_s(tally.finished * plan["inputs_per_request"]) if "inputs_per_request" in plan else None,
        "output_tokens_a_request": round(tally.completed_tokens / tally.completed, 6) if tally.completed else None,
        "goodput_per_s": per_s(tally.good) if tally.limits else None,
        "slo": _slo(tally) if tally.limits else None,
        "fluidity": _fluidity(tally),
        "token_source": _token_source(tally),
        "lengths": _lengths(tally),
        "token_rule": TOKEN_RULE,
        "concurrency": None if in_flight is None else {"mean": round(in_flight[0], 6), "peak": in_flight[1]},
        "intervals": _intervals(tally),
        "backlog": _backlog(plan, tally, flow) if open_loop else None,
        "halves": _halves(tally, flow, open_loop),
        "client": _client(tally, captures) | {"spin": bool((run.facts["spec"] or {}).get("spin"))},
        "by_worker": _by_worker(tally, captures),
        "timeline": _timeline(tally, flow, open_loop),
    }


class _Flow(NamedTuple):
    """What is kept of every request that was sent; `ttft_ns` and `ttft_due_ns` are ABSENT where it did not complete."""

    sent_ns: Integers
    due_ns: Integers
    ended_ns: Integers
    ttft_ns: Integers
    ttft_due_ns: Integers


def _flow(tally: StageTally) -> _Flow:
    sent_ns, ended_ns, ttft_ns = (
        _joined(pieces) for pieces in (tally.all_sent_ns, tally.all_ended_ns, tally.all_ttft_ns)
    )
    if all(due is sent for due, sent in zip(tally.all_due_ns, tally.all_sent_ns, strict=True)):
        return _Flow(sent_ns, sent_ns, ended_ns, ttft_ns, ttft_ns)
    due_ns = _joined(tally.all_due_ns)
    return _Flow(sent_ns, due_ns, ended_ns, ttft_ns, np.where(ttft_ns == ABSENT, ABSENT, ttft_ns + (sent_ns - due_ns)))


def _by_turn(tally: StageTally) -> list[dict[str, Any]] | None:
    """By turn of a session, counted from 0; None where there were no sessions."""
    return [
        {
            "turn": turn,
            "count": told.sent,
            "ttft_ms": _block(told.ttft, NS_PER_MS, 6),
            "ttft_intended_ms": _block(told.ttft_intended, NS_PER_MS, 6),
            "prompt_tokens_mean": round(told.prompt_tokens / told.prompts_told, 3) if told.prompts_told else None,
        }
        for turn, told in sorted(tally.turns.items())
    ] or None


def _histograms(tally: StageTally) -> dict[str, Histogram]:
    histograms = dict(tally.latencies)
    histograms["itl"] = merge([tally.gaps_of_one, tally.gaps_of_many])
    if tally.gaps_of_many.total:
        histograms["itl_per_token"] = merge([tally.gaps_of_one, tally.gaps_of_many_per_token])
    return histograms


def _log(stage: int, tally: StageTally, first_ns: int) -> list[LogLine]:
    start_s = (tally.window.start_ns - first_ns) / NS_PER_S
    length_s = tally.window.length_ns / NS_PER_S
    named = _histograms(tally) | {"lag": _lag(tally), "lateness": _lateness(tally)}
    for turn, told in sorted(tally.turns.items()):
        named |= {f"ttft_turn_{turn}": told.ttft, f"ttft_intended_turn_{turn}": told.ttft_intended}
    return [LogLine(f"{stage}.{name}", start_s, length_s, one) for name, one in named.items() if one.total]


def _details(tally: StageTally) -> Details:
    kept = tally.kept
    return Details(_histograms(tally), kept.sample.best(), kept.slowest_ttft.best(), kept.slowest_e2e.best())


def _block(histogram: Histogram, ns_per_unit: int, digits: int) -> dict[str, Any] | None:
    if not histogram.total:
        return None

    def scaled(value_ns: float | None) -> float | None:
        return None if value_ns is None else round(value_ns / ns_per_unit, digits)

    values = percentiles(histogram, list(PERCENTILES.values()))
    return {
        "count": histogram.total,
        "mean": scaled(histogram.mean_ns),
        "min": scaled(histogram.min_ns),
        **{name: scaled(value) for name, value in zip(PERCENTILES, values, strict=True)},
        "max": scaled(histogram.max_ns),
        "unreliable": [name for name, wanted in PERCENTILES.items() if histogram.total < sample_floor(wanted)],
    }


def _slo(tally: StageTally) -> dict[str, Any]:
    histograms = _histograms(tally)
    limits = {}
    for name, limit in tally.limits.items():
        limits[name] = {
            "limit_ms": limit.limit_ns / NS_PER_MS,
            "percentile": limit.percentile,
            "value_ms": None,
            "met": None,
            "met_share": tally.met[name] / tally.completed if tally.completed else None,
            "attained": _attained(tally, name),
        }
        waited = histograms.get(
            f"{name}_intended"
        )  # only with a schedule, and then it is what the limit is held against
        values = waited if waited is not None and waited.total else histograms[name]
        if limit.percentile is not None and values.total:
            value_ns = percentiles(values, [limit.percentile])[0]
            assert value_ns is not None
            limits[name] |= {"value_ms": round(value_ns / NS_PER_MS, 6), "met": value_ns <= limit.limit_ns}
    return limits


INTERVAL_PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def _intervals(tally: StageTally) -> dict[str, Any]:
    """95 % intervals [low, high] within the run: rates by block bootstrap over the bins, percentiles by order statistics."""
    line = tally.timeline
    inside = slice(line.before, line.before + line.inside)
    per_s = NS_PER_S / line.bin_ns
    rates_ = {"output_tokens_per_s": line.tokens, "requests_per_s": line.finished}
    told: dict[str, Any] = {}
    for name, by_bin in rates_.items():
        found = block_bootstrap(by_bin[inside] * per_s, np.mean)
        told[name] = None if found is None else [round(found.low, 6), round(found.high, 6)]
    in_order = np.argsort(_joined(tally.judged_due_ns), kind="stable")
    for name, pieces in tally.judged.items():
        values = metrics.present(_joined(pieces)[in_order])
        found_ = quantile_intervals(values, list(INTERVAL_PERCENTILES.values()))
        told[f"{name}_ms"] = {
            percentile: [round(one.low / NS_PER_MS, 6), round(one.high / NS_PER_MS, 6)]
            for percentile, one in zip(INTERVAL_PERCENTILES, found_, strict=bool(found_))
        } or None
    return told


def _backlog(plan: dict[str, Any], tally: StageTally, flow: _Flow) -> dict[str, Any] | None:
    """Whether what has come due and is not answered yet grows over the window: a rate above what the endpoint serves."""
    window, line = tally.window, tally.timeline
    edges_ns = line.edges_ns[line.before : line.before + line.inside + 1]
    arrived = int(np.count_nonzero(rates.within(window, flow.due_ns)))
    if len(edges_ns) < 2 or not window.length_ns:
        return None
    waiting = rates.in_flight_means(flow.due_ns, flow.ended_ns, edges_ns)
    found = growth(
        (edges_ns[:-1] - window.start_ns) / NS_PER_S,
        waiting,
        arrived / (window.length_ns / NS_PER_S),
        scatter_of(plan["load"].get("arrivals", "")),
    )
    return (
        None
        if found is None
        else {
            "growth_per_s": round(found.per_s, 6),
            "growth_share": round(found.share, 6),
            "deviations": round(found.deviations, 3),
            "grows": found.grows,
        }
    )


def _attained(tally: StageTally, name: str) -> dict[str, Any] | None:
    """The share of the requests answered or failed that met an objective, with Wilson's interval over what they are worth.

    A failure has met nothing. Neighbours wait in one queue: `worth` is how many independent requests they amount to.
    """
    if not tally.judged_due_ns:
        return None
    met = _joined(tally.judged_met[name])[np.argsort(_joined(tally.judged_due_ns), kind="stable")]
    worth = len(met) / design_effect(met)
    found = wilson(float(np.count_nonzero(met)) / len(met) * worth, worth)
    return {
        "requests": len(met),
        "met": int(np.count_nonzero(met)),
        "worth": round(worth, 3),
        "low": round(found.low, 9),
        "high": round(found.high, 9),
    }


def _fluidity(tally: StageTally) -> float | None:
    deadlines = tally.deadlines_met + tally.deadlines_missed
    return tally.deadlines_met / deadlines if deadlines else None


def _token_source(tally: StageTally) -> str | None:
    by = {
        "usage": tally.usage_told,
        "tokenizer": tally.locally_counted,
        "events": tally.usage_untold - tally.locally_counted,
    }
    sources = [name for name, requests in by.items() if requests]
    return "mixed" if len(sources) > 1 else sources[0] if sources else None


def _lengths(tally: StageTally) -> dict[str, Any] | None:
    """What was asked for beside what the server counted; None where nobody knows."""
    return {
        side: {
            "requests": told.requests,
            "wanted_mean": round(told.wanted / told.requests, 3),
            "server_mean": round(told.counted / told.requests, 3),
            "mean_difference": round(told.off / told.requests, 3),
            "exact_share": round(told.exact / told.requests, 6),
        }
        for side, told in tally.lengths.items()
        if told.requests
    } or None


def _halves(tally: StageTally, flow: _Flow, open_loop: bool) -> dict[str, Any]:
    """The tests of steadiness: tokens by bin, TTFT by request, in time order and inside the window.

    In open loop the one that is judged is TTFT from the intended time: a queue that grows in the client, before the
    send, would not show in the other.
    """
    line = tally.timeline
    per_s = line.tokens[line.before : line.before + line.inside] * (NS_PER_S / line.bin_ns)
    counted = rates.within(tally.window, flow.due_ns) & (flow.ttft_ns != ABSENT)
    in_order = np.flatnonzero(counted)[np.argsort(flow.due_ns[counted], kind="stable")]
    return {
        "output_tokens_per_s": _compared(per_s),
        "ttft_ms": _compared(_medians_ms(flow.ttft_ns[in_order])),
        "ttft_intended_ms": _compared(_medians_ms(flow.ttft_due_ns[in_order])) if open_loop else None,
    }


def _medians_ms(values_ns: Integers) -> list[float]:
    # Blocks of five requests at least: the medians of fewer would be single requests.
    blocks = np.array_split(values_ns, max(1, min(MOST_BLOCKS, len(values_ns) // 5)))
    return [float(np.median(block)) / NS_PER_MS for block in blocks if len(block)]


def _compared(series: Any) -> dict[str, Any] | None:
    compared = halves(series)
    if compared is None:
        return None
    return {
        "first": round(compared.first, 6),
        "second": round(compared.second, 6),
        "change_share": round(compared.change_share, 6),
        "t": round(compared.t, 3),
        "t_limit": round(compared.t_limit, 3),
        "differ": compared.differ,
    }


def _lag(tally: StageTally) -> Histogram:
    return merge(worker.lag for worker in tally.workers.values())


def _lateness(tally: StageTally) -> Histogram:
    return merge(worker.lateness for worker in tally.workers.values())


def _client(tally: StageTally, captures: list[Capture]) -> dict[str, Any]:
    window = tally.window
    span = (window.begin_ns, window.end_ns)
    reads = sum(watches.counted(capture, "reads", *span) for capture in captures)
    unstamped = sum(watches.counted(capture, "unstamped", *span) for capture in captures)
    return {
        "lag_us": _block(_lag(tally), NS_PER_US, 3),
        "lateness_us": _block(_lateness(tally), NS_PER_US, 3),
        "coalesced_share": round(tally.coalesced_events / tally.events, 9) if tally.events else None,
        "cpu_share": [_cpu_share(capture, tally) for capture in captures],
        "kernel_stamps": tally.unstamped_requests == 0 if tally.sent else None,
        "stamp_source": "kernel" if all(c.facts["stamp_source"] == "kernel" for c in captures) else "read",
        "unstamped_share": round(unstamped / reads, 9) if reads else None,
        "unstamped_requests": tally.unstamped_requests,
        "unprepared_requests": round(sum(watches.counted(capture, "unprepared", *span) for capture in captures)),
        "reopened_connections": round(sum(watches.counted(capture, "reopened", *span) for capture in captures)),
        "clock_steps_ms": [step_ns / NS_PER_MS for _, step_ns in watches.clock_steps(captures, *span)],
        "suspended_ms": sum(slept_ns for _, slept_ns in watches.sleeps(captures, *span)) / NS_PER_MS,
        "silent_ms": {
            str(capture.worker): silence_ns / NS_PER_MS
            for capture in captures
            if (silence_ns := watches.longest_silence_ns(capture, *span)) > LONG_SILENCE_NS
        },
    }


def _cpu_share(capture: Capture, tally: StageTally) -> float | None:
    share = watches.cpu_share(capture, tally.window.start_ns, tally.window.stop_ns)
    return None if share is None else round(share, 6)


def _by_worker(tally: StageTally, captures: list[Capture]) -> list[dict[str, Any]]:
    told = []
    for capture in captures:
        worker = tally.workers.get(capture.worker)
        told.append(
            {
                "worker": capture.worker,
                "core": capture.facts["core"],
                "sent": worker.sent if worker else 0,
                "output_tokens": round(worker.output_tokens, 3) if worker else 0,
                "lag_p99_us": _p99_us(worker.lag) if worker else None,
                "lateness_p99_us": _p99_us(worker.lateness) if worker else None,
                "cpu_share": _cpu_share(capture, tally),
            }
        )
    return told


def _p99_us(histogram: Histogram) -> float | None:
    p99_ns = percentiles(histogram, [99])[0]
    return None if p99_ns is None else p99_ns / NS_PER_US


def _timeline(tally: StageTally, flow: _Flow, open_loop: bool) -> dict[str, Any]:
    """By bin, from the stage's start to its end; `start_s` counts from the start of the window.

    In open loop the requests that fell due in each bin (dropped ones too) and those that were sent: what runs ahead of the
    other, summed up, is the backlog. `failed` goes by the moment of the failure, `lag_max_us` is the worst read of the
    requests that ended in the bin.
    """
    line, known = tally.timeline, flow.ttft_ns != ABSENT
    sent_ns, due_ns, ttft_ns = flow.sent_ns[known], flow.due_ns[known], flow.ttft_ns[known]
    in_flight = rates.in_flight_means(flow.sent_ns, flow.ended_ns, line.edges_ns)
    return {
        "bin_s": line.bin_ns / NS_PER_S,
        "start_s": (line.origin_ns - tally.window.start_ns) / NS_PER_S,
        "output_tokens": [round(tokens, 3) for tokens in line.tokens.tolist()],
        "in_flight": [round(mean, 3) for mean in in_flight.tolist()],
        "offered": line.offered.tolist() if open_loop else None,
        "sent": line.sent.tolist() if open_loop else None,
        "failed": line.failed.tolist(),
        "lag_max_us": [round(lag_ns / NS_PER_US, 3) for lag_ns in line.lag_max_ns.tolist()],
        "ttft_p50_ms": _p50_by_bin(line, sent_ns, ttft_ns),
        "ttft_intended_p50_ms": _p50_by_bin(line, due_ns, flow.ttft_due_ns[known]) if open_loop else None,
    }


def _p50_by_bin(line: rates.Timeline, times_ns: Integers, values_ns: Integers) -> list[float | None]:
    bins = rates.bins_of(line, times_ns)
    in_order = np.argsort(bins, kind="stable")
    borders = np.searchsorted(bins[in_order], np.arange(len(line.tokens) + 1))
    pieces = (values_ns[in_order[first:after]] for first, after in pairwise(borders))
    return [round(float(np.median(one)) / NS_PER_MS, 6) if len(one) else None for one in pieces]


def _joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
