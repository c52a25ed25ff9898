"""Requests to look at one by one: an even sample of a stage's, and its slowest.

Kept while the rows stream by. A row is worth keeping by a number, the smaller the better: for the sample a hash of its id,
so that the same capture gives the same sample whatever the batches were; for the slowest the latency below zero. What is
not among the best so far costs a comparison.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from analysis import metrics
from analysis.rows import ABSENT, Integers, Rows

SAMPLED: Final = 2048
"""Of a stage. Far more than a picture shows: it can cut out a few seconds of a long stage and still have its hundred."""

SLOWEST: Final = 15

MOST_ID_CHARS: Final = 100

_LAST: Final = np.iinfo(np.int64).max


class CloseUp(NamedTuple):
    """One request; moments are CLOCK_MONOTONIC ns, None where there was none."""

    request_id: int
    worker: int
    due_ns: int
    sent_ns: int
    first_ns: int | None
    last_ns: int | None
    ended_ns: int
    events: int
    output_tokens: int
    prompt_tokens: int | None
    pause_from_ns: int | None  # the longest gap between two events begins here
    pause_ns: int
    outcome: str | None  # class of the error; None: completed
    response_id: str | None


@dataclass(slots=True)
class Pool:
    """The `most` requests of the smallest worth seen so far, and as many again that wait to be sorted out."""

    most: int
    limit: int = _LAST
    kept: list[tuple[int, CloseUp]] = field(default_factory=list)

    def best(self) -> list[CloseUp]:
        """The requests, the best first."""
        return [request for _, request in sorted(self.kept, key=_worth)[: self.most]]


@dataclass(slots=True)
class Kept:
    """What is kept of a stage."""

    sample: Pool = field(default_factory=lambda: Pool(SAMPLED))
    slowest_ttft: Pool = field(default_factory=lambda: Pool(SLOWEST))
    slowest_e2e: Pool = field(default_factory=lambda: Pool(SLOWEST))


def add(kept: Kept, worker: int, rows: Rows) -> None:
    """Looks at rows of one worker, none of them dropped. The slowest are those that completed, from when they were due."""
    _offer(kept.sample, _shuffled(rows.request_id), worker, rows)
    due_ns = metrics.due_ns(rows)
    for pool, until_ns in (
        (kept.slowest_ttft, metrics.first_output_ns(rows)),
        (kept.slowest_e2e, metrics.last_output_ns(rows)),
    ):
        known = rows.completed & (until_ns != ABSENT)
        _offer(pool, np.where(known, due_ns - np.where(known, until_ns, 0), _LAST), worker, rows)


def absorb(kept: Kept, other: Kept) -> None:
    """Takes over what was kept of other rows: exactly what would have been kept of all."""
    for mine, theirs in (
        (kept.sample, other.sample),
        (kept.slowest_ttft, other.slowest_ttft),
        (kept.slowest_e2e, other.slowest_e2e),
    ):
        mine.kept += theirs.kept
        _sort_out(mine)


def _worth(one: tuple[int, CloseUp]) -> tuple[int, int, int]:
    return one[0], one[1].sent_ns, one[1].request_id


def _offer(pool: Pool, worth: Integers, worker: int, rows: Rows) -> None:
    # Ties are never cut here: which of them is kept must not depend on how the rows were dealt out.
    places = np.flatnonzero((worth <= pool.limit) & (worth < _LAST))
    if len(places) > pool.most:
        places = places[worth[places] <= np.partition(worth[places], pool.most - 1)[pool.most - 1]]
    if not len(places):
        return
    pool.kept += zip(worth[places].tolist(), _closeups(rows, places, worker), strict=True)
    if len(pool.kept) >= 2 * pool.most:
        _sort_out(pool)


def _sort_out(pool: Pool) -> None:
    pool.kept = sorted(pool.kept, key=_worth)[: pool.most]
    if len(pool.kept) == pool.most:
        pool.limit = pool.kept[-1][0]


def _closeups(rows: Rows, places: Integers, worker: int) -> list[CloseUp]:
    at = pa.array(places)
    pause_from_ns, pause_ns = _pauses(rows, places)
    columns = (
        rows.request_id.view(np.uint64)[places].tolist(),
        [worker] * len(places),
        metrics.due_ns(rows)[places].tolist(),
        rows.sent_ns[places].tolist(),
        _known(metrics.first_output_ns(rows)[places]),
        _known(metrics.last_output_ns(rows)[places]),
        rows.ended_ns[places].tolist(),
        rows.events[places].tolist(),
        metrics.output_tokens(rows)[places].tolist(),
        _known(rows.prompt_tokens[places]),
        _known(pause_from_ns),
        pause_ns.tolist(),
        rows.error.take(at).to_pylist(),
        [word and word[:MOST_ID_CHARS] for word in rows.response_id.take(at).to_pylist()],
    )
    return list(map(CloseUp._make, zip(*columns, strict=True)))


def _pauses(rows: Rows, places: Integers) -> tuple[Integers, Integers]:
    """Of some requests, when the longest gap between two events begins, and how long it lasts; ABSENT and 0 without one."""
    from_ns, lengths_ns = np.full(len(places), ABSENT), np.zeros(len(places), np.int64)
    some = np.flatnonzero(rows.events[places] > 1)
    if not len(some):
        return from_ns, lengths_ns
    gaps = rows.events[places[some]] - 1
    begins = np.cumsum(gaps) - gaps
    of_gap = np.repeat(np.arange(len(some)), gaps)
    event = np.arange(int(gaps.sum())) + (rows.first_event[places[some]] - begins)[of_gap]
    gaps_ns = rows.event_ns[event + 1] - rows.event_ns[event]
    longest_ns = np.maximum.reduceat(gaps_ns, begins)
    at = np.flatnonzero(gaps_ns == longest_ns[of_gap])
    _, firsts = np.unique(of_gap[at], return_index=True)
    from_ns[some], lengths_ns[some] = rows.event_ns[event[at[firsts]]], longest_ns
    return from_ns, lengths_ns


def _known(values: Integers) -> list[int | None]:
    return [None if value == ABSENT else value for value in values.tolist()]


def _shuffled(ids: Integers) -> Integers:
    """A hash (splitmix64's mixing, halved): ids that follow each other lie anywhere."""
    mixed = ids.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    shuffled: Integers = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).view(np.int64)
    return shuffled
