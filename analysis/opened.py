"""A run whose requests are to be looked at again: with the windows of its stages, and piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from analysis import metrics, rates
from analysis.captures import Run, open_run, part_of
from analysis.pieces import Span, stage_pieces
from analysis.rows import COLUMNS, Mask, Rows, to_rows
from analysis.window import Window, stage_windows

ALSO: Final = (
    "worker",
    "session_id",
    "first_byte_ns",
    "reasoning_tokens",
    "cached_tokens",
    "finish_reason",
    "status",
    "request_bytes",
    "response_bytes",
)
"""Columns that the metrics do not need."""


class Piece(NamedTuple):
    """Some requests of one stage and worker: as arrays, and as the capture has them."""

    stage: int
    rows: Rows
    batch: pa.RecordBatch
    node: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A run with the windows of its stages; times of an export count from `origin_ns`, the start of the first stage."""

    run: Run
    plans: dict[int, dict[str, Any]]
    windows: dict[int, Window]

    @property
    def origin_ns(self) -> int:
        return min((window.begin_ns for window in self.windows.values()), default=0)

    @property
    def realtime_offset_ns(self) -> int:
        """CLOCK_REALTIME less the run's time line."""
        return self.run.realtime_offset_ns

    def pieces(self, stage: int | None = None, also: tuple[str, ...] = ALSO) -> Iterator[Piece]:
        """All requests of stages that have begun, or those of one stage; not those before the first (`warms_up`)."""
        for capture in self.run.captures:
            for of_stage, batch in stage_pieces(
                Span(capture, 0, capture.batches), tuple(dict.fromkeys((*COLUMNS, *also)))
            ):
                if stage not in (None, of_stage) or of_stage not in self.windows:
                    continue
                if part_of(self.plans[of_stage]) == capture.part:
                    yield Piece(of_stage, to_rows(batch), batch, capture.node)


def opened(run_dir: Path) -> Opened:
    """CaptureError as captures.open_run."""
    run = open_run(run_dir)
    plans = {plan["stage"]: plan for plan in run.facts["stages"] if not plan.get("warms_up")}
    return Opened(run, plans, {stage: window for stage, window in stage_windows(run).items() if stage in plans})


def of_window(window: Window, rows: Rows) -> Mask:
    """The requests that the summary counts: due (closed loop: sent) inside the window, and sent at all."""
    return rates.within(window, metrics.due_ns(rows)) & ~rows.dropped
