"""How long an open loop warms up where nobody said it: until its first responses have ended, as far as the check can tell.

Requests in flight rise until a response time after the first arrival. Where a tenth of the duration is too short for that,
the warm-up becomes somewhat longer than a response; what it is to be stands in run.json before the load begins, so that a
repetition of the run is exact.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from loadgen.clock import NS_PER_S
from loadgen.errors import EndpointError
from loadgen.forecast import session_s
from loadgen.job import Job
from loadgen.spec import Spec, StageSpec

RESPONSES: Final = 1.3
"""A warm-up lasts so many responses as they are without load, under which they take longer."""

MOST_SHARE: Final = 0.5
"""Of the duration, and no more: a longer one is the user's to ask for. The verdict says where it would have been needed."""

MOST_LACKING_SHARE: Final = 0.01
"""Of the load; as long as a window lacks no more of it, its warm-up is left alone, the same for every such endpoint."""


def lengthened(spec: Spec, response_s: float) -> Spec:
    """The spec for an endpoint whose responses take so long; the same where no warm-up is too short for it."""
    return _changed(spec, lambda stage: _warmup_s(stage, _unit_s(spec, response_s)))


def longest(spec: Spec) -> Spec:
    """The spec with the longest warm-ups that `lengthened` may make of it."""
    return _changed(spec, lambda stage: _most_s(stage) if stage.warmup_follows else stage.warmup_s)


def settled(spec: Spec) -> Spec:
    """The spec with its warm-ups as they are, whatever the endpoint is like."""
    return replace(spec, stages=tuple(replace(stage, warmup_follows=False) for stage in spec.stages))


def follow(job: Job) -> None:
    """Lengthen the warm-ups of a run whose endpoint has been checked, and say so; they are settled then."""
    from loadgen import recipes

    spec = job.run.spec
    if not any(stage.warmup_follows for stage in spec.stages):
        return
    tokens = recipes.first_output_tokens(spec) * recipes.speaking_share(spec)
    response_s = job.response_s(tokens)
    if lengthened(spec, response_s) != spec:
        try:
            job.one_request_s()  # the first one may have paid for what is loaded on demand
            response_s = min(response_s, job.response_s(tokens))
        except EndpointError:  # it answered once; the load will show what it makes of more
            pass
    found = lengthened(spec, response_s)
    if found != spec:
        for line in _told(spec, found, response_s):
            job.console.print(line, markup=False, highlight=False, soft_wrap=True)
    job.run.change_stages(settled(found).stages)


def _told(before: Spec, after: Spec, response_s: float) -> list[str]:
    lengths = {
        (one.warmup_s, other.warmup_s)
        for one, other in zip(before.stages, after.stages, strict=True)
        if one.warmup_s != other.warmup_s
    }
    unit = "a response" if before.turns is None else "a session"
    return [
        f"The warm-up is {now_s:g} s instead of {was_s:g} s: {unit} takes about {_unit_s(before, response_s):.2g} s, and "
        "until the first have ended the load is still rising (--warmup sets it)."
        for was_s, now_s in sorted(lengths)
    ]


def _changed(spec: Spec, warmup_s: Callable[[StageSpec], float]) -> Spec:
    stages = tuple(replace(stage, warmup_s=warmup_s(stage)) for stage in spec.stages)
    return spec if stages == spec.stages else replace(spec, stages=stages)


def _warmup_s(stage: StageSpec, unit_s: float) -> float:
    from analysis.verdict.load import lacking_share

    if not stage.warmup_follows or stage.duration_s is None:
        return stage.warmup_s
    risen_s = stage.ramp_up_s / 2  # a ramp brings half of the arrivals
    if lacking_share(unit_s, risen_s + stage.warmup_s, stage.duration_s) <= MOST_LACKING_SHARE:
        return stage.warmup_s
    return max(stage.warmup_s, min(_rounded_up(RESPONSES * unit_s - risen_s), _most_s(stage)))


def _most_s(stage: StageSpec) -> float:
    return max(stage.warmup_s, round(MOST_SHARE * (stage.duration_s or 0.0), 3))


def _rounded_up(time_s: float) -> float:
    """To whole seconds, or tenths of one: two looks at an endpoint mostly come to the same."""
    return float(math.ceil(time_s)) if time_s > 1 else math.ceil(time_s * 10) / 10


def _unit_s(spec: Spec, response_s: float) -> float:
    """A response, or with --turns a whole session. How many turns those of a file have is not known here."""
    if spec.turns is None:
        return response_s
    return session_s(response_s, spec.turns.mean, spec.think.mean / NS_PER_S if spec.think is not None else 0.0)
