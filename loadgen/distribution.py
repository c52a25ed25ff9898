"""How long a user thinks, how many turns there are, when somebody leaves: a value that is drawn for each request.

    2s                  always the same                     20
    uniform:1s..5s      evenly between the two              uniform:10..50
    exp:2s              exponential, its mean               exp:30
    normal:2s,500ms     mean and standard deviation         normal:30,10
    lognormal:2s,0.5    median and sigma of the logarithm   lognormal:30,0.5
                        as often as they stand in a file    file:lengths.csv

A duration is drawn in whole ns and at least 0, a count is a whole number and at least 1. What request 17 draws is a function
of the seed and of 17 alone, so it does not depend on the worker that sends it, nor on what was drawn before.
"""

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

from loadgen.durations import MOST_NS, duration_ns, shown

Unit = Literal["duration", "count"]

# Streams of random numbers that know nothing of each other; the numbers are part of what a seed means.
THINK, CANCEL_WHO, CANCEL_WHEN, TURNS, RETRY, INPUT, OUTPUT, PAIR, PREFIX, SAMPLE, TARGET = range(11)

FILE: Final = "file:"

MOST_COUNT: Final = 1_000_000_000
MOST_SIGMA: Final = 10.0
"""e^10 = 22,026 times the median, one standard deviation out: beyond that it is a typing error."""

_EXAMPLES: Final = {
    "duration": "2s, uniform:1s..5s, exp:2s, normal:2s,500ms or lognormal:2s,0.5",
    "count": "20, uniform:10..50, exp:30, normal:30,10 or lognormal:30,0.5",
}
_NUMBER: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?")
_LONGEST_TEXT: Final = 200

_STANDARD: Final = NormalDist()
_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values in ns or counts. `a` and `b`: least and most of uniform, mean (median) and spread of the others."""

    kind: Literal["fixed", "uniform", "exp", "normal", "lognormal"]
    unit: Unit
    a: float
    b: float = 0

    @property
    def text(self) -> str:
        """As it is typed; parse_distribution gives the same distribution back."""
        a = self._shown(self.a)
        match self.kind:
            case "fixed":
                return a
            case "exp":
                return f"exp:{a}"
            case "uniform":
                return f"uniform:{a}..{self._shown(self.b)}"
            case "normal":
                return f"normal:{a},{self._shown(self.b)}"
            case "lognormal":
                return f"lognormal:{a},{_number_text(self.b)}"

    @property
    def is_fixed(self) -> bool:
        return self.kind == "fixed" or (self.kind == "uniform" and self.a == self.b)

    @property
    def most(self) -> int | None:
        """The largest value that can be drawn; None where only MOST_NS and MOST_COUNT end the tail."""
        return {"fixed": int(self.a), "uniform": int(self.b)}.get(self.kind)

    @property
    def mean(self) -> float:
        """Of what is drawn, so with the ends cut off; that counts are rounded is left out (less than a half)."""
        if self.kind == "fixed":
            return float(self.a)
        if self.kind == "uniform":
            return (self.a + self.b) / 2
        # E[min(max(X, least), most)] = least + E[(X - least)+] - E[(X - most)+]
        return self._least + self._excess(self._least) - self._excess(self._most)

    def draw(self, u: float) -> int:
        """The value below which a share `u` of all draws lies: the inverse of the distribution function, 0 < u < 1."""
        match self.kind:
            case "fixed":
                return int(self.a)
            case "uniform":
                if self.unit == "count":  # each whole number equally often, the two ends too
                    return int(self.a) + int(u * (self.b - self.a + 1))
                value = self.a + u * (self.b - self.a)
            case "exp":
                value = -self.a * math.log1p(-u)
            case "normal":
                value = self.a + self.b * _STANDARD.inv_cdf(u)
            case "lognormal":
                value = self.a * math.exp(self.b * _STANDARD.inv_cdf(u))
        return round(min(max(value, self._least), self._most))

    @property
    def _least(self) -> int:
        return 1 if self.unit == "count" else 0

    @property
    def _most(self) -> int:
        return MOST_COUNT if self.unit == "count" else MOST_NS

    def _excess(self, bound: float) -> float:
        """E[(X - bound)+] of the exponential, normal or lognormal X."""
        if self.kind == "exp":
            return self.a * math.exp(-bound / self.a)
        if self.kind == "normal":
            d = (self.a - bound) / self.b
            return (self.a - bound) * _STANDARD.cdf(d) + self.b * _STANDARD.pdf(d)
        mean = self.a * math.exp(self.b**2 / 2)
        if bound == 0:
            return mean
        d = math.log(self.a / bound) / self.b
        return mean * _STANDARD.cdf(d + self.b) - bound * _STANDARD.cdf(d)

    def _shown(self, value: float) -> str:
        return shown(int(value)) if self.unit == "duration" else _number_text(value)


@dataclass(frozen=True, slots=True)
class FromFile:
    """Counts as they stand in a file, which is read where they are drawn."""

    path: str

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{FILE}{self.path}"


class Empirical:
    """Counts drawn from values that were seen, each as often as the others."""

    is_fixed = False

    def __init__(self, values: "array[int]") -> None:
        self._values = values

    @classmethod
    def of(cls, values: Iterable[int]) -> "Empirical":
        """In ascending order, so that a draw is the inverse of the distribution function here too."""
        return cls(array("q", sorted(values)))

    @property
    def mean(self) -> float:
        return sum(self._values) / len(self._values)

    @property
    def most(self) -> int:
        return self._values[-1]

    def draw(self, u: float) -> int:
        """The value below which a share `u` of all lies, 0 < u < 1."""
        return self._values[int(u * len(self._values))]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """System prompts that requests share: how many, of how many tokens, and how unevenly they are asked for."""

    count: int
    tokens: int
    zipf: float = 0.0
    """The k-th is asked for in proportion to 1 / k^zipf; 0: all alike."""

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{self.count}:{self.tokens}" + (f":zipf{_number_text(self.zipf)}" if self.zipf else "")


MOST_PREFIXES: Final = 1_000_000
MOST_ZIPF: Final = 10.0


def parse_prefixes(text: str) -> Prefixes:
    """ "20:1024" or "20:1024:zipf1.1". ValueError, worded for the user, otherwise."""
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})(?::(?:uniform|zipf([0-9]+(?:\.[0-9]+)?)))?", text.strip())
    if found is None:
        raise ValueError(
            f"{text.strip()[:60]!r} is no set of prefixes; allowed is COUNT:TOKENS[:zipfS], as in 20:1024:zipf1.1"
        )
    prefixes = Prefixes(int(found[1]), int(found[2]), float(found[3] or 0))
    if not 1 <= prefixes.count <= MOST_PREFIXES:
        raise ValueError(f"{prefixes.count} prefixes are out of range; allowed are 1 to {MOST_PREFIXES}")
    if not prefixes.tokens >= 1:
        raise ValueError("a prefix has at least 1 token")
    if prefixes.zipf > MOST_ZIPF:
        raise ValueError(f"zipf{prefixes.zipf:g} is too large; allowed is up to {MOST_ZIPF:g}")
    return prefixes


def parse_lengths(text: str) -> Distribution | FromFile:
    """ "512", "normal:512,64" or "file:PATH". ValueError, worded for the user, otherwise."""
    text = text.strip()
    if not text.startswith(FILE):
        return parse_distribution(text, "count")
    if text == FILE or "\0" in text:
        raise ValueError(f"{text!r} names no file; allowed is file:PATH")
    return FromFile(text.removeprefix(FILE))


def parse_distribution(text: str, unit: Unit) -> Distribution:
    """ "exp:2s" -> Distribution. ValueError, worded for the user, otherwise."""
    text = text.strip()
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"{text[:40]!r}... is too long; allowed is {_EXAMPLES[unit]}")
    kind, colon, rest = text.partition(":")
    if not colon:
        return Distribution("fixed", unit, _value(text, unit, whole=True))
    kind = kind.strip()
    match kind:
        case "uniform":
            first, dots, second = rest.partition("..")
            if not dots:
                raise ValueError(f"{text!r} needs the least and the most; allowed is {_EXAMPLES[unit]}")
            least, most = _value(first, unit, whole=True), _value(second, unit, whole=True)
            if least > most:
                raise ValueError(f"{text!r} ends below its beginning; write the smaller value first")
            return Distribution("uniform", unit, least, most)
        case "exp":
            return Distribution("exp", unit, _positive(text, rest, unit))
        case "normal" | "lognormal":
            first, comma, second = rest.partition(",")
            if not comma:
                what = "mean and standard deviation" if kind == "normal" else "median and sigma"
                raise ValueError(f"{text!r} needs two values, {what}; allowed is {_EXAMPLES[unit]}")
            if kind == "normal":
                return Distribution("normal", unit, _value(first, unit), _positive(text, second, unit))
            sigma = _number(second)
            if not 1e-9 <= sigma <= MOST_SIGMA:
                raise ValueError(
                    f"{text!r} has a sigma of {sigma:g}; allowed is above 0 and up to {MOST_SIGMA:g}, "
                    "a number without a unit"
                )
            return Distribution("lognormal", unit, _positive(text, first, unit), sigma)
    raise ValueError(f"{kind!r} is no distribution; allowed is {_EXAMPLES[unit]}")


def uniform(seed: int, stream: int, number: int) -> float:
    """The random number of request (session) `number` in a stream: in the open interval (0, 1), the same everywhere.

    The number-th output of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
    2014; the constants are Vigna's) from a start that seed and stream are mixed into.
    """
    start = _mixed(_mixed(seed + _GOLDEN) ^ (stream + 1))
    # 52 bits, not 53: with 53 the half that keeps it off 0 would round the largest up to 1.
    return ((_mixed(start + (number + 1) * _GOLDEN) >> 12) + 0.5) * 2.0**-52


def _mixed(z: int) -> int:
    """The finaliser of splitmix64: each bit of the argument changes each bit of the result half of the time."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _value(text: str, unit: Unit, *, whole: bool = False) -> float:
    """A duration in ns (from 0), or a count (from 0, and from 1 where only a whole number will do)."""
    if unit == "duration":
        return duration_ns(text)
    value = _number(text)
    if value > MOST_COUNT:
        raise ValueError(f"{text.strip()!r} is too large; allowed are counts up to {MOST_COUNT}")
    if whole and (value < 1 or not value.is_integer()):
        raise ValueError(f"{text.strip()!r} is no count; allowed are whole numbers from 1, as in {_EXAMPLES[unit]}")
    return int(value) if whole else value


def _positive(text: str, part: str, unit: Unit) -> float:
    value = _value(part, unit)
    if value < (1 if unit == "duration" else 1e-9):
        raise ValueError(f"{text!r} holds {part.strip()!r}, which must be above 0")
    return value


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text.strip()) is None:
        raise ValueError(f"{text.strip()!r} is no number; write it as in 20 or 0.5")
    return float(text)


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
