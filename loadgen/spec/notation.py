"""How values are written, on the command line and in a spec file: text or a TOML value in, the value or a ValueError out.

The ValueError is worded for the user, who is told the field's name before it. Whether values go together, and whether they
are in range, is asked later (refusals.py).
"""

import contextlib
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from loadgen.distribution import Distribution, FromFile, Prefixes, parse_distribution, parse_lengths, parse_prefixes
from loadgen.durations import duration_ns
from loadgen.schedule.arrivals import Process, parse_process
from loadgen.schedule.profile import Profile, parse_profile
from loadgen.spec import MOST_STAGES, MOST_WEIGHT, SLO_METRICS, Cancel, parse_cancel, plain
from loadgen.spec.conditions import parse_abort_on

NS_PER_S: Final = 1_000_000_000


def read_text(raw: object) -> str:
    """Any text."""
    if not isinstance(raw, str):
        raise ValueError(f"{shown(raw)} is no text; allowed is text in quotation marks")
    return raw


def read_texts(raw: object) -> tuple[str, ...]:
    """A text, or a list of them."""
    return tuple(read_text(one) for one in (raw if isinstance(raw, list | tuple) else [raw]))


def read_weight(raw: object) -> float:
    """A share in no particular unit: a number above 0."""
    number = 0.0
    with contextlib.suppress(ValueError):
        number = float(raw) if isinstance(raw, str) else _number(raw, "a number")
    if not 0 < number <= MOST_WEIGHT:  # of a NaN neither is true
        raise ValueError(f"{shown(raw)} is no weight; allowed is a number above 0, as in 3 or 0.5")
    return number


def read_switch(raw: object) -> bool:
    """On or off."""
    if not isinstance(raw, bool):
        raise ValueError(f"{shown(raw)} is neither true nor false")
    return raw


def read_whole(raw: object) -> int:
    """A whole number."""
    try:
        number = int(raw) if isinstance(raw, str) else raw
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{shown(raw)} is not a valid integer; allowed are whole numbers")
    if number.bit_length() > 128:
        raise ValueError("the number is too large")
    return number


def read_duration_s(raw: object) -> float:
    """ "1.5s" -> 1.5."""
    if isinstance(raw, str):
        return duration_ns(raw) / NS_PER_S
    raise ValueError(f'{shown(raw)} is no duration; write a number and a unit, as in "50ms" or "1.5s"')


def read_seconds(raw: object) -> float:
    """A number of seconds, as keys that end in _s have it."""
    return float(_number(raw, "a number of seconds"))


def read_levels(raw: object) -> tuple[Profile, ...]:
    """ "1,8,64" or [1, 8, 64]: values or profiles of a load, a stage each."""
    try:
        levels = tuple(_level(part) for part in _parts(raw))
    except ValueError as error:
        raise ValueError(f"{error} (allowed is for example 1,8,64 too)") from None
    if not levels:
        raise ValueError("no level given; allowed is a number, a profile, or a list of them, as in 1,8,64")
    return levels


def read_concurrency(raw: object) -> tuple[Profile, ...]:
    """Levels in whole numbers."""
    for part in _parts(raw):
        words = shown(part).strip("'")
        if re.fullmatch("0+|-[0-9]{1,18}", words):
            raise ValueError(f"{words} is too small; allowed are whole numbers from 1")
    return read_levels(raw)


def _parts(raw: Any) -> list[Any]:
    parts = raw if isinstance(raw, list) else raw.split(",") if isinstance(raw, str) else [raw]
    stripped = [part.strip() if isinstance(part, str) else part for part in parts]
    if "" in stripped and any(stripped):
        raise ValueError(f"{shown(raw)} has an empty level; allowed is a number or a profile between the commas")
    return [one for part in stripped if part != "" for one in (_range(part) if isinstance(part, str) else [part])]


def _range(text: str) -> list[str]:
    """ "1..64x2" -> 1, 2, 4, ... 64; "10..50+10" -> 10, 20, ... 50; the end is among them. Anything else is itself."""
    written = re.fullmatch(r"([0-9.]+?)\.\.([0-9.]+)([x+])([0-9.]+)", text.replace(" ", ""))
    if written is None:
        return [text]
    first, last, kind, step = written.groups()
    try:
        level, end, by = Decimal(first), Decimal(last), Decimal(step)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no range; allowed is for example 1..64x2 or 10..50+10") from None
    if not (0 < level <= end) or by <= (1 if kind == "x" else 0):
        raise ValueError(
            f"{text!r} does not rise; allowed is FROM..TO with a factor above 1, as in 1..64x2, or a step, as in 10..50+10"
        )
    levels: list[str] = []
    while level < end and len(levels) <= MOST_STAGES:
        levels.append(format(level.normalize(), "f"))
        level = level * by if kind == "x" else level + by
    return [*levels, format(end.normalize(), "f")]


def _level(raw: object) -> Profile:
    return parse_profile(raw if isinstance(raw, str) else plain(_number(raw, "a number, a profile or a list of them")))


def read_arrivals(raw: object) -> Process:
    """How arrivals follow each other."""
    return parse_process(read_text(raw))


def read_abort_on(raw: object) -> str:
    """Conditions of --abort-on, as they are written."""
    text = read_text(raw)
    parse_abort_on(text)
    return text


def read_think(raw: object) -> Distribution:
    """A distribution of durations."""
    return parse_distribution(read_text(raw), "duration")


def read_turns(raw: object) -> Distribution:
    """A distribution of counts."""
    return parse_distribution(raw if isinstance(raw, str) else str(read_whole(raw)), "count")


def read_lengths(raw: object) -> Distribution | FromFile:
    """A number of tokens, a distribution of them, or a file."""
    if isinstance(raw, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", raw) is None:
        return parse_lengths(raw)
    # Whether a plain number is in range is asked with the others.
    return Distribution("fixed", "count", read_whole(raw))


def read_prefixes(raw: object) -> Prefixes:
    """COUNT:TOKENS[:zipfS]."""
    return parse_prefixes(read_text(raw))


def read_columns(raw: object) -> dict[str, str]:
    """ "prompt=question,output_tokens=len" or a table of such pairs."""
    if isinstance(raw, dict):
        pairs = [(str(field), read_text(column)) for field, column in raw.items()]
    else:
        pairs = [tuple(part.partition("=")[::2]) for part in read_text(raw).split(",")]  # type: ignore[misc]
    columns = {field.strip(): column.strip() for field, column in pairs}
    if bad := [field for field, column in columns.items() if not field or not column]:
        raise ValueError(f"{bad[0]!r} names no column; allowed is FIELD=COLUMN[,...], as in prompt=question")
    return columns


def read_share(raw: object) -> float:
    """ "10%" or 0.1 -> 0.1."""
    text = raw.strip() if isinstance(raw, str) else plain(_number(raw, "a share"))
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", text)
    share = 0.0 if found is None else float(found[1]) / (100 if found[2] else 1)
    if not 0 < share <= 1:
        raise ValueError(f"{shown(raw)} is no share; allowed is above 0 and up to 1 or 100%, as in 10%")
    return share


def read_factor(raw: object) -> float:
    """A number above 0."""
    try:
        factor = float(raw) if isinstance(raw, str) else float(_number(raw, "a number"))
    except ValueError:
        raise ValueError(f"{shown(raw)} is no number; allowed is one above 0, as in 0.5") from None
    return factor


def read_cancel(raw: object) -> Cancel:
    """Who leaves, and after what."""
    return parse_cancel(raw if isinstance(raw, str) else str(read_whole(raw)))


def read_late(raw: object) -> float | None:
    """ "send" -> None, "drop:50ms" -> 0.05."""
    text = read_text(raw).strip()
    if text == "send":
        return None
    kind, _, limit = text.partition(":")
    if kind != "drop" or not limit:
        raise ValueError(f"{raw!r} is not known; allowed is send or drop:DURATION, as in drop:50ms")
    return read_duration_s(limit)


def read_workers(raw: object) -> int | None:
    """A number, or None for as many as the cores give."""
    if raw == "auto":
        return None
    try:
        return read_whole(raw)
    except ValueError:
        raise ValueError(f"{shown(raw)} is no number of workers; allowed is auto or a whole number from 1") from None


def read_cpus(raw: object) -> tuple[int, ...]:
    """ "1-3,6" or [1, 2, 3, 6] -> (1, 2, 3, 6). A core that is named twice is to be shared by two workers."""
    listed = raw if isinstance(raw, list) else [raw]
    text = raw if isinstance(raw, str) else ",".join(str(read_whole(cpu)) for cpu in listed)
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{shown(raw)} is no list of CPUs; allowed is for example 1-3,6")
        cpus += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(cpus)


def read_slo(raw: object) -> dict[str, dict[str, float | None]]:
    """ "ttft=500ms,tpot:p95=50ms" -> {"ttft": {"percentile": None, "limit_ms": 500.0}, ...}; run.json has it so already."""
    if isinstance(raw, dict):
        return {metric: _objective(metric, written) for metric, written in raw.items()}
    objectives: dict[str, dict[str, float | None]] = {}
    for part in read_text(raw).split(","):
        match = re.fullmatch(r"\s*(\w+)(?::p(\d+(?:\.\d+)?))?\s*=\s*(\S+)\s*", part)
        if match is None:
            raise ValueError(_no_objective(part.strip()))
        if match[1] in objectives:
            raise ValueError(f"{match[1]} has two objectives; allowed is one for each metric")
        limit_ms = duration_ns(match[3]) / 1e6 if match[1] in SLO_METRICS else 0.0
        percentile = None if match[2] is None else float(match[2])
        objectives[match[1]] = _objective(match[1], {"percentile": percentile, "limit_ms": limit_ms})
    return objectives


def _objective(metric: str, written: object) -> dict[str, float | None]:
    if metric not in SLO_METRICS or not isinstance(written, dict) or not written.keys() <= {"percentile", "limit_ms"}:
        raise ValueError(_no_objective(metric))
    percentile = written.get("percentile")
    percentile = None if percentile is None else float(_number(percentile, "a percentile"))
    if percentile is not None and not 0 < percentile <= 100:
        raise ValueError(f"p{percentile:g} is no percentile; allowed is above 0 and up to 100")
    limit_ms = float(_number(written.get("limit_ms"), "a limit in ms"))
    if limit_ms <= 0:
        raise ValueError(f"the limit of {metric} must be above 0")
    return {"percentile": percentile, "limit_ms": limit_ms}


def _no_objective(written: str) -> str:
    metrics = ", ".join(SLO_METRICS)
    return f"{written!r} is no objective; allowed is METRIC[:pNN]=DURATION with {metrics}, as in ttft:p99=500ms"


def one_of(allowed: tuple[str, ...]) -> Callable[[object], str]:
    """A reader that takes these words alone."""

    def read(raw: object) -> str:
        if not isinstance(raw, str) or raw not in allowed:
            raise ValueError(f"{shown(raw)} is not one of {', '.join(map(repr, allowed))}")
        return raw

    return read


def _number(raw: object, what: str) -> int | float:
    # The bounds: beyond, an int is no float any more, and nothing here is counted in such numbers.
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not -1e300 < raw < 1e300:
        raise ValueError(f"{shown(raw)} is not {what}")
    return raw


def shown(raw: object) -> str:
    """What was written, for a sentence: not a page of it, and no integer that Python refuses to write out."""
    if isinstance(raw, int) and raw.bit_length() > 128:
        return "a number of so many digits"
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, list | dict):
        return "a list" if isinstance(raw, list) else "a table"
    words = repr(raw) if isinstance(raw, str) else str(raw)
    return words if len(words) <= 80 else f"{words[:80]}..."
