"""A click type for numbers."""

import math
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    FloatParamType = click.ParamType[float]
else:
    FloatParamType = click.ParamType  # before click 8.3 it takes no argument


class NumberType(FloatParamType):
    """A click type that gives a float from 0 (or above it) to `most`: no NaN and no infinity, which a float may be too."""

    name = "number"

    def __init__(self, most: float, *, above_0: bool = False) -> None:
        self.most = most
        self.above_0 = above_0

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not 0 <= number <= self.most or (self.above_0 and not number):  # of a NaN nothing is true
            least = "above 0 and up to" if self.above_0 else "0 to"
            self.fail(f"{value!r} is not allowed; allowed is a number, {least} {self.most:,.15g}.", param, ctx)
        return number + 0.0  # no zero is negative
