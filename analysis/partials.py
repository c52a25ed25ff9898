"""A run on several machines, counted where its captures are and put together where the results are wanted.

Two passes, as over the captures of one machine, and something to send after each:

    a node    heads     what its captures say of themselves
    one       gathered  all heads, and run.json, as a run; from it the order: windows, objectives, clocks
    a node    tallies   its captures, counted as the order says
    one       whole     all tallies, added up

The result is what counting all captures in one place gives, to the last bit. No token leaves its machine, and of a request
some 30 bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from analysis.captures import Capture, Run, open_capture, open_captures, part_in, run_of
from analysis.clocks import Clock
from analysis.jobs import merged, order_of, stage_tallies
from analysis.packing import pack, unpack
from analysis.tally import StageTally
from loadgen.schema import CaptureError

HEADS: Final = "counted.heads"
TALLIES: Final = "counted.tallies"
"""Files of RUN/capture/node-K: the results of a node whose captures are not there."""

Key = tuple[int, int]
"""(part, worker): one capture of a run."""


def heads(folder: Path, node: int = 0) -> bytes:
    """What the captures under FOLDER/capture say of themselves; none where a node has written nothing.

    They are of `node`, in whatever folder they lie now.
    """
    captures, unreadable = open_captures(folder)
    told = [
        {
            "node": node,
            "part": capture.part,
            "worker": capture.worker,
            "file": capture.path.name,
            "facts": capture.facts,
            "watches": capture.watches,
            "batches": capture.batches,
            "rows": capture.rows,
            "closed": capture.closed,
        }
        for capture in captures
    ]
    return pack({"captures": told, "unreadable": unreadable})


def gathered(run_dir: Path, told: Sequence[bytes]) -> Run:
    """The run that the heads of its nodes make; its captures may be elsewhere. RUN/run.json is the last word on the nodes.

    CaptureError as captures.open_run.
    """
    captures, unreadable = [], []
    for one in map(unpack, told):
        unreadable += one["unreadable"]
        for head in one["captures"]:
            folder = _folder(run_dir, head["node"], head["part"])
            captures.append(
                Capture(
                    folder / head["file"],
                    head["part"],
                    head["worker"],
                    head["facts"],
                    head["watches"],
                    head["batches"],
                    head["rows"],
                    head["closed"],
                    head["node"],
                )
            )
    return run_of(run_dir, captures, unreadable)


def order(run: Run) -> bytes:
    """What each node of a run has to know before it can count."""
    captures = [(one.node, one.part, one.worker, one.batches, one.clock) for one in run.captures]
    return pack({"order": order_of(run), "captures": captures})


def tallies(folder: Path, ordered: bytes, node: int = 0, jobs: int = 1, part: int | None = None) -> bytes:
    """The captures of `node` under FOLDER/capture, counted on `jobs` processes. CaptureError where one is not there.

    `part`: of that part of the run alone, where the node was another machine before.
    """
    told = unpack(ordered)
    mine = {
        (of_part, worker): (batches, clock)
        for of, of_part, worker, batches, clock in told["captures"]
        if of == node and part in (None, of_part)
    }
    captures = [_ordered(path, *mine[key], node) for key, path in _paths(folder).items() if key in mine]
    if missing := mine.keys() - {_key(one) for one in captures}:
        of_part, worker = min(missing)
        raise CaptureError(f"{folder} holds no capture of worker {worker} in part {of_part}, which the order names")
    captures.sort(key=_key)
    counted = stage_tallies(captures, told["order"], jobs)
    keys = [(*_key(one), one.batches) for one in captures]
    return pack({"captures": keys, "parts": told["order"].parts, "tallies": counted})


def whole(run: Run, counted: Sequence[bytes]) -> dict[int, StageTally]:
    """The tallies of all nodes, added up. CaptureError unless every capture of the run was counted once.

    Each node has workers of its own that follow each other, so that adding up in their order is counting in their order.
    """
    whole_order = order_of(run)
    found = sorted((unpack(one) for one in counted), key=lambda one: min(one["captures"], default=(0, 0)))
    seen = sorted(key for one in found for key in one["captures"])
    wanted = [(*_key(capture), capture.batches) for capture in run.captures]
    if seen != wanted:
        lost = sorted({worker for _, worker, _ in set(wanted) ^ set(seen)}) or sorted({worker for _, worker, _ in seen})
        raise CaptureError(
            f"{run.run_dir}: the parts of the analysis do not hold each capture once: see worker {lost[0]}"
        )
    for one in found:
        # What a part of the run began and a later one made again is the later one's to tell.
        stages = {stage for stage, part in one["parts"].items() if whole_order.parts.get(stage) == part}
        one["tallies"] = {stage: tally for stage, tally in one["tallies"].items() if stage in stages}
        for stage, tally in one["tallies"].items():
            if tally.window != whole_order.windows.get(stage):
                raise CaptureError(f"{run.run_dir}: stage {stage} was counted for another window than it has now")
    return merged(one["tallies"] for one in found)


def keep(run_dir: Path, node: int, told: bytes, counted: bytes, part: int = 1) -> None:
    """Put what a node told and counted into RUN, in place of captures that stay where they are. OSError from the disk."""
    folder = _folder(run_dir, node, part)
    folder.mkdir(parents=True, exist_ok=True)
    for name, packed in ((HEADS, told), (TALLIES, counted)):
        fresh = folder / f"{name}.part"
        fresh.write_bytes(packed)
        fresh.replace(folder / name)


def kept(run_dir: Path) -> tuple[list[bytes], list[bytes]] | None:
    """The heads and tallies that were put into RUN; None where there are captures, or nothing."""
    if next((run_dir / "capture").rglob("worker-*.arrow"), None) is not None:
        return None
    paths = sorted((run_dir / "capture").rglob(TALLIES))
    if not paths:
        return None
    return [path.with_name(HEADS).read_bytes() for path in paths], [path.read_bytes() for path in paths]


def _folder(run_dir: Path, node: int, part: int) -> Path:
    return run_dir / "capture" / f"node-{node}" / (f"part-{part}" if part > 1 else "")


def _paths(folder: Path) -> dict[Key, Path]:
    found = {}
    for path in (folder / "capture").rglob("worker-*.arrow"):
        digits = path.stem.removeprefix("worker-")
        if digits.isdigit():
            found[part_in(path), int(digits)] = path
    return found


def _ordered(path: Path, batches: int, clock: Clock, node: int) -> Capture:
    """A capture as far as the order goes: what was written since does not count."""
    capture = open_capture(path)
    if capture is None or capture.batches < batches:
        raise CaptureError(f"{path} holds less than when it was looked at first")
    return replace(capture, watches=[], batches=batches, node=node, clock=clock)


def _key(capture: Capture) -> Key:
    return capture.part, capture.worker
