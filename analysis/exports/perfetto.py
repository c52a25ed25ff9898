"""trace.json: sampled requests as slices, for ui.perfetto.dev and chrome://tracing (Trace Event Format, JSON).

A process a worker, a track a slot, and on it the requests one after the other: to the first token (from the send: queue and
prefill) and decode (first to last), after the time to connect where it paid for one. Slots are dealt out here: a request
takes the first track that is free. Counters of each stage's timeline stand beside them.
"""

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from analysis import metrics
from analysis.exports.files import whole
from analysis.opened import Opened, opened
from analysis.rows import ABSENT, COLUMNS
from analysis.summary import summarize

NS_PER_US: Final = 1_000
US_PER_S: Final = 1_000_000

COUNTERS_PID: Final = 1_000_000
"""Of the process that has the counters; workers are numbered from 1."""

# Weyl's sequence by the golden ratio: multiples of it, cut to 64 bits, spread over all of them, and the smallest belong to
# requests from all over the run.
_SPREAD: Final = 0x9E3779B97F4A7C15

KEPT: Final = ("worker", "status", "session_id", "finish_reason", "response_id")
"""Of a sampled request, as the capture has them."""

Request = dict[str, Any]


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    run = opened(run_dir)
    told = summarize(run_dir)
    path = out_dir / "trace.json"
    with whole(path) as part, part.open("w", encoding="utf-8") as out:
        out.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(_events(run, sampled(run, sample), told)):
            out.write((",\n" if number else "") + json.dumps(event))
        out.write("\n]}\n")
    return [path]


def sampled(run: Opened, sample: int) -> list[Request]:
    """So many requests that were sent, from all over the run, the same ones each time; by the time of the send."""
    kept: list[tuple[int, int, Request]] = []
    for number, piece in enumerate(run.pieces(also=tuple(name for name in KEPT if name not in COLUMNS))):
        rows = piece.rows
        request_ids = piece.batch.column("request_id").to_numpy()
        with np.errstate(over="ignore"):
            spread = request_ids * np.uint64(_SPREAD)
        limit = np.uint64(-kept[0][0]) if len(kept) == sample else np.uint64(np.iinfo(np.uint64).max)
        first_ns, last_ns = metrics.first_output_ns(rows), metrics.last_output_ns(rows)
        due_ns, output_tokens = metrics.due_ns(rows), metrics.output_tokens(rows)
        for at in np.flatnonzero((spread < limit) & ~rows.dropped).tolist():
            one = {
                "request_id": int(request_ids[at]),
                "stage": piece.stage,
                "due_ns": int(due_ns[at]),
                "sent_ns": int(rows.sent_ns[at]),
                "connect_ns": int(rows.connect_ns[at]),
                "first_ns": int(first_ns[at]),
                "last_ns": int(last_ns[at]),
                "ended_ns": int(rows.ended_ns[at]),
                "events": int(rows.events[at]),
                "prompt_tokens": int(rows.prompt_tokens[at]),
                "output_tokens": int(output_tokens[at]),
                "error": rows.error[at].as_py(),
                "target": int(rows.target[at]),
                "endpoint": int(rows.endpoint[at]),
                **{name: piece.batch.column(name)[at].as_py() for name in KEPT},
            }
            item = (-int(spread[at]), number, one)
            if len(kept) < sample:
                heapq.heappush(kept, item)
            else:
                heapq.heappushpop(kept, item)
    return sorted((one for *_, one in kept), key=lambda one: (one["sent_ns"], one["request_id"]))


def _events(run: Opened, requests: list[Request], told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    free_at: dict[int, list[int]] = {}
    for one in requests:
        pid, begin_ns = one["worker"] + 1, one["sent_ns"] - max(one["connect_ns"], 0)
        tracks = free_at.setdefault(pid, [])
        track = next((at for at, free_ns in enumerate(tracks) if free_ns <= begin_ns), len(tracks))
        if track == len(tracks):
            tracks.append(0)
            yield _name("thread_name", pid, track + 1, f"slot {track + 1}")
        tracks[track] = one["ended_ns"]
        parts = [(f"request {one['request_id']}", begin_ns, one["ended_ns"])]
        if begin_ns < one["sent_ns"]:
            parts.append(("connect", begin_ns, one["sent_ns"]))
        if one["first_ns"] != ABSENT:
            parts.append(("to the first token", one["sent_ns"], one["first_ns"]))
            if one["last_ns"] > one["first_ns"]:
                parts.append(("decode", one["first_ns"], one["last_ns"]))
        for number, (name, from_ns, to_ns) in enumerate(parts):
            begin_us = (from_ns - run.origin_ns) / NS_PER_US
            slice_ = {"ph": "X", "name": name, "cat": "request", "ts": begin_us, "dur": (to_ns - from_ns) / NS_PER_US}
            yield slice_ | {"pid": pid, "tid": track + 1} | ({} if number else {"args": _facts(one)})
    for pid in sorted(free_at):
        yield _name("process_name", pid, 0, f"worker {pid - 1}")
    yield from _counters(run, told)


def _facts(one: Request) -> dict[str, Any]:
    facts = {name: one[name] for name in ("stage", "events", "output_tokens", "status", "error")}
    if one["prompt_tokens"] != ABSENT:
        facts["prompt_tokens"] = one["prompt_tokens"]
    if one["due_ns"] < one["sent_ns"]:
        facts["lateness_us"] = (one["sent_ns"] - one["due_ns"]) / NS_PER_US
    return facts


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _counters(run: Opened, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield _name("process_name", COUNTERS_PID, 0, "load")
    for stage in told["stages"]:
        line, window = stage["timeline"], run.windows[stage["stage"]]
        first_us = (window.start_ns - run.origin_ns) / NS_PER_US + line["start_s"] * US_PER_S
        for number, (tokens, in_flight) in enumerate(zip(line["output_tokens"], line["in_flight"], strict=True)):
            at = {"ph": "C", "pid": COUNTERS_PID, "tid": 0, "ts": first_us + number * line["bin_s"] * US_PER_S}
            yield at | {"name": "output tokens/s", "args": {"tokens/s": tokens / line["bin_s"]}}
            yield at | {"name": "in flight", "args": {"requests": in_flight}}
