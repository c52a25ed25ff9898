"""`loadgen sweep`: a curve, a point a level of load, in one run directory that an interruption does not lose."""

from pathlib import Path
from typing import Any

import click

from loadgen.arrow import prepare_pyarrow
from loadgen.cli.cluster import cluster_options, placed
from loadgen.cli.consent import agreement, of_stages, safety_options
from loadgen.cli.expectation import Prices
from loadgen.cli.options import LoadCommand, load_options, no_check_option, out_option, spec_of
from loadgen.cli.results import concluded, json_option, no_html_option, strict_option, told_on
from loadgen.cli.watching import watch_options, watching_of
from loadgen.errors import UsageError
from loadgen.job import prepared
from loadgen.job.sweep import CHECK_REQUESTS, DEFAULTS, MOST_CHECK_REQUESTS, resumed, sweep, with_warm_up


@click.command(cls=LoadCommand, short_help="Measure a curve: latency and throughput over many levels of load.")
@load_options()
@safety_options
@click.option("--parallel", metavar="N[,...]", help="The same as --concurrency.")
@click.option(
    "--check-requests",
    metavar="N",
    type=click.IntRange(0, MOST_CHECK_REQUESTS),
    default=CHECK_REQUESTS,
    show_default=True,
    help="Requests before the first level: they warm the endpoint up, and show how it counts a prompt's tokens.",
)
@watch_options
@cluster_options
@out_option
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go on with a sweep that was interrupted: the levels that are done are kept.",
)
@no_check_option
@no_html_option
@json_option
@strict_option
def command(
    parallel: str | None,
    check_requests: int,
    out: Path | None,
    resume: Path | None,
    no_check: bool,
    no_html: bool,
    as_json: bool,
    strict: bool,
    yes: bool,
    price_input: float | None,
    price_output: float | None,
    **flags: Any,
) -> None:
    """Measure a curve over levels of load: --concurrency or --rate with a list (1,2,4) or a range (1..512x2, 10..50+10).

    Between two levels the endpoint is left to cool down until it is idle (--cooldown). --repeat K runs every level K times
    in shuffled order and reports the spread between runs. Levels above one that is hopeless are left out
    (--no-early-stop).

    Ctrl-C ends the level, reports what there is, and leaves a run directory that --resume goes on with.
    """
    console, watching = told_on(), watching_of(flags)
    agree = agreement(console, Prices(price_input, price_output), yes=yes, state=of_stages)
    prepare_pyarrow()
    with placed(flags) as place:
        if resume is not None:
            # An option that may be given several times is an empty tuple where it was not given.
            if given := sorted(name for name, value in flags.items() if value not in (None, ())):
                raise UsageError(
                    f"--{given[0].replace('_', '-')}: --resume goes on with what the run asked for; leave it out"
                )
            if out is not None:
                raise UsageError("--out: --resume writes into the run that it goes on with; leave it out")
            job = resumed(resume, console, no_check=no_check, agree=agree, watching=watching, place=place)
        else:
            if parallel is not None:
                if flags["concurrency"] is not None:
                    raise UsageError("--parallel, --concurrency: these are the same; give one of the two")
                flags["concurrency"] = parallel
            spec = with_warm_up(spec_of(flags, DEFAULTS), check_requests)
            job = prepared(
                spec, out, console, no_check=no_check, wants_baseline=True, agree=agree, watching=watching, place=place
            )
        sweep(job)
        concluded(job, strict=strict, page=not no_html, as_json=as_json)
