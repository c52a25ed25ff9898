"""Flags over stages over the whole file over the defaults: which value counts, and the spec that comes out of it."""

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from loadgen.errors import UsageError
from loadgen.schedule.arrivals import Process, parse_process
from loadgen.schedule.profile import Profile, parse_profile
from loadgen.spec import MOST_REPEATS, MOST_STAGES, OWN_LENGTH, TIMED_ARRIVALS, Spec, StageSpec, default_warmup_s
from loadgen.spec.notation import read_weight
from loadgen.spec.refusals import check, flag
from loadgen.spec.settings import SETTINGS
from loadgen.spec.targets import OF_TARGET, made

NS_PER_S: Final = 1_000_000_000

DEFAULT_DURATION_S: Final = 30.0

# Arrivals that bring their own times are a load; the others say how a rate is met. One setting, two roles.
TIMED: Final = "timed arrivals"

# Of the run; their times are the load where nothing else is.
TRACES: Final = frozenset({"trace", "replay"})

LOADS: Final = frozenset({"concurrency", "rate", TIMED})
_ENDS: Final = frozenset({"requests", "sessions", "duration"})
_WARMUPS: Final = frozenset({"warmup", "warmup_requests"})

# What a value puts out of force in the layers below, beside the same setting.
_DISPLACES: Final = {
    **dict.fromkeys(("concurrency", "rate"), LOADS),
    TIMED: LOADS | {"arrivals"},
    "arrivals": frozenset({TIMED}),
    **dict.fromkeys(_ENDS, _ENDS),
    **dict.fromkeys(_WARMUPS, _WARMUPS),
}

# What means nothing to a load. From a layer above its own, or beside it, that is a contradiction; from one below it was
# said for other stages.
_UNFIT: Final = {"concurrency": ("arrivals", "max_in_flight", "late"), "rate": (), TIMED: ("ramp_up",)}


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and where the user wrote it: `place` is "" for flags, or as in "run.toml: stage 2: "."""

    value: Any
    name: str
    place: str = ""


_T = TypeVar("_T")

Layer = dict[str, Given]
"""By the names of SETTINGS, but for TIMED."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a spec file says: for the whole run, and for each of its stages."""

    run: Layer
    stages: tuple[Layer, ...] = ()


def put(layer: Layer, name: str, given: Given) -> None:
    """Add the value of a setting."""
    layer[TIMED if name == "arrivals" and given.value.kind in TIMED_ARRIVALS else name] = given


def settled(flags: Layer, document: Document, fallback: Layer) -> Spec:
    """The checked spec. A load among the flags replaces the document's stages as a whole. UsageError names the place."""
    own = document.stages if document.stages and not flags.keys() & LOADS else ({},)
    kept_stages = []
    for layer in own:
        kept = _kept([flags, layer, document.run, fallback])
        levels = _levels(kept)
        if own is document.stages and len(levels) > 1:
            given = kept["concurrency" if "concurrency" in kept else "rate"]
            raise UsageError(f"{_called([given])}: a list is a stage each; beside [[stage]] allowed is one level")
        kept_stages += [(kept, level) for level in levels]
    run = _kept([flags, document.run, fallback])
    values = {
        setting.field or name: run[name].value if name in run else setting.default_value
        for name, setting in SETTINGS.items()
        if not setting.of_stage and not setting.makes_stages
    }
    _settle_targets(values, run, flags)
    if any(values[name] is not None for name in ("dataset", "trace", "replay", "lengths")):
        for name in ("input_tokens", "output_tokens"):
            if name not in run:  # the file says
                values[name] = None
    if values["seed"] is None:
        values["seed"] = secrets.randbits(62)
    kept_stages = _repeated(kept_stages, run, values["seed"])
    spec = Spec(stages=tuple(_stage(kept, level) for kept, level in kept_stages), **values)

    def called(*names: str, stage: int | None = None, target: int | None = None) -> str:
        if target is not None and "target" in run and values["targets"]:
            return f"{_called([run['target']])}: target {target + 1}: {', '.join(names)}"
        kept = run if stage is None else kept_stages[stage][0]
        keys = [TIMED if name == "arrivals" and TIMED in kept else name for name in names]
        given = [kept[key] for key in keys if key in kept]
        return _called(given) if given else flag(*names)

    return check(spec, called)


_WEIGHTED: Final = re.compile(r"(?P<model>.+)=(?P<weight>[0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?)", re.DOTALL)


def _settle_targets(values: dict[str, Any], run: Layer, flags: Layer) -> None:
    """`url`, `model` and `targets` as a Spec has them: one URL and one model, and targets where there are several."""
    models: tuple[str, ...] = values["model"] or ()
    urls: tuple[str, ...] = values["url"] or ()
    values["model"] = models[0] if len(models) == 1 else None
    tables: list[dict[str, Any]] = [dict(table) for table in values["targets"]]
    if len(models) > 1:
        if tables:
            raise UsageError(
                f"{_called([run['model']])}: {len(models)} models and targets; give one of the two, a target has its model"
            )
        tables = [_weighted(written, _called([run["model"]])) for written in models]
    elif tables and "target" not in flags:  # flags win over what the file says of a target, too
        for table in tables:
            table |= {name: values[name] for name in OF_TARGET if name in flags}
    if len(urls) > 1 and not tables:
        tables = [{}]
    values["targets"] = made(tables, values | {"url": urls})
    first_urls = values["targets"][0].url if tables else urls
    if not all(target.url for target in values["targets"]) or not first_urls:
        raise UsageError("--url: not given, and OPENAI_BASE_URL is not set; allowed is http[s]://HOST[:PORT][/PATH]")
    if len(values["targets"]) == 1 and len(first_urls) == 1:  # one of them is no choice: it is the run
        values |= {name: getattr(values["targets"][0], name) for name in OF_TARGET}
        values["targets"] = ()
    elif tables:
        values |= {name: getattr(values["targets"][0], name) for name in OF_TARGET}
    values["url"] = first_urls[0]


def _weighted(written: str, field: str) -> dict[str, Any]:
    """ "base=3" -> {"model": "base", "weight": 3.0}."""
    found = _WEIGHTED.fullmatch(written)
    if found is None:
        return {"model": written}
    try:
        return {"model": found["model"], "weight": read_weight(found["weight"])}
    except ValueError as error:
        raise UsageError(f"{field}: {written}: {error}") from None


def _repeated(stages: list[_T], run: Layer, seed: int) -> list[_T]:
    """The stages in rounds, each in an order of its own (a randomised block design: Fisher 1935)."""
    rounds = run["repeat"].value if "repeat" in run else 1
    if not 1 <= rounds <= MOST_REPEATS:
        raise UsageError(f"{_called([run['repeat']])}: {rounds} is out of range; allowed is 1 to {MOST_REPEATS}")
    if len(stages) * rounds > MOST_STAGES and rounds > 1:
        raise UsageError(
            f"{_called([run['repeat']])}: {len(stages)} levels, {rounds} times each, are too many; "
            f"allowed are {MOST_STAGES} stages in one run"
        )
    shuffles = run["shuffle"].value if "shuffle" in run else True
    order = random.Random(f"order {seed}")
    made: list[_T] = []
    for _ in range(rounds):
        made += order.sample(stages, len(stages)) if shuffles and rounds > 1 else stages
    return made


def _kept(layers: Sequence[Layer]) -> Layer:
    """By setting, the value that counts."""
    kept: Layer = {}
    depth_of: dict[str, int] = {}
    for depth, layer in enumerate(layers):
        displaced = {name for above in kept for name in (above, *_DISPLACES.get(above, ()))}
        for name, given in layer.items():
            if name not in displaced:
                kept[name] = given
                depth_of[name] = depth
    for load in LOADS & kept.keys():
        for name in _UNFIT[load]:
            if depth_of.get(name, 0) > depth_of[load]:
                del kept[name]
    return kept


def _levels(kept: Layer) -> tuple[Profile | None, ...]:
    """The level of each stage; None where arrivals bring their own times."""
    if "concurrency" in kept or "rate" in kept:
        levels: tuple[Profile, ...] = kept["concurrency" if "concurrency" in kept else "rate"].value
        return levels
    return (None,) if TIMED in kept or "arrivals" in kept or kept.keys() & TRACES else (parse_profile("1"),)


def _stage(kept: Layer, level: Profile | None) -> StageSpec:
    def value(name: str) -> Any:
        return kept[name].value if name in kept else SETTINGS[name].default_value

    rate = level if "rate" in kept else None
    concurrency = level if rate is None or "concurrency" in kept else None  # both: refused by check
    arrivals = kept[TIMED].value if TIMED in kept else value("arrivals")
    if level is None and arrivals is None and kept.keys() & TRACES:
        arrivals = parse_process("recorded")
    stage = StageSpec(
        name=value("name"),
        concurrency=concurrency,
        rate=rate,
        arrivals=parse_process("poisson") if arrivals is None and rate is not None else arrivals,
        requests=value("requests"),
        sessions=value("sessions"),
        duration_s=value("duration") if kept.keys() & _ENDS else _own_duration_s(level, arrivals),
        ramp_up_s=value("ramp_up"),
        warmup_s=0.0,
        warmup_requests=value("warmup_requests") or 0,
        drain_s=value("drain"),
        max_in_flight=value("max_in_flight"),
        late_drop_s=value("late"),
        warms_up=value("warms_up"),
    )
    if "warmup" in kept:
        return replace(stage, warmup_s=value("warmup"))
    if stage.warmup_requests:
        return stage
    # What is asked once is measured whole, as a course is.
    is_whole = stage.is_over_time or ("once" in kept and kept["once"].value)
    warmup_s = default_warmup_s(stage.duration_s, over_time=is_whole)
    return replace(stage, warmup_s=warmup_s, warmup_follows=stage.is_open_loop and warmup_s > 0)


def _own_duration_s(level: Profile | None, arrivals: Process | None) -> float | None:
    """How long a stage lasts that nobody gave an end; None: as long as its trace."""
    if level is not None and level.length_ns is not None:
        return level.length_ns / NS_PER_S
    return None if arrivals is not None and arrivals.kind in OWN_LENGTH else DEFAULT_DURATION_S


def _called(given: Sequence[Given]) -> str:
    """ "--requests, --duration", or "run.toml: stage 2: requests, duration"."""
    if len({one.place for one in given}) == 1:
        return given[0].place + ", ".join(one.name for one in given)
    return ", ".join(one.place + one.name for one in given)
