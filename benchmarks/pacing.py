"""Was the load really offered? When requests are sent, and when they arrive at the server, held against the schedule.

Truth: `sent_ns` is taken just before the first byte goes to the kernel; the simulated endpoint notes when it read each
request. Lateness = sent - due. The law of the arrivals is tested where they matter, at the server, all workers together: the
gaps between the times at which its machine's kernel had them (tap.py), and between those at which the server read them.

    python benchmarks/pacing.py lateness [--seconds 30] [--rate 1000] [--tokens 1,20] [--spin]
    python benchmarks/pacing.py law [--rate 50] [--seconds 10] [--seeds 10] [--workers 1,2,4] [--ray ADDRESS]
    python benchmarks/pacing.py steady [--rate 200] [--seconds 30] [--workers 1,2]
    python benchmarks/pacing.py freeze

lateness  floor: how late a bare clock_nanosleep to absolute times comes back on the same core, just before and after: what
          this machine, shared as it is, does to anything that waits for a time.
          one worker, constant and Poisson arrivals, without streams to speak of (1 token) and with 20,000 tokens/s (20).
law       Poisson: the Kolmogorov-Smirnov distance of the gaps from the exponential against its 1 % point. With --ray one
          worker on every node of a cluster on this machine (tests/on_ray/raylets.py starts one) instead of --workers.
steady    constant: the most that any 5 s differ from the rate.
freeze    a server that stops for 1.4 s in 30 s at 100/s, with room for 16 requests in flight: what the two TTFTs say.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from bench import CLIENT_CORE, SERVER_CORE, Finished, loadgen_run, save, simulator
from tap import tapped

from analysis.truth import figures

COMMON: Final = ("--input-tokens", "64", "--warmup", "1s")
SPAN_NS: Final = 5_000_000_000


@dataclass(frozen=True)
class Arrivals:
    """Of the requests of the window, ascending ns: when the kernel of their machine had them, when the server read them."""

    tapped_ns: "np.ndarray[Any, Any]"
    read_ns: "np.ndarray[Any, Any]"


def arrivals(finished: Finished, truth: Any, tapped_ns: "np.ndarray[Any, Any]") -> Arrivals:
    """What of the tap and of the server's log was due in the window."""
    captured = finished.capture()
    window = finished.summary()["stages"][0]["window"]
    intended_ns = captured["intended_ns"].to_numpy()
    inside = (intended_ns >= window["start_ns"]) & (intended_ns < window["stop_ns"])
    wanted = set(captured["response_id"].filter(inside).to_pylist())
    read_ns = truth["request_read_ns"].to_numpy()
    known = np.array([response_id in wanted for response_id in truth["response_id"].to_pylist()])
    in_window = (tapped_ns >= window["start_ns"]) & (tapped_ns < window["stop_ns"])
    return Arrivals(tapped_ns[in_window], np.sort(read_ns[known]))


def ks_distance(gaps_s: "np.ndarray[Any, Any]", rate_per_s: float) -> float:
    """The Kolmogorov-Smirnov distance of a sample from the exponential law with this rate."""
    ordered = -np.expm1(-np.sort(gaps_s) * rate_per_s)
    n = len(ordered)
    return float(max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max()))


def lateness(chosen: argparse.Namespace) -> None:
    """Rows of the lateness of every send."""
    for tokens in chosen.tokens.split(","):
        for arrivals in ("constant", "poisson"):
            before = _floor()
            with (
                simulator("--step", "20ms") as served,
                loadgen_run(
                    "--url", served.url, "--rate", str(chosen.rate), "--arrivals", arrivals, *COMMON,
                    "--duration", f"{chosen.seconds}s", "--output-tokens", tokens, *(["--spin"] if chosen.spin else []),
                ) as finished,
            ):  # fmt: skip
                stage = finished.summary()["stages"][0]
                captured = finished.capture()
                late_us = (captured["sent_ns"].to_numpy() - captured["intended_ns"].to_numpy()) / 1000
                row = {
                    "case": "lateness",
                    "rate_per_s": chosen.rate,
                    "arrivals": arrivals,
                    "output_tokens_per_s": round(stage["output_tokens_per_s"]),
                    "spin": chosen.spin,
                    "requests": len(captured),
                    "failed": stage["requests"]["failed"],
                    "lateness_us": figures(late_us),
                    "cpu_share": stage["client"]["cpu_share"],
                }
            save("pacing", row | {"floor_us": [before, _floor()]})


def _floor() -> Any:
    """The bare wake-ups, in a process of their own on the client's core."""
    command = [sys.executable, str(Path(__file__).with_name("wakeups.py")), str(CLIENT_CORE)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def law(chosen: argparse.Namespace) -> None:
    """One row a number of workers, or one for the cluster: how many seeds pass."""
    for workers in [0] if chosen.ray else list(map(int, chosen.workers.split(","))):
        distances: dict[str, list[float]] = {"tapped": [], "read": []}
        passed = {"tapped": 0, "read": 0}
        most = 0
        for seed in range(chosen.seeds):
            came = _arrived(chosen, workers, "poisson", seed)
            for name, at_ns in (("tapped", came.tapped_ns), ("read", came.read_ns)):
                gaps_s = np.diff(at_ns) / 1e9
                distances[name].append(round(ks_distance(gaps_s, chosen.rate), 4))
                passed[name] += distances[name][-1] <= (limit := math.sqrt(-math.log(0.01 / 2) / 2 / len(gaps_s)))
            most = max(most, len(came.read_ns))
        save(
            "pacing",
            {
                "case": "law",
                "rate_per_s": chosen.rate,
                **({"nodes": 3} if chosen.ray else {"workers": workers}),
                "seeds": chosen.seeds,
                "passed": passed,
                "ks_distances": distances,
                "limit_of_the_last": round(limit, 4),
                "arrivals_at_most": most,
            },
        )


def steady(chosen: argparse.Namespace) -> None:
    """One row a number of workers: the worst 5 s."""
    for workers in map(int, chosen.workers.split(",")):
        read_ns = _arrived(chosen, workers, "constant", 1).read_ns
        # Any 5 s that begin at an arrival: how many come within them.
        first = read_ns[: np.searchsorted(read_ns, read_ns[-1] - SPAN_NS, side="right")]
        within = np.searchsorted(read_ns, first + SPAN_NS) - np.arange(len(first))
        wanted = chosen.rate * SPAN_NS / 1e9
        worst = float(np.abs(within / wanted - 1).max())
        row = {"case": "steady", "rate_per_s": chosen.rate, "workers": workers, "arrivals": len(read_ns)}
        save("pacing", row | {"worst_5s_share": round(worst, 5)})


def _arrived(chosen: argparse.Namespace, workers: int, process: str, seed: int) -> Arrivals:
    """With 0 workers one on every node of the cluster; all of them share the client's core."""
    where = ["--ray", chosen.ray, "--workers", "1"] if not workers else ["--workers", str(workers)]
    cpus = ",".join([str(CLIENT_CORE)] * (workers or 1))
    with simulator("--step", "5ms") as served, tapped(urlsplit(served.url).port or 0, SERVER_CORE) as tap, loadgen_run(
        "--url", served.url, "--rate", str(chosen.rate), "--arrivals", process, "--seed", str(seed), *COMMON,
        "--duration", f"{chosen.seconds}s", "--output-tokens", "2", "--cpus", cpus, *where,
    ) as finished:  # fmt: skip
        served.stop()
        return arrivals(finished, served.truth(), tap.close())


def freeze(_: argparse.Namespace) -> None:
    """One row: both TTFTs over a freeze of the server."""
    with simulator("--step", "5ms") as served:

        def stop_and_go() -> None:
            time.sleep(12)
            os.kill(served.pid, signal.SIGSTOP)
            time.sleep(1.4)
            os.kill(served.pid, signal.SIGCONT)

        freezing = threading.Thread(target=stop_and_go)
        freezing.start()
        with loadgen_run(
            "--url", served.url, "--rate", "100", "--arrivals", "constant", *COMMON, "--duration", "30s",
            "--output-tokens", "2", "--max-in-flight", "16",
        ) as finished:  # fmt: skip
            freezing.join()
            stage = finished.summary()["stages"][0]
            row: dict[str, Any] = {"case": "freeze", "requests": stage["requests"]}
            for name in ("ttft_ms", "ttft_intended_ms", "e2e_ms", "e2e_intended_ms"):
                row[name] = {key: stage[name][key] for key in ("p50", "p99", "max")}
            save("pacing", row | {"lateness_p99_us": stage["client"]["lateness_us"]["p99"]})


def main() -> None:
    """Run one of the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=("lateness", "law", "steady", "freeze"))
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--tokens", default="1,20")
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers")
    parser.add_argument("--ray", metavar="ADDRESS", help="law: of a cluster on this machine")
    chosen = parser.parse_args()
    defaults = {"lateness": (1000, 30, ""), "law": (50, 10, "1,2,4"), "steady": (200, 30, "1,2"), "freeze": (0, 0, "")}
    rate, seconds, workers = defaults[chosen.case]
    chosen.rate, chosen.seconds = chosen.rate or rate, chosen.seconds or seconds
    chosen.workers = chosen.workers or workers
    {"lateness": lateness, "law": law, "steady": steady, "freeze": freeze}[chosen.case](chosen)


if __name__ == "__main__":
    main()
