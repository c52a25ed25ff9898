"""Several models, adapters or endpoints in one run: what each of them is, and a spec of its own for each.

A target is what the whole run asks for, with some settings of its own; a share of the requests goes to it. One that has
several URLs has its requests balanced over them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final
from urllib.parse import urlsplit

from loadgen.spec import Asking, Spec, TargetSpec

OWN: Final = ("name", "weight")
"""Settings that a target has and a run has not."""

_ASKING: Final = tuple(field.name for field in fields(Asking))

OF_TARGET: Final = ("url", *_ASKING)
"""Settings of a run that a target may have of its own."""


def made(tables: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> tuple[TargetSpec, ...]:
    """Targets from what was said of each, over what holds for all of them."""
    told = [{**{name: run[name] for name in OF_TARGET}, "weight": 1.0, **table} for table in tables]
    return tuple(TargetSpec(**table | {"name": name}) for table, name in zip(told, _names(told), strict=True))


def _names(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """As given, else the model, else the host; with its number where two would have the same."""
    names = []
    models = Counter(table["model"] for table in told)
    for number, table in enumerate(told, 1):
        model = table["model"]
        host = urlsplit(table["url"][0]).netloc if table["url"] else ""
        default = model if model and models[model] == 1 else f"{model} at {host}" if model else host
        names.append(table.get("name") or default or f"target {number}")
    times = Counter(names)
    own = {name for name, table in zip(names, told, strict=True) if table.get("name")}
    return [
        name if times[name] == 1 or (table.get("name") and name in own) else f"{name} ({number})"
        for number, (name, table) in enumerate(zip(names, told, strict=True), 1)
    ]


def each(spec: Spec) -> tuple[Spec, ...]:
    """A spec for each target, as if it were the only one, with the first of its URLs; the spec itself where there is one."""
    if not spec.targets:
        return (spec,)
    return tuple(
        replace(spec, url=target.url[0], targets=(), **{name: getattr(target, name) for name in _ASKING})
        for target in spec.targets
    )


def urls(spec: Spec, target: int) -> tuple[str, ...]:
    """Where a target is asked."""
    return spec.targets[target].url if spec.targets else (spec.url,)


def names(spec: Spec) -> tuple[str, ...]:
    """What the targets are called: the model, or the host, where there is one."""
    if spec.targets:
        return tuple(target.name for target in spec.targets)
    return (spec.model or urlsplit(spec.url).netloc,)


def weights(spec: Spec) -> tuple[float, ...]:
    """The targets' shares, in no particular unit."""
    return tuple(target.weight for target in spec.targets) or (1.0,)


def with_target(spec: Spec, target: int, told: Spec) -> Spec:
    """The spec with what was found out of one target, whose spec as of `each` is now `told`."""
    spoken = {name: getattr(told, name) for name in _ASKING}
    if not spec.targets:
        return replace(spec, **spoken)
    targets = [*spec.targets]
    targets[target] = replace(targets[target], **spoken)
    return replace(spec, targets=tuple(targets), **(spoken if not target else {}))
