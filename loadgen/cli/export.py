"""`loadgen export RUN --format F`: a run's results as other tools read them."""

from pathlib import Path

import click

from loadgen.errors import RunError, UsageError

FORMATS = ("parquet", "csv", "json-vllm", "json-guidellm", "json-aiperf", "hlog", "perfetto", "openmetrics")


@click.command(short_help="Write a run's results for other tools: Parquet, CSV, vLLM's JSON, traces and more.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    metavar="FORMAT",
    multiple=True,
    required=True,
    help=f"One of {', '.join(FORMATS)}; repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: RUN/export]")
@click.option(
    "--requests",
    type=click.IntRange(1, 1_000_000),
    default=2_000,
    show_default=True,
    help="Requests that perfetto shows, from all over the run.",
)
def command(run_dir: Path, formats: tuple[str, ...], out: Path | None, requests: int) -> None:
    """Write the results of RUN for other tools, and print the paths of the files.

    docs/exports.md describes each, with queries for DuckDB, Polars and pandas.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format: {name!r} is unknown; allowed are {', '.join(FORMATS)}")
    if not (run_dir / "capture").is_dir():
        raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")

    import importlib

    from analysis.exports import FORMATS as MODULES
    from loadgen.schema import CaptureError

    for name in dict.fromkeys(formats):
        try:
            paths = importlib.import_module(MODULES[name][0]).write(run_dir, out or run_dir / "export", requests)
        except CaptureError as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise RunError(f"--format {name}: {error}") from None
        for path in paths:
            click.echo(str(path))
