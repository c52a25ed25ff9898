"""A stage cut into intervals of its window, for intervals of confidence: what is resampled is time, never a token.

Requests go to the interval in which they were due (closed loop: sent), with all their gaps; tokens and completions to the
one in which they happened. Everything is a count by interval, so that the cost of resampling does not depend on the run.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analysis import metrics, rates, slo
from analysis.cells import Cells
from analysis.histogram import PLACES, highest_equivalent
from analysis.opened import Opened, of_window
from analysis.rows import ABSENT, Integers, Rows, pick
from analysis.window import Window

INTERVALS: Final = 40
"""Two for each block of bootstrap.BLOCKS."""

OF_REQUESTS: Final = ("ttft", "ttft_intended", "tpot", "e2e", "e2e_intended")
LATENCIES: Final = (*OF_REQUESTS, "itl")

RATES: Final = ("output_tokens", "completed", "good", "sent", "failed")

Numbers = NDArray[np.float64]


@dataclass(slots=True)
class Table:
    """A metric's counts: a line an interval, a column a place that is used; `values_ns` is the middle of each place."""

    counts: Numbers
    values_ns: Numbers
    sums_ns: Numbers  # of the exact values, by interval


@dataclass(slots=True)
class Blocks:
    """One stage of one run."""

    interval_s: float
    rates: dict[str, Numbers]
    latencies: dict[str, Table]


@dataclass(slots=True)
class _Growing:
    window: Window
    rates: dict[str, Numbers] = field(default_factory=lambda: {name: np.zeros(INTERVALS) for name in RATES})
    cells: dict[str, Cells] = field(default_factory=lambda: {name: Cells() for name in LATENCIES})
    sums_ns: dict[str, Numbers] = field(default_factory=lambda: {name: np.zeros(INTERVALS) for name in LATENCIES})

    def intervals(self, times_ns: Integers) -> Integers:
        return (times_ns - self.window.start_ns) * INTERVALS // self.window.length_ns

    def count(self, name: str, times_ns: Integers, weights: Numbers | None = None) -> None:
        inside = rates.within(self.window, times_ns)
        weights = None if weights is None else weights[inside]
        self.rates[name] += np.bincount(self.intervals(times_ns[inside]), weights, minlength=INTERVALS)

    def add(self, name: str, intervals: Integers, values_ns: Integers) -> None:
        self.cells[name].add(intervals, values_ns)
        self.sums_ns[name] += np.bincount(intervals, values_ns.astype(np.float64), minlength=INTERVALS)


def stage_blocks(opened: Opened, target: int | None = None) -> dict[int, Blocks]:
    """The blocks of each stage that has a window, of all requests or of those to one target; one pass over the capture."""
    asked = slo.limits(opened.run.facts["spec"])
    growing = {stage: _Growing(window) for stage, window in opened.windows.items() if window.length_ns}
    for piece in opened.pieces(also=()):
        if piece.stage in growing:
            rows = piece.rows if target is None else pick(piece.rows, piece.rows.target == target)
            _add(growing[piece.stage], rows, asked)
    return {stage: _settled(one) for stage, one in growing.items()}


def _add(stage: _Growing, rows: Rows, asked: dict[str, slo.Limit]) -> None:
    rows = pick(rows, ~rows.dropped)
    stage.count("output_tokens", rows.event_ns, metrics.tokens_per_event(rows))
    finished = pick(rows, rows.completed)
    stage.count("completed", finished.last_byte_ns)
    if asked:
        met = np.logical_and.reduce(list(slo.met(finished, asked).values()))
        stage.count("good", finished.last_byte_ns[met])
    inside = pick(rows, of_window(stage.window, rows))
    due_ns = metrics.due_ns(inside)
    stage.count("sent", due_ns)
    stage.count("failed", due_ns[~(inside.completed | inside.cancelled)])
    measured = pick(inside, inside.completed)
    if not len(measured):
        return
    intervals = stage.intervals(metrics.due_ns(measured))
    for name in OF_REQUESTS:
        values_ns = metrics.A_REQUEST[name](measured)
        known = values_ns != ABSENT
        stage.add(name, intervals[known], values_ns[known])
    stage.add("itl", np.repeat(intervals, measured.events)[1:][metrics.gap_ends(measured)], metrics.gap_ns(measured))


def _settled(stage: _Growing) -> Blocks:
    tables = {}
    for name, cells in stage.cells.items():
        keys, counts = cells.settled()
        if not len(keys):
            continue
        used, column = np.unique(keys % PLACES, return_inverse=True)
        table = np.zeros((INTERVALS, len(used)))
        table[keys // PLACES, column] = counts
        lowest = np.where(used > 0, highest_equivalent(np.maximum(used - 1, 0)) + 1, 0)
        tables[name] = Table(table, (lowest + highest_equivalent(used)) / 2, stage.sums_ns[name])
    return Blocks(stage.window.length_ns / INTERVALS / 1e9, stage.rates, tables)
