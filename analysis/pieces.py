"""The rows of a run's captures, in pieces of one stage and one worker, all of them or a share.

The second pass over a capture, of the batches that were whole in the first (`captures.open_run`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from analysis.captures import Capture
from analysis.clocks import moved_batch
from analysis.rows import COLUMNS, Rows, integers, to_rows
from analysis.streams import read_batches

EVENTS_AT_ONCE: Final = 1 << 16
"""Rows are taken in pieces of about this many events: 512 KB an array, so that a piece stays in the cache from one step
to the next and memory does not grow with the batch."""


@dataclass(frozen=True, slots=True)
class Span:
    """Batches of one capture: first <= number < after."""

    capture: Capture
    first: int
    after: int


def shares(captures: list[Capture], jobs: int) -> list[list[Span]]:
    """All batches of a run in their order, in `jobs` runs of about equal numbers of requests; never an empty one."""
    todo = [(capture, number) for capture in captures for number in range(capture.batches)]
    found = []
    for part in np.array_split(np.arange(len(todo)), min(jobs, len(todo)) or 1):
        spans: list[Span] = []
        for capture, number in (todo[at] for at in part.tolist()):
            if spans and spans[-1].capture is capture:
                spans[-1] = Span(capture, spans[-1].first, number + 1)
            else:
                spans.append(Span(capture, number, number + 1))
        found.append(spans)
    return found


def stage_rows(capture: Capture) -> Iterator[tuple[int, Rows]]:
    """(stage, rows) of every whole batch, in pieces of about EVENTS_AT_ONCE events.

    CaptureError for a list that does not go with event_ns.
    """
    return span_rows(Span(capture, 0, capture.batches))


def span_rows(span: Span) -> Iterator[tuple[int, Rows]]:
    """As `stage_rows`, of some batches."""
    for stage, piece in stage_pieces(span, COLUMNS):
        yield stage, to_rows(piece)


def stage_pieces(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(stage, its rows as Arrow has them), in the same pieces; for who wants other columns as well.

    Small batches that follow each other are taken together: a piece costs a hundred calls, however little is in it.
    """
    gathered: list[pa.RecordBatch] = []
    of_stage, events = -1, 0
    for stage, batch in _stage_batches(span, columns):
        its_events = _event_count(batch)
        if gathered and (stage != of_stage or events + its_events > EVENTS_AT_ONCE):
            yield of_stage, _together(gathered)
            gathered, events = [], 0
        of_stage, events = stage, events + its_events
        if its_events > EVENTS_AT_ONCE:
            for piece in _pieces(batch):
                yield stage, piece
            events = 0
        else:
            gathered.append(batch)
    if gathered:
        yield of_stage, _together(gathered)


def _stage_batches(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
    number = span.first
    for item in read_batches(span.capture.path, columns, span.first):
        if isinstance(item, pa.Schema):
            continue
        if number == span.after:
            return
        number += 1
        stages = integers(item.batch.column("stage"))
        batch = moved_batch(item.batch, span.capture.clock)
        for stage in np.unique(stages).tolist():
            mine = stages == stage
            yield stage, batch if mine.all() else batch.filter(pa.array(mine))


def _event_count(batch: pa.RecordBatch) -> int:
    offsets = batch.column("event_ns").offsets
    return int(offsets[-1].as_py()) - int(offsets[0].as_py()) if batch.num_rows else 0


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    whole: pa.RecordBatch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    return whole


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    offsets = batch.column("event_ns").offsets.to_numpy()
    first = 0
    while first < batch.num_rows:
        after = int(np.searchsorted(offsets, int(offsets[first]) + EVENTS_AT_ONCE, side="right")) - 1
        after = min(max(after, first + 1), batch.num_rows)
        yield batch.slice(first, after - first)
        first = after
