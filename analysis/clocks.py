"""The clocks of several machines as one time line.

A stamp is CLOCK_MONOTONIC of the machine that took it, and those of two machines have nothing to do with each other. Where a
run was made on several, run.json says how far each node's clock was from the run's time line, and when that was found. A
request is moved as a whole, by the offset at its send: its latencies stay what they were, to the nanosecond.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from analysis.rows import Integers

MOMENTS: Final = ("intended_ns", "sent_ns", "first_byte_ns", "last_byte_ns", "ended_ns")
"""Columns of a capture that are points in time; so are the elements of event_ns."""

OF_A_MARK: Final = ("start_ns", "measure_ns", "stop_ns", "idle_ns", "done_ns")
"""Points in time of a stage, as a worker tells it (loadgen.schema)."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How far the run's time line is ahead of a node's clock: (the node's ns, offset ns), ascending; of none: not at all."""

    points: tuple[tuple[int, int], ...] = ()

    def offsets_ns(self, times_ns: Integers) -> Integers:
        """The offset at each moment of the node: linear between two points, constant before the first and after the last."""
        if not self.points:
            return np.zeros(len(times_ns), np.int64)
        (first_ns, base_ns), times, offsets = self.points[0], *np.array(self.points, np.int64).T
        # Floats of ns since boot would lose a microsecond: from the first point on.
        beyond = np.interp(
            (times_ns - first_ns).astype(np.float64),
            (times - first_ns).astype(np.float64),
            (offsets - base_ns).astype(np.float64),
        )
        offsets_ns: Integers = base_ns + np.rint(beyond).astype(np.int64)
        return offsets_ns

    def moved_ns(self, t_ns: int) -> int:
        """One moment of the node on the run's time line."""
        return t_ns + int(self.offsets_ns(np.array([t_ns], np.int64))[0])


AS_IT_IS: Final = Clock()
"""Of the only machine."""


def moved_batch(batch: pa.RecordBatch, clock: Clock) -> pa.RecordBatch:
    """A batch of a capture on the run's time line; it has the column sent_ns."""
    if not clock.points or not batch.num_rows:
        return batch
    offsets_ns = clock.offsets_ns(batch.column("sent_ns").to_numpy())
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in MOMENTS:
        if name in columns:
            column = columns[name]
            moved = column.fill_null(0).to_numpy() + offsets_ns
            columns[name] = pa.array(moved, mask=column.is_null().to_numpy(zero_copy_only=False))
    lists = columns["event_ns"]
    lengths = lists.value_lengths().to_numpy()
    bounds = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    events = lists.flatten().to_numpy() + np.repeat(offsets_ns, lengths)
    columns["event_ns"] = pa.ListArray.from_arrays(bounds, events, type=lists.type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def moved_watch(watch: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """What a worker says of itself in a batch, on the run's time line."""
    if not clock.points:
        return watch
    moved = dict(watch)
    for name in ("samples", "clock_steps", "sleeps"):
        if told := watch.get(name):
            times = np.array([one[0] for one in told], np.int64)
            times += clock.offsets_ns(times)
            moved[name] = [[t_ns, *one[1:]] for t_ns, one in zip(times.tolist(), told, strict=True)]
    moved["stages"] = [
        mark | {name: clock.moved_ns(mark[name]) for name in OF_A_MARK if mark.get(name) is not None}
        for mark in watch.get("stages", ())
    ]
    return moved


def clock_of(node: dict[str, Any]) -> Clock:
    """The clock of a node's entry in run.json, whose points may also say how sure they are."""
    return Clock(tuple(sorted((int(t_ns), int(offset_ns)) for t_ns, offset_ns, *_ in node.get("clock") or ())))
