"""Stages -> the curve: a point for each level of load, with what a run tells of its own scatter and what repeats add.

Stages of the same load are repeats of one another. Their percentiles come from their histograms merged, never from an
average of percentiles. `low` and `high` are a 95 % interval: with repeats, which are independent, Student's over their
values; in a single run block bootstrap and order statistics (bootstrap.py), which do not see what differs from run to run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from analysis.bootstrap import mean_of_repeats
from analysis.histogram import Histogram, merge, percentiles

Facts = dict[str, Any]

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0}

LATENCIES: Final = ("ttft", "ttft_intended", "tpot", "itl", "e2e", "e2e_intended")

RATES: Final = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s", "goodput_per_s")

NS_PER_MS: Final = 1_000_000


def load_key(load: Mapping[str, Any]) -> str:
    """What makes two stages repeats of one another: everything that is said of their load."""
    return repr(sorted(load.items()))


def curve(stages: Sequence[Facts], histograms: Mapping[int, Mapping[str, Histogram]]) -> list[Facts]:
    """The points by ascending load; `stages` are those of summary.json, `histograms` by stage number and metric.

    A point: {"load", "stages": [numbers], the rates and `{latency}_ms`: {percentile: ...}, each {"value", "low", "high",
    "repeats": [...]}, "tokens_per_s_per_user": 1 / TPOT p50, "concurrency": mean in flight, "failed_share", "saturated"}.
    """
    groups: dict[str, list[Facts]] = {}
    for stage in stages:
        groups.setdefault(load_key(stage["load"]), []).append(stage)
    points = [_point(group, [histograms[stage["stage"]] for stage in group]) for group in groups.values()]
    return sorted(points, key=lambda point: (point["load"]["mode"], point["load"].get("value") or 0.0))


def _point(group: Sequence[Facts], histograms: Sequence[Mapping[str, Histogram]]) -> Facts:
    point: Facts = {"load": group[0]["load"], "stages": [stage["stage"] for stage in group]}
    for name in RATES:
        values = [stage[name] for stage in group]
        within = (group[0]["intervals"] or {}).get(name) if len(group) == 1 else None
        point[name] = _value(None, values, within)
    for name in LATENCIES:
        merged = merge(one[name] for one in histograms if name in one)
        point[f"{name}_ms"] = _percentiles(f"{name}_ms", merged, group) if merged.total else None
    tpot = (point["tpot_ms"] or {}).get("p50")
    point["tokens_per_s_per_user"] = round(1000 / tpot["value"], 6) if tpot and tpot["value"] else None
    in_flight = [stage["concurrency"]["mean"] for stage in group if stage["concurrency"]]
    point["concurrency"] = round(sum(in_flight) / len(in_flight), 6) if in_flight else None
    sent = sum(stage["requests"]["sent"] for stage in group)
    failed = sum(stage["requests"]["failed"] for stage in group)
    point["failed_share"] = round(failed / sent, 9) if sent else None
    point["saturated"] = any((stage["backlog"] or {}).get("grows", False) for stage in group)
    return point


def _percentiles(metric: str, merged: Histogram, group: Sequence[Facts]) -> Facts:
    values_ns = percentiles(merged, list(PERCENTILES.values()))
    told: Facts = {}
    for name, value_ns in zip(PERCENTILES, values_ns, strict=True):
        assert value_ns is not None
        within = ((group[0]["intervals"] or {}).get(metric) or {}).get(name) if len(group) == 1 else None
        repeats = [stage[metric][name] for stage in group if stage[metric]]
        told[name] = _value(round(value_ns / NS_PER_MS, 6), repeats, within)
    return told


def _value(value: float | None, repeats: Sequence[float | None], within: Sequence[float | None] | None) -> Facts | None:
    """One number of a point. `value` None: the mean of the repeats; `within` is the interval of a single run."""
    known = [one for one in repeats if one is not None]
    if not known:
        return None
    between = mean_of_repeats(known)
    middle = sum(known) / len(known) if value is None else value
    low, high = within if within is not None else (None, None)
    if between is not None:
        half = between.high - between.value
        low, high = middle - half, middle + half
    return {
        "value": round(middle, 6),
        "low": None if low is None else round(low, 6),
        "high": None if high is None else round(high, 6),
        "repeats": known if len(known) > 1 else None,
    }
