"""A doubt, and the words that several of them share."""

from typing import Any, Final, NamedTuple

MOST_ERROR_SHARE: Final = 0.01  # of the metric that lateness or lag touches

Facts = dict[str, Any]


class Doubt(NamedTuple):
    """Why a result may not be what it says: `words` has the numbers, `try_` the next thing to do."""

    code: str
    words: str
    try_: str


def value_of(facts: Facts, block: str, name: str) -> float | None:
    """A number of a block that may be null."""
    value: float | None = (facts[block] or {}).get(name)
    return value


def span_of(span_us: float) -> str:
    """A time in words, three digits of it: us, and from 1 ms on ms."""
    if span_us < 1_000:
        return f"{span_us:,.0f} us"
    span_ms = span_us / 1_000
    return f"{span_ms:,.{0 if span_ms >= 100 else 1 if span_ms >= 10 else 2}f} ms"


def share_of(part: float, whole: float, name: str) -> str:
    """A share of what is called `name`, in words; from twice on how many times that it is."""
    if whole <= 0:
        return f"more than all of {name}"
    return f"{part / whole:.1%} of {name}" if part < 2 * whole else f"{part / whole:,.3g} times {name}"


def listed(workers: list[int]) -> str:
    """The numbers of some workers, the first eight of them."""
    shown = ", ".join(str(worker) for worker in workers[:8])
    return shown + (" ..." if len(workers) > 8 else "")
