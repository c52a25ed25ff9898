"""summary.json: what a run comes down to, and what tools read.

`summarize` reads a run directory and gives the summary as plain values; `write` puts it, and the histograms that it was
read from, beside the capture. The same capture gives the same bytes.

Version history
    1: first
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import pyarrow as pa

from analysis import partials, saturation
from analysis.captures import Capture, Run, open_run, part_of
from analysis.curves import curve
from analysis.histogram import LogLine, write_log
from analysis.jobs import order_of, stage_tallies
from analysis.latencies import stage_histograms
from analysis.scrapes import read_scrapes
from analysis.server import run_server, stage_server
from analysis.stages import Details, details, log_lines, stage_entry
from analysis.tally import StageTally, joined
from analysis.verdict import verdict
from loadgen.schema import CaptureError

SUMMARY_SCHEMA: Final = 1

NS_PER_S: Final = 1_000_000_000


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

    `jobs` processes share the second pass; the result does not depend on how many. Where captures were left on the nodes
    of a run, it is what those counted.
    """
    with _of_this_loadgen(run_dir):
        if (elsewhere := partials.kept(run_dir)) is not None:
            told, counted = elsewhere
            run = partials.gathered(run_dir, told)
            return _analysis(run, partials.whole(run, counted))
        run = open_run(run_dir)
        return _analysis(run, stage_tallies(run.captures, order_of(run), jobs))


def finished(run: Run, counted: Sequence[bytes]) -> Analysis:
    """The same of a run whose nodes counted their captures (partials.py); CaptureError where one is not there."""
    with _of_this_loadgen(run.run_dir):
        return _analysis(run, partials.whole(run, counted))


@contextmanager
def _of_this_loadgen(run_dir: Path) -> Iterator[None]:
    """CaptureError for values that no worker writes: a flipped bit, an edited file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        # The chain tells where, should it be our own doing.
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CaptureError(f"{run_dir} is damaged, or was not written by this loadgen ({what})") from error


def _analysis(run: Run, tallies: dict[int, StageTally]) -> Analysis:
    plans = {plan["stage"]: plan for plan in run.facts["stages"]}
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
        "saturation": saturation.read(run.run_dir) if run.facts.get("question") else None,
        "warm_up": _warm_up([tally for stage, tally in tallies.items() if plans[stage].get("warms_up")], run),
        "stages": [stage_entry(plans[stage], tally, run) for stage, tally in shown.items()],
        "skipped": [_skipped(plan) for plan in plans.values() if _outcome(plan) == "skipped"],
    }
    if run.facts.get("nodes"):
        summary["nodes"] = _nodes(run)
    scrapes = read_scrapes(run.run_dir)
    summary["server"] = run_server(scrapes.values())
    for told in summary["stages"]:
        plan, window = plans[told["stage"]], tallies[told["stage"]].window
        told["server"] = stage_server(scrapes.get(part_of(plan)), window, told)
    summary["curve"] = curve(summary["stages"], {stage: stage_histograms(tally) for stage, tally in shown.items()})
    summary["verdict"] = verdict(summary)
    first_ns = min((tally.window.begin_ns for tally in tallies.values()), default=0)
    start_s = (first_ns + run.realtime_offset_ns) / NS_PER_S
    log = [line for stage in shown for line in log_lines(stage, shown[stage], first_ns)]
    return Analysis(summary, log, start_s, {stage: details(tally) for stage, tally in shown.items()})


def write(run_dir: Path, analysis: Analysis) -> None:
    """Writes summary.json and histograms.hlog, each whole or not at all."""
    with _replacing(run_dir / "summary.json") as out:
        out.write(as_text(analysis.summary))
    note = f"loadgen {analysis.summary['loadgen']}, run {analysis.summary['run_id']}, values in ns"
    with _replacing(run_dir / "histograms.hlog") as out:
        write_log(out, analysis.log, analysis.log_start_s, note.replace("\n", " "))


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


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """What is written takes the file's place once all of it is there; of what fails nothing stays."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as out:
            yield out
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def _nodes(run: Run) -> list[dict[str, Any]]:
    """The machines of the last part of a run: what was planned for each, and what became of it."""
    planned = Counter(entry.get("node") for entry in run.facts["workers"])
    return [
        {
            "node": node["node"],
            "name": node.get("name"),
            "workers": planned[node["node"]],
            "lost": (node.get("lost") or {}).get("words"),
            "captures": node.get("captures"),
        }
        for node in run.facts["nodes"]
        if part_of(node) == run.last_part
    ]


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
    prompts = joined([piece for tally in tallies for piece in tally.all_prompt_tokens])
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
