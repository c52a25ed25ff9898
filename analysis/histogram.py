"""HDR histograms, filled a whole vector at a time.

The layout is HdrHistogram's with 3 digits over 1 ns .. 1 h, so that counts, percentiles and the encoded form are
those of any other HdrHistogram. What differs is the filling. A double's own layout (exponent, then mantissa) is
the index: for 1,024 <= value < 2**53, the top ten bits of the mantissa and the exponent, read as one integer, grow by
one exactly where HdrHistogram's index does. That turns a search for a bucket into a shift and a subtraction.

Beside the counts stand the exact count, minimum, maximum and sum, which the encoded form does not keep, and, as long as
there are no more than EXACT_UP_TO, the values themselves: percentiles of a small sample are then exact. Values outside the
range are counted in the first or last place and in `out_of_range`; HdrHistogram itself drops them silently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

LOWEST_NS: Final = 1
HIGHEST_NS: Final = 3_600_000_000_000
DIGITS: Final = 3

# What HdrHistogram derives from the three numbers above.
HALF_BUCKET: Final = 1024  # half of the 2,048 steps that 3 digits need
PLACES: Final = 33_792  # counts: 32 buckets, of which the first has two halves
CEILING_NS: Final = 1 << 42  # the first value that has no place

EXACT_UP_TO: Final = 1 << 15
"""Values that are kept as they are: as many bytes as the counts take. With more of them only the counts are left."""

_MANTISSA_SHIFT: Final = 52 - 10
_EXPONENT_BASE: Final = (1023 + 9) << 10

Integers = NDArray[np.int64]


@dataclass(slots=True)
class Histogram:
    """Counts by place, with the exact count, min, max and sum beside; all values in ns.

    An untouched counts array costs address space, not memory, so that a stage may own many.
    """

    counts: Integers = field(default_factory=lambda: np.zeros(PLACES, np.int64))
    total: int = 0
    total_ns: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    out_of_range: int = 0
    pieces: list[Integers] | None = field(default_factory=list)
    """The values in no order, as they came; None when they have become too many."""

    @property
    def values_ns(self) -> Integers | None:
        """All values, in no order; None when there are more than EXACT_UP_TO."""
        if self.pieces is None:
            return None
        if len(self.pieces) != 1:
            self.pieces = [np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int64)]
        return self.pieces[0]

    @property
    def mean_ns(self) -> float | None:
        """Exact mean; None when empty."""
        return self.total_ns / self.total if self.total else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._facts() == other._facts() and bool(np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def _facts(self) -> tuple[Any, ...]:
        return self.total, self.total_ns, self.min_ns, self.max_ns, self.out_of_range


def places(values_ns: Integers) -> Integers:
    """The place in the counts array of each value; 0 <= value < CEILING_NS is the caller's to see to."""
    index = values_ns.astype(np.float64).view(np.int64)
    index >>= _MANTISSA_SHIFT
    index -= _EXPONENT_BASE
    if len(values_ns) and values_ns.min() < HALF_BUCKET:
        small = values_ns < HALF_BUCKET
        index[small] = values_ns[small]  # the first half bucket has steps of 1 ns
    return index


def fill(histogram: Histogram, values_ns: Integers) -> None:
    """Adds a vector of values. Vectors whose exact sum would leave int64 are taken in pieces."""
    for first in range(0, len(values_ns), 1 << 20):
        _fill(histogram, values_ns[first : first + (1 << 20)])


def _fill(histogram: Histogram, values_ns: Integers) -> None:
    lowest, highest = int(values_ns.min()), int(values_ns.max())
    histogram.total += len(values_ns)
    _keep(histogram, [values_ns.copy()] if histogram.total <= EXACT_UP_TO else [])
    histogram.total_ns += int(values_ns.sum())
    histogram.min_ns = lowest if histogram.min_ns is None else min(histogram.min_ns, lowest)
    histogram.max_ns = highest if histogram.max_ns is None else max(histogram.max_ns, highest)
    if lowest < 0 or highest >= CEILING_NS:
        histogram.out_of_range += int(np.count_nonzero((values_ns < 0) | (values_ns >= CEILING_NS)))
        values_ns = np.clip(values_ns, 0, CEILING_NS - 1)
    index = places(values_ns)
    low = int(index.min())
    index -= low  # bincount allocates from 0 on: counting from the lowest place keeps it within the cache
    counted = np.bincount(index)
    histogram.counts[low : low + len(counted)] += counted


def _keep(histogram: Histogram, pieces: list[Integers] | None) -> None:
    """Keeps the values that the total has just grown by, or lets go of all when they are too many."""
    if histogram.total > EXACT_UP_TO or pieces is None:
        histogram.pieces = None
    elif histogram.pieces is not None:
        histogram.pieces += pieces


def filled(values_ns: Integers) -> Histogram:
    """A new histogram of one vector."""
    histogram = Histogram()
    fill(histogram, values_ns)
    return histogram


def absorb(histogram: Histogram, other: Histogram) -> None:
    """Adds another's values, as if they had been filled in here."""
    if not other.total:
        return
    assert other.min_ns is not None
    assert other.max_ns is not None
    histogram.counts += other.counts
    histogram.total += other.total
    histogram.total_ns += other.total_ns
    histogram.out_of_range += other.out_of_range
    histogram.min_ns = other.min_ns if histogram.min_ns is None else min(histogram.min_ns, other.min_ns)
    histogram.max_ns = other.max_ns if histogram.max_ns is None else max(histogram.max_ns, other.max_ns)
    _keep(histogram, other.pieces)


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """A new histogram, equal to one that was filled with all the values."""
    merged = Histogram()
    for other in histograms:
        absorb(merged, other)
    return merged


def rank(percentile: float, total: int) -> int:
    """Nearest rank, 1..total: the smallest rank with at least `percentile` per cent of the values at or below it.

    Exact: in floating point 99.9 % of 1,000 comes out above 999, and the rank one too high.
    """
    wanted = Fraction(str(percentile)) * total / 100
    return max(1, -(-wanted.numerator // wanted.denominator))


def highest_equivalent(place: Integers) -> Integers:
    """The greatest value that is counted at each place."""
    bucket = np.maximum((place >> 10) - 1, 0)
    step = place - (bucket << 10)
    highest: Integers = ((step + 1) << bucket) - 1
    return highest


def percentiles(histogram: Histogram, wanted: Sequence[float]) -> list[int | None]:
    """The value (ns) at each percentile (0..100) by nearest rank; Nones when empty.

    Exact for up to EXACT_UP_TO values. Beyond, as HdrHistogram does, the highest value of the place is given: never below
    the true one, and at most 1/1024 above. Limited to the exact minimum and maximum.
    """
    if not histogram.total:
        return [None] * len(wanted)
    if (values_ns := histogram.values_ns) is not None:
        ranks = [rank(percentile, histogram.total) - 1 for percentile in wanted]
        return [int(value) for value in np.partition(values_ns, sorted(set(ranks)))[ranks]]
    assert histogram.min_ns is not None
    assert histogram.max_ns is not None
    upto = np.cumsum(histogram.counts)
    at = np.searchsorted(upto, [rank(percentile, histogram.total) for percentile in wanted])
    values = np.clip(highest_equivalent(at.astype(np.int64)), histogram.min_ns, histogram.max_ns)
    return [int(value) for value in values]


# --- the log, as HdrHistogram's own tools read it ---


def encode(histogram: Histogram) -> bytes:
    """HdrHistogram's V2 compressed form in base64."""
    from hdrh.histogram import HdrHistogram

    other = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
    np.frombuffer(other.counts, np.uint64)[:] = histogram.counts
    # Its encoder looks at these three, not at the counts: left alone it writes an empty histogram.
    other.total_count = histogram.total
    other.min_value = max(histogram.min_ns or 0, 0)
    other.max_value = min(max(histogram.max_ns or 0, 0), CEILING_NS - 1)
    encoded: bytes = other.encode()
    return encoded


class LogLine(NamedTuple):
    """One histogram of a log; `start_s` counts from the log's start time."""

    tag: str
    start_s: float
    length_s: float
    histogram: Histogram


def write_log(out: TextIO, lines: Iterable[LogLine], start_s: float, note: str) -> None:
    """An HdrHistogram log, format 1.2 (values in ns, the shown maximum in ms). ValueError for a tag it cannot hold.

    `start_s` is the wall clock (seconds since the epoch) that the lines count from.
    """
    out.write(f"#{note}\n#[Histogram log format version 1.2]\n")
    out.write(f"#[BaseTime: {start_s:.3f} (seconds since epoch)]\n#[StartTime: {start_s:.3f} (seconds since epoch)]\n")
    out.write('"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n')
    for tag, line_start_s, length_s, histogram in lines:
        if set(tag) & set(", \r\n"):
            raise ValueError(f"a log tag has no comma, space or line break: {tag!r}")
        max_ms = max(histogram.max_ns or 0, 0) / 1e6
        payload = encode(histogram).decode()
        out.write(f"Tag={tag},{line_start_s:.3f},{length_s:.3f},{max_ms:.3f},{payload}\n")
