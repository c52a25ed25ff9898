"""The result as tables for a terminal of 80 columns; makes rich objects, prints nothing."""

from collections.abc import Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from analysis.confidence import sample_floor

Facts = dict[str, Any]

PERCENTILE_COLUMNS: Final = (
    ("TTFT\np50 ms", "ttft_ms", "p50"),
    ("TTFT\np99 ms", "ttft_ms", "p99"),
    ("TPOT\np50 ms", "tpot_ms", "p50"),
    ("TPOT\np99 ms", "tpot_ms", "p99"),
    ("ITL\np99 ms", "itl_ms", "p99"),
)


def plain(words: object) -> str:
    """Text from outside (model names, a server's words) without control characters, which could steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(words))


def number(value: float | None) -> str:
    """About four significant digits, thousands apart; `-` for null."""
    if not value:
        return "-" if value is None else "0"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def stage_table(stages: Sequence[Facts]) -> Table:
    """A row a stage. A percentile without enough samples is dim and has a ~ before it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("\nload", overflow="fold", max_width=16)
    for title, *_ in PERCENTILE_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("output\ntokens/s", justify="right", no_wrap=True)
    table.add_column("\nreq/s", justify="right", no_wrap=True)
    table.add_column("\nerrors", justify="right", no_wrap=True)
    for stage in stages:
        failed = stage["requests"]["failed"]
        table.add_row(
            Text(plain(stage["name"])),
            *(_percentile(stage[metric], name) for _, metric, name in PERCENTILE_COLUMNS),
            number(stage["output_tokens_per_s"]),
            number(stage["requests_per_s"]),
            Text(f"{failed:,}", style="red" if failed else ""),
        )
    return table


def _percentile(block: Facts | None, name: str) -> Text:
    if block is None:
        return Text("-")
    if name in block["unreliable"]:
        return Text("~" + number(block[name]), style="dim")
    return Text(number(block[name]))


def footnotes(stages: Sequence[Facts]) -> list[Text]:
    """What the table's marks mean, the classes of the errors, and the objectives, a line each."""
    notes = []
    shown = {name for _, _, name in PERCENTILE_COLUMNS}
    doubted = {
        name
        for stage in stages
        for _, metric, name in PERCENTILE_COLUMNS
        if name in (stage[metric] or {}).get("unreliable", ())
    }
    if doubted:
        wants = ", ".join(f"{name} wants {sample_floor(float(name[1:])):,}" for name in sorted(doubted & shown))
        notes.append(Text(f"~ too few samples to rely on: {wants}", style="dim"))
    for stage in stages:
        requests = stage["requests"]
        if requests["failed"]:
            classes = ", ".join(f"{count:,} {plain(name)}" for name, count in requests["errors"].items())
            words = f"{plain(stage['name'])}: {requests['failed']:,} of {requests['sent']:,} requests failed: {classes}"
            notes.append(Text(words))
        if stage["slo"] is not None:
            notes.append(Text(f"{plain(stage['name'])}: {_objectives(stage)}"))
    return notes


def _objectives(stage: Facts) -> str:
    """Goodput, and each limit with the share of requests that met it."""
    words = [f"goodput {number(stage['goodput_per_s'])} req/s"]
    if stage["fluidity"] is not None:
        words.append(f"fluidity {stage['fluidity']:.1%}")
    for name, limit in stage["slo"].items():
        which = "" if limit["percentile"] is None else f" p{limit['percentile']:g}"
        met = "-" if limit["met_share"] is None else f"{limit['met_share']:.1%}"
        judged = "" if limit["met"] is None else ", met" if limit["met"] else ", missed"
        words.append(f"{name.upper()}{which} <= {limit['limit_ms']:g} ms by {met}{judged}")
    return "; ".join(words)


def verdict_lines(summary: Facts) -> list[Text]:
    """The verdict, and for each reason what to try."""
    if summary["verdict"]["ok"]:
        return [Text("valid", style="bold green")]
    reasons = summary["verdict"]["reasons"]
    lines = [
        Text("suspect", style="bold yellow")
        + Text(f": {len(reasons)} reason{'s' if len(reasons) > 1 else ''}", "default")
    ]
    for reason in reasons:
        where = f"{plain(reason['stage'])}: " if reason["stage"] is not None else ""
        lines.append(Text(f"  {where}{plain(reason['words'])}"))
        lines.append(Text(f"    try: {plain(reason['try'])}", style="dim"))
    return lines
