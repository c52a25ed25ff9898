"""`loadgen run`: check the endpoint, make the load, analyse the capture, show what came out."""

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
from loadgen.job import every_stage, make_load, prepared


@click.command(
    cls=LoadCommand, short_help="Load an endpoint and report TTFT, TPOT and throughput at each level of load."
)
@load_options()
@safety_options
@watch_options
@cluster_options
@out_option
@no_check_option
@no_html_option
@json_option
@strict_option
def command(
    out: Path | None,
    no_check: bool,
    no_html: bool,
    as_json: bool,
    strict: bool,
    yes: bool,
    price_input: float | None,
    price_output: float | None,
    **flags: Any,
) -> None:
    """Load an endpoint and report TTFT, TPOT and throughput at each level of load.

    The key, if the endpoint wants one, is taken from OPENAI_API_KEY, or the variable of the API's own (ANTHROPIC_API_KEY,
    AZURE_OPENAI_API_KEY, GEMINI_API_KEY, DATABRICKS_TOKEN).

    Ctrl-C once ends the stage, drains and reports what there is; twice stops at once. The results go to standard output, and
    what is told meanwhile to standard error.
    """
    watching, spec, console = watching_of(flags), spec_of(flags), told_on()
    agree = agreement(console, Prices(price_input, price_output), yes=yes, state=of_stages)
    wants_baseline = spec.cooldown_s > 0 and not no_check
    prepare_pyarrow()
    with placed(flags) as place:
        job = prepared(
            spec,
            out,
            console,
            no_check=no_check,
            wants_baseline=wants_baseline,
            agree=agree,
            watching=watching,
            place=place,
        )
        make_load(job, every_stage, command="run")
        concluded(job, strict=strict, page=not no_html, as_json=as_json)
