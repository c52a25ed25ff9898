"""Goodput and fluidity: what share of the work was as good as was asked for.

An objective is a promise to a user, who waits from the intended time on: where there is a schedule, TTFT, E2E and the
first token's deadline count from there, so that requests held back by the client do not pass for quick ones.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from analysis import metrics
from analysis.rows import ABSENT, Mask, Rows

LIMITED: Final = ("ttft", "tpot", "itl", "e2e")

WAITED_FOR: Final = ("ttft", "e2e")
"""Those that begin when the request is due."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a metric may be; `percentile` is the one that the stage is judged by, None for all requests."""

    limit_ns: int
    percentile: float | None


def limits(spec: dict[str, Any] | None) -> dict[str, Limit]:
    """The limits of a run's spec by metric, {} when none were given."""
    asked = (spec or {}).get("slo") or {}
    return {
        name: Limit(round(asked[name]["limit_ms"] * 1e6), asked[name].get("percentile"))
        for name in LIMITED
        if asked.get(name)
    }


def met(rows: Rows, asked: dict[str, Limit]) -> dict[str, Mask]:
    """For each limit, which requests met it; meant for requests that completed, and said of the others for what they got.

    TTFT and E2E need an output; TPOT and ITL are met by a request of one event, which has neither. ITL is met when the
    p99 (nearest rank) of the request's own gaps is: at most one gap in a hundred is longer.
    """
    verdicts: dict[str, Mask] = {}
    waited_ns = rows.sent_ns - metrics.due_ns(rows)
    for name, limit in asked.items():
        if name == "itl":
            allowed = np.maximum(rows.events - 1, 0) // 100
            verdicts[name] = metrics.gaps_over(rows, limit.limit_ns) <= allowed
            continue
        values_ns = metrics.A_REQUEST[name](rows)
        absent = values_ns == ABSENT
        if name in WAITED_FOR:
            values_ns = np.where(absent, ABSENT, values_ns + waited_ns)
        verdicts[name] = (values_ns <= limit.limit_ns) & (~absent | (name == "tpot"))
    return verdicts


def concerned(rows: Rows, asked: dict[str, Limit]) -> dict[str, Mask]:
    """For each limit, which requests have what it limits: one of a single event has no TPOT and no gap.

    Goodput takes them for good; of a share that met the limit they are no part, as they are none of its percentile.
    """
    about: dict[str, Mask] = {}
    for name in asked:
        if name == "tpot":
            about[name] = metrics.tpot_ns(rows) != ABSENT
        else:
            about[name] = rows.events > 1 if name == "itl" else np.ones(len(rows), np.bool_)
    return about


class Deadlines(NamedTuple):
    """Token deadlines met and missed."""

    met: int
    missed: int


def deadlines(rows: Rows, first_ns: int, each_ns: int) -> Deadlines:
    """Token deadlines: `first_ns` after the request was due, then `each_ns` after the one before; time won is carried over.

    An event that comes too late misses its deadline and one more for each further `each_ns` it is late; the deadlines
    after it count from its arrival. Fluidity is met / (met + missed). Source: the fluidity index of arXiv 2407.07000,
    with one deadline an output event.

    No loop over tokens: take each event's time past the deadline that it would have had if nothing had ever been late.
    A deadline is missed exactly when that exceeds zero and all before it: by as much as it exceeds them.
    """
    if not len(rows.event_ns):
        return Deadlines(0, 0)
    index = np.arange(len(rows.event_ns)) - np.repeat(rows.first_event, rows.events)
    late_ns = rows.event_ns - np.repeat(metrics.due_ns(rows) + first_ns, rows.events) - index * each_ns
    if late_ns.max() <= 0:
        return Deadlines(len(late_ns), 0)
    # One running maximum serves all requests: each has its own zero, above all that came before it.
    zero_ns = np.repeat(np.arange(len(rows)) * (int(late_ns.max()) + 1), rows.events)
    late_ns += zero_ns
    so_far_ns = np.maximum.accumulate(np.maximum(late_ns, zero_ns))
    before_ns = np.concatenate([zero_ns[:1], so_far_ns[:-1]])
    first = rows.first_event[rows.events > 0]
    before_ns[first] = zero_ns[first]
    over_ns = late_ns - before_ns
    missed = over_ns > 0
    return Deadlines(int(np.count_nonzero(~missed)), int(np.sum(1 + over_ns[missed] // each_ns)))
