"""`loadgen sweep`: a curve, a point a level of load, in one run directory that an interruption does not lose."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.job import SUSPECT_STATUS, Job, analysed, concluded, every_stage, make_load, prepared
from loadgen.cli.options import load_options, spec_of
from loadgen.cli.watching import Watching, watch_options, watching_of
from loadgen.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from loadgen.spec import Spec

DEFAULTS = {"cooldown": 1.0, "early_stop": True}
"""Where a sweep by itself differs from a run."""


@click.command(short_help="Measure a curve: latency and throughput over many levels of load.")
@load_options()
@click.option("--parallel", metavar="N[,...]", help="The same as --concurrency.")
@click.option(
    "--check-requests",
    metavar="N",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="Requests before the first level: they warm the endpoint up, and show how it counts a prompt's tokens.",
)
@watch_options
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default: runs/DATE-TIME.")
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go on with a sweep that was interrupted: the levels that are done are kept.",
)
@click.option("--no-check", is_flag=True, help="Do not try the endpoint with one request first.")
@click.option("--no-html", is_flag=True, help="Write no report.html.")
@click.option("--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when the verdict is suspect.")
def command(
    parallel: str | None,
    check_requests: int,
    out: Path | None,
    resume: Path | None,
    no_check: bool,
    no_html: bool,
    strict: bool,
    **flags: Any,
) -> None:
    """Measure a curve over levels of load: --concurrency or --rate with a list (1,2,4) or a range (1..512x2, 10..50+10).

    Between two levels the endpoint is left to cool down until it is idle (--cooldown). --repeat K runs every level K times
    in shuffled order and reports the spread between runs. Levels above one that is hopeless are left out
    (--no-early-stop).

    Ctrl-C ends the level, reports what there is, and leaves a run directory that --resume goes on with.
    """
    from rich.console import Console

    console, watching = Console(), watching_of(flags)
    if resume is not None:
        job = resumed(resume, out, flags, console, no_check=no_check, watching=watching)
    else:
        if parallel is not None:
            if flags["concurrency"] is not None:
                raise UsageError("--parallel, --concurrency: these are the same; give one of the two")
            flags["concurrency"] = parallel
        spec = with_warm_up(spec_of(flags, DEFAULTS), check_requests)
        job = prepared(spec, out, console, no_check=no_check, wants_baseline=True, watching=watching)
    sweep(job)
    concluded(job, analysed(job.run.run_dir), strict=strict, page=not no_html)


def sweep(job: Job) -> None:
    """Make the load of a sweep."""
    make_load(job, every_stage, command="sweep")


def with_warm_up(spec: "Spec", requests: int) -> "Spec":
    """The spec with a stage of so many requests before the others, two at a time, which is no result."""
    from loadgen.schedule.profile import parse_profile

    first = spec.stages[0]
    if not requests or any(stage.warms_up for stage in spec.stages):
        return spec
    has_sessions = spec.turns is not None
    stage = replace(
        first,
        name="warm-up",
        concurrency=parse_profile(str(min(2, requests))),
        rate=None,
        arrivals=None,
        requests=None if has_sessions else requests,
        sessions=min(2, requests) if has_sessions else None,
        duration_s=None,
        ramp_up_s=0.0,
        warmup_s=0.0,
        warmup_requests=0,
        max_in_flight=None,
        late_drop_s=None,
        warms_up=True,
    )
    return replace(spec, stages=(stage, *spec.stages))


def resumed(
    run_dir: Path, out: Path | None, flags: dict[str, Any], console: "Console", *, no_check: bool, watching: Watching
) -> Job:
    """The job of a run that was interrupted. UsageError where there is nothing to go on with."""
    from loadgen.spec import spec_of_json
    from loadgen.spec.refusals import check

    # An option that may be given several times is an empty tuple where it was not given.
    if given := sorted(name for name, value in flags.items() if value not in (None, ())):
        raise UsageError(f"--{given[0].replace('_', '-')}: --resume goes on with what the run asked for; leave it out")
    if out is not None:
        raise UsageError("--out: --resume writes into the run that it goes on with; leave it out")
    try:
        facts = json.loads((run_dir / "run.json").read_bytes())
        spec = check(spec_of_json(facts["spec"]))
        parts, stages = facts["parts"], facts["stages"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"--resume: {str(run_dir)!r} is no run that can be resumed; allowed is the directory of a sweep"
        ) from None
    if facts.get("command") != "sweep":
        raise UsageError(f"--resume: {str(run_dir)!r} is no sweep, and only a sweep is resumed")
    if all("outcome" in stage for stage in stages):
        raise UsageError(f"--resume: all {len(stages)} stages of {str(run_dir)!r} are done; loadgen report shows them")
    return prepared(
        spec,
        run_dir,
        console,
        no_check=no_check,
        resume={name: facts[name] for name in ("run_id", "started_at")} | {"parts": parts, "stages": stages},
        wants_baseline=True,
        watching=watching,
    )
