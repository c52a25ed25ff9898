"""`loadgen report RUN`: the results of a run, computed anew from its capture."""

import sys
from pathlib import Path

import click

from loadgen.errors import UsageError

SUSPECT_STATUS = 3


@click.command(short_help="Recompute and show the results of a run from its capture.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead of the table.")
@click.option("--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when the verdict is suspect.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that share the work.")
def command(run_dir: Path, as_json: bool, strict: bool, jobs: int) -> None:
    """Recompute the results of RUN from its capture, rewrite its summary.json and histograms.hlog, and show them.

    Works on a run that is still going on, or was killed: it shows what has been written.
    """
    if not run_dir.is_dir():
        raise UsageError(f"{str(run_dir)!r} is no directory: RUN is what `loadgen run --out` wrote")
    if not (run_dir / "capture").is_dir():
        raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")

    from analysis.summary import analyse, as_text, write
    from loadgen.schema import CaptureError

    try:
        analysis = analyse(run_dir, jobs)
    except CaptureError as error:
        raise UsageError(str(error)) from None
    try:
        write(run_dir, analysis)
    except OSError as error:  # somebody else's run, or a full disk: the numbers are still good
        click.echo(f"loadgen: the summary could not be written: {error}", err=True)
    if as_json:
        sys.stdout.write(as_text(analysis.summary))
    else:
        from rich.console import Console

        from loadgen.cli.results import show

        show(analysis.summary, run_dir, Console())
    if strict and not analysis.summary["verdict"]["ok"]:
        raise SystemExit(SUSPECT_STATUS)
