"""Half an hour at 1,000 streams: is the last minute as good as the first?

Truth: the pages and descriptors that the kernel counts for the worker, and the simulator's log of its sends.

Method: one run of `--minutes` at a 20 ms tick, 50,000 tokens/s on one core. Memory and descriptors as in memory.py, whose
slope is over the second half. The stamps of the first and of the last minute of the window are joined with the truth log;
both files are read by the batch, for at 50,000 tokens/s they grow by some 50 MB a minute. The row says three things:

    memory_flat         the slope is within two standard errors of none, or what it came to is below 1 % of the worker
    descriptors_flat    the worker holds no more of them in the last tenth than in the one after the start (medians: a
                        file that is open for a moment is no leak)
    precision_kept      p50 and p99 of the last minute's stamp errors are at most 10 us or half above the first minute's

    python benchmarks/soak.py [--minutes 30] [--streams 1000] [--step 20ms]
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bench import loadgen_run, save, simulator
from memory import figures_of
from processes import Sample, watched_workers

from analysis.truth import joined
from loadgen.clock import NS_PER_S

MINUTE_S: Final = 60
PATIENCE_NS: Final = 30 * NS_PER_S
"""A request that the client sent within a stretch has been read by then."""

# A page here and there is a slope, too, once its noise is small enough.
LEAST_GROWTH_SHARE: Final = 0.01

SLACK_US: Final = 10.0
SLACK_FACTOR: Final = 1.5


def taken(path: Path, wanted: Callable[[pa.Table], Any], columns: list[str]) -> pa.Table:
    """The wanted rows of an Arrow stream, in memory one batch at a time."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        schema = pa.schema([reader.schema.field(name) for name in columns])
        tables = [
            (table := pa.Table.from_batches([batch]).select(columns)).filter(wanted(table)).cast(schema)
            for batch in reader
        ]
        return pa.concat_tables(tables) if tables else schema.empty_table()


def between(column: str, begin_ns: int, end_ns: int) -> Callable[[pa.Table], Any]:
    """Rows whose time lies there."""
    return lambda table: pc.and_(pc.greater_equal(table[column], begin_ns), pc.less(table[column], end_ns))


def stretch(capture: Path, truth: Path, begin_ns: int, end_ns: int) -> dict[str, Any]:
    """The stamp errors of the requests that were sent within a stretch of the run and completed."""
    sent = taken(capture, between("sent_ns", begin_ns, end_ns), ["response_id", "sent_ns", "event_ns", "error"])
    read = between("request_read_ns", begin_ns, end_ns + PATIENCE_NS)
    true = taken(truth, read, ["response_id", "request_read_ns", "event_ns"])
    told = joined(sent.filter(pc.is_null(sent["error"])), true)
    names = ("requests", "tokens", "unknown_requests", "duplicate_requests", "lost_tokens", "invented_tokens")
    return {name: told[name] for name in (*names, "stamp_error_us")}


def judged(
    first: dict[str, Any], last: dict[str, Any], samples: list[Sample], memory: dict[str, Any]
) -> dict[str, bool]:
    """The three answers; `samples` are one worker's, `memory` is what figures_of says of them."""
    descriptors = np.array([sample.descriptors for sample in samples])
    tenths = np.array_split(descriptors, 10)
    before, after = first["stamp_error_us"], last["stamp_error_us"]
    return {
        "memory_flat": not memory["grows"]
        or memory["rss_mb_at_end"] - memory["rss_mb_at_half"] <= LEAST_GROWTH_SHARE * memory["rss_mb_at_half"],
        "descriptors_flat": float(np.median(tenths[-1])) <= float(np.median(tenths[1])),
        "precision_kept": before is not None
        and after is not None
        and all(after[name] <= max(before[name] + SLACK_US, before[name] * SLACK_FACTOR) for name in ("p50", "p99")),
    }


def measure(minutes: float, streams: int, step: str) -> dict[str, Any]:
    """One run, watched and joined."""
    seconds = minutes * MINUTE_S
    with (
        simulator("--step", step) as served,
        watched_workers() as watched,
        loadgen_run(
            "--url", served.url, "--concurrency", str(streams), "--duration", f"{seconds:g}s", "--output-tokens", "128",
            "--input-tokens", "64", "--no-html",
        ) as finished,
    ):  # fmt: skip
        served.stop()
        stage, (_, window) = finished.summary()["stages"][0], finished.steady()
        capture = finished.run_dir / "capture" / "worker-00.arrow"
        part_ns = round(min(MINUTE_S, seconds / 3) * NS_PER_S)
        first = stretch(capture, served.truth_path, window.start_ns, window.start_ns + part_ns)
        last = stretch(capture, served.truth_path, window.stop_ns - part_ns, window.stop_ns)
        capture_mb = capture.stat().st_size / 1e6
    samples = [sample for sample in watched.samples if window.start_ns <= sample.t_ns < window.stop_ns]
    memory = figures_of(samples, stage["output_tokens_per_s"])
    return {
        "minutes": minutes,
        "streams": streams,
        "step": step,
        "tokens_per_s": round(stage["output_tokens_per_s"]),
        "failed": stage["requests"]["failed"],
        "coalesced_share": stage["client"]["coalesced_share"],
        "capture_mb": round(capture_mb, 1),
        **memory,
        "first": first,
        "last": last,
        **judged(first, last, samples, memory),
    }


def main() -> None:
    """Measure and save; exit status 1 where an answer is no."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--step", default="20ms")
    chosen = parser.parse_args()
    row = measure(chosen.minutes, chosen.streams, chosen.step)
    save("soak", row)
    if not (row["memory_flat"] and row["descriptors_flat"] and row["precision_kept"]):
        sys.exit("not as good at the end as at the beginning")


if __name__ == "__main__":
    main()
