"""A run's rows into tallies, on one core or on several.

Several: the batches are dealt out in their order, each process adds up its share, and the tallies are put together in the
same order. Everything in a tally is a whole number or a list in time's order, and rows are taken in pieces that lie within
a batch: so the result is the same, to the last bit, for any number of processes.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from analysis import slo
from analysis.captures import Capture, Span, shares, span_rows
from analysis.tally import StageTally, absorb, add, stage_tally
from analysis.window import Window


def stage_tallies(
    captures: list[Capture], windows: dict[int, Window], limits: dict[str, slo.Limit], jobs: int = 1
) -> dict[int, StageTally]:
    """The tally of each stage that has a window. CaptureError as captures.stage_rows."""
    dealt = shares(captures, jobs)
    if len(dealt) == 1:
        return share_tallies(dealt[0], windows, limits)
    # Spawned, not forked: Arrow has threads of its own by now.
    with ProcessPoolExecutor(len(dealt), multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(share_tallies, dealt, [windows] * len(dealt), [limits] * len(dealt))
        whole = next(parts)
        for part in parts:
            for stage, tally in part.items():
                absorb(whole[stage], tally)
    return whole


def share_tallies(spans: list[Span], windows: dict[int, Window], limits: dict[str, slo.Limit]) -> dict[int, StageTally]:
    """The tallies of some batches."""
    begun = {stage: stage_tally(window, limits) for stage, window in windows.items()}
    for span in spans:
        for stage, rows in span_rows(span):
            if stage in begun:
                add(begun[stage], span.capture.worker, rows)
    return begun
