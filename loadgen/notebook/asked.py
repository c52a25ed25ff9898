"""Settings as Python has them -> Spec, and a refusal in the words of whoever wrote Python and no flags."""

import math
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePath
from typing import Any, Final

from loadgen.durations import duration_ns
from loadgen.errors import UsageError
from loadgen.job import environment
from loadgen.spec import Spec, plain
from loadgen.spec.file import layer_of
from loadgen.spec.layers import put
from loadgen.spec.settings import SETTINGS

NS_PER_S: Final = 1_000_000_000

DATABRICKS: Final = "databricks_endpoint"

OTHERS: Final = frozenset({DATABRICKS, "out", "resume", "budget", "start", "most", "mode", "check_requests", "spec"})
"""Arguments that are no settings, and have the name of a flag."""


def spec_of(settings: Mapping[str, Any], file: str | PurePath | None, defaults: Mapping[str, object]) -> Spec:
    """A checked Spec from keyword arguments by the names of a spec file. UsageError names the argument."""
    given = {name: value for name, value in settings.items() if value is not None}
    endpoint = given.pop(DATABRICKS, None)
    layer = layer_of(dict(_written(name, value) for name, value in given.items()))
    if endpoint is not None:
        if "url" in layer:
            raise UsageError(f"{DATABRICKS}, url: give one of the two")
        put(layer, "url", environment.databricks_url(str(endpoint)))
    return environment.spec_of(layer, None if file is None else str(file), defaults)


def seconds(name: str, value: object) -> float:
    """An argument that is a duration: text with a unit, or a number of seconds. UsageError names it."""
    value = _plain(value)
    try:
        if isinstance(value, str):
            return duration_ns(value) / NS_PER_S
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise UsageError(f"{name}: {value!r} is no duration; allowed is a number of seconds, or text as in '2m'")
    return float(value)


def in_python(words: str) -> str:
    """A refusal that speaks of --warmup-requests, as one that speaks of warmup_requests."""

    def argument(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return name if name in SETTINGS or name in OTHERS else found[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", argument, words)


def _written(name: str, value: object) -> tuple[str, Any]:
    """A setting as a spec file would have it."""
    value = _plain(value)
    setting = SETTINGS.get(name)
    if setting is not None and isinstance(value, int | float) and not isinstance(value, bool):
        if setting.field.endswith("_s"):  # under this key a number is seconds
            return setting.field, value
        if name == "think":
            return name, f"{plain(value)}s"
    if name == "slo" and isinstance(value, dict) and not any(isinstance(limit, dict) for limit in value.values()):
        return name, ",".join(f"{metric}={_limit(limit)}" for metric, limit in value.items())
    return name, value


def _limit(value: object) -> str:
    return f"{plain(value)}s" if isinstance(value, int | float) else str(value)


def _plain(value: Any) -> Any:
    """The value in the types that a TOML file knows: no tuples, ranges, paths, numpy's numbers and arrays, timedeltas."""
    if hasattr(value, "tolist"):  # numpy's arrays and numbers (some of which are floats, too), pandas' series
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple | range):
        return [_plain(one) for one in value]
    return value
