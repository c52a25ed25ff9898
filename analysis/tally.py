"""What a stage adds up to while its rows stream by: histograms, counts, and three or four numbers a request.

A row that was dropped is counted among the offered, and leaves here: it was never sent, and has no part in anything else.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis import closeups, histogram, metrics, rates, slo
from analysis.histogram import Histogram, fill
from analysis.rows import ABSENT, Integers, Mask, Rows, pick
from analysis.targets import ALL, Key
from analysis.window import Window

LATE_NS: Final = 1_000_000
"""A request sent more than this after its intended time counts as late. Not a knob: lateness is told beside it."""


INTERVALS: Final = ("ttft", "ttft_intended", "tpot", "e2e", "e2e_intended")
"""The latencies whose percentiles are given with an interval."""


@dataclass(slots=True)
class WorkerTally:
    """One worker's part of a stage, inside the window."""

    sent: int = 0
    output_parts: int = 0  # output tokens, in rates.TOKENths
    lag: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)

    @property
    def output_tokens(self) -> float:
        return self.output_parts / rates.TOKEN


SIDES: Final = ("input_tokens", "output_tokens")


@dataclass(slots=True)
class LengthTally:
    """What was wanted against what the server counted, over the completed requests of which both are known."""

    requests: int = 0
    wanted: int = 0
    counted: int = 0
    off: int = 0  # sum of the differences, without their signs
    exact: int = 0


@dataclass(slots=True)
class TurnTally:
    """One turn of the sessions, inside the window: requests sent; of those that completed, TTFT and prompt tokens."""

    sent: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    ttft_intended: Histogram = field(default_factory=Histogram)
    prompt_tokens: int = 0
    prompts_told: int = 0


@dataclass(slots=True)
class StageTally:
    """All that summary.json needs to know of a stage's rows. `add` is the only way in."""

    window: Window
    limits: dict[str, slo.Limit]
    timeline: rates.Timeline
    latencies: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in metrics.A_REQUEST})
    # Gaps of pieces in which every event is one token, of the others, and the others' gaps a token: so that the usual
    # case is counted once, and the pool a token is still complete.
    gaps_of_one: Histogram = field(default_factory=Histogram)
    gaps_of_many: Histogram = field(default_factory=Histogram)
    gaps_of_many_per_token: Histogram = field(default_factory=Histogram)
    workers: dict[int, WorkerTally] = field(default_factory=dict)
    turns: dict[int, TurnTally] = field(default_factory=dict)
    sent: int = 0
    completed: int = 0
    cancelled: int = 0
    late: int = 0
    dropped: int = 0
    retried: int = 0
    warmup: int = 0
    after_window: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    finished: int = 0  # completions inside the window
    completed_tokens: int = 0  # output tokens of the requests that `completed` counts
    good: int = 0
    met: Counter[str] = field(default_factory=Counter)
    concerned: Counter[str] = field(default_factory=Counter)  # of those completed, what each limit is about
    deadlines_met: int = 0
    deadlines_missed: int = 0
    input_tokens: int = 0
    prompts_told: bool = False
    usage_told: int = 0
    usage_untold: int = 0
    locally_counted: int = 0  # of the latter
    lengths: dict[str, LengthTally] = field(default_factory=lambda: {side: LengthTally() for side in SIDES})
    events: int = 0
    coalesced_events: int = 0
    unstamped_requests: int = 0
    kept: closeups.Kept = field(default_factory=closeups.Kept)
    # Of the requests of the window that were answered or failed, in pieces: due_ns, what INTERVALS names (ABSENT where the
    # request did not complete), whether each objective was met and whether it is about the request. Some 50 bytes a request.
    judged_due_ns: list[Integers] = field(default_factory=list)
    judged: dict[str, list[Integers]] = field(default_factory=lambda: {name: [] for name in INTERVALS})
    judged_met: dict[str, list[Mask]] = field(default_factory=dict)
    judged_concerned: dict[str, list[Mask]] = field(default_factory=dict)
    # Of every request of the stage that was sent, in pieces: 24 bytes a request, 32 with a schedule.
    all_prompt_tokens: list[NDArray[np.int32]] = field(default_factory=list)  # of those whose server told
    all_sent_ns: list[Integers] = field(default_factory=list)
    all_due_ns: list[Integers] = field(default_factory=list)  # without a schedule the very arrays of all_sent_ns
    all_ended_ns: list[Integers] = field(default_factory=list)
    all_ttft_ns: list[Integers] = field(default_factory=list)  # from the send; ABSENT for one that did not complete
    parts: "dict[Key, StageTally]" = field(default_factory=dict)
    """The same of the requests to one of several targets, or to one of its several endpoints."""

    @property
    def output_tokens(self) -> float:
        return sum(worker.output_parts for worker in self.workers.values()) / rates.TOKEN


def joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The pieces of one of a tally's lists as one array."""
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def stage_tally(window: Window, limits: dict[str, slo.Limit]) -> StageTally:
    """An empty tally."""
    return StageTally(window, limits, rates.timeline_of(window))


def add(tally: StageTally, worker: int, rows: Rows, apart: Sequence[Key] = ()) -> None:
    """Adds rows of one worker, and those of each part in `apart` (targets.keys_of) to the part's own tally, too."""
    for target, endpoint in apart:
        of_part = rows.target == target
        if endpoint != ALL:
            of_part &= rows.endpoint == endpoint
        if of_part.any():
            add(_part(tally, (target, endpoint)), worker, pick(rows, of_part))
    mine = tally.workers.setdefault(worker, WorkerTally())
    due_ns = metrics.due_ns(rows)
    tally.timeline.offered += rates.by_bin(tally.timeline, due_ns)
    if rows.dropped.any():
        tally.dropped += int(np.count_nonzero(rows.dropped & rates.within(tally.window, due_ns)))
        rows, due_ns = pick(rows, ~rows.dropped), due_ns[~rows.dropped]
    _add_tokens(tally, mine, rows)
    _add_flow(tally, rows, due_ns)
    met = slo.met(rows, tally.limits)
    _add_finished(tally, rows, met)
    of_window = rates.within(tally.window, due_ns)
    tally.warmup += int(np.count_nonzero(due_ns < tally.window.start_ns))
    tally.after_window += int(np.count_nonzero(due_ns >= tally.window.stop_ns))
    if not of_window.any():
        return
    inside, met = pick(rows, of_window), _picked(met, of_window)
    _add_requests(tally, mine, inside)
    closeups.add(tally.kept, worker, inside)
    _add_judged(tally, pick(inside, ~inside.cancelled), _picked(met, ~inside.cancelled))
    _add_turns(tally, inside)
    if inside.completed.any():
        _add_latencies(tally, pick(inside, inside.completed), _picked(met, inside.completed))


def _part(tally: StageTally, key: Key) -> StageTally:
    if key not in tally.parts:
        tally.parts[key] = stage_tally(tally.window, tally.limits)
    return tally.parts[key]


def _picked(met: dict[str, Mask], wanted: Mask) -> dict[str, Mask]:
    return {name: meets[wanted] for name, meets in met.items()}


def _add_tokens(tally: StageTally, mine: WorkerTally, rows: Rows) -> None:
    tokens = metrics.tokens_per_event(rows)
    mine.output_parts += rates.parts_within(tally.window, rows.event_ns, tokens)
    rates.add_tokens(tally.timeline, rows.event_ns, tokens)
    told = rows.prompt_tokens != ABSENT
    tally.prompts_told |= bool(told.any())
    tally.all_prompt_tokens.append(rows.prompt_tokens[told].astype(np.int32))
    begun = told & rates.within(tally.window, metrics.first_output_ns(rows))
    tally.input_tokens += int(rows.prompt_tokens[begun].sum())


def _add_flow(tally: StageTally, rows: Rows, due_ns: Integers) -> None:
    tally.timeline.sent += rates.by_bin(tally.timeline, rows.sent_ns)
    tally.timeline.failed += rates.by_bin(tally.timeline, rows.ended_ns[~(rows.completed | rows.cancelled)])
    rates.add_lag(tally.timeline, rows.ended_ns, rows.max_lag_ns)
    sent_ns = rows.sent_ns.copy()  # a view would keep the whole batch alive
    tally.all_sent_ns.append(sent_ns)
    tally.all_due_ns.append(sent_ns if due_ns is rows.sent_ns else due_ns)
    tally.all_ended_ns.append(rows.ended_ns.copy())
    tally.all_ttft_ns.append(np.where(rows.completed, metrics.ttft_ns(rows), ABSENT))


def _add_finished(tally: StageTally, rows: Rows, met: dict[str, Mask]) -> None:
    tally.timeline.finished += rates.by_bin(tally.timeline, rows.last_byte_ns[rows.completed])
    finished: Mask = rows.completed & rates.within(tally.window, rows.last_byte_ns)
    tally.finished += int(np.count_nonzero(finished))
    if not tally.limits or not finished.any():
        return
    tally.good += int(np.count_nonzero(np.logical_and.reduce([finished, *met.values()])))


def _add_requests(tally: StageTally, mine: WorkerTally, inside: Rows) -> None:
    tally.sent += len(inside)
    mine.sent += len(inside)
    fill(mine.lag, inside.max_lag_ns)
    tally.completed += int(np.count_nonzero(inside.completed))
    tally.cancelled += int(np.count_nonzero(inside.cancelled))
    tally.retried += int(np.count_nonzero(inside.retries > 0))
    failed = ~(inside.completed | inside.cancelled)
    if failed.any():
        classes = inside.error.filter(pa.array(failed)).value_counts()
        tally.errors.update({one["values"]: one["counts"] for one in classes.to_pylist()})
    lateness_ns = metrics.present(metrics.lateness_ns(inside))
    fill(mine.lateness, lateness_ns)
    tally.late += int(np.count_nonzero(lateness_ns > LATE_NS))
    tally.events += int(inside.events.sum())
    tally.coalesced_events += int(inside.coalesced_events.sum())
    tally.unstamped_requests += int(np.count_nonzero(~inside.kernel_stamps))


def _add_judged(tally: StageTally, judged: Rows, met: dict[str, Mask]) -> None:
    if not len(judged):
        return
    tally.judged_due_ns.append(metrics.due_ns(judged).copy())
    for name, values in tally.judged.items():
        values.append(np.where(judged.completed, metrics.A_REQUEST[name](judged), ABSENT))
    concerned = slo.concerned(judged, tally.limits)
    for name, meets in met.items():
        tally.judged_met.setdefault(name, []).append(meets & judged.completed)
        tally.judged_concerned.setdefault(name, []).append(concerned[name] | ~judged.completed)


def _add_turns(tally: StageTally, inside: Rows) -> None:
    if inside.turn.max() == ABSENT:
        return
    ttft_ns, ttft_intended_ns = metrics.ttft_ns(inside), metrics.ttft_intended_ns(inside)
    for turn in np.unique(metrics.present(inside.turn)).tolist():
        told = tally.turns.setdefault(turn, TurnTally())
        of_turn = inside.turn == turn
        told.sent += int(np.count_nonzero(of_turn))
        measured = of_turn & inside.completed
        fill(told.ttft, metrics.present(ttft_ns[measured]))
        fill(told.ttft_intended, metrics.present(ttft_intended_ns[measured]))
        prompts = metrics.present(inside.prompt_tokens[measured])
        told.prompt_tokens += int(prompts.sum())
        told.prompts_told += len(prompts)


def _add_latencies(tally: StageTally, measured: Rows, met: dict[str, Mask]) -> None:
    tally.completed_tokens += int(metrics.output_tokens(measured).sum())
    for name, definition in metrics.A_REQUEST.items():
        fill(tally.latencies[name], metrics.present(definition(measured)))
    if measured.event_tokens is not None and measured.event_tokens.max(initial=0) > 1:
        fill(tally.gaps_of_many, metrics.gap_ns(measured))
        fill(tally.gaps_of_many_per_token, metrics.gap_per_token_ns(measured))
    else:
        fill(tally.gaps_of_one, metrics.gap_ns(measured))
    # Shares are of the requests that the percentiles beside them are of; goodput is a rate and goes by completions.
    for name, about in slo.concerned(measured, tally.limits).items():
        tally.concerned[name] += int(np.count_nonzero(about))
        tally.met[name] += int(np.count_nonzero(about & met[name]))
    told = int(np.count_nonzero(measured.output_tokens != ABSENT))
    tally.usage_told += told
    tally.usage_untold += len(measured) - told
    tally.locally_counted += int(
        np.count_nonzero((measured.output_tokens == ABSENT) & (measured.counted_tokens != ABSENT))
    )
    _add_lengths(tally.lengths["input_tokens"], measured.wanted_input_tokens, measured.prompt_tokens)
    _add_lengths(tally.lengths["output_tokens"], measured.wanted_output_tokens, measured.output_tokens)
    if "ttft" in tally.limits and "tpot" in tally.limits:
        kept, missed = slo.deadlines(measured, tally.limits["ttft"].limit_ns, tally.limits["tpot"].limit_ns)
        tally.deadlines_met += kept
        tally.deadlines_missed += missed


def _add_lengths(told: LengthTally, wanted: Integers, counted: Integers) -> None:
    both = (wanted != ABSENT) & (counted != ABSENT)
    if not both.any():
        return
    off = np.abs(counted[both] - wanted[both])
    told.requests += len(off)
    told.wanted += int(wanted[both].sum())
    told.counted += int(counted[both].sum())
    told.off += int(off.sum())
    told.exact += int(np.count_nonzero(off == 0))


COUNTS: Final = (
    "sent",
    "completed",
    "cancelled",
    "late",
    "dropped",
    "retried",
    "warmup",
    "after_window",
    "finished",
    "completed_tokens",
    "good",
    "deadlines_met",
    "deadlines_missed",
    "input_tokens",
    "usage_told",
    "usage_untold",
    "locally_counted",
    "events",
    "coalesced_events",
    "unstamped_requests",
)
"""Fields of a StageTally that add up."""

POOLS: Final = ("gaps_of_one", "gaps_of_many", "gaps_of_many_per_token")
"""Its histograms beside those of `latencies`."""

LISTS: Final = ("judged_due_ns", "all_prompt_tokens", "all_sent_ns", "all_due_ns", "all_ended_ns", "all_ttft_ns")
"""Its lists of pieces; `judged`, `judged_met` and `judged_concerned` are such lists by name."""


def absorb(tally: StageTally, other: StageTally) -> None:
    """Adds the tally of later rows of the same stage: exactly what adding those rows would have made of it."""
    for key, part in other.parts.items():
        absorb(_part(tally, key), part)
    for name in COUNTS:
        setattr(tally, name, getattr(tally, name) + getattr(other, name))
    for name in LISTS:
        getattr(tally, name).extend(getattr(other, name))
    for name, pieces in other.judged.items():
        tally.judged[name].extend(pieces)
    for name, verdicts in other.judged_met.items():
        tally.judged_met.setdefault(name, []).extend(verdicts)
    for name, abouts in other.judged_concerned.items():
        tally.judged_concerned.setdefault(name, []).extend(abouts)
    for name in POOLS:
        histogram.absorb(getattr(tally, name), getattr(other, name))
    for name, values in other.latencies.items():
        histogram.absorb(tally.latencies[name], values)
    for worker, theirs in other.workers.items():
        mine = tally.workers.setdefault(worker, WorkerTally())
        mine.sent += theirs.sent
        mine.output_parts += theirs.output_parts
        histogram.absorb(mine.lag, theirs.lag)
        histogram.absorb(mine.lateness, theirs.lateness)
    for turn, its in other.turns.items():
        told = tally.turns.setdefault(turn, TurnTally())
        told.sent += its.sent
        told.prompt_tokens += its.prompt_tokens
        told.prompts_told += its.prompts_told
        histogram.absorb(told.ttft, its.ttft)
        histogram.absorb(told.ttft_intended, its.ttft_intended)
    for side, told_ in other.lengths.items():
        for name in ("requests", "wanted", "counted", "off", "exact"):
            setattr(tally.lengths[side], name, getattr(tally.lengths[side], name) + getattr(told_, name))
    tally.errors.update(other.errors)
    tally.met.update(other.met)
    tally.concerned.update(other.concerned)
    tally.prompts_told |= other.prompts_told
    tally.timeline.parts += other.timeline.parts
    tally.timeline.offered += other.timeline.offered
    tally.timeline.sent += other.timeline.sent
    tally.timeline.finished += other.timeline.finished
    tally.timeline.failed += other.timeline.failed
    np.maximum(tally.timeline.lag_max_ns, other.timeline.lag_max_ns, out=tally.timeline.lag_max_ns)
    closeups.absorb(tally.kept, other.kept)
