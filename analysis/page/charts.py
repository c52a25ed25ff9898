"""The charts of the page: their descriptions, their data once, and in words what each shows.

A chart has variants (by run, stage, metric), of which the page's script shows the one that the switches choose. Data are
taken out of the descriptions, held by column, and shared by the variants that use the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import altair as alt

from analysis import figures
from analysis.figures.distributions import MOST_LOADS
from analysis.figures.facts import LATENCIES, Facts, name_of, title_of
from analysis.figures.panels import server_panels
from analysis.figures.requests import SHOWN
from analysis.figures.static import description
from analysis.page.shown import Shown
from analysis.spelling import number, plain

MOST_WORDS: Final = 12
"""Loads that the words beside a chart name one by one."""


MOST_BARS: Final = 2000
FEWEST_SHOWN: Final = 20
"""Requests that the page shows one by one, over all stages, and of a stage: a run of many stages stays a small file."""


class Chart(NamedTuple):
    """A place for a chart: `by` names the switches that choose its variant."""

    id: str
    title: str
    words: str
    by: tuple[str, ...]


class Charts(NamedTuple):
    """The places for charts by id, and all that the script needs to fill them."""

    shown: dict[str, Chart]
    data: dict[str, Any]


def charts(runs: Sequence[Shown]) -> Charts:
    """All charts of these runs, whose labels differ."""
    summaries = {plain(run.label): run.analysis.summary for run in runs}
    limits = {plain(run.label) if len(runs) > 1 else "": run.saturation for run in runs if run.saturation is not None}
    of_all = summaries if len(runs) > 1 else next(iter(summaries.values()))
    shown: dict[str, Chart] = {}
    store = _Store()

    def place(chart: Chart, variants: Mapping[str, alt.TopLevelMixin]) -> None:
        shown[chart.id] = chart
        store.add(chart, variants)

    for metric, title in LATENCIES.items():
        curve = figures.throughput_latency(of_all, metric, limits=limits)
        place(Chart(f"curve-{metric}", title, _curve_words(summaries, metric), ()), {"": curve})
    words = "Output tokens a second at each load, as bars; the numbers are in the table of loads."
    place(Chart("by-load", "Output tokens/s by load", words, ()), {"": figures.throughput_by_load(of_all)})
    numbered = [(place, run.analysis) for place, run in enumerate(runs)]
    stages = sum(len(analysis.summary["stages"]) for _, analysis in numbered)
    most = max(min(SHOWN, MOST_BARS // max(stages, 1)), FEWEST_SHOWN)
    place(
        Chart(
            "percentiles",
            "Percentile spectrum",
            "The latency over the percentile, a line a load, on a scale on which each further nine is as wide. "
            f"Of more than {MOST_LOADS} loads, as many are shown. "
            "Where too few requests were measured for a percentile, the line is dashed.",
            ("run", "metric"),
        ),
        {
            f"{run}/{metric}": figures.percentile_spectrum(analysis, metric)
            for run, analysis in numbered
            for metric in LATENCIES
        },
    )
    place(
        Chart(
            "histogram",
            "Histogram",
            "The share of the requests (for ITL: of the gaps between tokens) by latency, an outline a load.",
            ("run", "metric"),
        ),
        {
            f"{run}/{metric}": figures.latency_histogram(analysis, metric)
            for run, analysis in numbered
            for metric in LATENCIES
        },
    )
    place(
        Chart(
            "timeline",
            "The whole run; measured windows are shaded, with their load above",
            _timeline_words(summaries),
            ("run",),
        ),
        {f"{place}": figures.timeline(run.analysis.summary) for place, run in enumerate(runs)},
    )
    place(
        Chart(
            "waterfall",
            "A sample of requests, one by one",
            "A sample of the requests in the middle of the window, each as a bar from the moment it was due: waiting for "
            "a place, the way to the first token (the server's queue and prefill), decoding, and its longest pause. The "
            "slowest are in the tables below.",
            ("run", "stage"),
        ),
        {
            f"{run}/{stage}": figures.waterfall(analysis, stage, most=most)
            for run, analysis in numbered
            for stage in range(len(analysis.summary["stages"]))
        },
    )
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return Charts(shown, {"charts": store.charts, "datasets": store.datasets, "themes": themes})


class _Store:
    """Descriptions by chart and variant; data by the name that Altair gives them, a hash of what they hold."""

    def __init__(self) -> None:
        self.charts: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, list[Any]]] = {}

    def add(self, chart: Chart, variants: Mapping[str, alt.TopLevelMixin]) -> None:
        described = {}
        for key, variant in variants.items():
            spec = description(variant)
            spec.pop("config", None)
            spec.pop("$schema", None)
            spec.pop("title", None)  # it stands above the figure
            for param in spec.get("params", ()):
                param.pop("bind", None)  # the page has switches of its own
            for name, rows in spec.pop("datasets", {}).items():
                self.datasets[name] = by_column(rows)
            described[key] = spec
        self.charts.append({"id": chart.id, "by": list(chart.by), "variants": described})


def by_column(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; a key that a row does not have is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _curve_words(runs: Mapping[str, Facts], metric: str) -> str:
    """The chart in words: each load with its throughput, p50 and p99."""
    name = name_of(metric, [stage for summary in runs.values() for stage in summary["stages"]])
    told = [
        f"{label + ', ' if len(runs) > 1 else ''}{stage['name']}: {number(stage['output_tokens_per_s'])} tokens/s, "
        f"p50 {number(stage[f'{name}_ms']['p50'])} ms, p99 {number(stage[f'{name}_ms']['p99'])} ms"
        for label, summary in runs.items()
        for stage in summary["stages"]
        if stage[f"{name}_ms"] and stage["output_tokens_per_s"]
    ]
    more = f"; and {len(told) - MOST_WORDS} more in the table of loads" if len(told) > MOST_WORDS else ""
    return plain(f"{title_of(name)} over output tokens/s. {'; '.join(told[:MOST_WORDS])}{more}.")


def _timeline_words(runs: Mapping[str, Facts]) -> str:
    """The time line in words: its rows, and of the server's the largest values at each load."""
    words = (
        "Output tokens a second, requests in flight, time to first token, failed requests a second and the worst "
        "lag of the client over the whole run, one above the other; the measured windows are shaded."
    )
    panels = {panel: None for summary in runs.values() for panel, _ in server_panels(summary)}
    if not panels:
        return words
    words += f" Below them what the server said of itself: {', '.join(panel.title for panel in panels)}."
    told = [
        f"{label + ', ' if len(runs) > 1 else ''}{stage['name']}: {peaks}"
        for label, summary in runs.items()
        for stage in summary["stages"]
        if (peaks := _peaks(stage))
    ]
    more = f"; and {len(told) - MOST_WORDS} more in the table of the server" if len(told) > MOST_WORDS else ""
    return plain(f"{words} {'; '.join(told[:MOST_WORDS])}{more}.")


def _peaks(stage: Facts) -> str:
    server = stage.get("server") or {}
    words = [f"at most {server[key]['max']:,.4g} {key}" for key in ("running", "waiting") if server.get(key)]
    for key, what in (("kv_cache_share", "KV cache"), ("gpu_share", "GPU")):
        if server.get(key):
            words.append(f"{what} at most {server[key]['max']:.0%}")
    if server.get("preemptions") is not None:
        words.append(f"{server['preemptions']:,.0f} preemptions")
    return ", ".join(words)
