"""RUN -> what its workers wrote: run.json, and a file a worker.

A run that was interrupted and resumed has a folder of captures for each part. A stage is told by one part alone: the one
that `part` names in its entry of run.json (the first where there is none).

A capture is read twice. The first pass (`open_run`) looks at the batches' metadata and counts the whole ones; the second
(`pieces.py`) reads the columns. Whatever was written after the first pass is left alone, so that a run that is still
going on, or a worker that was killed in the middle of a batch, gives one consistent picture: all batches that were
whole when the reading began.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from analysis.streams import read_batches
from loadgen.schema import MUST_AGREE, WATCH_KEY, CaptureError, decode_metadata

RUN_SCHEMA: Final = 1
"""The version of run.json that is understood here."""

OF_A_PART: Final = frozenset({"workers", "stages"})
"""Of what captures must agree on: what those of another part may say otherwise."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One worker's file: its metadata, what it said of itself in each whole batch, and how far it can be read."""

    path: Path
    part: int
    worker: int
    facts: dict[str, Any]
    watches: list[dict[str, Any]]
    batches: int
    rows: int
    closed: bool  # the worker ended in order; else it was killed, or is still at work

    @property
    def known_until_ns(self) -> int | None:
        """The last moment that the whole batches tell about; None if they tell nothing."""
        return max((int(t_ns) for watch in self.watches for t_ns, *_ in watch.get("samples", ())), default=None)


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory: run.json (or what the captures' metadata says in its place) and the captures by worker."""

    run_dir: Path
    facts: dict[str, Any]
    captures: list[Capture]
    unreadable: list[tuple[int, int]]  # (part, worker) whose file has not even a whole head

    def of_stage(self, plan: dict[str, Any]) -> list[Capture]:
        """The captures that tell a stage; `plan` is its entry in run.json."""
        return [capture for capture in self.captures if capture.part == part_of(plan)]

    @property
    def last_part(self) -> int:
        return max(capture.part for capture in self.captures)

    @property
    def workers(self) -> int:
        """As planned, in the last part."""
        return max(int(capture.facts["workers"]) for capture in self.captures if capture.part == self.last_part)


def open_run(run_dir: Path) -> Run:
    """Reads run.json and the captures' metadata. CaptureError if there is nothing to read or it does not belong together."""
    paths = sorted((run_dir / "capture").rglob("worker-*.arrow"))
    if not paths:
        raise CaptureError(f"{run_dir} holds no capture: there is no capture/worker-NN.arrow in it")
    captures, unreadable = [], []
    for path in paths:
        capture = open_capture(path)
        if capture is None:
            unreadable.append((_part_of(path), _number_in(path.stem)))
        else:
            captures.append(capture)
    if not captures:
        raise CaptureError(f"no capture in {run_dir} has a whole head yet: no worker got as far as writing it")
    captures.sort(key=lambda capture: (capture.part, capture.path))
    for key in MUST_AGREE:
        for part in {capture.part for capture in captures} if key in OF_A_PART else {0}:
            seen = sorted({json.dumps(one.facts.get(key)) for one in captures if part in (0, one.part)})
            if len(seen) > 1:
                raise CaptureError(f"the captures in {run_dir} disagree on {key}: {', '.join(seen)[:300]}")
    return Run(run_dir, _run_facts(run_dir, captures), captures, unreadable)


def part_of(plan: dict[str, Any]) -> int:
    """The part of the run that tells a stage."""
    return int(plan.get("part", 1))


def _part_of(path: Path) -> int:
    return _number_in(path.parent.name) if path.parent.name != "capture" else 1


def _number_in(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found else -1


def _run_facts(run_dir: Path, captures: list[Capture]) -> dict[str, Any]:
    first = captures[0].facts
    fallback = {
        "schema": RUN_SCHEMA,
        "run_id": first["run_id"],
        "loadgen": first["loadgen"],
        "started_at": None,
        "spec": first["spec"],
        "stages": first["stages"],
        "host": {key: first[name] for key, name in _HOST_FACTS.items()},
        "workers": [{"worker": capture.worker, "core": capture.facts["core"]} for capture in captures],
        "ended": None,
    }
    try:
        told: dict[str, Any] = json.loads((run_dir / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):  # a killed run may leave none, or half of it
        return fallback
    if told.get("schema") != RUN_SCHEMA:
        raise CaptureError(f"run.json has version {told.get('schema')}, this loadgen reads version {RUN_SCHEMA}")
    if told.get("run_id", first["run_id"]) != first["run_id"]:
        raise CaptureError(f"run.json is of run {told['run_id']}, the captures beside it are of run {first['run_id']}")
    return fallback | told


_HOST_FACTS: Final = {"name": "host", "kernel": "kernel", "clock_source": "clock_source"}


def open_capture(path: Path) -> Capture | None:
    """The metadata and the whole batches of one file; None when the file was cut within its head."""
    facts: dict[str, Any] | None = None
    watches, batches, rows = [], 0, 0
    # `stage` alone is decompressed: two bytes a request.
    for item in read_batches(path, ("stage",)):
        if isinstance(item, pa.Schema):
            facts = decode_metadata(item.metadata)
            continue
        batches += 1
        rows += item.batch.num_rows
        told = item.custom_metadata
        if told and WATCH_KEY.encode() in told:
            try:
                watches.append(json.loads(told[WATCH_KEY.encode()]))
            except (ValueError, RecursionError):
                raise CaptureError(f"{path} is damaged: what its worker says of itself is no JSON") from None
    if facts is None:
        return None
    closed = bool(watches) and bool(watches[-1].get("closing"))
    return Capture(path, _part_of(path), int(facts["worker"]), facts, watches, batches, rows, closed)
