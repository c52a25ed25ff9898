"""What all figures read out of a summary: which latency counts, what a load is called, how an axis runs."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import altair as alt
import pyarrow as pa

Facts = Mapping[str, Any]
Runs = Mapping[str, Facts]

LATENCIES: Final = {
    "ttft": "Time to first token (TTFT)",
    "tpot": "Time per output token (TPOT)",
    "itl": "Inter-token latency (ITL)",
    "e2e": "End to end (E2E)",
}
"""The latencies that are drawn, with their titles."""

SWITCHED: Final = ("p50", "p90", "p99")
"""The percentiles that a figure can be switched between."""

LOG_FROM_RATIO: Final = 20
"""An axis that spans more than this is logarithmic."""

PRECISE: Final = ",.4~r"
"""d3 format: four significant digits, no exponent."""


Rows = list[dict[str, Any]]


def chart_of(rows: Rows) -> alt.Chart:
    """A chart of these rows. As a table they are neither copied nor checked value by value whenever the chart is."""
    return alt.Chart(pa.Table.from_pylist(rows))


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Charts upon each other, the first at the bottom."""
    made = alt.layer(*charts)
    assert isinstance(made, alt.LayerChart)
    return made


def by_label(runs: Facts | Runs) -> Runs:
    """Summaries by label; a single summary gets an empty one."""
    return {"": runs} if "stages" in runs else runs


def is_open_loop(stage: Facts) -> bool:
    """Whether the stage's requests had intended times, from which its users waited."""
    return bool(stage["load"]["mode"] == "rate")


def name_of(metric: str, stages: Iterable[Facts]) -> str:
    """The latency of a metric that is drawn: from the intended time where every stage has one (metrics.md)."""
    stages = list(stages)
    waited = bool(stages) and all(is_open_loop(stage) for stage in stages)
    return f"{metric}_intended" if waited and metric in ("ttft", "e2e") else metric


def title_of(name: str) -> str:
    """What an axis calls a latency: `TTFT from due, ms`."""
    metric, _, intended = name.partition("_")
    return f"{metric.upper()}{' from due' if intended else ''}, ms"


def load_of(stage: Facts) -> str:
    """A stage's load in as few characters as possible: `64`, `20/s`; its name where it has no one value."""
    value = stage["load"].get("value")
    if not isinstance(value, int | float) or "profile" in stage["load"]:
        return str(stage["name"])
    return f"{value:g}/s" if is_open_loop(stage) else f"{value:g}"


class Point(NamedTuple):
    """A point of summary.json's curve: a level of load, the stages that measured it (repeats), the name of the load."""

    label: str
    told: Facts
    stages: list[Facts]


def points_of(summary: Facts) -> list[Point]:
    """The levels of load from the lightest on (curves.py)."""
    by_number = {stage["stage"]: stage for stage in summary["stages"]}
    points = []
    for told in summary["curve"]:
        stages = [by_number[number] for number in told["stages"]]
        points.append(Point(load_of(stages[0]), told, stages))
    return points


def has_limit(saturation: Facts) -> bool:
    """Whether a search (saturation.json) came to a load and a throughput that can be drawn and told."""
    return all(isinstance(saturation[name].get("value"), int | float) for name in ("load", "output_tokens_per_s"))


def round_values() -> list[float]:
    """1, 2 and 5 times every power of ten: where a logarithmic axis of milliseconds has its lines."""
    return [float(f"{step}e{power}") for power in range(-6, 8) for step in (1, 2, 5)]


def is_wide(values: Iterable[float]) -> bool:
    """Whether an axis over these is better logarithmic."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / min(positive) > LOG_FROM_RATIO
