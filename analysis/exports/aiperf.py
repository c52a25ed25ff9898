"""stage-N.aiperf.json: the metrics of AIPerf's profile_export_aiperf.json (schema 1.4), a file a stage.

Only what is measured here in the same way; docs/exports.md lists what is left out.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analysis import slo
from analysis.exports.files import whole
from analysis.exports.samples import NS_PER_MS, NS_PER_S, Samples, deviation_ns, gap_percentiles_ns, samples
from analysis.opened import Opened, opened
from analysis.summary import summarize

SCHEMA: Final = "1.4"

PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """A file a stage."""
    run = opened(run_dir)
    summary = summarize(run_dir)
    paths = []
    for told in summary["stages"]:
        path = out_dir / f"stage-{told['stage']}.aiperf.json"
        facts = profile(run, told, samples(run, told["stage"])) | {"was_cancelled": summary["interrupted"]}
        with whole(path) as part:
            part.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def profile(run: Opened, told: dict[str, Any], found: Samples) -> dict[str, Any]:
    """The file's content, without the metrics that have no value."""
    window = run.windows[told["stage"]]
    tpot_ns = found.of_completed("tpot_ns")
    metrics = {
        "request_throughput": _single("requests/sec", told["requests_per_s"]),
        "request_latency": _block("ms", found.of_completed("e2e_ns") / NS_PER_MS),
        "request_count": _single("requests", told["requests"]["completed"]),
        "time_to_first_token": _block("ms", found.of_completed("ttft_ns") / NS_PER_MS),
        "time_to_second_token": _block("ms", found.of_completed("second_ns") / NS_PER_MS),
        "inter_token_latency": _block("ms", tpot_ns / NS_PER_MS),
        "inter_chunk_latency": _gaps(found),
        "output_token_throughput": _single("tokens/sec", told["output_tokens_per_s"]),
        "output_token_throughput_per_user": _block("tokens/sec/user", NS_PER_S / tpot_ns[tpot_ns > 0]),
        "output_sequence_length": _block("tokens", found.of_completed("output_tokens")),
        "input_sequence_length": _block("tokens", found.of_completed("prompt_tokens")),
        "reasoning_token_count": _block("tokens", found.of_completed("reasoning_tokens")),
        "total_osl": _single("tokens", int(found.of_completed("output_tokens").sum())),
        "total_isl": _single("tokens", int(found.of_completed("prompt_tokens").sum())),
        "error_request_count": _single("requests", told["requests"]["failed"] or None),
        "goodput": _single("requests/sec", told["goodput_per_s"]),
        "benchmark_duration": _single("sec", told["window_s"]),
    }
    return {
        "schema_version": SCHEMA,
        "benchmark_id": run.run.facts["run_id"],
        **{name: block for name, block in metrics.items() if block is not None},
        "error_summary": [
            {"error_details": {"type": name, "message": name}, "count": count}
            for name, count in told["requests"]["errors"].items()
        ],
        "start_time": _wall_clock(run, window.start_ns),
        "end_time": _wall_clock(run, window.stop_ns),
        "loadgen": {"version": run.run.facts["loadgen"], "stage": told["name"], "load": told["load"]}
        | ({"slo": run.run.facts["spec"]["slo"]} if slo.limits(run.run.facts["spec"]) else {}),
    }


def _wall_clock(run: Opened, t_ns: int) -> str:
    return datetime.fromtimestamp((t_ns + run.realtime_offset_ns) / NS_PER_S, UTC).isoformat()


def _single(unit: str, value: float | None) -> dict[str, Any] | None:
    return None if value is None else {"unit": unit, "avg": value}


def _block(unit: str, values: NDArray[Any]) -> dict[str, Any] | None:
    if not len(values):
        return None
    told = dict(zip((f"p{p}" for p in PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True))
    return {
        "unit": unit,
        "avg": float(np.mean(values)),
        **told,
        "min": float(values.min()),
        "max": float(values.max()),
        "std": float(np.std(values)),
        "count": len(values),
        "sum": float(values.sum()),
    }


def _gaps(found: Samples) -> dict[str, Any] | None:
    gaps, deviation = found.gaps, deviation_ns(found.gaps)
    if not gaps.total or gaps.min_ns is None or gaps.max_ns is None or gaps.mean_ns is None or deviation is None:
        return None
    values = gap_percentiles_ns(gaps, list(PERCENTILES))
    told = {f"p{p}": (value or 0) / NS_PER_MS for p, value in zip(PERCENTILES, values, strict=True)}
    return {
        "unit": "ms",
        "avg": gaps.mean_ns / NS_PER_MS,
        **told,
        "min": gaps.min_ns / NS_PER_MS,
        "max": gaps.max_ns / NS_PER_MS,
        "std": deviation / NS_PER_MS,
        "count": gaps.total,
        "sum": gaps.total_ns / NS_PER_MS,
    }
