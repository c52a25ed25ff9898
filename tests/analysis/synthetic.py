"""Captures without a load generator: written straight from the contract in loadgen.schema, so that the analysis is
tested against the file format and not against the worker's idea of it.

`write_run` makes a whole run directory out of stages of rows; `lock_step` draws the rows of a batching engine.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from loadgen.schema import CAPTURE_SCHEMA, SCHEMA_VERSION, WATCH_KEY, encode_metadata

MS = 1_000_000
S = 1_000_000_000
START_NS = 5_000 * S
REALTIME_OFFSET_NS = 1_790_000_000 * S
FINISHED = {"reason": "finished", "words": ""}


def row(sent_ns: int, event_ns: Sequence[int] = (), **facts: Any) -> dict[str, Any]:
    """A request that completed, unless `error` is given."""
    return {
        "request_id": 0,
        "stage": 0,
        "worker": 0,
        "sent_ns": sent_ns,
        "first_byte_ns": event_ns[0] if event_ns else None,
        "last_byte_ns": event_ns[-1] if event_ns else None,
        "ended_ns": event_ns[-1] if event_ns else sent_ns,
        "event_ns": list(event_ns),
        "coalesced_events": 0,
        "max_lag_ns": 5_000,
        "kernel_stamps": True,
        "status": 200,
        "request_bytes": 400,
        "response_bytes": 200 * len(event_ns),
        "retries": 0,
        "target": 0,
        "endpoint": 0,
    } | facts


def stage_plan(stage: int = 0, **facts: Any) -> dict[str, Any]:
    """A stage as in run.json: concurrency 2 for 10 s, without a warm-up."""
    return {
        "stage": stage,
        "name": f"concurrency {2 * 2**stage}",
        "load": {"mode": "concurrency", "value": 2 * 2**stage},
        "warmup_s": 0.0,
        "duration_s": 10.0,
        "requests": None,
    } | facts


def open_plan(stage: int = 0, rate_per_s: float = 100.0, seconds: float = 10.0, **facts: Any) -> dict[str, Any]:
    """An open-loop stage as in run.json: constant arrivals for `seconds`; keys of `load` may be given with `load_`."""
    load = {"mode": "rate", "value": rate_per_s, "arrivals": "constant"}
    load |= {name.removeprefix("load_"): facts.pop(name) for name in list(facts) if name.startswith("load_")}
    return {
        "stage": stage,
        "name": f"rate {rate_per_s:g}/s",
        "load": load,
        "ramp_up_s": 0.0,
        "warmup_s": 0.0,
        "warmup_requests": 0,
        "duration_s": seconds,
        "requests": None,
        "sessions": None,
        "arrivals_planned": round(rate_per_s * seconds),
    } | facts


def frozen_server(
    rate_per_s: int = 100,
    seconds: float = 30.0,
    places: int = 16,
    freeze_at_s: float = 12.0,
    freeze_s: float = 1.4,
    ttft_ms: float = 40.0,
    tokens: int = 8,
    drop_after_s: float | None = None,
) -> list[dict[str, Any]]:
    """What a client that holds `places` requests in flight, at constant arrivals, sees of a server that stops once.

    Walked through in order: an arrival is sent when it is due and a place is free, or as soon as one is. A response takes
    40 ms and 7 gaps of 5 ms; whatever falls into the freeze comes at its end.
    """
    thaw_ns = START_NS + round((freeze_at_s + freeze_s) * S)
    frozen_ns = START_NS + round(freeze_at_s * S)

    def comes(t_ns: int) -> int:
        return thaw_ns if frozen_ns <= t_ns < thaw_ns else t_ns

    free_ns = [0] * places
    rows = []
    for number in range(round(rate_per_s * seconds)):
        due_ns = START_NS + number * S // rate_per_s
        place = min(range(places), key=free_ns.__getitem__)
        sent_ns = max(due_ns, free_ns[place])
        if drop_after_s is not None and sent_ns - due_ns > drop_after_s * S:
            given_up_ns = due_ns + round(drop_after_s * S)
            rows.append(
                row(given_up_ns, request_id=number, intended_ns=due_ns, error="dropped", status=None, max_lag_ns=0)
            )
            continue
        events = []
        t_ns = sent_ns + round(ttft_ms * MS)
        for _ in range(tokens):
            t_ns = comes(t_ns)
            events.append(t_ns)
            t_ns += 5 * MS
        free_ns[place] = events[-1]
        rows.append(row(sent_ns, events, request_id=number, intended_ns=due_ns))
    return sorted(rows, key=lambda one: one["ended_ns"])


def mark(stage: int = 0, start_ns: int = START_NS, seconds: float = 10.0, **facts: Any) -> dict[str, Any]:
    """A stage as a worker marks it: no warm-up, sending ended after `seconds`, done one second later."""
    stop_ns = start_ns + round(seconds * S)
    return {
        "stage": stage,
        "start_ns": start_ns,
        "measure_ns": start_ns,
        "stop_ns": stop_ns,
        "idle_ns": stop_ns,
        "done_ns": stop_ns + S,
    } | facts


def watch(samples: Sequence[Sequence[int]] = (), marks: Sequence[dict[str, Any]] = (), **facts: Any) -> dict[str, Any]:
    """The metadata of one batch."""
    return {
        "samples": [list(sample) for sample in samples],
        "stages": list(marks),
        "sent": 0,
        "reopened": 0,
        "unstamped": 0,
        "reads": 0,
        "clock_steps": [],
        "closing": False,
    } | facts


def steady_samples(start_ns: int, stop_ns: int, cpu_share: float = 0.3) -> list[list[int]]:
    """A sample every 100 ms of a worker that uses an even share of its core."""
    times = range(start_ns, stop_ns + 1, 100 * MS)
    return [[t_ns, round((t_ns - start_ns) * cpu_share), REALTIME_OFFSET_NS, 1] for t_ns in times]


def file_facts(plans: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """File metadata before encoding."""
    return {
        "schema": SCHEMA_VERSION,
        "loadgen": "0.1.0",
        "run_id": "synthetic",
        "worker": 0,
        "workers": 1,
        "core": 1,
        "host": "here",
        "kernel": "6.1",
        "clock_source": "tsc",
        "stamp_source": "kernel",
        "transport": "kernel",
        "realtime_offset_ns": REALTIME_OFFSET_NS,
        "spec": {"model": "m", "slo": None},
        "stages": list(plans),
    } | facts


def write_capture(
    path: Path, facts: dict[str, Any], batches: Iterable[tuple[Any, dict[str, Any]]], closed: bool = True
) -> None:
    """One worker's file. A batch is (rows or RecordBatch, watch); a closed file gets an empty closing batch and an end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = CAPTURE_SCHEMA.with_metadata(encode_metadata(facts))
    last: dict[str, Any] = watch()
    with pa.OSFile(str(path), "wb") as out:
        writer = ipc.new_stream(out, schema, options=ipc.IpcWriteOptions(compression="zstd"))
        for rows, told in batches:
            batch = (
                rows if isinstance(rows, pa.RecordBatch) else pa.RecordBatch.from_pylist(rows, schema=CAPTURE_SCHEMA)
            )
            writer.write_batch(batch.replace_schema_metadata(None), custom_metadata={WATCH_KEY: json.dumps(told)})
            last = told
        if closed:
            empty = pa.RecordBatch.from_pylist([], schema=CAPTURE_SCHEMA)
            ending = last | {"samples": [], "closing": True}
            writer.write_batch(empty, custom_metadata={WATCH_KEY: json.dumps(ending)})
            writer.close()


def write_run(
    run_dir: Path,
    rows: Sequence[dict[str, Any]],
    plans: Sequence[dict[str, Any]] | None = None,
    marks: Sequence[dict[str, Any]] | None = None,
    *,
    spec: dict[str, Any] | None = None,
    ended: dict[str, Any] | None = FINISHED,
    run_json: bool = True,
    closed: bool = True,
    file: dict[str, Any] | None = None,
    told: dict[str, Any] | None = None,
    cpu_share: float = 0.3,
    batch_rows: int = 64,
) -> Path:
    """A run of one worker; `told` overrides keys of the batches' watch, `file` keys of the file's metadata."""
    plans = [stage_plan()] if plans is None else plans
    marks = [mark(plan["stage"]) for plan in plans] if marks is None else marks
    spec = {"model": "m", "slo": None} if spec is None else spec
    facts = file_facts(plans, spec=spec) | (file or {})
    end_ns = max((m["done_ns"] or m["stop_ns"] or m["start_ns"] for m in marks), default=START_NS)
    samples = steady_samples(START_NS, end_ns, cpu_share)
    parts = [rows[first : first + batch_rows] for first in range(0, len(rows), batch_rows)] or [[]]
    shares = np.array_split(np.array(samples), len(parts))
    batches = [(part, watch(share.tolist(), marks, **(told or {}))) for part, share in zip(parts, shares, strict=True)]
    write_capture(run_dir / "capture" / f"worker-{facts['worker']:02}.arrow", facts, batches, closed)
    if run_json:
        host = {"name": "here", "cpus": 2, "kernel": "6.1", "clock_source": "tsc"}
        run = {"schema": 1, "run_id": facts["run_id"], "loadgen": "0.1.0", "started_at": "2026-11-23T06:00:00+00:00"}
        run |= {"spec": spec, "stages": list(plans), "host": host, "ended": ended}
        run |= {"workers": [{"worker": facts["worker"], "core": 1}]}
        (run_dir / "run.json").write_text(json.dumps(run))
    return run_dir


def steady_rows(
    concurrency: int = 2,
    seconds: float = 10.0,
    start_ns: int = START_NS,
    ttft_ms: float = 50.0,
    tokens: int = 16,
    **facts: Any,
) -> list[dict[str, Any]]:
    """A closed loop without a fault: `concurrency` slots, a gap of 5 ms a token, the next request 2 us after the last."""
    rows = []
    for slot in range(concurrency):
        t_ns = start_ns + slot * 1_000
        while t_ns < start_ns + round(seconds * S):
            first_ns = t_ns + round(ttft_ms * MS)
            events = [first_ns + index * 5 * MS for index in range(tokens)]
            rows.append(row(t_ns, events, request_id=len(rows), **facts))
            t_ns = events[-1] + 2_000
    return sorted(rows, key=lambda one: one["last_byte_ns"])


def lock_step_batch(
    requests: int, tokens: int, first_sent_ns: int, seed: int, tick_ns: int = 20 * MS, usage: bool = True
) -> pa.RecordBatch:
    """Many requests at once, vectorised: an engine's ticks with a few us of noise."""
    rng = np.random.default_rng(seed)
    sent_ns = first_sent_ns + np.sort(rng.integers(0, tick_ns, requests))
    ticks = first_sent_ns + 3 * tick_ns + tick_ns * np.arange(tokens)
    event_ns = ticks[None, :] + rng.integers(0, 200_000, (requests, tokens))
    return batch_of(0, sent_ns, event_ns, seed, usage)


def batch_of(
    first_id: int, sent_ns: NDArray[np.int64], event_ns: NDArray[np.int64], seed: int, usage: bool = True
) -> pa.RecordBatch:
    """Requests that completed, from their sends and their events, a line a request; numbered from `first_id` on."""
    rng = np.random.default_rng([seed, 1])
    requests, tokens = event_ns.shape
    offsets = np.arange(0, requests * tokens + 1, tokens, dtype=np.int32)
    last_ns = event_ns[:, -1]
    columns: dict[str, Any] = {
        "request_id": np.arange(first_id, first_id + requests, dtype=np.uint64),
        "stage": np.zeros(requests, np.uint16),
        "worker": np.zeros(requests, np.uint16),
        "sent_ns": sent_ns,
        "first_byte_ns": event_ns[:, 0],
        "last_byte_ns": last_ns,
        "ended_ns": last_ns,
        "event_ns": pa.ListArray.from_arrays(offsets, pa.array(event_ns.ravel())),
        "coalesced_events": np.zeros(requests, np.uint32),
        "max_lag_ns": rng.integers(2_000, 30_000, requests),
        "kernel_stamps": np.ones(requests, np.bool_),
        "prompt_tokens": np.full(requests, 512, np.int32),
        "output_tokens": np.full(requests, tokens, np.int32) if usage else None,
        "status": np.full(requests, 200, np.int16),
        "request_bytes": np.full(requests, 2_000, np.uint32),
        "response_bytes": np.full(requests, 200 * tokens, np.uint32),
        "retries": np.zeros(requests, np.uint16),
        "target": np.zeros(requests, np.uint16),
        "endpoint": np.zeros(requests, np.uint16),
    }
    arrays = [
        pa.nulls(requests, field.type) if columns.get(field.name) is None else pa.array(columns[field.name], field.type)
        for field in CAPTURE_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CAPTURE_SCHEMA)
