"""A series of numbers as a line of characters."""

from collections.abc import Sequence
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"
ASCII: Final = "_.-=+*#@"


def sparkline(values: Sequence[float | None], width: int, *, levels: str = BLOCKS) -> str:
    """The last `width` values, from 0 (the lowest level) to the largest of them; None is a blank, as is what is missing."""
    shown = values[-width:] if width > 0 else []
    most = max((value for value in shown if value is not None), default=0.0)
    chars = [" " if value is None else levels[_level(value, most, len(levels))] for value in shown]
    return "".join(chars).rjust(width)


def _level(value: float, most: float, levels: int) -> int:
    if most <= 0 or value <= 0:
        return 0
    return min(int(value / most * levels), levels - 1)
