"""The stages and the targets of a run, as they stand in run.json and in every capture."""

from collections.abc import Sequence
from typing import Any

from loadgen import recipes
from loadgen.clock import NS_PER_S
from loadgen.dialects import AUTO, find
from loadgen.planner.addressing import endpoint_urls
from loadgen.schedule.stage import Schedule
from loadgen.spec import Spec, StageSpec, targets


def stages(spec: Spec, planned: Sequence[Schedule]) -> list[dict[str, Any]]:
    """The planned stages, as they stand in run.json and in every capture."""
    pairs = zip(spec.stages, planned, strict=True)
    return [stage_entry(spec, number, stage, made) for number, (stage, made) in enumerate(pairs)]


def stage_entry(spec: Spec, number: int, stage: StageSpec, made: Schedule) -> dict[str, Any]:
    """One planned stage, as it stands in run.json."""
    # Where there are no tokens to count, what a request brings is counted.
    apis = {one.api for one in targets.each(spec)}
    only_embeds = AUTO not in apis and all(find(api).framing == "json" for api in apis)
    more = {"inputs_per_request": spec.inputs} if only_embeds else {}
    return {
        "stage": number,
        "name": stage_name(stage),
        "load": _load(spec, stage, made),
        "ramp_up_s": stage.ramp_up_s,
        "warmup_s": stage.warmup_s,
        "warmup_requests": stage.warmup_requests,
        "duration_s": None if made.duration_ns is None else made.duration_ns / NS_PER_S,
        "requests": stage.requests,
        "sessions": stage.sessions,
        "warms_up": stage.warms_up,
        "arrivals_planned": made.arrivals_planned,
        **more,
    }


def stage_name(stage: StageSpec) -> str:
    """The user's name for it, or what its load is."""
    if stage.name is not None:
        return stage.name
    if stage.concurrency is not None:
        return f"concurrency {stage.concurrency.text}"
    if stage.rate is None:
        assert stage.arrivals is not None
        if stage.arrivals.kind == "recorded":
            return "as recorded"
        return stage.arrivals.text.replace(":", " ", 1)
    return f"rate {stage.rate.text}{'/s' if stage.rate.length_ns is None and stage.rate.is_constant else ''}"


def _load(spec: Spec, stage: StageSpec, made: Schedule) -> dict[str, Any]:
    load: dict[str, Any] = {"mode": "rate" if stage.is_open_loop else "concurrency"}
    load["value"] = (
        int(made.value) if not stage.is_open_loop and made.value == int(made.value) else round(made.value, 6)
    )
    if stage.arrivals is not None:
        load["arrivals"] = stage.arrivals.text
    if stage.load is not None and not stage.load.is_constant:
        load["profile"] = stage.load.text
    if spec.think is not None:
        load["think"] = spec.think.text
    if recipes.has_sessions(spec, recipes.file_of(spec)):
        load["unit"] = "session"
    if spec.turns is not None:
        think_s = spec.think.mean / NS_PER_S if spec.think is not None else 0.0
        load["session"] = {"turns": round(spec.turns.mean, 6), "think_s": round(think_s, 9)}  # means
    if stage.max_in_flight is not None:
        load["max_in_flight"] = stage.max_in_flight
    if stage.late_drop_s is not None:
        load["late_drop_s"] = stage.late_drop_s
    return load


def target_entries(spec: Spec) -> list[dict[str, Any]]:
    """The targets, as they stand in run.json; `endpoints` are places in `endpoint_urls`."""
    urls = endpoint_urls(spec)
    told = zip(targets.each(spec), targets.names(spec), targets.weights(spec), strict=True)
    return [
        {
            "target": number,
            "name": name,
            "weight": weight,
            "model": one.model,
            "api": one.api,
            "endpoints": [urls.index(url) for url in targets.urls(spec, number)],
        }
        for number, (one, name, weight) in enumerate(told)
    ]
