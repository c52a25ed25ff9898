"""A curve: a point a level of load, in one run directory that an interruption does not lose."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadgen.errors import UsageError
from loadgen.job import Job, every_stage, make_load, prepared
from loadgen.job.watching import Watching

if TYPE_CHECKING:
    from rich.console import Console

    from loadgen.local_run import Place, Run
    from loadgen.spec import Spec

DEFAULTS: Final = {"cooldown": 1.0, "early_stop": True}
"""Where a sweep by itself differs from a run."""

CHECK_REQUESTS: Final = 10
MOST_CHECK_REQUESTS: Final = 10_000
"""Before the first level."""


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
    run_dir: Path,
    console: "Console",
    *,
    key: str | None = None,
    no_check: bool,
    agree: "Callable[[Run], None] | None" = None,
    watching: Watching | None = None,
    place: "Place | None" = None,
) -> Job:
    """The job of a run that was interrupted. UsageError where there is nothing to go on with."""
    from loadgen.spec import spec_of_json
    from loadgen.spec.refusals import check

    try:
        facts = json.loads((run_dir / "run.json").read_bytes())
        spec = check(spec_of_json(facts["spec"]))
        parts, stages = facts["parts"], facts["stages"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"--resume: {str(run_dir)!r} is no run that can be resumed; allowed is the directory of a sweep"
        ) from None
    is_elsewhere = any(node.get("captures") != "driver" for node in facts.get("nodes") or ())
    if is_elsewhere != (place is not None and place.counts_there):
        raise UsageError(
            "--collect: the captures of all parts of a run have to be in one place; allowed with --resume is what the run "
            "began with"
        )
    if facts.get("command") != "sweep":
        raise UsageError(f"--resume: {str(run_dir)!r} is no sweep, and only a sweep is resumed")
    if all("outcome" in stage for stage in stages):
        raise UsageError(f"--resume: all {len(stages)} stages of {str(run_dir)!r} are done; loadgen report shows them")
    return prepared(
        spec,
        run_dir,
        console,
        key=key,
        no_check=no_check,
        resume={name: facts[name] for name in ("run_id", "started_at")}
        | {"parts": parts, "stages": stages, "nodes": facts.get("nodes", [])},
        wants_baseline=True,
        agree=agree,
        watching=watching,
        place=place,
    )
