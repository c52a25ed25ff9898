"""Throughput against latency, drawn with characters.

A handful of points joined by a line, each with its load beside it. Lines are braille (2 x 4 dots a character), or plain
ASCII where the terminal cannot show that.
"""

import math
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from analysis.spelling import number

LOG_FROM_RATIO: Final = 20
"""A latency axis that spans more than this is logarithmic: the knee is at its low end."""

Facts = dict[str, Any]


class Point(NamedTuple):
    """A place in the picture and the word beside it."""

    x: float
    y: float
    label: str


def throughput_latency(
    curve: Sequence[Facts], width: int = 80, height: int = 13, ascii_only: bool = False
) -> str | None:
    """Output tokens a second over the median end-to-end latency, a point a load; None with fewer than two points.

    In open loop the latency is from the intended time: from the send, a load beyond what the client may hold in flight
    would look as quick as one that is not.
    """
    return overlaid([curve], width, height, ascii_only)


def overlaid(
    curves: Sequence[Sequence[Facts]], width: int = 80, height: int = 13, ascii_only: bool = False
) -> str | None:
    """The same of several runs in one picture, each with a mark of its own (MARKS); None where none has two points."""
    from_due = any(curves) and all(point["load"]["mode"] == "rate" for curve in curves for point in curve)
    metric = "e2e_intended_ms" if from_due else "e2e_ms"
    lines = [
        [
            Point(point[metric]["p50"]["value"], point["output_tokens_per_s"]["value"], _load(point))
            for point in curve
            if point[metric] and (point["output_tokens_per_s"] or {}).get("value")
        ]
        for curve in curves
    ]
    if max(map(len, lines), default=0) < 2:
        return None
    x_title = "E2E from due p50, ms" if from_due else "E2E p50, ms"
    return draw(lines, "output tokens/s", x_title, width, height, ascii_only)


def throughput_per_user(
    curve: Sequence[Facts], width: int = 80, height: int = 9, ascii_only: bool = False
) -> str | None:
    """Output tokens a second in all over those that one user gets (1 / TPOT p50); None with fewer than two points."""
    points = [
        Point(point["tokens_per_s_per_user"], point["output_tokens_per_s"]["value"], _load(point))
        for point in curve
        if point["tokens_per_s_per_user"] and (point["output_tokens_per_s"] or {}).get("value")
    ]
    if len(points) < 2:
        return None
    return draw([points], "output tokens/s", "tokens/s a user (1 / TPOT p50)", width, height, ascii_only)


def _load(point: Facts) -> str:
    value = point["load"].get("value")
    return f"{round(value, 2):g}" if isinstance(value, int | float) else ""


def draw(
    lines: Sequence[Sequence[Point]], y_title: str, x_title: str, width: int, height: int, ascii_only: bool = False
) -> str:
    """The picture: `height` rows of plot, an axis and its title; no line is longer than `width` characters.

    All x and y are above zero; y starts at zero, so that a doubling looks like one.
    """
    points = [point for line in lines for point in line]
    y_top = nice_ceiling(max(point.y for point in points))
    x_low, x_high, is_log = _x_range([point.x for point in points])
    margin = max(len(number(y_top)), len(number(y_top / 2)), 1)
    columns = width - margin - 3

    def place(point: Point) -> tuple[float, float]:
        """Column and row, in characters from the upper left."""
        x = (_scaled(point.x, is_log) - _scaled(x_low, is_log)) / (_scaled(x_high, is_log) - _scaled(x_low, is_log))
        return x * (columns - 1), (1 - point.y / y_top) * (height - 1)

    places = [[place(point) for point in line] for line in lines]
    grid = _lines(places, columns, height, ascii_only)
    marked = {(round(x), round(y)) for its_places in places for x, y in its_places}
    for line, its_places in zip(lines, places, strict=True):
        for (x, y), point in zip(its_places, line, strict=True):
            _write_label(grid, round(x), round(y), point.label, marked)
    for which, its_places in enumerate(places):
        for x, y in its_places:
            grid[round(y)][round(x)] = mark(which, ascii_only)

    corner, upright, level = ("+", "|", "-") if ascii_only else ("└", "│", "─")
    shown = {
        0: number(y_top),
        (height - 1) // 2: number(y_top * (1 - ((height - 1) // 2) / (height - 1))),
        height - 1: "0",
    }
    rows = [y_title]
    rows += [f"{shown.get(row, ''):>{margin}} {upright}{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    rows.append(" " * (margin + 1) + corner + level * columns)
    middle = 10 ** ((math.log10(x_low) + math.log10(x_high)) / 2) if is_log else (x_low + x_high) / 2
    title = x_title + (" (log scale)" if is_log else "")
    rows.append(" " * (margin + 2) + _spread([number(x_low), number(middle), number(x_high)], columns))
    rows.append(" " * (margin + 2) + title.rjust(columns))
    return "\n".join(rows)


MARKS: Final = ("●○◆◇■□", "*o#x+@")


def mark(number: int, ascii_only: bool = False) -> str:
    """The mark of a line, by its number."""
    marks = MARKS[1 if ascii_only else 0]
    return marks[number % len(marks)]


def nice_ceiling(value: float) -> float:
    """The next number at or above that is 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-12))


def _x_range(values: Sequence[float]) -> tuple[float, float, bool]:
    low, high = min(values), max(values)
    if high / low > LOG_FROM_RATIO:
        return 10.0 ** math.floor(math.log10(low)), nice_ceiling(high), True
    return 0.0, nice_ceiling(high), False


def _scaled(value: float, is_log: bool) -> float:
    return math.log10(value) if is_log else value


def _lines(
    lines: Sequence[Sequence[tuple[float, float]]], columns: int, height: int, ascii_only: bool
) -> list[list[str]]:
    across, down = (1, 1) if ascii_only else (2, 4)
    dots = [[0] * columns for _ in range(height)]
    for (x1, y1), (x2, y2) in (pair for places in lines for pair in pairwise(places)):
        steps = max(1, math.ceil(max(abs(x2 - x1) * across, abs(y2 - y1) * down)))
        for step in range(steps + 1):
            x = (x1 + (x2 - x1) * step / steps + 0.5) * across
            y = (y1 + (y2 - y1) * step / steps + 0.5) * down
            column, row = min(int(x) // across, columns - 1), min(int(y) // down, height - 1)
            dots[row][column] |= _BRAILLE[int(y) % down][int(x) % across]
    if ascii_only:
        return [["." if dot else " " for dot in row] for row in dots]
    return [[chr(0x2800 + dot) if dot else " " for dot in row] for row in dots]


_BRAILLE: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def _write_label(grid: list[list[str]], x: int, y: int, label: str, marked: Container[tuple[int, int]]) -> None:
    """Right of the point, or left of it where there is no room; above it when there is a row. Upon others nowhere."""
    above = y - 1 if y > 0 else y
    row = grid[above]
    for first in (x + 2, x - 1 - len(label)):
        after = first + len(label)
        if first < 0 or after > len(row) or any((at, above) in marked for at in range(first, after)):
            continue
        if not any(char.isdigit() for char in row[max(first - 1, 0) : after + 1]):
            row[first:after] = label
            return


def _spread(words: Sequence[str], columns: int) -> str:
    left, middle, right = words
    line = left + middle.rjust(columns // 2 - len(left) + len(middle) // 2)
    return line + right.rjust(columns - len(line))
