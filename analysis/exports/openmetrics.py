"""metrics.txt: the summary in OpenMetrics text, as Prometheus reads it (a push gateway, a node exporter's text file).

Latencies are summaries in seconds, with the percentiles as quantiles; all else are gauges, and counters of requests. A
stage's samples have its name, number and load as labels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from analysis.exports.files import whole
from analysis.latencies import PERCENTILES
from analysis.summary import summarize
from analysis.targets import models_of

LATENCIES: Final = {
    # key of summary.json: (name, help)
    "ttft_ms": ("ttft_seconds", "Time to first token, from the send."),
    "ttft_intended_ms": ("ttft_intended_seconds", "Time to first token, from the due time."),
    "tpot_ms": ("tpot_seconds", "Time per output token after the first, a request."),
    "itl_ms": ("itl_seconds", "Gaps between consecutive output events, pooled."),
    "e2e_ms": ("e2e_seconds", "Send to last token."),
    "e2e_intended_ms": ("e2e_intended_seconds", "Due time to last token."),
}

GAUGES: Final = {
    "output_tokens_per_s": ("output_tokens_per_second", "Output tokens inside the window over its length."),
    "input_tokens_per_s": ("input_tokens_per_second", "Prompt tokens of requests that began to answer in the window."),
    "requests_per_s": ("requests_per_second", "Requests completed inside the window over its length."),
    "goodput_per_s": ("goodput_requests_per_second", "Completed requests that met every objective."),
    "fluidity": ("fluidity_ratio", "Share of token deadlines met."),
    "window_s": ("window_seconds", "Length of the measured window."),
}

OUTCOMES: Final = ("completed", "failed", "cancelled", "dropped")


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """One file."""
    path = out_dir / "metrics.txt"
    with whole(path) as part:
        part.write_text(text(summarize(run_dir)), encoding="utf-8")
    return [path]


def text(summary: dict[str, Any]) -> str:
    """The whole exposition, with its end sign."""
    return "\n".join([*_lines(summary), "# EOF"]) + "\n"


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    stages = [(stage, _labels(stage)) for stage in summary["stages"]]
    model = str(models_of(summary["spec"]) or "")
    yield from _head("loadgen_run", "info", "The run that the samples are of.")
    yield _sample("loadgen_run_info", {"run_id": summary["run_id"], "version": summary["loadgen"], "model": model}, 1)
    yield from _head("loadgen_valid", "gauge", "1 where the verdict is valid, 0 where it is suspect.")
    yield _sample("loadgen_valid", {}, int(summary["verdict"]["ok"]))
    for key, (name, help_text) in LATENCIES.items():
        told = [(stage[key], labels) for stage, labels in stages if stage.get(key)]
        if not told:
            continue
        yield from _head(f"loadgen_{name}", "summary", help_text)
        for block, labels in told:
            for which in PERCENTILES:
                yield _sample(f"loadgen_{name}", labels | {"quantile": _quantile(which)}, block[which] / 1e3)
            yield _sample(f"loadgen_{name}_count", labels, block["count"])
            yield _sample(f"loadgen_{name}_sum", labels, block["mean"] * block["count"] / 1e3)
    yield from _unreliable(stages)
    for key, (name, help_text) in GAUGES.items():
        values = [(stage[key], labels) for stage, labels in stages if stage[key] is not None]
        if values:
            yield from _head(f"loadgen_{name}", "gauge", help_text)
        for value, labels in values:
            yield _sample(f"loadgen_{name}", labels, value)
    yield from _head("loadgen_concurrency", "gauge", "Requests in flight, the mean over the window.")
    for stage, labels in stages:
        if stage["concurrency"] is not None:
            yield _sample("loadgen_concurrency", labels, stage["concurrency"]["mean"])
    yield from _head("loadgen_requests", "counter", "Requests of the window by what became of them.")
    for stage, labels in stages:
        for outcome in OUTCOMES:
            if (count := stage["requests"][outcome]) is not None:
                yield _sample("loadgen_requests_total", labels | {"outcome": outcome}, count)
    failed = [(labels, stage["requests"]["errors"]) for stage, labels in stages if stage["requests"]["errors"]]
    if failed:
        yield from _head("loadgen_errors", "counter", "Failed requests of the window by class.")
    for labels, errors in failed:
        for name, count in errors.items():
            yield _sample("loadgen_errors_total", labels | {"error": name}, count)


def _unreliable(stages: list[tuple[dict[str, Any], dict[str, str]]]) -> Iterator[str]:
    """A sample for each quantile above that too few values stand behind, so that none is taken for what it is not."""
    doubted = [
        _sample("loadgen_unreliable", labels | {"metric": name, "quantile": _quantile(which)}, 1)
        for key, (name, _) in LATENCIES.items()
        for stage, labels in stages
        for which in (stage.get(key) or {}).get("unreliable", ())
    ]
    if doubted:
        yield from _head(
            "loadgen_unreliable", "gauge", "1 for a quantile of a latency that too few values stand behind."
        )
        yield from doubted


def _quantile(which: str) -> str:
    return f"{PERCENTILES[which] / 100:.6g}"


def _head(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if name.endswith("_seconds"):
        yield f"# UNIT {name} seconds"
    yield f"# HELP {name} {help_text}"


def _labels(stage: dict[str, Any]) -> dict[str, str]:
    load = stage["load"]
    return {
        "stage": str(stage["stage"]),
        "name": str(stage["name"]),
        "mode": str(load.get("mode", "")),
        "load": str(load.get("value", "")),
    }


def _sample(name: str, labels: dict[str, Any], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(str(word))}"' for key, word in labels.items())
    return f"{name}{{{told}}} {value}" if told else f"{name} {value}"


def _escaped(word: str) -> str:
    word = "".join(char if char.isprintable() or char == "\n" else " " for char in word)
    return word.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
