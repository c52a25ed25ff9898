"""How a latency is distributed: the percentile spectrum as HdrHistogram draws it, and the histogram.

Both are read out of the HDR histograms that the summary's percentiles come from, so a curve and a number never disagree.
"""

import math
from typing import Any, Final

import altair as alt
import numpy as np

from analysis.confidence import sample_floor
from analysis.figures.curves import objective_lines
from analysis.figures.facts import (
    LATENCIES,
    PRECISE,
    Rows,
    chart_of,
    is_wide,
    layered,
    name_of,
    points_of,
    round_values,
    title_of,
)
from analysis.histogram import Histogram, highest_equivalent, merge
from analysis.summary import Analysis

HEIGHT: Final = 280
WIDTH: Final = 460

POINTS_PER_DECADE: Final = 16
"""Of 1 / (1 - p): about five for each halving of what lies beyond, as HdrHistogram's own tools take."""

BARS: Final = 48

MOST_LOADS: Final = 8
"""Lines in one figure; more could not be told from each other."""

NS_PER_MS: Final = 1e6


def spectrum(histogram: Histogram) -> list[tuple[float, float, bool]]:
    """(1 / (1 - p), the value in ms, whether so many samples tell it reliably) from the minimum to the maximum.

    A value is exact, or the highest of its place in the histogram, as its percentiles are; the last one is the maximum.
    """
    total = histogram.total
    if not total:
        return []
    assert histogram.min_ns is not None
    assert histogram.max_ns is not None
    steps = math.ceil(math.log10(total) * POINTS_PER_DECADE)
    beyond = np.minimum(10 ** (np.arange(steps + 1) / POINTS_PER_DECADE), total)
    ranks = np.clip(np.ceil((1 - 1 / beyond) * total - 1e-6), 1, total)
    ranks[-1] = total
    if histogram.values_ns is not None:
        values_ns = np.sort(histogram.values_ns)[ranks.astype(np.int64) - 1]
    else:
        at = np.searchsorted(np.cumsum(histogram.counts), ranks)
        values_ns = np.clip(highest_equivalent(at.astype(np.int64)), histogram.min_ns, histogram.max_ns)
    return [
        (round(x, 6), value_ns / NS_PER_MS, x < 1.0001 or total >= sample_floor(100 * (1 - 1 / x)))
        for x, value_ns in zip(beyond.tolist(), values_ns.tolist(), strict=True)
    ]


def edges_ms(histograms: list[Histogram]) -> list[float]:
    """The edges of bars that hold all of these: evenly spaced logarithms, or values where they span little."""
    filled = [one for one in histograms if one.total]
    if not filled:
        return []
    low_ms = min(one.min_ns or 0 for one in filled) / NS_PER_MS
    high_ms = max(one.max_ns or 0 for one in filled) / NS_PER_MS
    high_ms = max(high_ms, low_ms * 1.01, 1e-6)
    if low_ms > 0 and high_ms / low_ms > 4:
        edges = np.geomspace(low_ms, high_ms, BARS + 1)
    else:
        edges = np.linspace(low_ms, high_ms, BARS + 1)
    return [float(f"{edge:.6g}") for edge in edges]


def shares(histogram: Histogram, edges: list[float]) -> list[float]:
    """The share of the samples between each two edges (ms), by the highest value of each place; they sum up to 1."""
    places = np.flatnonzero(histogram.counts)
    values_ms = highest_equivalent(places) / NS_PER_MS
    bins = np.clip(np.searchsorted(edges, values_ms, side="right") - 1, 0, len(edges) - 2)
    counted = np.bincount(bins, histogram.counts[places], minlength=len(edges) - 1)
    return [round(float(share), 6) for share in counted / histogram.total]


def percentile_spectrum(analysis: Analysis, metric: str = "ttft") -> alt.LayerChart:
    """A latency over the percentile, a line a stage; the axis is logarithmic in 1 / (1 - p), so each nine is as wide.

    Where a stage has too few samples for a percentile (confidence.sample_floor), its line is dashed.
    """
    name, found = _histograms(analysis, metric)
    rows: Rows = []
    for place, load, histogram in found:
        points = spectrum(histogram)
        known = [point for point in points if point[2]]
        # The dashes begin where the line ends.
        unsure = [*known[-1:], *(point for point in points if not point[2])]
        for sure, part in ((True, known), (False, unsure if len(unsure) > 1 else [])):
            rows += [
                {"stage": place, "load": load, "sure": sure, "beyond": x, "percentile": 100 * (1 - 1 / x), "ms": ms}
                for x, ms, _ in part
            ]
    values = [row["ms"] for row in rows]
    most = 10.0 ** math.ceil(math.log10(max((row["beyond"] for row in rows), default=10.0)))
    ticks = [10.0**power for power in range(round(math.log10(most)) + 1)]
    nines = "datum.value <= 1 ? '0 %' : format(100 - 100 / datum.value, '.6~r') + ' %'"
    drawn = chart_of(rows)
    x = alt.X(
        "beyond:Q",
        title="percentile",
        scale=alt.Scale(type="log", domain=[1, most], nice=False),
        axis=alt.Axis(values=ticks, labelExpr=nines, grid=True, labelOverlap="parity"),
    )
    wide = is_wide(values) and max(values) / min(v for v in values if v > 0) > 100
    y = alt.Y(
        "ms:Q",
        title=title_of(name),
        scale=alt.Scale(type="log", nice=False, padding=10) if wide else alt.Scale(zero=True),
        axis=alt.Axis(format=",~r", values=round_values()) if wide else alt.Axis(format=",~r"),
    )
    line = drawn.mark_line().encode(
        x=x,
        y=y,
        color=_colour(found),
        detail="stage:N",
        strokeDash=alt.StrokeDash("sure:N", legend=None, scale=alt.Scale(domain=[True, False], range=[[1, 0], [3, 3]])),
    )
    told = [
        alt.Tooltip("load:N", title="load"),
        alt.Tooltip("percentile:Q", title="percentile", format=".6~r"),
        alt.Tooltip("ms:Q", title=title_of(name), format=PRECISE),
        alt.Tooltip("sure:N", title="enough samples"),
    ]
    reach = drawn.mark_point(filled=True, opacity=0, size=120).encode(x=x, y=y, tooltip=told)
    title = f"{LATENCIES[metric]}: percentiles"
    limits = objective_lines({"": analysis.summary}, metric, values, logarithmic=wide, corner="right")
    return layered(*limits, line, reach).properties(width=WIDTH, height=HEIGHT, title=title)


def latency_histogram(analysis: Analysis, metric: str = "ttft") -> alt.Chart:
    """The share of the requests (for ITL: of the gaps) by latency, an outline a stage."""
    name, found = _histograms(analysis, metric)
    edges = edges_ms([histogram for _, _, histogram in found])
    rows: Rows = []
    for place, load, histogram in found:
        told = shares(histogram, edges)
        inside = [index for index, share in enumerate(told) if share]
        for index in range(max(inside[0] - 1, 0), min(inside[-1] + 2, len(told))):
            rows.append(
                {"stage": place, "load": load, "from": edges[index], "to": edges[index + 1], "share": told[index]}
            )
        # Without it the outline would end at the left edge of the last bar.
        last = min(inside[-1] + 1, len(told) - 1)
        rows.append({"stage": place, "load": load, "from": edges[last + 1], "to": edges[last + 1], "share": 0})
    logarithmic = len(edges) > 1 and edges[0] > 0 and edges[-1] / edges[0] > 4
    what = "share of the gaps" if metric == "itl" else "share of the requests"
    drawn: alt.Chart = (
        chart_of(rows)
        .mark_area(interpolate="step-after", fillOpacity=0.16, line={"strokeWidth": 1.75})
        .encode(
            x=alt.X(
                "from:Q",
                title=title_of(name) + (" (log scale)" if logarithmic else ""),
                scale=alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, nice=False),
                axis=alt.Axis(format=",~r", values=round_values()) if logarithmic else alt.Axis(format=",~r"),
            ),
            y=alt.Y("share:Q", title=what, axis=alt.Axis(format=".0%"), stack=None),
            color=_colour(found),
            detail="stage:N",
            tooltip=[
                alt.Tooltip("load:N", title="load"),
                alt.Tooltip("from:Q", title="from, ms", format=PRECISE),
                alt.Tooltip("to:Q", title="to, ms", format=PRECISE),
                alt.Tooltip("share:Q", title=what, format=".2%"),
            ],
        )
        .properties(width=WIDTH, height=HEIGHT, title=f"{LATENCIES[metric]}: histogram")
    )
    return drawn


def _histograms(analysis: Analysis, metric: str) -> tuple[str, list[tuple[int, str, Histogram]]]:
    """The name of the latency, and (place, load, histogram) of each level of load from the lightest on; repeats are merged.

    Of more than MOST_LOADS that have samples, the lightest, the heaviest, and as many evenly spaced between them.
    """
    name = name_of(metric, analysis.summary["stages"])
    found = [
        (place, label, merge(analysis.details[stage["stage"]].histograms[name] for stage in stages))
        for place, (label, _, stages) in enumerate(points_of(analysis.summary))
    ]
    found = [one for one in found if one[2].total]
    if len(found) > MOST_LOADS:
        found = [found[round(step * (len(found) - 1) / (MOST_LOADS - 1))] for step in range(MOST_LOADS)]
    return name, found


def _colour(found: list[tuple[int, str, Histogram]]) -> Any:
    if len(found) < 2:
        return alt.Undefined
    return alt.Color(
        "load:O",
        title="load",
        sort=None,
        scale=alt.Scale(domain=[load for _, load, _ in found]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=180, direction="horizontal", columns=6),
    )
