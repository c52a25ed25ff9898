"""stage-N.vllm.json: what `vllm bench serve --save-result --save-detailed` writes, a file a stage.

Keys and meanings are those of vLLM 0.3x (vllm/benchmarks/serve.py: `main_async`, `benchmark`, `calculate_metrics`): seconds
by request, and milliseconds where the key says so. docs/exports.md tells what differs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from analysis import slo
from analysis.exports.files import whole
from analysis.exports.samples import (
    NS_PER_MS,
    NS_PER_S,
    Samples,
    counted,
    deviation_ns,
    gap_percentiles_ns,
    peak_in_flight,
    samples,
)
from analysis.opened import Opened, opened
from analysis.rows import ABSENT, Integers
from analysis.summary import summarize
from analysis.targets import models_of

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)

DETAILED: Final = ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times", "errors")

BACKENDS: Final = {"chat": "openai-chat", "completions": "openai"}
"""vLLM's names for the APIs that both speak."""


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """A file a stage."""
    run = opened(run_dir)
    told = {stage["stage"]: stage for stage in summarize(run_dir)["stages"]}
    paths = []
    for stage in run.windows:
        path = out_dir / f"stage-{stage}.vllm.json"
        found = samples(run, stage)
        with whole(path) as part, part.open("w", encoding="utf-8") as out:
            _write(out, result(run, stage, told[stage], found), _gaps_s(run, stage))
        paths.append(path)
    return paths


def _write(out: TextIO, facts: dict[str, Any], gaps_s: Iterator[list[float]]) -> None:
    """The object, with the one list that does not fit into memory written item by item."""
    head, tail = json.dumps(facts, allow_nan=False).split('"itls": null', 1)
    out.write(head + '"itls": [')
    out.writelines(("," if number else "") + json.dumps(gaps) for number, gaps in enumerate(gaps_s))
    out.write("]" + tail)


def _gaps_s(run: Opened, stage: int) -> Iterator[list[float]]:
    for rows, _ in counted(run, stage):
        seconds = np.round(np.diff(rows.event_ns, prepend=0) / NS_PER_S, 9)
        for first, events, done in zip(rows.first_event.tolist(), rows.events.tolist(), rows.completed, strict=True):
            yield seconds[first + 1 : first + events].tolist() if done and events else []


def result(run: Opened, stage: int, told: dict[str, Any], found: Samples) -> dict[str, Any]:
    """All keys; `itls` is null, for they are written apart."""
    spec, plan, window = run.run.facts["spec"] or {}, run.plans[stage], run.windows[stage]
    load = plan.get("load") or {}
    rate = load.get("value") if load.get("mode") == "rate" else None
    most = load.get("max_in_flight") if rate is not None else load.get("value")
    limits = slo.limits(spec)
    output_lens = np.where(found.completed, found.output_tokens, 0)
    total_input = int(found.of_completed("prompt_tokens").sum())
    total_output = int(output_lens.sum())
    seconds = window.length_ns / NS_PER_S
    api = str(spec.get("api") or "chat")
    facts: dict[str, Any] = {
        "date": _date(run.run.facts["started_at"]),
        "endpoint_type": BACKENDS.get(api, api),
        "backend": BACKENDS.get(api, api),
        "label": str(plan["name"]),
        "model_id": models_of(spec),
        "tokenizer_id": None,  # lengths are the server's own counts
        "num_prompts": len(found.sent_ns),
        "request_rate": rate if isinstance(rate, int | float) else "inf",
        "burstiness": _burstiness(str(load.get("arrivals") or "poisson")),
        "max_concurrency": most if isinstance(most, int) else None,
        "duration": seconds,
        "completed": int(found.completed.sum()),
        "failed": int((~found.completed).sum()),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "request_throughput": told["requests_per_s"],
        "request_goodput": told["goodput_per_s"] if limits else None,
        "output_throughput": told["output_tokens_per_s"],
        "total_token_throughput": _sum(told["output_tokens_per_s"], told["input_tokens_per_s"]),
        "input_lens": np.where(found.prompt_tokens == ABSENT, 0, found.prompt_tokens).tolist(),
        "output_lens": output_lens.tolist(),
        "ttfts": _seconds(found.ttft_ns, found),
        "itls": None,
        "latencies": _seconds(found.e2e_ns, found),
        "start_times": np.round(found.sent_ns / NS_PER_S, 9).tolist(),
        "queue_times": np.round(found.waited_ns / NS_PER_S, 9).tolist(),
        "generated_texts": [""] * len(found.sent_ns),  # never kept
        "errors": [error or "" for error in found.errors],
        "max_output_tokens_per_s": float(max(found.tokens_by_second.values(), default=0)),
        "max_concurrent_requests": peak_in_flight(found),
        "rtfx": 0.0,  # of speech recognition
    }
    for name, of_requests in (("ttft", "ttft_ns"), ("tpot", "tpot_ns"), ("e2el", "e2e_ns")):
        facts |= _statistics(name, found.of_completed(of_requests))
    facts |= _gap_statistics(found)
    if isinstance(most, int):
        facts |= _statistics("client_queue_time", found.waited_ns[found.completed])
        if rate is not None:
            queued = found.e2e_ns[found.completed] + found.waited_ns[found.completed]
            facts |= _statistics("e2el_including_client_queue", queued[found.e2e_ns[found.completed] != ABSENT])
    return facts


def _seconds(values_ns: Integers, found: Samples) -> list[float]:
    known = found.completed & (values_ns != ABSENT)
    seconds: list[float] = np.where(known, np.round(values_ns / NS_PER_S, 9), 0.0).tolist()
    return seconds


def _statistics(name: str, values_ns: Integers) -> dict[str, float]:
    """vLLM's own arithmetic: linear percentiles, population deviation, zeros where there is nothing."""
    values = values_ns / NS_PER_MS if len(values_ns) else np.zeros(1)
    told = {"mean": np.mean(values), "median": np.median(values), "std": np.std(values)}
    told |= {f"p{wanted:g}": np.percentile(values, wanted) for wanted in PERCENTILES}
    return {f"{which}_{name}_ms": float(value) for which, value in told.items()}


def _gap_statistics(found: Samples) -> dict[str, float]:
    values = gap_percentiles_ns(found.gaps, [50.0, *PERCENTILES])
    told = {"mean": found.gaps.mean_ns, "median": values[0], "std": deviation_ns(found.gaps)}
    told |= {f"p{wanted:g}": value for wanted, value in zip(PERCENTILES, values[1:], strict=True)}
    return {f"{which}_itl_ms": (value or 0.0) / NS_PER_MS for which, value in told.items()}


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None else one + (other or 0.0)


def _burstiness(arrivals: str) -> float | str:
    """vLLM's shape of the gamma distribution: 1 for Poisson, 1 / CV**2, without limit for a constant pace."""
    kind, _, variation = arrivals.partition(":")
    if kind == "gamma" and variation:
        return 1 / float(variation) ** 2
    return "inf" if kind == "constant" else 1.0


def _date(started_at: str | None) -> str | None:
    return None if started_at is None else started_at[:19].replace("-", "").replace(":", "").replace("T", "-")
