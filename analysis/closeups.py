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
    first_event, events = rows.first_event[places].tolist(), rows.events[places].tolist()
    pauses = [_pause(rows.event_ns[first : first + count]) for first, count in zip(first_event, events, strict=True)]
    at = pa.array(places)
    return [
        CloseUp(request_id, worker, due_ns, sent_ns, first_ns, last_ns, ended_ns, *rest)
        for request_id, due_ns, sent_ns, first_ns, last_ns, ended_ns, *rest in zip(
            rows.request_id.view(np.uint64)[places].tolist(),
            metrics.due_ns(rows)[places].tolist(),
            rows.sent_ns[places].tolist(),
            _known(metrics.first_output_ns(rows)[places]),
            _known(metrics.last_output_ns(rows)[places]),
            rows.ended_ns[places].tolist(),
            events,
            metrics.output_tokens(rows)[places].tolist(),
            _known(rows.prompt_tokens[places]),
            [pause[0] for pause in pauses],
            [pause[1] for pause in pauses],
            rows.error.take(at).to_pylist(),
            [word and word[:MOST_ID_CHARS] for word in rows.response_id.take(at).to_pylist()],
            strict=True,
        )
    ]


def _pause(event_ns: Integers) -> tuple[int | None, int]:
    """When the longest gap begins, and how long it lasts (ns)."""
    if len(event_ns) < 2:
        return None, 0
    gaps_ns = np.diff(event_ns)
    longest = int(gaps_ns.argmax())
    return int(event_ns[longest]), int(gaps_ns[longest])


def _known(values: Integers) -> list[int | None]:
    return [None if value == ABSENT else value for value in values.tolist()]


def _shuffled(ids: Integers) -> Integers:
    """A hash (splitmix64's mixing, halved): ids that follow each other lie anywhere."""
    mixed = ids.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    shuffled: Integers = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).view(np.int64)
    return shuffled
