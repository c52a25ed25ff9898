"""What is shown of a summary: the table, the picture, the verdict, where the files are; and how a command ends."""

import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.errors import RunError
from loadgen.job import Job, analysed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SUSPECT_STATUS = 3

json_option = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead of the table.")
no_html_option = click.option("--no-html", is_flag=True, help="Write no report.html.")
strict_option = click.option(
    "--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when the verdict is suspect."
)

MOST_PLACES = 8
"""Nodes whose captures stayed elsewhere, and where that is shown."""


def told_on() -> "Console":
    """Where a command that makes load says what it does: standard output is for what comes out of it."""
    from rich.console import Console

    return Console(stderr=True)


def concluded(job: Job, *, strict: bool, page: bool, as_json: bool) -> None:
    """Analyse what was captured, write its page, show it, and end as it says.

    RunError for a failed run; 128 and the signal's number for one that was interrupted; SUSPECT_STATUS.
    """
    from loadgen.cli import pictures

    run_dir, beside = job.run.run_dir, ""
    with counting(job.console):
        analysis = analysed(job)
        if analysis is not None and page:
            beside = pictures.beside(run_dir, analysis)
    for words in (one for one in job.complaints if one != job.words):
        click.echo("loadgen: " + "".join(c if c.isprintable() else "?" for c in words), err=True)
    if analysis is not None:
        if as_json:
            show_places(analysis.summary, run_dir, job.console, beside)
            print_json(analysis.summary)
        else:
            from rich.console import Console

            show(analysis.summary, run_dir, Console(), beside)
    if job.words:
        raise RunError(job.words)
    if job.interrupted:
        sys.stdout.flush()
        raise SystemExit(128 + (job.signal_number or signal.SIGINT))
    if strict and analysis is not None and not analysis.summary["verdict"]["ok"]:
        sys.stdout.flush()
        raise SystemExit(SUSPECT_STATUS)


def counting(console: "Console") -> AbstractContextManager[object]:
    """A word on a terminal while a capture is counted, which may take a while."""
    can_move = console.is_terminal and not console.is_dumb_terminal
    return console.status("counting what was captured ...") if can_move else nullcontext()


def print_json(summary: dict[str, Any]) -> None:
    """What summary.json holds, byte for byte."""
    from analysis.summary import as_text

    sys.stdout.write(as_text(summary))


def show(summary: dict[str, Any], run_dir: Path, console: "Console", pictures: str = "") -> None:
    """Prints a summary, and a word on its pictures; without colour or control sequences where the console is no terminal."""
    from rich.text import Text

    from analysis import charts, notes, saturation, tables

    def say(words: "RenderableType") -> None:
        if isinstance(words, Text) and words.plain.startswith(" ") and "\n" not in words.plain:
            indent = len(words.plain) - len(words.plain.lstrip())  # of the lines that it is folded to, too
            for line in words[indent:].wrap(console, max(console.width - indent, 1)):
                line.rstrip()
                console.print(Text(" " * indent) + line, highlight=False)
            return
        console.print(words, highlight=False, soft_wrap=False)

    stages = summary["stages"]
    say(Text(_head(summary)))
    found = saturation.read(run_dir) if summary["question"] else None
    can_draw = console.encoding.lower().startswith("utf")
    width = min(console.width, 80)
    if found:
        say(tables.points_table(found))
        for line in notes.answer_lines(found):
            say(line)
    elif stages and summary["command"] == "sweep":
        say(tables.curve_table(summary))
        for note in (*notes.curve_notes(summary), *notes.footnotes(stages, tables.doubted_of_curve(summary))):
            say(note)
        users = charts.throughput_per_user(summary["curve"], width=width, ascii_only=not can_draw)
        if users:
            say("")
            say(Text(users, no_wrap=True))
    elif stages:
        say(tables.stage_table(stages))
        for caption, table in (
            (
                "open loop: latencies from the intended time; late: sent over 1 ms after it",
                tables.open_loop_table(stages),
            ),
            ("by turn of the sessions", tables.turn_table(stages)),
            ("by target; ms", tables.target_table(stages)),
        ):
            if table is not None:
                say("")
                say(Text(caption, style="dim"))
                say(table)
        for note in notes.footnotes(stages):
            say(note)
    if (table := tables.server_table(stages)) is not None:
        say("")
        say(Text("the server's own metrics, ms; client +: by how much our mean is longer", style="dim"))
        say(table)
    for note in notes.server_notes(summary):
        say(note)
    if (table := tables.node_table(summary)) is not None:
        say("")
        say(Text("by node; the time lines of the nodes are one up to +- their clocks", style="dim"))
        say(table)
    picture = charts.throughput_latency(summary["curve"], width=width, ascii_only=not can_draw)
    if picture:
        say("")
        say(Text(picture, no_wrap=True))
    say("")
    for line in notes.verdict_lines(summary):
        say(line)
    if (floor := notes.floor_line(summary)) is not None:
        say(floor)
    say("")
    show_places(summary, run_dir, console, pictures)


def show_places(summary: dict[str, Any], run_dir: Path, console: "Console", pictures: str) -> None:
    """Prints where the files are; the arguments are those of `show`."""
    from rich.text import Text

    from analysis.spelling import plain

    def say(text: Text) -> None:
        console.print(text, highlight=False)

    written = [name for name in ("summary.json", "saturation.json", "histograms.hlog") if (run_dir / name).is_file()]
    say(Text(plain(f"{run_dir}: {', '.join([*written, 'capture/'])}{pictures}"), overflow="fold"))
    kept = [node for node in summary.get("nodes") or () if node["captures"] not in (None, "driver")]
    for node in kept[:MOST_PLACES]:
        say(Text(plain(f"captures of node {node['node']}: {node['captures']}"), overflow="fold"))
    if len(kept) > MOST_PLACES:
        say(Text(f"and of {len(kept) - MOST_PLACES} more: nodes[].captures in run.json"))
    if (run_dir / "bodies").is_dir():
        words = f"{run_dir / 'bodies'}/: every request and response in full, readable by you alone (mode 0600)"
        say(Text(plain(words), overflow="fold"))


def _head(summary: dict[str, Any]) -> str:
    from analysis.spelling import plain
    from analysis.targets import endpoint_words

    words = endpoint_words(summary["spec"])
    workers = summary["capture"]["workers"]
    return plain(f"{words}{', ' if words else ''}{workers} worker{'s' if workers > 1 else ''}")
