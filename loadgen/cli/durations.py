"""Durations on the command line: `20us`, `50ms`, `1.5s`, `2m`, `1h`; inside the program they are integer ns."""

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    IntParamType = click.ParamType[int]
else:
    IntParamType = click.ParamType  # before click 8.3 it takes no argument

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


class DurationType(IntParamType):
    """A click type that gives integer ns; `at_least_ns` is the shortest duration it takes (default: above zero).

    click puts the option's name before the sentence, so that it says which field is wrong, how, and what is allowed.
    """

    name = "duration"

    def __init__(self, at_least_ns: int = 1) -> None:
        self.at_least_ns = at_least_ns

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default, which is ns already
            return value
        try:
            span_ns = duration_ns(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        if span_ns < self.at_least_ns:
            self.fail(f"{value!r} is too short; the least is {shown(self.at_least_ns)}.", param, ctx)
        return span_ns


def shown(span_ns: int) -> str:
    """`span_ns` in the largest unit that holds it exactly: 1_500_000 -> '1500us'."""
    for unit, unit_ns in reversed(UNITS_NS.items()):
        if span_ns and span_ns % unit_ns == 0:
            return f"{span_ns // unit_ns}{unit}"
    return "0s"
