"""A second worker costs nothing but itself: two workers on two cores pay the same for a token as one alone.

Truth: each worker's own CPU time, user + system, as the kernel counts it, and the tokens that it stamped, both within
the measured window; what starting and analysing cost lies outside.

Method: a light server on core 0, 5,000 tokens/s a worker, so that two cores do for it and two workers. One worker on core 1
with N streams against two workers on cores 0 and 1 with N streams each, in turn; which goes first changes from round
to round. Each stream has a clock of its own: in lock step a tick is one burst, half as dense for each of two workers
as it is for one, and a thinner burst costs more a token (--mode lock-step shows how much). The claim: the ratio of the
medians, two workers to one, is at most 1.10.

Limit: the first of the two shares its core with the server, and on a small machine both cores may be threads of one. What
that costs is in the ratio; each worker's own cost stands beside it.

    python benchmarks/workers.py [--streams 500] [--step 100ms] [--mode independent] [--seconds 12] [--rounds 4]
"""

import argparse
import statistics
from typing import Any, Final

import numpy as np
from bench import CLIENT_CORE, SERVER_CORE, loadgen_run, save, simulator

from analysis.captures import Capture
from analysis.pieces import stage_rows
from analysis.watches import cpu_share
from analysis.window import Window

MOST_RATIO: Final = 1.10
CORES: Final = {"one": {CLIENT_CORE}, "two": {SERVER_CORE, CLIENT_CORE}}


def used(capture: Capture, window: Window) -> tuple[float, int]:
    """(CPU us, tokens stamped) of a worker within the window."""
    tokens = sum(
        int(np.count_nonzero((rows.event_ns >= window.start_ns) & (rows.event_ns < window.stop_ns)))
        for _, rows in stage_rows(capture)
    )
    share = cpu_share(capture, window.start_ns, window.stop_ns)
    assert share is not None, "a worker takes a sample every 100 ms"
    return share * window.length_ns / 1000, tokens


def one_run(cores: set[int], chosen: argparse.Namespace) -> dict[str, Any]:
    """CPU us a token, over the workers and of each, and the rate, with a worker on each of these cores."""
    with (
        simulator("--step", chosen.step, "--mode", chosen.mode) as served,
        loadgen_run(
            "--url", served.url, "--concurrency", str(chosen.streams * len(cores)), "--duration", f"{chosen.seconds}s",
            "--output-tokens", "128", "--input-tokens", "64", "--workers", str(len(cores)),
            "--transport", chosen.transport, cores=cores,
        ) as finished,
    ):  # fmt: skip
        captures, window = finished.steady()
        each = [used(capture, window) for capture in captures]
    cpu_us, tokens = (sum(values) for values in zip(*each, strict=True))
    return {
        "us_per_token": cpu_us / tokens,
        "us_per_token_each": [round(cpu_us / tokens, 2) for cpu_us, tokens in each],
        "tokens_per_s": round(tokens / (window.length_ns / 1e9)),
    }


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Both, in turn."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CORES}
    for number in range(chosen.rounds):
        for name in list(CORES)[:: 1 if number % 2 == 0 else -1]:
            runs[name].append(one_run(CORES[name], chosen))
    medians = {name: statistics.median(run["us_per_token"] for run in each) for name, each in runs.items()}
    ratio = medians["two"] / medians["one"]
    return {
        "streams_a_worker": chosen.streams,
        "step": chosen.step,
        "mode": chosen.mode,
        "seconds": chosen.seconds,
        "transport": chosen.transport,
        **{f"{name}_us_per_token": [round(run["us_per_token"], 2) for run in each] for name, each in runs.items()},
        **{f"{name}_us_per_token_each": [run["us_per_token_each"] for run in each] for name, each in runs.items()},
        **{f"{name}_tokens_per_s": [run["tokens_per_s"] for run in each] for name, each in runs.items()},
        **{f"{name}_us_per_token_median": round(median, 2) for name, median in medians.items()},
        "ratio": round(ratio, 3),
        "meets": ratio <= MOST_RATIO,
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=500, help="of each worker")
    parser.add_argument("--step", default="100ms")
    parser.add_argument("--mode", choices=("independent", "lock-step"), default="independent")
    parser.add_argument("--seconds", type=int, default=12, help="measured, of each run; the warm-up comes on top")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--transport", choices=("kernel", "aiohttp"), default="kernel")
    chosen = parser.parse_args()
    save("workers", measure(chosen))


if __name__ == "__main__":
    main()
