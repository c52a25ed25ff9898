"""A run's rows into tallies, on one core or on several.

Several: the batches are dealt out in their order, each process adds up its share, and the tallies are put together in the
same order. Everything in a tally is a whole number or a list in time's order, and rows are taken in pieces that lie within
a batch: so the result is the same, to the last bit, for any number of processes, and of machines (partials.py).
"""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from analysis import slo
from analysis.captures import Capture, Run, part_of
from analysis.pieces import Span, shares, span_rows
from analysis.tally import StageTally, absorb, add, stage_tally
from analysis.targets import keys_of
from analysis.window import Window, stage_windows


@dataclass(frozen=True, slots=True)
class Order:
    """What has to be known of the whole run before a share of its rows can be counted, by number of the stage."""

    windows: dict[int, Window]
    parts: dict[int, int]
    """The part of the run that tells the stage."""
    limits: dict[str, slo.Limit]


def order_of(run: Run) -> Order:
    """The order for all rows of a run: of the stages that have begun."""
    parts = {plan["stage"]: part_of(plan) for plan in run.facts["stages"]}
    return Order(stage_windows(run), parts, slo.limits(run.facts["spec"]))


def stage_tallies(captures: list[Capture], order: Order, jobs: int = 1) -> dict[int, StageTally]:
    """The tally of each stage of an order over some captures. CaptureError as pieces.stage_rows."""
    dealt = shares(captures, jobs)
    if len(dealt) == 1:
        return share_tallies(dealt[0], order)
    # Spawned, not forked: Arrow has threads of its own by now.
    with ProcessPoolExecutor(len(dealt), multiprocessing.get_context("spawn")) as pool:
        return merged(pool.map(share_tallies, dealt, [order] * len(dealt)))


def share_tallies(spans: list[Span], order: Order) -> dict[int, StageTally]:
    """The tallies of some batches."""
    begun = {stage: stage_tally(window, order.limits) for stage, window in order.windows.items()}
    for span in spans:
        for stage, rows in span_rows(span):
            if stage in begun and order.parts[stage] == span.capture.part:
                add(begun[stage], span.capture.worker, rows, keys_of(span.capture.facts["spec"]))
    return begun


def merged(tallies: Iterable[dict[int, StageTally]]) -> dict[int, StageTally]:
    """The tallies of shares that follow each other, as one; all of the same order. The first is used up."""
    whole: dict[int, StageTally] = {}
    for share in tallies:
        for stage, tally in share.items():
            if stage in whole:
                absorb(whole[stage], tally)
            else:
                whole[stage] = tally
    return whole
