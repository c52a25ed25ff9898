"""How fast a capture becomes a summary, and in how much memory.

Truth: tokens in the file, CPU and peak memory of the finished process by the operating system's accounting.

Method: a capture is drawn, batch for batch of the size that workers write (16,384 events, zstd 1): an engine in lock step,
20 ms a tick, 200 us of noise on every stamp, so that stamps compress as badly as real ones do. Then a fresh interpreter
makes the summary of it; its start-up is told apart. The second size is ten times the first: a cost a token that grows, or
memory, would show. `plain` is what most servers give; in `told` each event says how many tokens it holds, one to four, and
the run has four objectives: more columns, more work a token. `percentile_error` is against numpy's percentiles of the same
gaps (at most 10 million of them).

    python benchmarks/analysis_speed.py [--tokens 10000000,100000000] [--kinds plain,told] [--jobs 1,2] [--rounds 3]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from bench import save

from loadgen.schema import CAPTURE_SCHEMA, SCHEMA_VERSION, WATCH_KEY, encode_metadata

MS: Final = 1_000_000
S: Final = 1_000_000_000
START_NS: Final = 5_000 * S
TICK_NS: Final = 20 * MS
NOISE_NS: Final = 200_000
TOKENS_A_REQUEST: Final = 128
REQUESTS_A_BATCH: Final = 128
BATCHES_A_SECOND: Final = 3

ANALYSE: Final = """
import resource, sys, time
from pathlib import Path
from analysis.summary import analyse
begun = time.perf_counter(), time.process_time()
analysis = analyse(Path(sys.argv[1]), jobs=int(sys.argv[2]))
wall_s, cpu_s = time.perf_counter() - begun[0], time.process_time() - begun[1]
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(wall_s, cpu_s + children.ru_utime + children.ru_stime, max(own.ru_maxrss, children.ru_maxrss) / 1024)
stage = analysis.summary["stages"][0]
print(stage["itl_ms"]["count"])
print(*(stage["itl_ms"][name] for name in ("p50", "p90", "p99", "p99_9")))
"""

PERCENTILES: Final = (50, 90, 99, 99.9)

SLO: Final = {name: {"limit_ms": ms} for name, ms in (("ttft", 80), ("tpot", 20), ("itl", 25), ("e2e", 3000))}


def batches(tokens: int, told: bool) -> Iterator[pa.RecordBatch]:
    """Whole batches of at least so many tokens in all."""
    rng = np.random.default_rng(1)
    for number in range(-(-tokens // (REQUESTS_A_BATCH * TOKENS_A_REQUEST))):
        begin_ns = START_NS + number * S // BATCHES_A_SECOND
        sent_ns = begin_ns + np.sort(rng.integers(0, TICK_NS, REQUESTS_A_BATCH))
        ticks_ns = begin_ns + 3 * TICK_NS + TICK_NS * np.arange(TOKENS_A_REQUEST)
        event_ns = ticks_ns[None, :] + rng.integers(0, NOISE_NS, (REQUESTS_A_BATCH, TOKENS_A_REQUEST))
        offsets = np.arange(0, event_ns.size + 1, TOKENS_A_REQUEST, dtype=np.int32)
        of_each = np.ones(REQUESTS_A_BATCH, np.int64)
        columns: dict[str, Any] = {
            "request_id": np.arange(number * REQUESTS_A_BATCH, (number + 1) * REQUESTS_A_BATCH),
            "stage": of_each * 0,
            "worker": of_each * 0,
            "sent_ns": sent_ns,
            "first_byte_ns": event_ns[:, 0],
            "last_byte_ns": event_ns[:, -1],
            "ended_ns": event_ns[:, -1],
            "event_ns": pa.ListArray.from_arrays(offsets, pa.array(event_ns.ravel())),
            "coalesced_events": of_each * 0,
            "max_lag_ns": rng.integers(2_000, 30_000, REQUESTS_A_BATCH),
            "kernel_stamps": of_each == 1,
            "prompt_tokens": of_each * 512,
            "output_tokens": of_each * TOKENS_A_REQUEST,
            "status": of_each * 200,
            "request_bytes": of_each * 2_000,
            "response_bytes": of_each * 200 * TOKENS_A_REQUEST,
            "retries": of_each * 0,
        }
        if told:
            held = rng.integers(1, 5, event_ns.size).astype(np.uint16)
            columns["event_tokens"] = pa.ListArray.from_arrays(offsets, pa.array(held))
            columns["output_tokens"] = held.reshape(event_ns.shape).sum(axis=1)
        arrays = [
            pa.nulls(REQUESTS_A_BATCH, field.type)
            if field.name not in columns
            else columns[field.name]
            if isinstance(columns[field.name], pa.Array)
            else pa.array(columns[field.name]).cast(field.type)
            for field in CAPTURE_SCHEMA
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=CAPTURE_SCHEMA)


def draw(run_dir: Path, tokens: int, told: bool = False) -> tuple[int, "np.ndarray[Any, Any]"]:
    """A run directory with one worker's capture; the events that are really in it, and percentiles of their gaps, ms."""
    import json

    (run_dir / "capture").mkdir(parents=True)
    seconds = tokens / (REQUESTS_A_BATCH * TOKENS_A_REQUEST) / BATCHES_A_SECOND + 10
    stop_ns = START_NS + round(seconds * S)
    plan = {
        "stage": 0,
        "name": "drawn",
        "load": {"mode": "concurrency", "value": 1000},
        "warmup_s": 0.0,
        "duration_s": seconds,
        "requests": None,
    }
    facts = {
        "schema": SCHEMA_VERSION,
        "loadgen": "0",
        "run_id": "drawn",
        "worker": 0,
        "workers": 1,
        "core": 0,
        "host": "here",
        "kernel": "",
        "clock_source": "tsc",
        "stamp_source": "kernel",
        "transport": "kernel",
        "realtime_offset_ns": 0,
        "spec": {"model": "m", "slo": SLO if told else None},
        "stages": [plan],
    }
    mark = {
        "stage": 0,
        "start_ns": START_NS,
        "measure_ns": START_NS,
        "stop_ns": stop_ns,
        "idle_ns": stop_ns,
        "done_ns": stop_ns + S,
    }
    watch = json.dumps({"samples": [[START_NS, 0, 0, 1], [stop_ns, S, 0, 1]], "stages": [mark], "closing": True})
    schema = CAPTURE_SCHEMA.with_metadata(encode_metadata(facts))
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
    drawn, gaps_ns = 0, []
    with (
        pa.OSFile(str(run_dir / "capture" / "worker-00.arrow"), "wb") as out,
        pa.ipc.new_stream(out, schema, options=options) as writer,
    ):
        for batch in batches(tokens, told):
            writer.write_batch(batch, custom_metadata={WATCH_KEY: watch})
            drawn += batch.num_rows * TOKENS_A_REQUEST
            if drawn <= 10_100_000:
                stamps = batch.column("event_ns").flatten().to_numpy().reshape(-1, TOKENS_A_REQUEST)
                gaps_ns.append(np.diff(stamps, axis=1).ravel())
    return drawn, np.percentile(np.concatenate(gaps_ns), PERCENTILES) / MS


def measure(run_dir: Path, tokens: int, exact_ms: "np.ndarray[Any, Any]", jobs: int) -> dict[str, Any]:
    """One summary, by a fresh interpreter on as many cores as it has jobs."""
    cores = sorted(os.sched_getaffinity(0))[:jobs]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", ANALYSE, str(run_dir), str(jobs)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    whole_s = time.perf_counter() - begun
    first, second, third = done.stdout.splitlines()
    wall_s, cpu_s, rss_mb = map(float, first.split())
    gaps = tokens - tokens // TOKENS_A_REQUEST
    assert int(second) == gaps, f"{second} gaps were analysed, {gaps} were drawn"
    return {
        "tokens": tokens,
        "jobs": jobs,
        "percentile_error": round(float(np.abs(np.array(third.split(), float) / exact_ms - 1).max()), 6),
        "file_mb": round(sum(path.stat().st_size for path in (run_dir / "capture").iterdir()) / 1e6, 1),
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "start_up_s": round(whole_s - wall_s, 3),
        "million_tokens_per_s": round(tokens / wall_s / 1e6, 2),
        "million_tokens_per_cpu_s": round(tokens / cpu_s / 1e6, 2),
        "peak_rss_mb": round(rss_mb, 1),
    }


def main() -> None:
    """Draw, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="10000000,100000000")
    parser.add_argument("--kinds", default="plain,told")
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for wanted in map(int, chosen.tokens.split(",")):
        for kind in chosen.kinds.split(","):
            with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
                run_dir = Path(folder) / "run"
                tokens, exact_ms = draw(run_dir, wanted, kind == "told")
                for _ in range(chosen.rounds):
                    for jobs in map(int, chosen.jobs.split(",")):
                        save("analysis_speed", {"kind": kind} | measure(run_dir, tokens, exact_ms, jobs))


if __name__ == "__main__":
    main()
