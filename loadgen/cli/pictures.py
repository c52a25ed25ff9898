"""report.html, PNG and SVG: what `run` and `report` draw, and what they say where that cannot be done."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from loadgen.errors import ERROR_CLASSES, RunError, UsageError

if TYPE_CHECKING:
    from analysis.page import Shown
    from analysis.summary import Analysis

NEEDED: Final = ("altair", "jinja2", "vl_convert")
"""What the extra `plots` brings."""

MISSING: Final = "pip install 'loadgen[plots]' brings what draws pictures"

PAGE: Final = "report.html"


def can_draw() -> bool:
    """Whether the extra is there."""
    return all(find_spec(name) is not None for name in NEEDED)


def check(flag: str) -> None:
    """UsageError if a flag asks for pictures that cannot be drawn here."""
    if not can_draw():
        raise UsageError(f"{flag}: {MISSING}, and it is not installed")


def beside(run_dir: Path, analysis: "Analysis") -> str:
    """Writes RUN/report.html; the words that go behind the names of the other files."""
    if not can_draw():
        return f" (no {PAGE}: {MISSING})"
    try:
        write_page(run_dir / PAGE, shown([run_dir], [analysis]))
    except Exception as error:  # whatever a drawing library does: the numbers are still good, and have to be shown
        words = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        click.echo(f"loadgen: {PAGE} could not be written: {words}", err=True)
        return ""
    return f", {PAGE}"


def shown(run_dirs: Sequence[Path], analyses: Sequence["Analysis"]) -> list["Shown"]:
    """The runs of a page by names of their own.."""
    from analysis.page import Shown
    from analysis.saturation import read

    names = [run_dir.resolve().name for run_dir in run_dirs]
    labels = names if len(set(names)) == len(names) else [str(run_dir) for run_dir in run_dirs]
    return [
        Shown(label, analysis, read(run_dir))
        for label, run_dir, analysis in zip(labels, run_dirs, analyses, strict=True)
    ]


def write_page(path: Path, runs: Sequence["Shown"]) -> None:
    """Writes the page of these runs, whole or not at all. OSError."""
    from analysis.page import Glossary, html
    from analysis.page.script import bundle

    text = html(runs, bundle(_cache_dir()), Glossary(ERROR_CLASSES))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_files(folder: Path, runs: Sequence["Shown"], kind: str) -> list[Path]:
    """Writes each figure as `kind` (png, svg) into a folder, a run's own into one below where there are several. OSError."""
    from analysis import figures

    summaries = {run.label: run.analysis.summary for run in runs}
    several = len(runs) > 1
    limits = {run.label if several else "": run.saturation for run in runs if run.saturation is not None}
    of_all = summaries if several else runs[0].analysis.summary
    drawn: dict[str, Any] = {
        f"throughput-latency-{percentile}": figures.throughput_latency_grid(of_all, percentile, limits=limits)
        for percentile in ("p50", "p90", "p99")
    } | {"throughput-by-load": figures.throughput_by_load(of_all)}
    for number, run in enumerate(runs):
        # A label may be a path; the folder's name comes from it and stays within DIR.
        below = f"{number}-{Path(run.label).name}/" if several else ""
        for metric in figures.LATENCIES:
            drawn[f"{below}percentiles-{metric}"] = figures.percentile_spectrum(run.analysis, metric)
            drawn[f"{below}histogram-{metric}"] = figures.latency_histogram(run.analysis, metric)
        drawn[f"{below}timeline"] = figures.timeline(run.analysis.summary)
        for stage in range(len(run.analysis.summary["stages"])):
            drawn[f"{below}requests-{stage}"] = figures.waterfall(run.analysis, stage)
    written = []
    for name, chart in drawn.items():
        path = folder / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(figures.png(chart) if kind == "png" else figures.svg(chart).encode())
        written.append(path)
    return written


def open_in_browser(path: Path) -> None:
    """Shows a page in the user's browser. RunError without one."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        raise RunError(f"--open: there is no browser here that could be started; the page is {path}")


@contextmanager
def refusing(flag: str, path: Path) -> Iterator[None]:
    """An OSError meanwhile is a UsageError that names the flag."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag}: {str(path)!r} cannot be written ({error.strerror})") from None


def _cache_dir() -> Path | None:
    """Where the drawing library is kept from one command to the next; None where the user has no home."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home) / "loadgen"
