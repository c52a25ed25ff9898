"""`loadgen saturate`: how much can it take? Stage by stage, each chosen by what the ones before have shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from loadgen.arrow import prepare_pyarrow
from loadgen.cli.cluster import cluster_options, placed
from loadgen.cli.consent import agreement, of_search, safety_options
from loadgen.cli.durations import DurationType
from loadgen.cli.expectation import Prices
from loadgen.cli.numbers import NumberType
from loadgen.cli.options import LoadCommand, load_options, out_option, spec_of
from loadgen.cli.results import SUSPECT_STATUS, concluded, json_option, no_html_option, told_on
from loadgen.cli.watching import watch_options, watching_of
from loadgen.errors import UsageError
from loadgen.job import prepared
from loadgen.job.saturate import CHOSEN_HERE, saturate, searched
from loadgen.schedule.profile import MOST_VALUE

NS_PER_S: Final = 1_000_000_000

LOAD: Final = NumberType(MOST_VALUE, above_0=True)


@click.command(
    cls=LoadCommand, short_help="Find the knee, or the most load within the objectives, and say who was the limit."
)
@load_options(without=CHOSEN_HERE)
@safety_options
@click.option(
    "--mode",
    type=click.Choice(["concurrency", "rate"]),
    default="concurrency",
    show_default=True,
    help="What the load is: requests in flight (closed loop) or arrivals a second (open loop).",
)
@click.option(
    "--budget",
    type=DurationType(10 * NS_PER_S),
    default="10m",
    show_default=True,
    help="How long the search may take; when it is spent, the answer says so.",
)
@click.option(
    "--start",
    type=LOAD,
    help="The first load  [default: 1 in flight, or the rate of one request at a time].",
)
@click.option("--most", type=LOAD, help="The highest load to try.")
@watch_options
@cluster_options
@out_option
@no_html_option
@json_option
@click.option(
    "--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when the endpoint's limit was not found."
)
def command(
    mode: str,
    budget: int,
    start: float | None,
    most: float | None,
    out: Path | None,
    no_html: bool,
    as_json: bool,
    strict: bool,
    yes: bool,
    price_input: float | None,
    price_output: float | None,
    **flags: Any,
) -> None:
    """Find how much the endpoint can take.

    With --slo (as in ttft:p99=500ms,tpot:p95=50ms; p99 where none is named): the highest load that still meets every
    objective, by doubling and bisection. Without: the knee, where more load stops giving more throughput, and the peak.

    Either comes with a 95 % interval, and says whether the endpoint, this load generator or the budget was the limit. A rate
    that is not kept up with is cut as soon as that is plain. The answer is in RUN/saturation.json.
    """
    if start is not None and most is not None and start > most:
        raise UsageError(f"--start: {start:,g} is above --most, {most:,g}; allowed is up to that")
    # A load among the flags puts the stages of a spec file out of force.
    watching = watching_of(flags)
    spec = searched(spec_of(flags | {mode: "1"}))
    console, prices = told_on(), Prices(price_input, price_output)
    agree = agreement(console, prices, yes=yes, state=of_search(mode, budget / NS_PER_S, most))
    empty = replace(spec, stages=())
    prepare_pyarrow()
    with placed(flags) as place:
        job = prepared(
            empty, out, console, no_check=False, wants_baseline=True, agree=agree, watching=watching, place=place
        )
        told = saturate(job, spec.stages[0], mode, budget / NS_PER_S, start, most)
        concluded(job, strict=False, page=not no_html, as_json=as_json)
    if strict and (told is None or told["limited_by"] != "server"):
        raise SystemExit(SUSPECT_STATUS)
