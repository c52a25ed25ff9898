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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from loadgen.durations import MOST_NS, UNITS_NS, duration_ns, shown
from loadgen.schedule import shapes
from loadgen.schedule.levels import MOST_LEVELS, levels
from loadgen.schedule.shapes import Segment

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

_NS_PER_S: Final = UNITS_NS["s"]
_FOREVER_NS: Final = (1 << 63) - 1
_EXAMPLES: Final = "64, 20@30s, 1..100@60s, exp:1..100@60s or sine:10..100@60s, several joined by +"
_NUMBER: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?")
_LONGEST_PART: Final = 200


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
        return max(shapes.peak(segment) for segment in set(self.segments))

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
            value[where] = shapes.value(kind, table.first[i], table.last[i], table.span_ns[i], tau)
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
            tau_ns[where] = shapes.time_of(kind, table.first[i], table.last[i], table.span_ns[i], wanted_here[where])
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
                known[segment, length_ns] = list(levels(segment, length_ns))
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
        kinds = np.array(
            [shapes.KINDS[s.kind] if s.first != s.last else shapes.CONSTANT for s in segments], dtype=np.int8
        )
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


def _by_kind(table: _Table, at: NDArray[np.intp]) -> Iterator[tuple[int, slice | NDArray[np.intp]]]:
    """For each kind of segment where its elements stand."""
    import numpy as np

    if len(table.present) == 1:
        yield table.present[0], slice(None)
        return
    kinds = table.kinds[at]
    for kind in table.present:
        yield kind, np.flatnonzero(kinds == kind)


def _area(table: _Table, at: NDArray[np.intp], tau_ns: Floats) -> Floats:
    """Value x seconds in the first `tau_ns` of the segments `at`."""
    import numpy as np

    area = np.empty(at.shape)
    for kind, where in _by_kind(table, at):
        i = at[where]
        area[where] = shapes.area(kind, table.first[i], table.last[i], table.span_ns[i], tau_ns[where])
    return area


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


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
