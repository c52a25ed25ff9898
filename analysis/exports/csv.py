"""requests.csv, a line a request with the columns of requests.parquet, stages.csv, a line a stage, and where there are
several targets, targets.csv, a line a target of each stage, and one for each of its endpoints where it has several.

A field that begins with a sign by which a spreadsheet knows a formula has a ' before it: classes of errors and ids are the
server's words.
"""

import csv
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv

from analysis.exports.files import whole
from analysis.exports.requests import REQUESTS, request_batches
from analysis.latencies import PERCENTILES
from analysis.opened import opened
from analysis.summary import summarize

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

BLOCKS: Final = (
    "ttft",
    "ttft_intended",
    "ttfa",
    "tpot",
    "itl",
    "itl_per_token",
    "e2e",
    "e2e_intended",
    "end_of_stream",
)


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """The files."""
    run = opened(run_dir)
    paths = [out_dir / "requests.csv", out_dir / "stages.csv"]
    with whole(paths[0]) as part, closing(pa.csv.CSVWriter(str(part), REQUESTS)) as out:
        for batch in request_batches(run):
            out.write_batch(_harmless(batch))
    stages = summarize(run_dir)["stages"]
    _write_lines(paths[1], [stage_line(stage) for stage in stages])
    if of_targets := [line for stage in stages for line in target_lines(stage)]:
        paths.append(out_dir / "targets.csv")
        _write_lines(paths[2], of_targets)
    return paths


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(lines[0]) if lines else ["stage"], lineterminator="\n")
        table.writeheader()
        table.writerows(lines)


def target_lines(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """A stage's targets, flat; `endpoint` is empty in the line of a whole target."""
    lines = []
    for target in stage.get("by_target") or ():
        for part in (target, *(target["by_endpoint"] or ())):
            told = {key: stage[key] for key in ("stage", "name", "load", "window_s")} | part
            named = {"target": harmless(str(target["name"])), "endpoint": harmless(part.get("url"))}
            lines.append(named | stage_line(told | {"name": stage["name"]}))
    return lines


def _harmless(batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in ("error", "finish_reason", "response_id", "target", "endpoint"):
        words = batch.column(name).to_pylist()
        if any(word and word.startswith(FORMULA) for word in words):
            quoted = pa.array([harmless(word) for word in words], pa.string())
            batch = batch.set_column(batch.schema.get_field_index(name), name, quoted)
    return batch


def harmless(word: str | None) -> str | None:
    """A word that no spreadsheet takes for a formula."""
    return "'" + word if word and word.startswith(FORMULA) else word


def stage_line(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of the summary, flat: metric_percentile_ms and so on; empty where there is no value.

    metric_unreliable names the percentiles that so few values do not bear, as summary.json does.
    """
    line: dict[str, Any] = {
        "stage": stage["stage"],
        "name": harmless(str(stage["name"])),
        "mode": stage["load"].get("mode"),
        "load": harmless(str(stage["load"].get("value"))),
        "window_s": stage["window_s"],
    }
    line |= {name: count for name, count in stage["requests"].items() if name != "errors"}
    rates = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s", "goodput_per_s", "fluidity")
    line |= {name: stage[name] for name in rates}
    line |= {f"concurrency_{name}": (stage["concurrency"] or {}).get(name) for name in ("mean", "peak")}
    for metric in BLOCKS:
        block = stage.get(f"{metric}_ms") or {}
        for name in ("count", "mean", "min", *PERCENTILES, "max"):
            line[f"{metric}_{name}" + ("" if name == "count" else "_ms")] = block.get(name)
        line[f"{metric}_unreliable"] = " ".join(block.get("unreliable", ()))
    return line
