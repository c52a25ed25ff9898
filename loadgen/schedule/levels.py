"""Users at once are whole: the levels that a shape goes through, each from the first ns at which the value rounds to it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from loadgen.schedule.shapes import KINDS, Segment, value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

MOST_LEVELS: Final = 1_000_000


def levels(segment: Segment, length_ns: int) -> Iterator[tuple[int, int]]:
    """(tau_ns, level) at 0 and at each change in the first `length_ns` of a segment."""
    if segment.span_ns is None or segment.first == segment.last:
        yield 0, int(segment.first + 0.5)
    elif segment.kind == "linear":
        yield from _linear_levels(segment.first, segment.last, segment.span_ns, length_ns)
    else:
        # Rises or falls all the way between two of these; a sine turns in the middle of its span.
        turns = [0, segment.span_ns // 2, length_ns - 1] if segment.kind == "sine" else [0, length_ns - 1]
        yield from _curved_levels(segment, sorted({min(turn, length_ns - 1) for turn in turns}))


def _linear_levels(a: float, b: float, span_ns: int, length_ns: int) -> Iterator[tuple[int, int]]:
    """In whole numbers: 2 (value + 1/2) x scale x span = doubled(tau), with the values taken as they were typed."""
    first, last = Fraction(repr(a)), Fraction(repr(b))
    scale = first.denominator * last.denominator
    base, rise = int(2 * first * scale), int(2 * (last - first) * scale)

    def level_at(tau_ns: int) -> int:
        return (base * span_ns + rise * tau_ns + scale * span_ns) // (2 * scale * span_ns)

    level, final = level_at(0), level_at(length_ns - 1)
    _refuse_beyond(abs(final - level))
    yield 0, level
    step = 1 if rise > 0 else -1
    while level != final:
        # Rising: the first tau with value >= level + 1/2. Falling: the first with value < level - 1/2.
        away = ((2 * level + step) * scale - base) * span_ns
        tau_ns = -(-away // rise) if step > 0 else away // rise + 1
        # So steep a ramp goes through several levels in a ns.
        level = max(level + 1, level_at(tau_ns)) if step > 0 else min(level - 1, level_at(tau_ns))
        yield tau_ns, level


def _curved_levels(segment: Segment, turns: list[int]) -> Iterator[tuple[int, int]]:
    """By bisection for all levels at once, on the whole ns, between one turn and the next."""
    import numpy as np

    a, b = np.array([segment.first]), np.array([segment.last])
    span_ns = np.array([float(segment.span_ns or 0)])

    def level_at(tau_ns: Integers) -> Integers:
        reached = value(KINDS[segment.kind], a, b, span_ns, tau_ns.astype(np.float64))
        return np.floor(reached + 0.5).astype(np.int64)

    ends = level_at(np.array(turns)).tolist()
    _refuse_beyond(sum(abs(last - first) for first, last in pairwise(ends)))
    yield 0, ends[0]
    for (from_ns, to_ns), (first, last) in zip(pairwise(turns), pairwise(ends), strict=True):
        if first == last:
            continue
        step = 1 if last > first else -1
        wanted = np.arange(first + step, last + step, step)
        low, high = np.full(wanted.shape, from_ns), np.full(wanted.shape, to_ns)
        while np.any(high - low > 1):
            middle = (low + high) // 2
            reached = (level_at(middle) - wanted) * step >= 0
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        # Of the levels that one ns goes through, the last one counts.
        is_last = np.append(high[1:] != high[:-1], True)
        yield from zip(high[is_last].tolist(), wanted[is_last].tolist(), strict=True)


def _refuse_beyond(changes: int) -> None:
    if changes > MOST_LEVELS:
        raise ValueError(f"it goes through {changes} levels; allowed are {MOST_LEVELS} changes of the level")
