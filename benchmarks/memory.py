"""The memory of a worker does not grow with the length of the run.

Truth: the pages and descriptors that the kernel counts for the worker, twice a second.

Method: 200 streams at a 5 ms tick, 40,000 tokens/s. The first half of the run is left out: pools and buffers fill there.
The second half is cut into blocks and a line laid through their means; `error_mb_per_hour` is the line's standard error,
from how the blocks scatter around it. A slope within two of those is none that this run can show; a longer run
shows less. `bytes_per_token` is the same slope against the tokens received: what each one would leave behind.

    python benchmarks/memory.py [--seconds 75] [--streams 200] [--step 5ms] [--transport kernel]
"""

import argparse
import os
from typing import Any, Final

import numpy as np
from bench import loadgen_run, save, simulator
from processes import MB, Sample, watched_workers

from loadgen.clock import NS_PER_S

BLOCKS: Final = 10
SECONDS_PER_HOUR: Final = 3600


def slope(t_s: "np.ndarray[Any, Any]", values: "np.ndarray[Any, Any]", blocks: int = BLOCKS) -> tuple[float, float]:
    """(slope, its standard error) of a line through the means of `blocks` blocks of samples.

    Neighbouring samples of memory are no independent ones, which the error of a line through all would take them for.
    """
    means = [
        (block_t_s.mean(), block.mean())
        for block_t_s, block in zip(np.array_split(t_s, blocks), np.array_split(values, blocks), strict=True)
    ]
    x, y = np.array(means).T
    x = x - x.mean()
    gradient = float((x * y).sum() / (x * x).sum())
    residuals = y - y.mean() - gradient * x
    return gradient, float(np.sqrt((residuals**2).sum() / (blocks - 2) / (x * x).sum()))


def figures_of(samples: list[Sample], tokens_per_s: float) -> dict[str, Any]:
    """What a worker's samples say of its growth in the second half."""
    t_s = np.array([(sample.t_ns - samples[0].t_ns) / NS_PER_S for sample in samples])
    late = t_s >= t_s[-1] / 2
    rss_mb = np.array([sample.rss_mb for sample in samples])
    descriptors = [sample.descriptors for sample, is_late in zip(samples, late, strict=True) if is_late]
    gradient, error = slope(t_s[late], rss_mb[late])
    return {
        "samples": len(samples),
        "rss_mb_at_half": round(float(rss_mb[late][0]), 2),
        "rss_mb_at_end": round(float(rss_mb[-1]), 2),
        "peak_rss_mb": round(samples[-1].peak_rss_mb, 1),
        "slope_mb_per_hour": round(gradient * SECONDS_PER_HOUR, 2),
        "error_mb_per_hour": round(error * SECONDS_PER_HOUR, 2),
        "bytes_per_token": round(gradient * MB / tokens_per_s, 4),
        "descriptors_least_most": [min(descriptors), max(descriptors)],
        "grows": gradient > 2 * error,
    }


def measure(seconds: int, streams: int, step: str, transport: str) -> dict[str, Any]:
    """One run, watched."""
    # The server's log would grow, on a disk that has better uses: nothing is joined here.
    with (
        simulator("--step", step, "--truth", os.devnull) as served,
        watched_workers() as watched,
        loadgen_run(
            "--url", served.url, "--concurrency", str(streams), "--duration", f"{seconds}s", "--output-tokens", "128",
            "--input-tokens", "64", "--transport", transport,
        ) as finished,
    ):  # fmt: skip
        stage, (_, window) = finished.summary()["stages"][0], finished.steady()
        capture_mb = sum(path.stat().st_size for path in (finished.run_dir / "capture").iterdir()) / MB
    samples = [sample for sample in watched.samples if window.start_ns <= sample.t_ns < window.stop_ns]
    return {
        "seconds": seconds,
        "streams": streams,
        "step": step,
        "transport": transport,
        "tokens_per_s": round(stage["output_tokens_per_s"]),
        "failed": stage["requests"]["failed"],
        "capture_mb": round(capture_mb, 1),
        **figures_of(samples, stage["output_tokens_per_s"]),
        # The process that the user started: it analyses the capture at the end.
        "command_peak_rss_mb": round(finished.peak_rss_mb),
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=75)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--step", default="5ms")
    parser.add_argument("--transport", choices=("kernel", "aiohttp"), default="kernel")
    chosen = parser.parse_args()
    save("memory", measure(chosen.seconds, chosen.streams, chosen.step, chosen.transport))


if __name__ == "__main__":
    main()
