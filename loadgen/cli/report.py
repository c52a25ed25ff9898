"""`loadgen report RUN...`: the results of runs, computed anew from their captures, on the terminal and as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.arrow import prepare_pyarrow
from loadgen.cli.results import SUSPECT_STATUS, counting, json_option, no_html_option, print_json, show, told_on
from loadgen.errors import UsageError

if TYPE_CHECKING:
    from analysis.summary import Analysis


@click.command(short_help="Recompute and show the results of a run from its capture.")
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
@click.option("--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when a verdict is suspect.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that share the work.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write one page of all the runs here, instead of a report.html into each.",
)
@no_html_option
@click.option("--png", type=click.Path(path_type=Path), metavar="DIR", help="Write every figure as PNG into DIR.")
@click.option("--svg", type=click.Path(path_type=Path), metavar="DIR", help="Write every figure as SVG into DIR.")
@click.option("--open", "open_page", is_flag=True, help="Show the page in the browser.")
def command(
    run_dirs: tuple[Path, ...],
    as_json: bool,
    strict: bool,
    jobs: int,
    page: Path | None,
    no_html: bool,
    png: Path | None,
    svg: Path | None,
    open_page: bool,
) -> None:
    """Recompute the results of each RUN from its capture, rewrite its summary.json, histograms.hlog and report.html, and
    show them.

    Works on a run that is still going on, or was killed: it shows what has been written.
    """
    from loadgen.cli import pictures

    for run_dir in run_dirs:
        _check_run(run_dir)
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise UsageError("RUN: one run is given twice; allowed is each once")
    if as_json and len(run_dirs) > 1:
        raise UsageError(f"--json: {len(run_dirs)} runs are given; allowed is one")
    for flag, asked in (("--html", page), ("--open", open_page or None)):
        if no_html and asked is not None:
            raise UsageError(f"--no-html: {flag} asks for a page; allowed is one of the two")
    for flag, asked in (("--html", page), ("--png", png), ("--svg", svg), ("--open", open_page or None)):
        if asked is not None:
            pictures.check(flag)
    if open_page and page is None and len(run_dirs) > 1:
        raise UsageError("--open: several runs need --html FILE, so that there is one page to open")

    from loadgen.schema import CaptureError

    prepare_pyarrow()
    try:
        with counting(told_on()):
            analyses = [_analysed(run_dir, jobs) for run_dir in run_dirs]
            runs = pictures.shown(run_dirs, analyses) if page or png or svg else []
            beside = [
                "" if no_html or page is not None else pictures.beside(run_dir, analysis)
                for run_dir, analysis in zip(run_dirs, analyses, strict=True)
            ]
    except CaptureError as error:
        raise UsageError(str(error)) from None
    if page is not None:
        with pictures.refusing("--html", page):
            pictures.write_page(page, runs)
    for flag, folder, kind in (("--png", png, "png"), ("--svg", svg, "svg")):
        if folder is not None:
            with pictures.refusing(flag, folder):
                pictures.write_files(folder, runs, kind)
    _show(run_dirs, [analysis.summary for analysis in analyses], beside, as_json=as_json)
    for kind, where in (("page", page), ("figures", png), ("figures", svg)):
        if where is not None and not as_json:
            click.echo(f"{kind}: {where}")
    if open_page:
        pictures.open_in_browser(page or run_dirs[0] / pictures.PAGE)
    if strict and not all(analysis.summary["verdict"]["ok"] for analysis in analyses):
        raise SystemExit(SUSPECT_STATUS)


def _check_run(run_dir: Path) -> None:
    if not run_dir.is_dir():
        raise UsageError(f"{str(run_dir)!r} is no directory: RUN is what `loadgen run --out` wrote")
    if not (run_dir / "capture").is_dir():
        raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")


def _analysed(run_dir: Path, jobs: int) -> "Analysis":
    from analysis.summary import analyse, write

    analysis = analyse(run_dir, jobs)
    try:
        write(run_dir, analysis)
    except OSError as error:  # somebody else's run, or a full disk: the numbers are still good
        click.echo(f"loadgen: the summary could not be written: {error.strerror or error}", err=True)
    return analysis


def _show(run_dirs: tuple[Path, ...], summaries: list[dict[str, Any]], beside: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json(summaries[0])
        return
    from rich.console import Console

    console = Console()
    for place, (run_dir, summary, words) in enumerate(zip(run_dirs, summaries, beside, strict=True)):
        if place:
            console.print()
        show(summary, run_dir, console, words)
