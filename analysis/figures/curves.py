"""Throughput against latency over the loads of a run, of several runs; what was asked for, and where the limit lies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import altair as alt

from analysis.figures.facts import (
    LATENCIES,
    PRECISE,
    SWITCHED,
    Facts,
    Rows,
    Runs,
    by_label,
    chart_of,
    has_limit,
    is_wide,
    layered,
    name_of,
    points_of,
    round_values,
    title_of,
)

HEIGHT: Final = 240
WIDTH: Final = 460

LINE_PX: Final = 14

MOST_BAR_WORDS: Final = 16
"""Bars that have their number written above them; more would run into each other."""

CLOSE_SHARE: Final = 0.05
"""Of the width and of the height: points that are closer have their words in each other's way."""

WORDS_SHARE: Final = 13 / HEIGHT
"""By how much of the height a point's words stand above it (the theme's `load`)."""

COVERED_SHARE: Final = 0.03
"""Of the width and of the height: a point that is closer to the words of another covers them."""

HEAD_PX: Final = 24
"""Room above the plots of the grid: for the load above the highest point, or the words of a limit across."""

LIMIT_PX: Final = 38
"""The same where words of a limit stand above the plot."""

FAR: Final = 3
"""Times the largest value: a limit beyond it is off the plot."""


def throughput_latency(
    runs: Facts | Runs,
    metric: str = "ttft",
    percentile: str = "p50",
    *,
    limits: Mapping[str, Facts] | None = None,
) -> alt.LayerChart:
    """A latency (ttft, tpot, itl, e2e) over output tokens a second: a point a stage, a line a run.

    The parameter `percentile` of the chart switches between p50, p90 and p99. Limits of `--slo` on the metric are lines
    across; `limits` has what saturation.json says by label of the run, and is drawn as a line upright, with its interval.
    """
    runs = by_label(runs)
    name = name_of(metric, [stage for summary in runs.values() for stage in summary["stages"]])
    rows = _points(runs, f"{name}_ms", metric)
    switch = alt.param(
        name="percentile", value=percentile, bind=alt.binding_radio(options=list(SWITCHED), name="percentile ")
    )
    several = len(runs) > 1
    logarithmic = is_wide(row[one] for row in rows for one in SWITCHED)
    y = alt.Y(
        "latency:Q",
        title=title_of(name),
        scale=alt.Scale(type="log", nice=False, padding=12) if logarithmic else alt.Scale(zero=True, nice=True),
        axis=alt.Axis(format=",~r", values=round_values()) if logarithmic else alt.Axis(format=",~r"),
    )
    x = alt.X(
        "tokens_per_s:Q", title="output tokens/s", scale=alt.Scale(zero=True), axis=alt.Axis(format=",~r", tickCount=6)
    )
    drawn = chart_of(rows).transform_calculate(latency="datum[percentile]")
    colour = (
        alt.Color("run:N", title=None, sort=None, legend=alt.Legend(orient="bottom", symbolType="stroke"))
        if several
        else alt.Undefined
    )
    line = drawn.mark_line().encode(x=x, y=y, order="order:Q", color=colour)
    told = [
        *([alt.Tooltip("run:N")] if several else []),
        alt.Tooltip("name:N", title="load"),
        alt.Tooltip("tokens_per_s:Q", title="output tokens/s", format=PRECISE),
        *(alt.Tooltip(f"{one}:Q", title=f"{title_of(name)[:-4]} {one}, ms", format=PRECISE) for one in SWITCHED),
        alt.Tooltip("repeats:Q", title="times measured"),
        alt.Tooltip("count:Q", title="requests measured", format=","),
        alt.Tooltip("failed:Q", title="requests failed", format=","),
    ]
    points = drawn.mark_point(filled=True, opacity=1, size=70).encode(x=x, y=y, color=colour, tooltip=told)
    words = (
        drawn.transform_calculate(words="datum['words_' + percentile]")
        .mark_text(style="load")
        .encode(x=x, y=y, text="words:N")
    )
    spreads = []
    if any(row["has_interval"] for row in rows):
        ends = drawn.transform_calculate(low="datum[percentile + '_low']", high="datum[percentile + '_high']")
        spreads = [
            ends.mark_rule(style="interval").encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
            ends.mark_rule(style="interval").encode(x=alt.X("tokens_low:Q"), x2="tokens_high:Q", y=y, color=colour),
        ]
    # Each point can be met from afar, and with a thumb.
    reach = drawn.mark_point(filled=True, opacity=0, size=900).encode(x=x, y=y, tooltip=told)
    values_ms = [row[one] for row in rows for one in SWITCHED]
    layers = [
        *objective_lines(runs, metric, values_ms, logarithmic=logarithmic, corner="left"),
        *_limits(limits or {}, rows),
        line,
        *spreads,
        words,
        points,
        reach,
    ]
    return layered(*layers).add_params(switch).properties(width=WIDTH, height=HEIGHT, title=LATENCIES[metric])


def throughput_latency_grid(
    runs: Facts | Runs, percentile: str = "p50", *, limits: Mapping[str, Facts] | None = None
) -> alt.ConcatChart:
    """The four latencies side by side at one percentile."""
    lines = sum(map(has_limit, (limits or {}).values()))
    head_px = LIMIT_PX + LINE_PX * (lines - 1) if lines else HEAD_PX
    charts = [
        _level(throughput_latency(runs, metric, percentile, limits=limits), LATENCIES[metric], head_px)
        for metric in LATENCIES
    ]
    return alt.concat(*charts, columns=2).properties(title=f"Latency ({percentile}) over throughput")


def _level(chart: alt.LayerChart, title: str, head_px: float) -> alt.LayerChart:
    """The chart with its title in line with those of its neighbours.

    A title stands above and left of all that is drawn, words beside the points too, which reach as far as chance has them;
    so it is put where the plot begins, and room is taken above that nothing in it exceeds.
    """
    room = chart_of([{"head": 0}]).mark_rule(opacity=0)
    chart.layer.insert(0, room.encode(x=alt.value(0), y=alt.value(-head_px), y2=alt.value(0)))
    return chart.properties(title=alt.Title(title, frame="group"))


def throughput_by_load(runs: Facts | Runs) -> alt.LayerChart:
    """Output tokens a second at each load, a bar a stage; several runs stand side by side."""
    runs = by_label(runs)
    rows = [
        {
            "run": run,
            "load": label,
            "level": told["load"].get("value") or 0.0,
            "name": stages[0]["name"],
            "repeats": len(stages),
            **{
                f"{name}{end}": (told[f"{name}_per_s"] or {}).get(key)
                for name in ("output_tokens", "requests", "goodput")
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
        }
        for run, summary in runs.items()
        for label, told, stages in points_of(summary)
    ]
    several = len(runs) > 1
    rising = alt.EncodingSortField(field="level", op="min")
    base = chart_of(rows).encode(
        x=alt.X("load:N", sort=rising, title="load", axis=alt.Axis(labelAngle=0, labelLimit=90)),
        y=alt.Y("output_tokens:Q", title="output tokens/s", axis=alt.Axis(format=",~r")),
    )
    if several:
        base = base.encode(xOffset=alt.XOffset("run:N", sort=None))
    bars = base.mark_bar(cornerRadiusEnd=3, width={"band": 0.7}).encode(
        color=alt.Color("run:N", title=None, sort=None, legend=alt.Legend(orient="bottom"))
        if several
        else alt.Undefined,
        tooltip=[
            *([alt.Tooltip("run:N")] if several else []),
            alt.Tooltip("name:N", title="load"),
            alt.Tooltip("output_tokens:Q", title="output tokens/s", format=PRECISE),
            alt.Tooltip("requests:Q", title="requests/s", format=PRECISE),
            *(
                [alt.Tooltip("goodput:Q", title="goodput, requests/s", format=PRECISE)]
                if any(row["goodput"] is not None for row in rows)
                else []
            ),
        ],
    )
    words = base.mark_text(style="load", dy=-8).encode(text=alt.Text("output_tokens:Q", format=",.3~s"))
    layers = [bars] if len(rows) > MOST_BAR_WORDS or several else [bars, words]
    return layered(*layers).properties(width=WIDTH, height=HEIGHT, title="Output tokens/s by load")


def _points(runs: Runs, key: str, metric: str) -> Rows:
    """A row a level of load: throughput and percentiles with the ends of their intervals (without one: the value)."""
    rows: Rows = []
    for run, summary in runs.items():
        for order, (label, told, stages) in enumerate(points_of(summary)):
            tokens, latency = told["output_tokens_per_s"], told[key]
            if not latency or not tokens or not tokens["value"]:
                continue
            row = {
                "run": run,
                "order": order,
                "load": label,
                "name": stages[0]["name"],
                "repeats": len(stages),
                "count": sum(stage[key]["count"] for stage in stages if stage[key]),
                "failed": sum(stage["requests"]["failed"] for stage in stages),
                "tokens_per_s": tokens["value"],
                **_ends("tokens", tokens),
                "has_interval": any(
                    one[end] is not None for one in (tokens, *latency.values()) for end in ("low", "high")
                ),
            }
            for percentile in SWITCHED:
                row |= {percentile: latency[percentile]["value"]} | _ends(percentile, latency[percentile])
            rows.append(row)
    _cut_off(rows)
    values_ms = [row[one] for row in rows for one in SWITCHED]
    most_limit_ms = max((row["limit_ms"] for row in _near(_objectives(runs, metric), values_ms)), default=0.0)
    for percentile in SWITCHED:
        for row, words in zip(rows, _readable(rows, percentile, most_limit_ms), strict=True):
            row[f"words_{percentile}"] = words
    return rows


def _ends(name: str, told: Facts) -> dict[str, float]:
    """The ends of an interval; where there is none, it has no length, and one that is open has an end far away."""
    low, high = told["low"], told["high"]
    if low is None and high is None:
        low = high = told["value"]
    return {f"{name}_low": -math.inf if low is None else low, f"{name}_high": math.inf if high is None else high}


def _cut_off(rows: Rows) -> None:
    """Intervals that reach far beyond all points (of two repeats, below zero) end there: the points keep the picture."""
    for name, keys in (("tokens", ("tokens_per_s",)), *((one, SWITCHED) for one in SWITCHED)):
        values = [row[key] for row in rows for key in keys]
        low, high = (min(values) * 0.7, max(values) * 1.15) if values else (0.0, 0.0)
        for row in rows:
            row[f"{name}_low"] = max(row[f"{name}_low"], low)
            row[f"{name}_high"] = min(row[f"{name}_high"], high)


def _readable(rows: Rows, percentile: str, most_limit_ms: float) -> list[str]:
    """The load beside each point, by run from the lightest on; none beside one that stands where another is told.

    A limit across that lies above all points takes its height of the plot, too.
    """
    widest = max((row["tokens_per_s"] for row in rows), default=1)
    highest = max((row[percentile] for row in rows), default=1)
    lowest = min((row[percentile] for row in rows if row[percentile] > 0), default=highest)
    highest = max(highest, most_limit_ms)
    wide = is_wide(row[one] for row in rows for one in SWITCHED)

    def across(row: dict[str, Any]) -> tuple[float, float]:
        y = row[percentile]
        share = math.log(max(y, lowest) / lowest) / (math.log(highest / lowest) or 1) if wide else y / (highest or 1)
        return row["tokens_per_s"] / widest, share

    def close(one: int, other: int) -> bool:
        (x1, y1), (x2, y2) = across(rows[one]), across(rows[other])
        return abs(x2 - x1) < CLOSE_SHARE and abs(y2 - y1) < CLOSE_SHARE

    def is_covered(one: int) -> bool:
        x, y = across(rows[one])
        return any(
            abs(x2 - x) < COVERED_SHARE and abs(y2 - y - WORDS_SHARE) < COVERED_SHARE and not close(one, other)
            for other, (x2, y2) in enumerate(map(across, rows))
        )

    words = [""] * len(rows)
    told: list[int] = []
    for place, row in enumerate(rows):
        beside = next((other for other in told if close(other, place)), None)
        is_last = row["run"] not in (one["run"] for one in rows[place + 1 :])
        if beside is None and (is_last or not is_covered(place)):
            told.append(place)
            words[place] = row["load"]
        elif beside is not None and is_last and row["load"] not in words[beside].split(", "):
            if rows[beside]["run"] != row["run"]:
                words[place] = row["load"]
            else:  # the heaviest load is always told
                words[place], words[beside] = f"{words[beside]}, {row['load']}", ""
    return words


def _objectives(runs: Runs, metric: str) -> Rows:
    """The limits of `--slo` on a metric, each once: {"limit_ms", "words"}."""
    found = {}
    for summary in runs.values():
        for stage in summary["stages"]:
            if limit := (stage["slo"] or {}).get(metric):
                which = "" if limit["percentile"] is None else f" p{limit['percentile']:g}"
                found[f"SLO{which} \N{LESS-THAN OR EQUAL TO} {limit['limit_ms']:g} ms"] = limit["limit_ms"]
    return [{"limit_ms": limit_ms, "words": words} for words, limit_ms in found.items()]


def _near(objectives: Rows, values_ms: Sequence[float]) -> Rows:
    """Those of the limits that are drawn among the values."""
    most_ms = max(values_ms, default=0.0)
    return [row for row in objectives if not most_ms or row["limit_ms"] <= FAR * most_ms]


def objective_lines(
    runs: Runs, metric: str, values_ms: Sequence[float], *, logarithmic: bool, corner: Literal["left", "right"]
) -> list[alt.Chart]:
    """The limits of `--slo` as lines across.

    One so far above the values that these would lie flat is words alone, in the lower corner that the values leave free.
    """
    rows = _objectives(runs, metric)
    near = rows if logarithmic else _near(rows, values_ms)
    drawn = []
    if near:
        lines = chart_of(near).encode(y=alt.Y("limit_ms:Q"))
        drawn = [
            lines.mark_rule(style="slo"),
            lines.mark_text(style="slo-words").encode(x=alt.value(0), text="words:N"),
        ]
    if far := [row["words"] for row in rows if row not in near]:
        x, dx = (0, 4) if corner == "left" else ("width", -4)
        words = chart_of([{"words": f"{', '.join(far)}, far above"}]).mark_text(style="slo-words", align=corner, dx=dx)
        drawn.append(words.encode(x=alt.value(x), y=alt.value("height"), text="words:N"))
    return drawn


def _limits(limits: Mapping[str, Facts], points: Rows) -> list[alt.Chart]:
    """The knee, or the most load within the objectives: an upright line within its interval, its words above the plot."""
    drawn: list[alt.Chart] = []
    widest = max((row["tokens_per_s"] for row in points), default=0)
    drawable = [(label, found) for label, found in limits.items() if has_limit(found)]
    for line, (label, found) in enumerate(drawable):
        at, load = found["output_tokens_per_s"], found["load"]
        what = "most within SLO" if found["question"] == "slo" else "knee"
        by_other = {"client": "limit of the load generator", "bounds": "limit of --most", "budget": f"so far, {what}"}
        what = by_other.get(found.get("limited_by") or "", what)
        low, high = (at["value"] if at.get(end) is None else at[end] for end in ("low", "high"))
        words = f"{label + ': ' if label else ''}{what}: {load['mode']} {load['value']:.4g}"
        base = chart_of([{"tokens_per_s": at["value"], "low": low, "high": high, "words": words}])
        x = alt.X("tokens_per_s:Q")
        drawn += [
            base.mark_rect(style="limit-band").encode(x=alt.X("low:Q"), x2="high:Q"),
            base.mark_rule(style="limit").encode(x=x),
            base.mark_text(style="limit-words", align="left" if at["value"] < widest / 2 else "right", dx=0).encode(
                x=x, y=alt.value(-22 - LINE_PX * line), text="words:N"
            ),
        ]
    return drawn
