"""`loadgen doctor`: what this machine can measure, and how well."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from loadgen.doctor import Finding

SUSPECT_STATUS = 3

LOOK_S = 1.0
"""Over so long steal is watched."""


@click.command(short_help="Say what this machine can measure and how well, and what would make it better.")
@click.option("--quick", is_flag=True, help="Measure for about 8 seconds in place of 20.")
@click.option("--no-measure", is_flag=True, help="Look only: no load, and no floor.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when a finding is bad.")
def command(quick: bool, no_measure: bool, as_json: bool, strict: bool) -> None:
    """Say what this machine can measure and how well, before its results are trusted.

    Looks at the kernel's stamps, clocks, cores, quotas and limits; then measures the simulated endpoint, whose true times
    are known, on this machine. What that comes to, the floor, is kept and quoted beside the results of later runs.
    """
    from loadgen import host
    from loadgen.doctor import BAD, kernel, machine, worst

    usable = host.usable_cores()
    before = machine.cpu_times()
    time.sleep(LOOK_S)
    found = [kernel.stamps(), *machine.findings(usable, before=before)]
    floor: dict[str, Any] | None = None
    kept: Path | None = None
    console = None if as_json else _console()
    if console is not None:
        _show(console, "this machine", found)
    if not no_measure:
        from loadgen.doctor import calibration

        if console is not None:
            about_s = 8 if quick else 20
            console.print(
                f"\nmeasuring the simulated endpoint on this machine for about {about_s} s ...", highlight=False
            )
        floor = calibration.measured(calibration.chosen_cores(usable), quick=quick)
        told = calibration.findings(floor, usable)
        found += told
        kept = _kept(floor)
        if console is not None:
            _show(console, "measured", told)
            where = f"kept in {kept}, and quoted beside results" if kept else "not kept: there is no cache to write to"
            console.print(where, highlight=False, markup=False, soft_wrap=True)
    if as_json:
        import orjson

        facts = {
            "verdict": worst(found),
            "host": host.facts(),
            "findings": [finding.to_json() for finding in found],
            "floor": floor,
            "kept": None if kept is None else str(kept),
        }
        click.echo(orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode())
    if strict and worst(found) == BAD:
        raise SystemExit(SUSPECT_STATUS)


def _kept(floor: dict[str, Any]) -> Path | None:
    """Where the floor lies now; None where it could not be kept."""
    from loadgen import __version__, host
    from loadgen.doctor import floor as floors
    from loadgen.job import environment

    folder = environment.cache_folder()
    if folder is None:
        return None
    try:
        return floors.keep(folder, floors.key(host.facts(), __version__), floor)
    except OSError as error:
        click.echo(f"loadgen: the floor could not be kept in {folder}: {error.strerror}", err=True)
        return None


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _show(console: "Console", caption: str, found: "list[Finding]") -> None:
    from rich.text import Text

    from analysis.columns import Columns
    from analysis.spelling import plain
    from loadgen.doctor import BAD, OK, WARN

    styles = {OK: "green", WARN: "yellow", BAD: "bold red"}
    table = Columns(keys=2)
    table.add_column("", no_wrap=True)
    table.add_column(caption, no_wrap=True)
    table.add_column("", overflow="fold")
    for finding in found:
        words = Text(plain(finding.words))
        if finding.todo:
            words.append(f"\n{plain(finding.todo)}", style="dim")
        table.add_row(Text(finding.level, style=styles[finding.level]), finding.name, words)
    console.print(table, highlight=False)
