"""Durations as people write them: `20us`, `50ms`, `1.5s`, `2m`, `1h`; inside the program they are integer ns."""

import re
from decimal import Decimal
from typing import Final

UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}

# CLOCK_MONOTONIC and the captures are int64 ns, which end after 292 years; a due time must fit with room to spare.
MOST_NS: Final = 10_000 * UNITS_NS["h"]

_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(ns|us|ms|s|m|h)")


def duration_ns(text: str) -> int:
    """`text` in ns, exact to the ns (rounded half to even below it). ValueError, worded for the user, otherwise."""
    if text.strip() == "0":
        return 0
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(
            f"{text!r} is no duration; write a number and a unit (ns, us, ms, s, m, h), as in 50ms or 1.5s"
        )
    number, unit = written.groups()
    span_ns = int((Decimal(number) * UNITS_NS[unit]).to_integral_value())
    if span_ns > MOST_NS:
        raise ValueError(f"{text!r} is longer than the {MOST_NS // UNITS_NS['h']}h allowed")
    return span_ns


def shown(span_ns: int) -> str:
    """`span_ns` in the largest unit that holds it exactly: 1_500_000 -> '1500us'."""
    for unit, unit_ns in reversed(UNITS_NS.items()):
        if span_ns and span_ns % unit_ns == 0:
            return f"{span_ns // unit_ns}{unit}"
    return "0s"
