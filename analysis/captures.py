"""RUN -> what its workers wrote: run.json, and a file a worker.

The captures of a run on several machines lie in a folder a node, `capture/node-K`, with workers numbered through the nodes.

A run that was interrupted and resumed has a folder of captures for each part. A stage is told by one part alone: the one
that `part` names in its entry of run.json (the first where there is none).

A capture is read twice. The first pass (`open_run`) looks at the batches' metadata and counts the whole ones; the second
(`pieces.py`) reads the columns. Whatever was written after the first pass is left alone, so that a run that is still
going on, or a worker that was killed in the middle of a batch, gives one consistent picture: all batches that were
whole when the reading began.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from analysis.clocks import AS_IT_IS, Clock, clock_of, moved_watch
from analysis.streams import read_batches
from loadgen.schema import MUST_AGREE, WATCH_KEY, CaptureError, decode_metadata

RUN_SCHEMA: Final = 1
"""The version of run.json that is understood here."""

OF_A_PART: Final = frozenset({"workers", "stages"})
"""Of what captures must agree on: what those of another part may say otherwise."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One worker's file: its metadata, what it said of itself in each whole batch, and how far it can be read.

    `clock` is how its stamps come onto the run's time line, on which `watches` are already.
    """

    path: Path
    part: int
    worker: int
    facts: dict[str, Any]
    watches: list[dict[str, Any]]
    batches: int
    rows: int
    closed: bool  # the worker ended in order; else it was killed, or is still at work
    node: int = 0
    clock: Clock = AS_IT_IS

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

    def nodes_of(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """The entries in run.json of the machines that made a stage; none where there was but one."""
        return [node for node in self.facts.get("nodes") or () if part_of(node) == part_of(plan)]

    @property
    def last_part(self) -> int:
        return max(capture.part for capture in self.captures)

    @property
    def realtime_offset_ns(self) -> int:
        """CLOCK_REALTIME less the run's time line, as the machine of the first worker had it."""
        first = self.captures[0]
        return int(first.facts["realtime_offset_ns"]) - (first.clock.points[0][1] if first.clock.points else 0)

    @property
    def workers(self) -> int:
        """As planned, in the last part."""
        return max(int(capture.facts["workers"]) for capture in self.captures if capture.part == self.last_part)


def open_run(run_dir: Path) -> Run:
    """Reads run.json and the captures' metadata. CaptureError if there is nothing to read or it does not belong together."""
    return run_of(run_dir, *open_captures(run_dir))


def open_captures(run_dir: Path) -> tuple[list[Capture], list[tuple[int, int]]]:
    """Each file of a folder `capture` by itself, stamps as they are; and (part, worker) of those without a whole head."""
    captures, unreadable = [], []
    for path in sorted((run_dir / "capture").rglob("worker-*.arrow")):
        capture = open_capture(path)
        if capture is None:
            unreadable.append((part_in(path), _number_in(path.stem)))
        else:
            captures.append(capture)
    return captures, unreadable


def run_of(run_dir: Path, captures: Iterable[Capture], unreadable: list[tuple[int, int]]) -> Run:
    """The run that captures make, with run.json of this folder, on one time line. CaptureError as `open_run`."""
    found = sorted(captures, key=lambda capture: (capture.part, capture.worker))
    if not found and not unreadable:
        raise CaptureError(f"{run_dir} holds no capture: {_where(run_dir)}")
    if not found:
        raise CaptureError(f"no capture in {run_dir} has a whole head yet: no worker got as far as writing it")
    for before, after in pairwise(found):
        if (before.part, before.worker) == (after.part, after.worker):
            raise CaptureError(f"{run_dir} holds two captures of worker {after.worker}: {before.path} and {after.path}")
    for key in MUST_AGREE:
        for part in {capture.part for capture in found} if key in OF_A_PART else {0}:
            seen = sorted({json.dumps(one.facts.get(key)) for one in found if part in (0, one.part)})
            if len(seen) > 1:
                raise CaptureError(f"the captures in {run_dir} disagree on {key}: {', '.join(seen)[:300]}")
    facts = _run_facts(run_dir, found)
    clocks = {(part_of(node), int(node["node"])): clock_of(node) for node in facts.get("nodes") or ()}
    on_time_line = [_on_time_line(one, clocks.get((one.part, one.node), AS_IT_IS)) for one in found]
    return Run(run_dir, facts, on_time_line, unreadable)


def _where(run_dir: Path) -> str:
    """Where the captures are that are not here."""
    try:
        nodes = json.loads((run_dir / "run.json").read_bytes()).get("nodes") or ()
        places = [
            f"{place} (to capture/node-{node['node']})" for node in nodes if (place := node.get("captures")) != "driver"
        ]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        places = []
    if not places:
        return "there is no capture/worker-NN.arrow in it"
    return f"they were left where they came; copy them from {', '.join(places)[:500]}"


def _on_time_line(capture: Capture, clock: Clock) -> Capture:
    return replace(capture, clock=clock, watches=[moved_watch(watch, clock) for watch in capture.watches])


def part_of(plan: dict[str, Any]) -> int:
    """The part of the run that tells a stage, or that a node took part in: of its entry in run.json."""
    return int(plan.get("part", 1))


def part_in(path: Path) -> int:
    """The part of the run that a file is of, by its folder."""
    return max(_number_of("part", path), 1)


def node_in(path: Path) -> int:
    """The node that a file is of, by its folder; 0 where there is but one machine."""
    return max(_number_of("node", path), 0)


def _number_of(what: str, path: Path) -> int:
    for folder in path.parent.parts[:0:-1]:
        if re.fullmatch(rf"{what}-\d+", folder):
            return _number_in(folder)
        if folder == "capture":
            break
    return -1


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
    return Capture(path, part_in(path), int(facts["worker"]), facts, watches, batches, rows, closed, node_in(path))
