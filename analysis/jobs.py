"""A run's rows into tallies, on one core or on several.

Several: the batches are dealt out in their order, each process adds up its share, and the tallies are put together in the
same order. Everything in a tally is a whole number or a list in time's order, and rows are taken in pieces that lie within
a batch: so the result is the same, to the last bit, for any number of processes.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from analysis import slo
from analysis.captures import Run, part_of
from analysis.pieces import Span, shares, span_rows
from analysis.tally import StageTally, absorb, add, stage_tally
from analysis.targets import keys_of
from analysis.window import Window


def stage_tallies(
    run: Run, windows: dict[int, Window], limits: dict[str, slo.Limit], jobs: int = 1
) -> dict[int, StageTally]:
    """The tally of each stage that has a window. CaptureError as captures.stage_rows."""
    parts = {plan["stage"]: part_of(plan) for plan in run.facts["stages"]}
    dealt = shares(run.captures, jobs)
    if len(dealt) == 1:
        return share_tallies(dealt[0], parts, windows, limits)
    # Spawned, not forked: Arrow has threads of its own by now.
    with ProcessPoolExecutor(len(dealt), multiprocessing.get_context("spawn")) as pool:
        found = pool.map(share_tallies, dealt, *([one] * len(dealt) for one in (parts, windows, limits)))
        whole = next(found)
        for share in found:
            for stage, tally in share.items():
                absorb(whole[stage], tally)
    return whole


def share_tallies(
    spans: list[Span], parts: dict[int, int], windows: dict[int, Window], limits: dict[str, slo.Limit]
) -> dict[int, StageTally]:
    """The tallies of some batches; of a stage, what the part of the run says that `parts` names."""
    begun = {stage: stage_tally(window, limits) for stage, window in windows.items()}
    for span in spans:
        for stage, rows in span_rows(span):
            if stage in begun and parts[stage] == span.capture.part:
                add(begun[stage], span.capture.worker, rows, keys_of(span.capture.facts["spec"]))
    return begun
