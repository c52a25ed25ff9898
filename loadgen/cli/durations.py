"""A click type for durations."""

from typing import TYPE_CHECKING

import click

from loadgen.durations import duration_ns, shown

if TYPE_CHECKING:
    IntParamType = click.ParamType[int]
else:
    IntParamType = click.ParamType  # before click 8.3 it takes no argument


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
