"""Throughput over time, and the exact step function of requests in flight."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analysis.rows import Integers, Mask
from analysis.window import Window

BINS: Final = 60
"""Bins that a window is cut into, where that leaves SHORTEST_BIN_NS each: three for each block of confidence.halves."""

SHORTEST_BIN_NS: Final = 100_000_000

MOST_BINS_BESIDE: Final = 60
"""Bins before and after the window; a single hung request does not stretch the picture without end."""


TOKEN: Final = 1 << 30
"""Tokens are added up as integers of 2**-30 tokens (up to some 8 million in one go): sums are then the same in whatever
order and pieces they are made, and what is rounded off an event is less than a billionth of a token."""


@dataclass(slots=True)
class Timeline:
    """Counts by bin. The window starts at bin `before` and has `inside` whole bins; one in part may follow."""

    origin_ns: int
    bin_ns: int
    before: int
    inside: int
    parts: Integers  # output tokens, in TOKENths
    offered: Integers  # requests by the moment they were due, dropped ones too
    sent: Integers  # requests by the moment they were sent
    failed: Integers  # requests by the moment they failed
    lag_max_ns: Integers  # the worst read of the requests that ended in the bin
    finished: Integers  # completed ones by the moment of their last byte

    @property
    def tokens(self) -> NDArray[np.float64]:
        """Output tokens in each bin."""
        return self.parts / TOKEN

    @property
    def edges_ns(self) -> Integers:
        return self.origin_ns + self.bin_ns * np.arange(len(self.parts) + 1, dtype=np.int64)


def timeline_of(window: Window) -> Timeline:
    """An empty timeline over a stage, its bins aligned with the start of the window."""
    length_ns = window.length_ns or window.end_ns - window.begin_ns
    bin_ns = max(SHORTEST_BIN_NS, -(-length_ns // BINS))
    before = min(-(-(window.start_ns - window.begin_ns) // bin_ns), MOST_BINS_BESIDE)
    inside = window.length_ns // bin_ns
    after = min(-(-(window.end_ns - window.start_ns) // bin_ns) - inside, MOST_BINS_BESIDE)
    bins = max(before + inside + after, 1)
    origin_ns = window.start_ns - before * bin_ns
    return Timeline(origin_ns, bin_ns, before, inside, *(np.zeros(bins, np.int64) for _ in range(6)))


def bins_of(timeline: Timeline, times_ns: Integers) -> Integers:
    """The bin of each moment; below 0 or beyond the last one when outside the timeline."""
    return (times_ns - timeline.origin_ns) // timeline.bin_ns


def add_tokens(timeline: Timeline, event_ns: Integers, tokens: NDArray[np.float64] | None) -> None:
    """Adds events with their tokens (None: one each); events outside the timeline are dropped."""
    if not len(event_ns):
        return
    bins, last = bins_of(timeline, event_ns), len(timeline.parts) - 1
    if bins.min() < 0 or bins.max() > last:
        inside = (bins >= 0) & (bins <= last)
        bins = bins[inside]
        tokens = None if tokens is None else tokens[inside]
    counted = np.bincount(bins, None if tokens is None else np.rint(tokens * TOKEN), minlength=last + 1)
    timeline.parts += counted * TOKEN if tokens is None else counted.astype(np.int64)


def by_bin(timeline: Timeline, times_ns: Integers) -> Integers:
    """How many of these moments lie in each bin; those outside the timeline are dropped."""
    bins = bins_of(timeline, times_ns)
    return np.bincount(bins[(bins >= 0) & (bins < len(timeline.parts))], minlength=len(timeline.parts))


def add_lag(timeline: Timeline, ended_ns: Integers, lag_ns: Integers) -> None:
    """Raises each bin to the worst lag of the requests that ended in it; those outside the timeline are dropped."""
    bins = bins_of(timeline, ended_ns)
    known = (bins >= 0) & (bins < len(timeline.parts))
    np.maximum.at(timeline.lag_max_ns, bins[known], lag_ns[known])


def parts_within(window: Window, event_ns: Integers, tokens: NDArray[np.float64] | None) -> int:
    """Output tokens whose event lies in the window, in TOKENths."""
    inside = within(window, event_ns)
    return int(np.count_nonzero(inside)) * TOKEN if tokens is None else int(np.rint(tokens[inside] * TOKEN).sum())


def within(window: Window, times_ns: Integers) -> Mask:
    """Which moments lie in the window; never an ABSENT one."""
    return (times_ns >= window.start_ns) & (times_ns < window.stop_ns)


def concurrency(sent_ns: Integers, ended_ns: Integers, start_ns: int, stop_ns: int) -> tuple[float, int] | None:
    """Requests in flight over start <= t < stop: the time-weighted mean and the peak; None for an empty span.

    Exact: a request counts from sent to ended (half-open), and one that ends at the moment at which another is sent does
    not overlap it. Both arrays go by request; ended >= sent.
    """
    if stop_ns <= start_ns:
        return None
    busy_ns = np.clip(ended_ns, start_ns, stop_ns) - np.clip(sent_ns, start_ns, stop_ns)
    mean = int(busy_ns.sum()) / (stop_ns - start_ns)
    sent, ended = np.sort(sent_ns), np.sort(ended_ns)
    # In flight changes for the better only at a send: look there, and at the start.
    first, after = np.searchsorted(sent, [start_ns, stop_ns])
    moments = np.concatenate([np.array([start_ns]), sent[first:after]])
    in_flight = np.searchsorted(sent, moments, side="right") - np.searchsorted(ended, moments, side="right")
    return mean, int(in_flight.max())


def in_flight_means(sent_ns: Integers, ended_ns: Integers, edges_ns: Integers) -> NDArray[np.float64]:
    """The time-weighted mean of requests in flight between each two neighbouring edges; exact."""
    busy_ns = np.diff(_area(np.sort(sent_ns), edges_ns) - _area(np.sort(ended_ns), edges_ns))
    return busy_ns / np.diff(edges_ns)


def _area(sorted_ns: Integers, edges_ns: Integers) -> Integers:
    """Sum over the moments before each edge of (edge - moment).

    The sum itself may leave int64 (10 million requests, an hour); it wraps, and the difference of two, which is what is
    wanted and fits, comes out right.
    """
    before = np.searchsorted(sorted_ns, edges_ns)
    upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(sorted_ns - edges_ns[0])])
    area: Integers = before * (edges_ns - edges_ns[0]) - upto[before]
    return area
