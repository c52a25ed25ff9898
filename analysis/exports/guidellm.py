"""benchmarks.guidellm.json: the metrics of a GuideLLM report (version 2), a benchmark a stage.

The shape is GuideLLM's (metadata, benchmarks[].metrics.NAME.successful.{mean, percentiles...}); of the metrics, those that
are measured here in the same way. GuideLLM's own loader wants its whole configuration as well, which no other program has.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analysis.exports.files import whole
from analysis.exports.samples import NS_PER_MS, NS_PER_S, Samples, samples
from analysis.opened import Opened, opened
from analysis.rows import ABSENT, Integers
from analysis.summary import summarize

VERSION: Final = 2

PERCENTILES: Final = {
    "p001": 0.1,
    "p01": 1.0,
    "p05": 5.0,
    "p10": 10.0,
    "p25": 25.0,
    "p50": 50.0,
    "p75": 75.0,
    "p90": 90.0,
    "p95": 95.0,
    "p99": 99.0,
    "p999": 99.9,
}


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    run = opened(run_dir)
    summary = summarize(run_dir)
    facts = {
        "metadata": {"version": VERSION, "written_by": f"loadgen {run.run.facts['loadgen']}"},
        "benchmarks": [benchmark(run, told, samples(run, told["stage"])) for told in summary["stages"]],
    }
    path = out_dir / "benchmarks.guidellm.json"
    with whole(path) as part:
        part.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [path]


def benchmark(run: Opened, told: dict[str, Any], found: Samples) -> dict[str, Any]:
    """One stage. Throughput and concurrency are given by their means alone: theirs is a distribution over moments."""
    window, requests = run.windows[told["stage"]], told["requests"]
    wall_s = [(t_ns + run.realtime_offset_ns) / NS_PER_S for t_ns in (window.start_ns, window.stop_ns)]
    output = np.where(found.output_tokens == 0, ABSENT, found.output_tokens)
    last_ns = np.where((found.last_ns == ABSENT) | (output == ABSENT), ABSENT, found.last_ns - found.sent_ns)
    per_token_ms = np.where(last_ns == ABSENT, 0, last_ns) / np.where(output == ABSENT, 1, output) / NS_PER_MS
    sums = {"requests_per_second": told["requests_per_s"], "output_tokens_per_second": told["output_tokens_per_s"]}
    if told["input_tokens_per_s"] is not None:
        sums["prompt_tokens_per_second"] = told["input_tokens_per_s"]
        sums["tokens_per_second"] = told["input_tokens_per_s"] + (told["output_tokens_per_s"] or 0.0)
    if told["concurrency"] is not None:
        sums["request_concurrency"] = told["concurrency"]["mean"]
    distributions: dict[str, tuple[NDArray[Any], Integers | None]] = {
        # Theirs ends with the response, not with the last token.
        "request_latency": (found.of_completed("end_of_stream_ns") / NS_PER_S, None),
        "request_streaming_iterations_count": (found.of_completed("events"), None),
        "prompt_token_count": (found.of_completed("prompt_tokens"), None),
        "output_token_count": (found.of_completed("output_tokens"), None),
        "time_to_first_token_ms": (found.of_completed("ttft_ns") / NS_PER_MS, None),
        "time_per_output_token_ms": _weighted(per_token_ms, output, found, last_ns != ABSENT),
        "inter_token_latency_ms": _weighted(found.tpot_ns / NS_PER_MS, output - 1, found, found.tpot_ns != ABSENT),
    }
    return {
        "type_": "generative_benchmark",
        "config": {"run_id": run.run.facts["run_id"], "strategy": {"type_": _strategy(told["load"])} | told["load"]},
        "start_time": wall_s[0],
        "end_time": wall_s[1],
        "duration": told["window_s"],
        "metrics": {
            "request_totals": {
                "successful": requests["completed"],
                "incomplete": requests["cancelled"],
                "errored": requests["failed"],
                "total": requests["sent"],
            },
            **{name: {"successful": {"mean": value}} for name, value in sums.items() if value is not None},
            **{
                name: {"successful": distribution(values, weights)}
                for name, (values, weights) in distributions.items()
                if len(values)
            },
        },
    }


def _weighted(
    values: NDArray[Any], tokens: Integers, found: Samples, known: NDArray[np.bool_]
) -> tuple[NDArray[Any], Integers]:
    """Of requests that completed; GuideLLM counts a request's mean time a token as often as it has tokens."""
    wanted = found.completed & known & (tokens > 0)
    return values[wanted], tokens[wanted]


def _strategy(load: dict[str, Any]) -> str:
    if load.get("mode") == "concurrency":
        return "concurrent"
    return {"constant": "constant", "poisson": "poisson", "typical": "poisson"}.get(
        str(load.get("arrivals")).partition(":")[0], "async"
    )


def distribution(values: NDArray[Any], weights: Integers | None) -> dict[str, Any]:
    """GuideLLM's DistributionSummary: percentiles are the first value at which so much of the weight is reached."""
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    weight = np.ones(len(ordered)) if weights is None else weights[order].astype(np.float64)
    upto = np.cumsum(weight) / weight.sum()
    mean = float(np.average(ordered, weights=weight))
    variance = float(np.average((ordered - mean) ** 2, weights=weight))
    at = np.minimum(np.searchsorted(upto, np.array(list(PERCENTILES.values())) / 100 - 1e-12), len(ordered) - 1)
    named = dict(zip(PERCENTILES, ordered[at].tolist(), strict=True))
    seen, first = np.unique(ordered, return_inverse=True)
    return {
        "mean": mean,
        "median": named["p50"],
        "mode": float(seen[int(np.argmax(np.bincount(first, weight)))]),
        "variance": variance,
        "std_dev": float(np.sqrt(variance)),
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "count": int(weight.sum()),
        "total_sum": mean * float(weight.sum()),
        "percentiles": named,
    }
