"""A summary as tables of plain columns, and the rows of a capture: for notebooks, and whatever reads Arrow.

Every column's name ends in its unit; null stands where a run does not tell.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from analysis.captures import Capture, open_run, part_of
from analysis.curves import LATENCIES, PERCENTILES, RATES
from analysis.spelling import load_words
from loadgen.schema import CAPTURE_SCHEMA, CaptureError

Facts = Mapping[str, Any]

ENDS: Final = ("", "_low", "_high")

_SEARCHED: Final = [pa.field("meets", pa.bool_()), pa.field("limited_by_client", pa.bool_())]

POINTS: Final = pa.schema(
    [
        pa.field("load", pa.string()),  # as the tables have it: 64, 20/s
        pa.field("mode", pa.string()),  # concurrency or rate
        pa.field("value", pa.float64()),  # requests in flight, or arrivals a second; null where it changes over time
        pa.field("stages", pa.int64()),  # repeats
        pa.field("in_flight_mean", pa.float64()),
        *(pa.field(f"{name}{end}", pa.float64()) for name in RATES for end in ENDS),
        pa.field("output_tokens_per_s_per_user", pa.float64()),  # 1 / TPOT p50
        *(
            pa.field(f"{name}_{percentile}{end}_ms", pa.float64())
            for name in LATENCIES
            for percentile in PERCENTILES
            for end in ENDS
        ),
        pa.field("failed_share", pa.float64()),
        pa.field("saturated", pa.bool_()),  # open loop: the backlog grew all the time
    ]
)
"""A row a point of the curve; low and high are the ends of the 95 % interval."""

COUNTS: Final = ("offered", "sent", "completed", "failed", "cancelled", "late", "dropped", "retried")

STAGE_LATENCIES: Final = ("ttft", "ttft_intended", "ttfa", "itl", "tpot", "e2e", "e2e_intended")

STAGE_PERCENTILES: Final = ("mean", "p50", "p90", "p95", "p99", "max")

STAGES: Final = pa.schema(
    [
        pa.field("stage", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("outcome", pa.string()),  # finished, cut, failed
        pa.field("window_s", pa.float64()),
        *(pa.field(name, pa.int64()) for name in COUNTS),
        *(pa.field(name, pa.float64()) for name in RATES),
        pa.field("in_flight_mean", pa.float64()),
        *(pa.field(f"{name}_{one}_ms", pa.float64()) for name in STAGE_LATENCIES for one in STAGE_PERCENTILES),
        pa.field("lag_p99_us", pa.float64()),  # the client's own: time of a read - kernel stamp
        pa.field("lateness_p99_us", pa.float64()),
        pa.field("cpu_share_max", pa.float64()),  # of the busiest worker
    ]
)
"""A row a stage."""


TARGETS: Final = pa.schema(
    [
        pa.field("stage", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("target", pa.string()),
        pa.field("endpoint", pa.string()),  # null: all endpoints of the target
        pa.field("weight", pa.float64()),
        *(pa.field(name, pa.int64()) for name in COUNTS),
        *(pa.field(name, pa.float64()) for name in RATES),
        pa.field("in_flight_mean", pa.float64()),
        *(pa.field(f"{name}_{one}_ms", pa.float64()) for name in STAGE_LATENCIES for one in STAGE_PERCENTILES),
    ]
)
"""A row a target of each stage, and one for each endpoint of a target that has several."""


def points(summary: Facts, saturation: Facts | None = None) -> pa.Table:
    """A row a point of the curve (POINTS); of a search also whether it meets the objectives, and who was the limit."""
    rows = [_point(point) for point in summary["curve"]]
    if saturation is None:
        return pa.Table.from_pylist(rows, POINTS)
    found = {float(one["load"]): one for one in saturation["points"]}
    for row in rows:
        one = found.get(row["value"]) if row["value"] is not None else None
        row |= {"meets": one and one["meets"], "limited_by_client": one and bool(one["client"])}
    return pa.Table.from_pylist(rows, pa.schema([*POINTS, *_SEARCHED]))


def stages(summary: Facts) -> pa.Table:
    """A row a stage (STAGES)."""
    return pa.Table.from_pylist([_stage(stage) for stage in summary["stages"]], STAGES)


def targets(summary: Facts) -> pa.Table:
    """A row a target and endpoint (TARGETS); none where there is one target with one URL."""
    rows = []
    for stage in summary["stages"]:
        for target in stage.get("by_target") or ():
            named = {
                "stage": stage["stage"],
                "name": stage["name"],
                "target": target["name"],
                "weight": target["weight"],
            }
            rows += [
                named | {"endpoint": part.get("url")} | _measured(part)
                for part in (target, *(target["by_endpoint"] or ()))
            ]
    return pa.Table.from_pylist(rows, TARGETS)


def _point(point: Facts) -> dict[str, Any]:
    row = {
        "load": load_words(point["load"]),
        "mode": point["load"]["mode"],
        "value": _value(point["load"]),
        "stages": len(point["stages"]),
        "in_flight_mean": point["concurrency"],
        "output_tokens_per_s_per_user": point["tokens_per_s_per_user"],
        "failed_share": point["failed_share"],
        "saturated": point["saturated"],
    }
    for name in RATES:
        row |= _ends(point[name], f"{name}{{}}")
    for name in LATENCIES:
        for percentile in PERCENTILES:
            row |= _ends((point[f"{name}_ms"] or {}).get(percentile), f"{name}_{percentile}{{}}_ms")
    return row


def _ends(one: Facts | None, name: str) -> dict[str, float | None]:
    told = one or {}
    return {name.format(end): told.get(key) for end, key in zip(ENDS, ("value", "low", "high"), strict=True)}


def _value(load: Facts) -> float | None:
    value = load.get("value")
    return None if value is None or "profile" in load else float(value)


def _stage(stage: Facts) -> dict[str, Any]:
    client = stage["client"]
    row = {
        "stage": stage["stage"],
        "name": stage["name"],
        "mode": stage["load"]["mode"],
        "value": _value(stage["load"]),
        "outcome": (stage["outcome"] or {}).get("reason"),
        "window_s": stage["window_s"],
        **_measured(stage),
        "lag_p99_us": (client["lag_us"] or {}).get("p99"),
        "lateness_p99_us": (client["lateness_us"] or {}).get("p99"),
        "cpu_share_max": max((share for share in client["cpu_share"] if share is not None), default=None),
    }
    return row


def _measured(part: Facts) -> dict[str, Any]:
    """What is told of a stage, and of a part of it."""
    row: dict[str, Any] = {"in_flight_mean": (part["concurrency"] or {}).get("mean")}
    row |= {name: part["requests"][name] for name in COUNTS}
    row |= {name: part[name] for name in RATES}
    for name in STAGE_LATENCIES:
        row |= {f"{name}_{one}_ms": (part[f"{name}_ms"] or {}).get(one) for one in STAGE_PERCENTILES}
    return row


def requests(run_dir: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of the capture (loadgen.schema), of all workers: a row a request, as far as they are written.

    Rows of a stage that was begun again after an interruption are left out. CaptureError for a column that there is not, and
    where there is no capture.
    """
    run = open_run(run_dir)
    wanted = list(CAPTURE_SCHEMA.names if columns is None else columns)
    if unknown := [name for name in wanted if name not in CAPTURE_SCHEMA.names]:
        raise CaptureError(f"a capture has no column {unknown[0]!r}; allowed are {', '.join(CAPTURE_SCHEMA.names)}")
    parts = {plan["stage"]: part_of(plan) for plan in run.facts["stages"]}
    tables = [_rows(capture, parts, wanted) for capture in run.captures]
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries().select(wanted)


def _rows(capture: Capture, parts: Mapping[int, int], wanted: Sequence[str]) -> pa.Table:
    with pa.OSFile(str(capture.path)) as source:
        schema = ipc.open_stream(source).schema
        there = [name for name in schema.names if name in wanted or name == "stage"]
        source.seek(0)
        options = ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in there], use_threads=False)
        reader = ipc.open_stream(source, options=options)
        batches = [
            reader.read_next_batch() for _ in range(capture.batches)
        ]  # what came later is not told by the summary
        table = pa.Table.from_batches(batches, reader.schema).replace_schema_metadata(None)
    of_others = [stage for stage, part in parts.items() if part != capture.part]
    if of_others:
        stage = table.column("stage")
        table = table.filter(pc.invert(pc.is_in(stage, pa.array(of_others, stage.type))))
    return table
