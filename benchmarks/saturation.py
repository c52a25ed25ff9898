"""Is the answer of `loadgen saturate` the truth? Endpoints whose limits are known, several parameter sets and seeds.

Knee: the load and the throughput at saturation follow from the parameters (loadgen.simulator.engine.capacity). Objectives:
the highest load within them is found by driving the same engine in virtual time (virtual.py). Server on one core, client on
the other.

    python benchmarks/saturation.py knee [--runs 10] [--budget 2m]
    python benchmarks/saturation.py slo  [--runs 10] [--budget 2m]
    python benchmarks/saturation.py client [--runs 3]

A row a run: the truth, the answer with its interval, how far off, whether the interval holds the truth, how long it took.
`client`: an endpoint that is faster than one client core; the answer has to blame the client.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import CLIENT_CORE, SERVER_CORE, measured, save
from virtual import highest_within

from loadgen.simulator.engine import EngineParameters, capacity
from loadgen.simulator.process import serve

MS: Final = 1_000_000


@dataclass(frozen=True)
class Endpoint:
    """A parameter set, as options of `loadgen simulate` and as the engine has them."""

    name: str
    options: tuple[str, ...]
    engine: EngineParameters
    tokens: tuple[int, int]
    objectives: dict[str, tuple[float, float]] = field(default_factory=dict)
    """{metric: (percentile, limit_ms)} for the question slo."""

    @property
    def slo(self) -> str:
        """As --slo takes it."""
        return ",".join(
            f"{metric}:p{percentile:g}={limit:g}ms" for metric, (percentile, limit) in self.objectives.items()
        )


ENDPOINTS: Final = (
    Endpoint(
        "64 slots in lock step",
        ("--step", "20ms", "--max-running", "64"),
        EngineParameters(step_ns=20 * MS, max_running=64),
        (32, 48),
        {"ttft": (95.0, 300.0)},
    ),
    Endpoint(
        "24 slots, slower the fuller",
        ("--step", "8ms", "--step-per-running", "200us", "--max-running", "24", "--mode", "independent"),
        EngineParameters(step_ns=8 * MS, step_per_running_ns=200_000, max_running=24, lock_step=False),
        (32, 64),
        {"tpot": (95.0, 11.5)},
    ),
    Endpoint(
        "32 slots with prefill and jitter",
        (
            *("--step", "12ms", "--max-running", "32", "--mode", "independent"),
            *("--ttft", "30ms", "--prefill-rate", "40000", "--jitter", "normal:0.1"),
        ),
        EngineParameters(
            ttft_ns=30 * MS, prefill_tokens_per_s=40_000, step_ns=12 * MS, max_running=32, lock_step=False
        ),
        (128, 40),
        {"ttft": (90.0, 200.0), "tpot": (95.0, 30.0)},
    ),
    Endpoint(
        "as much as prefill gives",
        ("--step", "10ms", "--max-running", "512", "--prefill-rate", "6000", "--mode", "independent"),
        EngineParameters(prefill_tokens_per_s=6_000, step_ns=10 * MS, max_running=512, lock_step=False),
        (128, 24),
        {"ttft": (95.0, 400.0)},
    ),
    Endpoint(
        "8 slots of long steps",
        ("--step", "30ms", "--step-per-running", "1ms", "--max-running", "8"),
        EngineParameters(step_ns=30 * MS, step_per_running_ns=MS, max_running=8),
        (32, 24),
        {"ttft": (95.0, 250.0)},
    ),
)


def asked(endpoint: Endpoint, mode: str, seed: int, budget: str, *more: str) -> tuple[dict[str, Any], float]:
    """saturation.json of one search against a fresh server, and how long the search took."""
    with (
        serve(*endpoint.options, "--seed", str(seed), cpu=SERVER_CORE) as served,
        tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder,
    ):
        run_dir, began_s = Path(folder) / "run", time.monotonic()
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "saturate",
            "--url",
            served.url,
            "--mode",
            mode,
            "--budget",
            budget,
            "--seed",
            str(seed),
        ]
        command += ["--cpus", str(CLIENT_CORE), "--ignore-eos", "--out", str(run_dir)]
        command += ["--input-tokens", str(endpoint.tokens[0]), "--output-tokens", str(endpoint.tokens[1]), *more]
        measured(command, cores={CLIENT_CORE})
        return json.loads((run_dir / "saturation.json").read_text()), time.monotonic() - began_s


def compared(told: dict[str, Any], truth: float) -> dict[str, Any]:
    """A number of the answer against the truth."""
    low, high = told["low"], told["high"]
    return {
        "truth": round(truth, 4),
        "value": told["value"],
        "interval": [low, high],
        "off_share": round(told["value"] / truth - 1, 4),
        # To a millionth: the answer is written with six digits behind the point.
        "holds": low <= truth * (1 + 1e-6) and (high is None or truth * (1 - 1e-6) <= high),
    }


def plans(runs: int) -> list[tuple[Endpoint, str, int]]:
    """The runs: endpoints in turn, both modes, a seed each."""
    return [(ENDPOINTS[i % len(ENDPOINTS)], ("concurrency", "rate")[(i // len(ENDPOINTS)) % 2], i) for i in range(runs)]


def knee(chosen: argparse.Namespace) -> None:
    """The knee and the peak throughput."""
    for endpoint, mode, seed in plans(chosen.runs)[chosen.first :]:
        most = capacity(endpoint.engine, *endpoint.tokens)
        told, took_s = asked(endpoint, mode, seed, chosen.budget)
        row: dict[str, Any] = {
            "case": "knee",
            "endpoint": endpoint.name,
            "mode": mode,
            "seed": seed,
            "output_tokens_per_s": compared(told["output_tokens_per_s"], most.output_tokens_per_s),
        }
        if mode == "rate":
            row["load"] = compared(told["load"], most.requests_per_s)
        elif most.limit == "slots":
            row["load"] = compared(told["load"], endpoint.engine.max_running)
        else:  # where prefill is the limit, the knee is where its queue begins: throughput x response time without a queue
            step_ns = endpoint.engine.step_ns
            alone_s = (endpoint.tokens[0] / endpoint.engine.prefill_tokens_per_s) + (
                endpoint.tokens[1] - 1
            ) * step_ns / 1e9
            row["load"] = compared(told["load"], most.requests_per_s * alone_s)
        save("saturation", row | said(told, took_s))


def slo(chosen: argparse.Namespace) -> None:
    """The highest load within objectives."""
    for endpoint, mode, seed in plans(chosen.runs)[chosen.first :]:
        most = capacity(endpoint.engine, *endpoint.tokens)
        ceiling = 4 * most.requests_per_s if mode == "rate" else 8.0 * endpoint.engine.max_running
        truth = highest_within(endpoint.engine, endpoint.tokens, mode, endpoint.objectives, ceiling)
        told, took_s = asked(endpoint, mode, seed, chosen.budget, "--slo", endpoint.slo)
        row = {
            "case": "slo",
            "endpoint": endpoint.name,
            "objectives": endpoint.slo,
            "mode": mode,
            "seed": seed,
            "load": compared(told["load"], truth),
        }
        save("saturation", row | said(told, took_s))


def client(chosen: argparse.Namespace) -> None:
    """An endpoint that outruns one client core."""
    fast = Endpoint(
        "faster than one client core",
        ("--step", "1ms", "--max-running", "100000", "--tokens-per-event", "1"),
        EngineParameters(step_ns=MS, max_running=100_000),
        (32, 200),
    )
    for seed in range(chosen.runs):
        told, took_s = asked(fast, ("concurrency", "rate")[seed % 2], seed, chosen.budget)
        save(
            "saturation",
            {"case": "client", "endpoint": fast.name, "mode": told["load"]["mode"], "seed": seed} | said(told, took_s),
        )


def said(told: dict[str, Any], took_s: float) -> dict[str, Any]:
    """Who was the limit, why, and what the search cost."""
    return {
        "limited_by": told["limited_by"],
        "reasons": told["reasons"],
        "loads": len(told["points"]),
        "stages": sum(len(point["stages"]) for point in told["points"]),
        "took_s": round(took_s, 1),
    }


def main() -> None:
    """Run one of the questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=("knee", "slo", "client"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="leave out the runs before this one")
    parser.add_argument("--budget", default="2m")
    chosen = parser.parse_args()
    {"knee": knee, "slo": slo, "client": client}[chosen.case](chosen)


if __name__ == "__main__":
    main()
