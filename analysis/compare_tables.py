"""A comparison as tables for a terminal of 80 columns; makes rich objects, prints nothing."""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from analysis.columns import Columns
from analysis.compare import ERRORS, NO_EVIDENCE, THE_SAME, TOO_FEW, TOO_SHORT, Change
from analysis.gates import DOUBTFUL, FAILED, PASSED, UNKNOWN, Judged, percent
from analysis.spelling import number, plain

SHOWN: Final = ("mean", "p50", "p90", "p99", None)
"""The statistics that have a row; --json has all."""

LABELS: Final = {
    "output_tokens_per_s": "output tokens/s",
    "requests_per_s": "requests/s",
    "goodput_per_s": "goodput/s",
    ERRORS: "errors %",
}
"""What is called otherwise here than in a condition; latencies have their own names, in ms."""

COLOURS: Final = {
    "faster": "green",
    "higher": "green",
    "fewer": "green",
    "slower": "red",
    "lower": "red",
    "more": "red",
    NO_EVIDENCE: "dim",
    THE_SAME: "dim",
    TOO_FEW: "dim",
    TOO_SHORT: "dim",
}

OUTCOMES: Final = {PASSED: "green", FAILED: "bold red", DOUBTFUL: "yellow", UNKNOWN: "yellow"}


def change_table(changes: Sequence[Change], before: str, after: str) -> Columns:
    """A row a figure: both values, the change with its interval, and the statement."""
    table = Columns(padding=0)
    table.add_column("", no_wrap=True)
    for title in (before, after):
        table.add_column(plain(title), justify="right", max_width=10, overflow="fold")
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in changes:
        if one.statistic not in SHOWN:
            continue
        mark = "" if one.reliable else "~"
        interval = "-" if one.interval is None else f"{percent(one.interval.low)} .. {percent(one.interval.high)}"
        table.add_row(
            LABELS.get(one.metric, f"{one.name} ms"),
            mark + _figure(one, one.before),
            mark + _figure(one, one.after),
            "-" if one.change is None else percent(one.change),
            Text(interval, style="dim"),
            Text(one.statement, style=COLOURS[one.statement]),
        )
    return table


def _figure(one: Change, figure: float | None) -> str:
    return number(figure * 100 if figure is not None and one.metric == ERRORS else figure)


def gate_lines(judged: Sequence[Judged]) -> list[Text]:
    """A line a gate and stage, and what was found below it."""
    lines = []
    for one in judged:
        head = Text(f"{one.outcome:9}", style=OUTCOMES[one.outcome])
        lines.append(head + Text(plain(f"{one.gate.words}  at {one.stage}, {one.runs}"), style="default"))
        lines.append(Text(plain(f"         {one.why}"), style="dim"))
    return lines
