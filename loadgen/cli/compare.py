"""`loadgen compare A B [C...]`: what differs between runs, with intervals, and gates for CI."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.arrow import prepare_pyarrow
from loadgen.errors import RunError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.compare import Change, Loaded, Match
    from analysis.gates import Judged

GATE_STATUS = 4
SUSPECT_STATUS = 3


@click.command(short_help="Say what is faster in which of several runs, and fail when it must not be slower.")
@click.argument("run_dirs", metavar="RUN RUN...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--fail-if",
    "conditions",
    metavar="CONDITION",
    multiple=True,
    help=f"As 'ttft.p99 > +5%'; repeatable. Exit with status {GATE_STATUS} when one holds.",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write the conditions' outcomes as JUnit XML.")
@click.option(
    "--strict",
    is_flag=True,
    help=f"A condition that cannot be told fails as well; exit with status {SUSPECT_STATUS} when a verdict is suspect.",
)
@click.option("--force", is_flag=True, help="Compare runs of different workloads all the same.")
@click.option(
    "--target",
    "targets",
    metavar="NAME",
    multiple=True,
    help="Compare one of several targets: the same in every run, or one for each run, in their order.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that share the work.")
def command(
    run_dirs: tuple[Path, ...],
    conditions: tuple[str, ...],
    junit: Path | None,
    strict: bool,
    force: bool,
    targets: tuple[str, ...],
    as_json: bool,
    jobs: int,
) -> None:
    """Compare every further RUN with the first, at each load that both have.

    Differences come with 95 % intervals: of blocks of time, or of repeats where both runs have a load several times. Without
    evidence it says so. docs/compare.md has the conditions of --fail-if and what each exit status means.
    """
    if len(run_dirs) < 2:
        raise UsageError(f"RUN: {len(run_dirs)} given; it takes two or more")
    for run_dir in run_dirs:
        if not (run_dir / "capture").is_dir():
            raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")

    if len(targets) not in (0, 1, len(run_dirs)):
        raise UsageError(
            f"--target: {len(targets)} names for {len(run_dirs)} runs; allowed is one for all, or one for each"
        )

    from analysis import compare, gates
    from loadgen.schema import CaptureError

    if junit is not None and not conditions:
        raise UsageError("--junit: there is nothing to write; give --fail-if as well")
    try:
        asked = [gates.parse_gate(words) for words in conditions]
    except ValueError as error:
        raise UsageError(f"--fail-if: {error}") from None
    prepare_pyarrow()
    try:
        runs = compare.load(run_dirs, jobs, targets * len(run_dirs) if len(targets) == 1 else targets)
    except CaptureError as error:
        raise UsageError(str(error)) from None
    warnings = [*_apart(runs, force), *compare.doubts(runs)]
    found: list[tuple[Loaded, Match, list[Change]]] = [
        (after, match, compare.changes(runs[0], after, match))
        for after in runs[1:]
        for match in compare.matches(runs[0].summary, after.summary)
    ]
    judged = [
        one
        for gate in asked
        for after, match, changes in found
        if (one := gates.judge(gate, f"{runs[0].name} to {after.name}", match._asdict(), changes)) is not None
    ]
    for gate in asked:
        if not any(one.gate is gate for one in judged):
            raise UsageError(f"--fail-if: {gate.words!r}: no stage of both runs has the load {gate.load}")
    if junit is not None:
        try:
            junit.write_text(gates.junit(judged, strict), encoding="utf-8")
        except OSError as error:
            raise RunError(f"--junit: {error}") from None
    if as_json:
        _print_json(runs, warnings, found, judged)
    else:
        from rich.console import Console

        _show(runs, warnings, found, judged, Console())
    if any(gates.fails(one, strict) for one in judged):
        raise SystemExit(GATE_STATUS)
    if strict and not all(run.summary["verdict"]["ok"] for run in runs):
        raise SystemExit(SUSPECT_STATUS)


def _apart(runs: "list[Loaded]", force: bool) -> list[str]:
    """What makes the runs answers to different questions; UsageError without --force, and where no load is in both."""
    from analysis import compare

    apart = []
    for after in runs[1:]:
        if not compare.matches(runs[0].summary, after.summary):
            loads = [", ".join(str(stage["name"]) for stage in run.summary["stages"]) for run in (runs[0], after)]
            raise UsageError(f"{runs[0].name} and {after.name} have no load in common: {loads[0]}; and {loads[1]}")
        why = compare.differences_of_workload(runs[0].summary, after.summary)
        if why and not force:
            words = f"{runs[0].name} and {after.name} cannot be compared: {'; '.join(why)}"
            raise UsageError(f"{words}. --force compares them all the same")
        apart += [f"{runs[0].name} and {after.name} are of different workloads: {one}" for one in why]
    return apart


def _show(
    runs: "list[Loaded]",
    warnings: list[str],
    found: "list[tuple[Loaded, Match, list[Change]]]",
    judged: "list[Judged]",
    console: "Console",
) -> None:
    from rich.text import Text

    from analysis import charts
    from analysis.compare_tables import change_table, gate_lines
    from analysis.spelling import plain

    def say(words: object) -> None:
        console.print(words, highlight=False, soft_wrap=False)

    for warning in warnings:
        say(Text("warning: ", style="bold yellow") + Text(plain(warning), style="default"))
    if warnings:
        say("")
    for after, match, changes in found:
        repeats = f", {len(match.before)} and {len(match.after)} repeats"
        many = len(match.before) > 1 or len(match.after) > 1
        title = f"{match.name}: {runs[0].name} to {after.name}{repeats if many else ''}"
        say(Text(plain(title), style="bold"))
        say(change_table(changes, runs[0].name, after.name))
        say("")
    can_draw = console.encoding.lower().startswith("utf")
    curves = [run.summary["curve"] for run in runs]
    picture = charts.overlaid(curves, width=min(console.width, 80), ascii_only=not can_draw)
    if picture:
        legend = "   ".join(f"{charts.mark(k, not can_draw)} {plain(run.name)}" for k, run in enumerate(runs))
        say(Text(f"{legend}\n{picture}", no_wrap=True))
        say("")
    for line in gate_lines(judged):
        say(line)


def _print_json(
    runs: "list[Loaded]",
    warnings: list[str],
    found: "list[tuple[Loaded, Match, list[Change]]]",
    judged: "list[Judged]",
) -> None:
    import json

    def figure(one: "Change") -> dict[str, Any]:
        interval = None if one.interval is None else {"low": one.interval.low, "high": one.interval.high}
        return {
            "name": one.name,
            "before": one.before,
            "after": one.after,
            "change": one.change,
            "interval": interval,
            "method": one.method,
            "reliable": one.reliable,
            "statement": one.statement,
        }

    facts = {
        "schema": 1,
        "runs": [
            {"run": str(run.run_dir), "run_id": run.summary["run_id"], "valid": run.summary["verdict"]["ok"]}
            for run in runs
        ],
        "warnings": warnings,
        "comparisons": [
            {
                "before": str(runs[0].run_dir),
                "after": str(after.run_dir),
                "load": match.load,
                "repeats": [len(match.before), len(match.after)],
                "figures": [figure(one) for one in changes],
            }
            for after, match, changes in found
        ],
        "conditions": [
            {"condition": one.gate.words, "runs": one.runs, "stage": one.stage, "outcome": one.outcome, "why": one.why}
            for one in judged
        ],
    }
    sys.stdout.write(json.dumps(facts, indent=1, allow_nan=False) + "\n")
