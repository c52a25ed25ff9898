"""The requests of one stage's window as plain samples, for formats that are made of them: 100 bytes a request."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from analysis import metrics, rates
from analysis.histogram import Histogram, fill, highest_equivalent, percentiles
from analysis.opened import Opened, of_window
from analysis.rows import ABSENT, Integers, Mask, Rows, pick

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

BIN_NS: Final = NS_PER_S
"""Peaks of throughput are those of a second."""


@dataclass(slots=True)
class Samples:
    """Arrays by request, in the order in which they ended; ABSENT where a metric has no value.

    Requests that were never sent, or that their users left, are not among them.
    """

    sent_ns: Integers
    waited_ns: Integers  # sent - intended: what the request waited for in the client
    last_ns: Integers  # the last output event
    ttft_ns: Integers
    second_ns: Integers  # first output event -> second
    tpot_ns: Integers
    e2e_ns: Integers
    end_of_stream_ns: Integers
    events: Integers
    prompt_tokens: Integers
    output_tokens: Integers
    reasoning_tokens: Integers
    completed: Mask
    errors: list[str | None]
    gaps: Histogram
    tokens_by_second: dict[int, int] = field(default_factory=dict)  # output events of completed requests

    def of_completed(self, name: str) -> Integers:
        """The present values of the requests that completed."""
        return metrics.present(getattr(self, name)[self.completed])


def samples(opened: Opened, stage: int) -> Samples:
    """The samples of a stage; one pass over the capture."""
    parts: dict[str, list[Any]] = {}
    errors: list[str | None] = []
    gaps, by_second = Histogram(), dict[int, int]()
    for rows, reasoning in counted(opened, stage):
        found = {
            "sent_ns": rows.sent_ns,
            "waited_ns": rows.sent_ns - metrics.due_ns(rows),
            "last_ns": metrics.last_output_ns(rows),
            "ttft_ns": metrics.ttft_ns(rows),
            "second_ns": _second_gap_ns(rows),
            "tpot_ns": metrics.tpot_ns(rows),
            "e2e_ns": metrics.e2e_ns(rows),
            "end_of_stream_ns": metrics.end_of_stream_ns(rows),
            "events": rows.events,
            "prompt_tokens": rows.prompt_tokens,
            "output_tokens": metrics.output_tokens(rows),
            "reasoning_tokens": reasoning,
            "completed": rows.completed,
        }
        for name, values in found.items():
            parts.setdefault(name, []).append(values.copy())
        errors += rows.error.to_pylist()
        of_completed = np.repeat(rows.completed, rows.events)
        inside = metrics.gap_ends(rows) & of_completed[1:]
        fill(gaps, np.diff(rows.event_ns)[inside])
        seconds, counts = np.unique(rows.event_ns[of_completed] // BIN_NS, return_counts=True)
        for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
            by_second[second] = by_second.get(second, 0) + count
    arrays = {name: np.concatenate(found) for name, found in parts.items()} or _nothing()
    return Samples(**arrays, errors=errors, gaps=gaps, tokens_by_second=by_second)


def counted(opened: Opened, stage: int) -> Iterator[tuple[Rows, Integers]]:
    """The requests of a stage's window, without those that their users left, and their reasoning tokens."""
    for piece in opened.pieces(stage, also=("reasoning_tokens",)):
        wanted = of_window(opened.windows[stage], piece.rows) & ~piece.rows.cancelled
        if wanted.any():
            reasoning = piece.batch.column("reasoning_tokens").cast(pa.int64()).fill_null(ABSENT).to_numpy()
            yield pick(piece.rows, wanted), reasoning[wanted]


def _second_gap_ns(rows: Rows) -> Integers:
    some = rows.events > 1
    if not some.any():
        return np.full(len(rows), ABSENT)
    first = np.where(some, rows.first_event, 0)
    return np.where(some, rows.event_ns[np.where(some, first + 1, 0)] - rows.event_ns[first], ABSENT)


def _nothing() -> dict[str, Any]:
    names = [name for name in Samples.__slots__ if name not in ("errors", "gaps", "tokens_by_second", "completed")]
    return {name: np.zeros(0, np.int64) for name in names} | {"completed": np.zeros(0, np.bool_)}


def peak_in_flight(samples: Samples) -> int:
    """The most requests that completed in flight at one moment, from the send to the last token; exact."""
    done = samples.completed & (samples.last_ns != ABSENT)
    if not done.any():
        return 0
    sent, last = samples.sent_ns[done], samples.last_ns[done]
    found = rates.concurrency(sent, last, int(sent.min()), int(last.max()) + 1)
    return found[1] if found else 0


def deviation_ns(gaps: Histogram) -> float | None:
    """The standard deviation of a histogram's values: exact while they are kept, else of the middles of its places."""
    if not gaps.total:
        return None
    if (values := gaps.values_ns) is not None:
        return float(np.std(values))
    used = np.flatnonzero(gaps.counts)
    highest = highest_equivalent(used).astype(np.float64)
    lowest = np.where(used > 0, highest_equivalent(np.maximum(used - 1, 0)) + 1, 0)
    middle = (lowest + highest) / 2
    mean = float(np.average(middle, weights=gaps.counts[used]))
    return float(np.sqrt(np.average((middle - mean) ** 2, weights=gaps.counts[used])))


def gap_percentiles_ns(gaps: Histogram, wanted: list[float]) -> list[float | None]:
    """Percentiles of the gaps: numpy's own (linear) while the values are kept, else within 1/1024."""
    if gaps.total and (values := gaps.values_ns) is not None:
        return [float(value) for value in np.percentile(values, wanted)]
    return list(percentiles(gaps, wanted))
