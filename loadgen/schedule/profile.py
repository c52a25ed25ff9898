"""A load over time: arrivals a second, or users at once, as a sequence of simple shapes.

    64                      for ever
    20@30s                  20 for 30 s
    1..100@60s              linear from 1 to 100 in 60 s
    exp:1..100@60s          the same ratio in the same time; both ends above 0
    sine:10..100@60s        one period: 10 at its beginning, 100 in the middle, 10 at its end
    A+B+C                   one after the other: 0..64@30s+64@60s+64..0@30s
    1..100@60s/20s          the first 20 s of that shape (what is left of it where a stage ends)

Everything is closed form: the value, its integral (the number of arrivals due by then) and the inverse of the integral
(when arrival n is due). Times are ns from the profile's beginning. At a jump the new value holds from that very ns on.
Before its beginning and past its end a profile is 0; `whole` is what repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from loadgen.durations import MOST_NS, UNITS_NS, duration_ns, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Times = Floats | Integers

MOST_VALUE: Final = 1e9
LEAST_VALUE: Final = 1e-9
"""One in 32 years; what is below, but not 0, would only cost the arithmetic its digits."""

MOST_SEGMENTS: Final = 10_000
MOST_REPEATED: Final = 1_000_000
MOST_LEVELS: Final = 1_000_000

_NS_PER_S: Final = UNITS_NS["s"]
_FOREVER_NS: Final = (1 << 63) - 1
_EXAMPLES: Final = "64, 20@30s, 1..100@60s, exp:1..100@60s or sine:10..100@60s, several joined by +"
_NUMBER: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?")
_LONGEST_PART: Final = 200

# Newton's steps end when they are shorter than this share of a period: 0.04 ns of an hour, and the last step is
# already quadratically smaller.
_SINE_TOLERANCE: Final = 1e-14
_SINE_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Segment:
    """One shape between two values. `span_ns` None: for ever, a constant that comes last. A sine goes back to its first."""

    kind: Literal["constant", "linear", "exp", "sine"]
    first: float
    last: float
    span_ns: int | None
    used_ns: int | None = None
    """How far it goes where it is cut; None: to the end of its span."""

    @property
    def length_ns(self) -> int | None:
        return self.span_ns if self.used_ns is None else self.used_ns

    @property
    def text(self) -> str:
        """As it is typed."""
        shape = "" if self.kind in ("constant", "linear") else f"{self.kind}:"
        ends = _number_text(self.first)
        if self.kind != "constant":
            ends += f"..{_number_text(self.last)}"
        span = "" if self.span_ns is None else f"@{shown(self.span_ns)}"
        return shape + ends + span + ("" if self.used_ns is None else f"/{shown(self.used_ns)}")

    def cut(self, used_ns: int) -> Segment:
        """Its first `used_ns`, in the same shape."""
        if self.length_ns is not None and used_ns >= self.length_ns:
            return self
        return replace(self, span_ns=used_ns) if self.kind == "constant" else replace(self, used_ns=used_ns)


class _Table(NamedTuple):
    """The segments as columns; `from_ns` and `area` have one more entry, the end."""

    kinds: NDArray[np.int8]
    present: tuple[int, ...]
    first: Floats
    last: Floats
    span_ns: Floats
    used_ns: Floats
    from_ns: Integers
    area: Floats
    """Value x seconds before each segment."""


_CONSTANT, _LINEAR, _EXP, _SINE = range(4)
_KINDS: Final = {"constant": _CONSTANT, "linear": _LINEAR, "exp": _EXP, "sine": _SINE}


@dataclass(frozen=True)
class Profile:
    """Segments, one after the other. parse_profile and `whole` make them."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """As it is typed; parse_profile gives the same profile back."""
        return "+".join(segment.text for segment in self.segments)

    @property
    def is_constant(self) -> bool:
        values = {value for segment in self.segments for value in (segment.first, segment.last)}
        return len(values) == 1

    @property
    def length_ns(self) -> int | None:
        """None: it never ends."""
        if self.segments[-1].length_ns is None:
            return None
        return sum(segment.length_ns or 0 for segment in self.segments)

    @property
    def first(self) -> float:
        return self.segments[0].first

    @property
    def peak(self) -> float:
        """The highest value (the one it comes arbitrarily near to, where it jumps away at the last moment)."""
        return max(_peak(segment) for segment in set(self.segments))

    def whole(self, ramp_up_ns: int, warmup_ns: int, duration_ns: int | None) -> Profile:
        """A stage from its start on: 0 up to the first value, that value held, then this, repeated or cut to `duration_ns`.

        None for `duration_ns`: for ever, which only a profile without an end can be. ValueError otherwise.
        """
        before = []
        if ramp_up_ns:
            before.append(Segment("linear", 0.0, self.first, ramp_up_ns))
        if warmup_ns:
            before.append(Segment("constant", self.first, self.first, warmup_ns))
        return Profile((*before, *self._lasting(duration_ns)))

    def _lasting(self, duration_ns: int | None) -> tuple[Segment, ...]:
        length_ns = self.length_ns
        if self.is_constant:
            return (Segment("constant", self.first, self.first, duration_ns),)
        if duration_ns is None:
            if length_ns is not None:
                raise ValueError(f"{_quoted(self.text)} ends after {shown(length_ns)}; give a duration with it")
            return self.segments
        repeats, rest_ns = (0, duration_ns) if length_ns is None else divmod(duration_ns, length_ns)
        if repeats * len(self.segments) > MOST_REPEATED:
            raise ValueError(
                f"{_quoted(self.text)} is too short for {shown(duration_ns)}; it would be repeated {repeats} times, "
                f"allowed are {MOST_REPEATED // len(self.segments)}"
            )
        last = []
        for segment in self.segments:
            if rest_ns <= 0:
                break
            last.append(segment.cut(rest_ns))
            rest_ns -= last[-1].length_ns or 0
        return (*self.segments * repeats, *last)

    def values(self, t_ns: Times) -> Floats:
        """The value at each time."""
        import numpy as np

        table = self._table
        flat = t_ns.reshape(-1)
        at, tau_ns = self._place(flat)
        value = np.empty(at.shape)
        for kind, where in _by_kind(table, at):
            i, tau = at[where], tau_ns[where]
            value[where] = _value(kind, table.first[i], table.last[i], table.span_ns[i], tau)
        value[(flat < 0) | (flat >= table.from_ns[-1])] = 0.0
        return value.reshape(t_ns.shape)

    def integral(self, t_ns: Times) -> Floats:
        """Value x seconds from 0 to each time: for a rate, how many arrivals are due by then."""
        import numpy as np

        table = self._table
        at, tau_ns = self._place(t_ns.reshape(-1))
        area = table.area[at] + _area(table, at, tau_ns)
        # The last digit must not carry it past the sum that stands at the segment's end: `inverse` would find it after
        # the next pause, or never.
        end = table.area[at + 1]
        return np.where(tau_ns < table.used_ns[at], np.minimum(area, end), end).reshape(t_ns.shape)

    def mean(self, from_ns: int, to_ns: int) -> float:
        """The mean value between two times."""
        import numpy as np

        before, after = self.integral(np.array([from_ns, to_ns]))
        return float(after - before) * _NS_PER_S / (to_ns - from_ns)

    def inverse(self, n: Floats, *, latest: bool = False) -> Floats:
        """The earliest time in ns at which the integral has reached each n; inf where it never does.

        `latest`: the last time at which it has not gone beyond n instead. The two differ only where the value is 0
        while the integral stands at exactly n: an arrival of that number is due after the pause, not at its beginning.
        """
        import numpy as np

        table = self._table
        wanted = n.reshape(-1)
        side: Literal["left", "right"] = "right" if latest else "left"
        at = np.searchsorted(table.area, wanted, side=side) - 1
        beyond = at >= table.kinds.size
        at = np.clip(at, 0, table.kinds.size - 1)
        wanted_here = np.maximum(wanted - table.area[at], 0.0)
        tau_ns = np.empty(at.shape)
        for kind, where in _by_kind(table, at):
            i = at[where]
            tau_ns[where] = _time_of(kind, table.first[i], table.last[i], table.span_ns[i], wanted_here[where])
        t_ns = np.minimum(tau_ns, table.used_ns[at])
        t_ns += table.from_ns[at]
        t_ns[beyond] = np.inf
        return t_ns.reshape(n.shape)

    def levels(self, until_ns: int) -> list[tuple[int, int]]:
        """Whole users at once before `until_ns`: (t_ns, level) at 0 and at each change, level = floor(value + 0.5).

        A change stands at the first ns at which the rounded value is the new one. ValueError beyond MOST_LEVELS.
        """
        changes: list[tuple[int, int]] = []
        known: dict[tuple[Segment, int], list[tuple[int, int]]] = {}
        from_ns = 0
        for segment in self.segments:
            if from_ns >= until_ns:
                break
            length_ns = until_ns - from_ns if segment.length_ns is None else segment.length_ns
            length_ns = min(length_ns, until_ns - from_ns)
            # A segment that comes again, as a profile that is repeated has them, is worked out once.
            if (segment, length_ns) not in known:
                known[segment, length_ns] = list(_levels(segment, length_ns))
            for tau_ns, level in known[segment, length_ns]:
                if not changes or changes[-1][1] != level:
                    changes.append((from_ns + tau_ns, level))
            if len(changes) > MOST_LEVELS:
                raise ValueError(
                    f"{_quoted(self.text)} changes too often; allowed are {MOST_LEVELS} changes of the level"
                )
            from_ns += length_ns
        if from_ns < until_ns and changes[-1][1] != 0:
            changes.append((from_ns, 0))
        return changes

    @cached_property
    def _table(self) -> _Table:
        import numpy as np

        segments = self.segments
        # A ramp between equal values is a constant, and only as such free of 0/0.
        kinds = np.array([_KINDS[s.kind] if s.first != s.last else _CONSTANT for s in segments], dtype=np.int8)
        used_ns = np.array([_FOREVER_NS if s.length_ns is None else s.length_ns for s in segments], dtype=np.int64)
        from_ns = np.zeros(len(segments) + 1, dtype=np.int64)
        np.cumsum(used_ns[:-1], out=from_ns[1:-1])
        from_ns[-1] = _FOREVER_NS if segments[-1].length_ns is None else from_ns[-2] + used_ns[-1]
        table = _Table(
            kinds=kinds,
            present=tuple(np.unique(kinds).tolist()),
            first=np.array([s.first for s in segments]),
            last=np.array([s.last for s in segments]),
            span_ns=np.array([_FOREVER_NS if s.span_ns is None else s.span_ns for s in segments], dtype=np.float64),
            used_ns=used_ns.astype(np.float64),
            from_ns=from_ns,
            area=np.zeros(len(segments) + 1),
        )
        areas = _area(table, np.arange(len(segments)), table.used_ns)
        if segments[-1].length_ns is None and segments[-1].last > 0:
            areas[-1] = np.inf
        # Summed with more digits than it is kept with: ten times 0.3 has to be 3, or an arrival falls over the edge.
        table.area[1:] = np.cumsum(areas, dtype=np.longdouble)
        return table

    def _place(self, t_ns: Times) -> tuple[NDArray[np.intp], Floats]:
        """Which segment each time falls into, and how far into it (not beyond its ends)."""
        import numpy as np

        table = self._table
        at = np.clip(np.searchsorted(table.from_ns[:-1], t_ns, side="right") - 1, 0, None)
        tau_ns = np.clip((t_ns - table.from_ns[at]).astype(np.float64), 0.0, table.used_ns[at])
        return at, tau_ns


def parse_profile(text: str) -> Profile:
    """ "0..64@30s+64" -> Profile. ValueError, worded for the user, otherwise."""
    parts = text.split("+")
    if len(parts) > MOST_SEGMENTS:
        raise ValueError(f"{len(parts)} parts joined by + are too many; allowed are {MOST_SEGMENTS}")
    profile = Profile(tuple(_parsed(part.strip()) for part in parts))
    for segment in profile.segments[:-1]:
        if segment.span_ns is None:
            raise ValueError(
                f"{segment.text} needs a time, as in {segment.text}@30s; only the last part may go on for ever"
            )
    if profile.peak == 0:
        raise ValueError(f"{_quoted(text)} is 0 all the time; some value must be above 0")
    if (profile.length_ns or 0) > MOST_NS:
        raise ValueError(f"{_quoted(text)} is longer than the {shown(MOST_NS)} allowed")
    return profile


def _parsed(part: str) -> Segment:
    if not part or len(part) > _LONGEST_PART:
        raise ValueError(f"{_quoted(part)} is no load; write {_EXAMPLES}")
    shape, colon, rest = part.partition(":")
    if not colon:
        shape, rest = "linear", part
    if (kind := shape.strip()) not in ("linear", "exp", "sine"):
        raise ValueError(f"{_quoted(kind)} is no shape; allowed is exp: or sine: before the values, or {_EXAMPLES}")
    values, at, time = rest.partition("@")
    first, dots, last = values.partition("..")
    begin = _number(first)
    end = _number(last) if dots else begin
    if not dots and colon:
        raise ValueError(f"{part} needs two values, as in {kind}:10..100@60s")
    if not at:
        if dots:
            raise ValueError(f"{part} needs a time, as in {part}@60s")
        return Segment("constant", begin, begin, None)
    if kind == "exp" and 0 in (begin, end):
        raise ValueError(f"{part} has an end at 0, which no exponential reaches; allowed is above 0")
    whole, slash, used = time.partition("/")
    span_ns = duration_ns(whole)
    if not span_ns:
        raise ValueError(f"{part} has no length; its time must be above 0")
    segment = Segment(kind if dots else "constant", begin, end, span_ns)  # type: ignore[arg-type]
    if not slash:
        return segment
    used_ns = duration_ns(used)
    if not 0 < used_ns <= span_ns:
        raise ValueError(f"{part} is cut to {shown(used_ns)}; allowed is above 0 and up to {shown(span_ns)}")
    return segment.cut(used_ns)


def _number(text: str) -> float:
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        if _NUMBER.fullmatch(text.removeprefix("-")):
            raise ValueError(f"{text} is below 0; allowed is 0 to {MOST_VALUE:.0f}")
        raise ValueError(f"{_quoted(text)} is no number; write {_EXAMPLES}")
    value = float(text)
    if value > MOST_VALUE:
        raise ValueError(f"{_quoted(text)} is too large; allowed is up to {MOST_VALUE:.0f}")
    if 0 < value < LEAST_VALUE:
        raise ValueError(f"{_quoted(text)} is too small; allowed is 0, or from {LEAST_VALUE:g}")
    return value


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _peak(segment: Segment) -> float:
    length_ns, span_ns = segment.length_ns, segment.span_ns
    if length_ns is None or span_ns is None:
        return segment.first
    if segment.used_ns is None or (segment.kind == "sine" and 2 * length_ns >= span_ns):
        return max(segment.first, segment.last)
    import numpy as np

    at_end = _value(
        _KINDS[segment.kind],
        np.array([segment.first]),
        np.array([segment.last]),
        np.array([float(span_ns)]),
        np.array([float(length_ns)]),
    )
    return max(segment.first, float(at_end[0]))


def _by_kind(table: _Table, at: NDArray[np.intp]) -> Iterator[tuple[int, slice | NDArray[np.intp]]]:
    """For each kind of segment where its elements stand."""
    import numpy as np

    if len(table.present) == 1:
        yield table.present[0], slice(None)
        return
    kinds = table.kinds[at]
    for kind in table.present:
        yield kind, np.flatnonzero(kinds == kind)


def _value(kind: int, a: Floats, b: Floats, span_ns: Floats, tau_ns: Floats) -> Floats:
    """The value `tau_ns` into a shape from a to b, kept exact at both ends."""
    import numpy as np

    if kind == _CONSTANT:
        return a
    if kind == _LINEAR:
        # Multiplied before it is divided: 0..10@3s is exactly 0.5 after 150 ms.
        return (a * (span_ns - tau_ns) + b * tau_ns) / span_ns
    x = tau_ns / span_ns
    if kind == _EXP:
        return np.where(x < 1, a * np.exp(x * np.log(b / a)), b)
    share: Floats = np.sin(np.pi * x) ** 2
    return a * (1 - share) + b * share


def _area(table: _Table, at: NDArray[np.intp], tau_ns: Floats) -> Floats:
    """Value x seconds in the first `tau_ns` of the segments `at`."""
    import numpy as np

    area = np.empty(at.shape)
    for kind, where in _by_kind(table, at):
        i, tau = at[where], tau_ns[where]
        a, b, span_ns = table.first[i], table.last[i], table.span_ns[i]
        if kind == _CONSTANT:
            area[where] = a * tau / _NS_PER_S
        elif kind == _LINEAR:
            half = tau / span_ns / 2
            area[where] = (a * (1 - half) + b * half) * tau / _NS_PER_S
        elif kind == _EXP:
            k = np.log(b / a)
            area[where] = a * np.expm1(k * (tau / span_ns)) / k * span_ns / _NS_PER_S
        else:
            area[where] = _sine_area(a, b, tau / span_ns) * span_ns / _NS_PER_S
    return area


def _time_of(kind: int, a: Floats, b: Floats, span_ns: Floats, area: Floats) -> Floats:
    """How many ns into the shape its area is `area` (value x seconds); the inverse of _area."""
    import numpy as np

    if kind == _CONSTANT:
        # A pause is asked for its time only with an area of 0, at its very beginning.
        return np.divide(area * _NS_PER_S, a, out=np.zeros_like(area), where=a > 0)
    if kind == _LINEAR:
        # a t + c t^2 = area; this form of the root neither cancels for c < 0 nor divides by c near 0.
        c = (b - a) / (2 * span_ns / _NS_PER_S)
        below = a + np.sqrt(np.maximum(a * a + 4 * c * area, 0.0))
        return np.divide(2 * area * _NS_PER_S, below, out=np.zeros_like(area), where=below > 0)
    if kind == _EXP:
        k = np.log(b / a)
        # Falling, the whole area is all there is: a last digit too much would be the logarithm of less than the end.
        growth = np.maximum(area * _NS_PER_S / span_ns / a * k, np.minimum(np.expm1(k), 0.0))
        return np.log1p(growth) / k * span_ns
    return _sine_place(a, b, area * _NS_PER_S / span_ns) * span_ns


def _sine_area(a: Floats, b: Floats, x: Floats) -> Floats:
    """The integral of a + (b - a) sin^2(pi x) from 0 to x."""
    import numpy as np

    return (a + b) / 2 * x - (b - a) / (4 * np.pi) * np.sin(2 * np.pi * x)


def _sine_place(a: Floats, b: Floats, area: Floats) -> Floats:
    """The x in 0..1 at which _sine_area is `area`: Newton's steps, halving the bracket where one leaves it."""
    import numpy as np

    x = np.clip(area / ((a + b) / 2), 0.0, 1.0)
    low, high = np.zeros_like(x), np.ones_like(x)
    left = np.arange(x.size)
    for _ in range(_SINE_STEPS):
        here, a_left, b_left = x[left], a[left], b[left]
        over = _sine_area(a_left, b_left, here) - area[left]
        low[left] = np.where(over <= 0, here, low[left])
        high[left] = np.where(over >= 0, here, high[left])
        slope = a_left + (b_left - a_left) * np.sin(np.pi * here) ** 2
        stepped = here - np.divide(over, slope, out=np.full_like(here, 2.0), where=slope > 0)
        inside = (stepped >= low[left]) & (stepped <= high[left])
        stepped = np.where(inside, stepped, (low[left] + high[left]) / 2)
        x[left] = stepped
        left = left[np.abs(stepped - here) > _SINE_TOLERANCE]
        if not left.size:
            break
    return x


def _levels(segment: Segment, length_ns: int) -> Iterator[tuple[int, int]]:
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
        value = _value(_KINDS[segment.kind], a, b, span_ns, tau_ns.astype(np.float64))
        return np.floor(value + 0.5).astype(np.int64)

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
