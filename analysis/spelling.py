"""How values are written where there is little room: numbers, loads, words from outside."""

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


def plain(words: object) -> str:
    """Text from outside (model names, a server's words) without control characters, which could steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(words))


def number(value: float | None) -> str:
    """About four significant digits, thousands apart; `-` for null."""
    if not value:
        return "-" if value is None else "0"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def short(value: float | None) -> str:
    """As `number`, in at most six characters: with `k` or `M` where it would take more."""
    for unit, size, least in (("M", 1e6, 9_999_500), ("k", 1e3, 99_999.5)):
        if value is not None and value >= least:
            return f"{value / size:,.0f}{unit}"
    return number(value)


def count(value: int) -> str:
    return short(value) if value >= 100_000 else f"{value:,}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def load_words(load: Facts) -> str:
    """A load in a few characters: 64, 12.5/s, or its profile."""
    if profile := load.get("profile"):
        return str(profile)
    value = f"{load.get('value', 0):g}"
    return f"{value}/s" if load["mode"] == "rate" else value


def half_width(one: Facts | None) -> str:
    """Half of a value's interval as a share of it; nothing where there is none."""
    if not one or not one["value"] or one["low"] is None:
        return ""
    return f"{(one['high'] - one['low']) / 2 / one['value']:.1%}"


def is_open_loop(stage: Facts) -> bool:
    """Whether the stage had a schedule, and with it two of each latency."""
    return bool(stage["load"]["mode"] == "rate")
