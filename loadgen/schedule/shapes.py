"""The shapes that a load over time is made of: their values, the area below them, and when that is reached.

The arithmetic is on columns: shapes from `a` to `b` of one kind, and a time or an area in each. Times are ns from the
shape's beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from loadgen.durations import UNITS_NS, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_NS_PER_S: Final = UNITS_NS["s"]

# Newton's steps end when they are shorter than this share of a period: 0.04 ns of an hour, and the last step is
# already quadratically smaller.
_SINE_TOLERANCE: Final = 1e-14
_SINE_STEPS: Final = 100

CONSTANT, LINEAR, EXP, SINE = range(4)
KINDS: Final = {"constant": CONSTANT, "linear": LINEAR, "exp": EXP, "sine": SINE}


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


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def peak(segment: Segment) -> float:
    """The highest value of a segment, as far as it goes."""
    length_ns, span_ns = segment.length_ns, segment.span_ns
    if length_ns is None or span_ns is None:
        return segment.first
    if segment.used_ns is None or (segment.kind == "sine" and 2 * length_ns >= span_ns):
        return max(segment.first, segment.last)
    import numpy as np

    at_end = value(
        KINDS[segment.kind],
        np.array([segment.first]),
        np.array([segment.last]),
        np.array([float(span_ns)]),
        np.array([float(length_ns)]),
    )
    return max(segment.first, float(at_end[0]))


def value(kind: int, a: Floats, b: Floats, span_ns: Floats, tau_ns: Floats) -> Floats:
    """The value `tau_ns` into a shape from a to b, kept exact at both ends."""
    import numpy as np

    if kind == CONSTANT:
        return a
    if kind == LINEAR:
        # Multiplied before it is divided: 0..10@3s is exactly 0.5 after 150 ms.
        return (a * (span_ns - tau_ns) + b * tau_ns) / span_ns
    x = tau_ns / span_ns
    if kind == EXP:
        return np.where(x < 1, a * np.exp(x * np.log(b / a)), b)
    share: Floats = np.sin(np.pi * x) ** 2
    return a * (1 - share) + b * share


def area(kind: int, a: Floats, b: Floats, span_ns: Floats, tau_ns: Floats) -> Floats:
    """Value x seconds in the first `tau_ns` of a shape."""
    import numpy as np

    if kind == CONSTANT:
        return a * tau_ns / _NS_PER_S
    if kind == LINEAR:
        half = tau_ns / span_ns / 2
        return (a * (1 - half) + b * half) * tau_ns / _NS_PER_S
    if kind == EXP:
        k = np.log(b / a)
        return a * np.expm1(k * (tau_ns / span_ns)) / k * span_ns / _NS_PER_S
    return _sine_area(a, b, tau_ns / span_ns) * span_ns / _NS_PER_S


def time_of(kind: int, a: Floats, b: Floats, span_ns: Floats, wanted: Floats) -> Floats:
    """How many ns into the shape its area is `wanted` (value x seconds); the inverse of `area`."""
    import numpy as np

    if kind == CONSTANT:
        # A pause is asked for its time only with an area of 0, at its very beginning.
        return np.divide(wanted * _NS_PER_S, a, out=np.zeros_like(wanted), where=a > 0)
    if kind == LINEAR:
        # a t + c t^2 = wanted; this form of the root neither cancels for c < 0 nor divides by c near 0.
        c = (b - a) / (2 * span_ns / _NS_PER_S)
        below = a + np.sqrt(np.maximum(a * a + 4 * c * wanted, 0.0))
        return np.divide(2 * wanted * _NS_PER_S, below, out=np.zeros_like(wanted), where=below > 0)
    if kind == EXP:
        k = np.log(b / a)
        # Falling, the whole area is all there is: a last digit too much would be the logarithm of less than the end.
        growth = np.maximum(wanted * _NS_PER_S / span_ns / a * k, np.minimum(np.expm1(k), 0.0))
        return np.log1p(growth) / k * span_ns
    return _sine_place(a, b, wanted * _NS_PER_S / span_ns) * span_ns


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
