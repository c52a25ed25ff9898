"""A run with several targets (models, adapters, endpoints): what they are, and which parts of it are told apart."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

Facts = Mapping[str, Any]

ALL: Final = -1
"""All endpoints of a target."""

Key = tuple[int, int]
"""(target, endpoint or ALL): a part of the requests."""


class Target(NamedTuple):
    """One of several; `endpoints` are places in `urls_of`."""

    name: str
    weight: float
    model: str | None
    api: str
    endpoints: tuple[int, ...]


def urls_of(spec: Facts | None) -> list[str]:
    """The URLs of all targets, each once, in the order that the column `endpoint` counts in."""
    told = spec or {}
    listed: Sequence[Facts] = told.get("targets") or ()
    urls = [str(url) for target in listed for url in target["url"]] if listed else [str(told.get("url") or "")]
    return list(dict.fromkeys(urls))


def targets_of(spec: Facts | None) -> list[Target]:
    """The targets of a resolved spec; none where there is one, with one URL."""
    urls = urls_of(spec)
    return [
        Target(
            str(one["name"]),
            float(one["weight"]),
            one["model"],
            str(one["api"]),
            tuple(urls.index(str(url)) for url in one["url"]),
        )
        for one in (spec or {}).get("targets") or ()
    ]


def names_of(spec: Facts | None) -> list[str]:
    """What targets are called, by number; of one alone its model, or its URL."""
    told = spec or {}
    return [target.name for target in targets_of(spec)] or [str(told.get("model") or told.get("url") or "")]


def models_of(spec: Facts | None) -> str | None:
    """The model that was asked, or those of all targets, each once."""
    told = [target.model for target in targets_of(spec) if target.model]
    return ", ".join(dict.fromkeys(told)) or (spec or {}).get("model")


def keys_of(spec: Facts | None) -> tuple[Key, ...]:
    """The parts that are counted by themselves: each of several targets, and each of several endpoints of a target."""
    targets = targets_of(spec)
    keys = [(number, ALL) for number in range(len(targets))] if len(targets) > 1 else []
    for number, target in enumerate(targets):
        if len(target.endpoints) > 1:
            keys += [(number, endpoint) for endpoint in target.endpoints]
    return tuple(keys)


def endpoint_words(spec: Facts | None) -> str:
    """What was asked, in a few words: the model and the URL, or how many there are."""
    told, targets = spec or {}, targets_of(spec)
    if not targets:
        return " at ".join(str(told[key]) for key in ("model", "url") if told.get(key))
    names = [target.name for target in targets]
    urls = urls_of(spec)
    what = ", ".join(names) if len(names) < 4 else f"{len(names)} targets"
    return f"{what} at {urls[0] if len(urls) == 1 else f'{len(urls)} URLs'}"
