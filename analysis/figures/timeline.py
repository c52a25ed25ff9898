"""What happened when: rows that share one axis of time, so that a stall, a queue and an error stand above each other."""

import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import altair as alt

from analysis.figures.facts import PRECISE, Facts, Rows, chart_of, is_open_loop, layered, load_of

WIDTH: Final = 900
HEIGHT: Final = 92
AXIS_PX: Final = 52
"""Left of every row, so that their times align whatever their numbers are."""

MOST_NAMES: Final = 12
"""Stages that have their load written above them; more would run into each other."""


class Panel(NamedTuple):
    """One row of the figure: a key of its values, its title, and how it is drawn.

    `bad` is for what should not be there; `sparse` for values that not every bin has.
    """

    key: str
    title: str
    bad: bool = False
    sparse: bool = False


PANELS: Final = (
    Panel("tokens_per_s", "Output tokens/s"),
    Panel("in_flight", "Requests in flight"),
    Panel("ttft_p50_ms", "TTFT p50, ms", sparse=True),
    Panel("failed_per_s", "Failed requests/s", bad=True),
    Panel("lag_ms", "Client: worst lag, ms", bad=True),
)


def timeline_rows(summary: Facts) -> Rows:
    """A row a bin of every stage, over seconds since the first stage began."""
    stages = summary["stages"]
    if not stages:
        return []
    origin_s = min(_start_s(stage) for stage in stages)
    rows: Rows = []
    for place, stage in enumerate(stages):
        line, first_s = stage["timeline"], _start_s(stage) - origin_s
        ttft_ms = line["ttft_intended_p50_ms"] if is_open_loop(stage) else line["ttft_p50_ms"]
        for index, tokens in enumerate(line["output_tokens"]):
            rows.append(
                {
                    "stage": place,
                    "name": stage["name"],
                    "t_s": round(first_s + index * line["bin_s"], 3),
                    "tokens_per_s": round(tokens / line["bin_s"], 3),
                    "in_flight": line["in_flight"][index],
                    "ttft_p50_ms": ttft_ms[index],
                    "failed_per_s": round(line["failed"][index] / line["bin_s"], 3),
                    "lag_ms": round(line["lag_max_us"][index] / 1000, 4),
                }
            )
    return rows


def _start_s(stage: Facts) -> float:
    """When a stage's timeline begins, in seconds of the clock."""
    return float(stage["window"]["start_ns"] / 1e9 + stage["timeline"]["start_s"])


def _windows(summary: Facts) -> Rows:
    stages = summary["stages"]
    origin_s = min((_start_s(stage) for stage in stages), default=0.0)
    return [
        {
            "from_s": round(stage["window"]["start_ns"] / 1e9 - origin_s, 3),
            "to_s": round(stage["window"]["stop_ns"] / 1e9 - origin_s, 3),
            "load": load_of(stage),
        }
        for stage in stages
        if stage["window_s"]
    ]


def timeline(summary: Facts, beside: Sequence[tuple[Panel, Rows]] = (), *, width: int = WIDTH) -> alt.VConcatChart:
    """Tokens a second, requests in flight, TTFT, failures and the client's lag over the whole run; windows are shaded.

    `beside` has more panels with rows of their own (`t_s` on the same axis, and the panel's key), such as what the server
    says of itself.
    """
    rows, windows = timeline_rows(summary), _windows(summary)
    end_s = max([row["t_s"] for row in rows] + [window["to_s"] for window in windows], default=1.0)
    cursor = alt.selection_point(
        name="cursor", nearest=True, on="pointerover", clear="pointerout", fields=["t_s"], empty=False
    )
    panels = [*((panel, rows) for panel in PANELS), *beside]
    charts = [
        _panel(panel, values, windows, end_s, cursor, names=place == 0, last=place == len(panels) - 1, width=width)
        for place, (panel, values) in enumerate(panels)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Automatically deduplicated")  # one cursor for all panels is what is wanted
        return alt.vconcat(*charts, spacing=10)


def _panel(
    panel: Panel,
    rows: Rows,
    windows: Rows,
    end_s: float,
    cursor: alt.Parameter,
    *,
    names: bool,
    last: bool,
    width: int,
) -> alt.LayerChart:
    x = alt.X(
        "t_s:Q",
        title="seconds since the first stage began" if last else None,
        scale=alt.Scale(domain=[0, end_s], nice=False),
        axis=alt.Axis(labels=last, ticks=last, format=",~r"),
    )
    shade = chart_of(windows)
    # A panel whose values are all zero still has an axis.
    top = max((row[panel.key] or 0 for row in rows), default=0)
    y = alt.Y(
        f"{panel.key}:Q",
        title=None,
        stack=None,
        scale=alt.Scale(zero=True) if top else alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=",.3~s" if top >= 1000 else ",~r", tickCount=3, minExtent=AXIS_PX, maxExtent=AXIS_PX),
    )
    drawn = chart_of(rows)
    style = "bad" if panel.bad else alt.Undefined
    if panel.sparse:
        mark = drawn.transform_filter(f"isValid(datum.{panel.key})").mark_line(
            strokeWidth=1.5, point={"size": 14, "filled": True}, style=style
        )
    else:
        outline = {"strokeWidth": 1.5} | ({"style": "bad"} if panel.bad else {})
        mark = drawn.mark_area(interpolate="step-after", fillOpacity=0.16, line=outline, style=style)
    line = mark.encode(x=x, y=y, detail="stage:N")
    told = [
        alt.Tooltip("name:N", title="load"),
        alt.Tooltip("t_s:Q", title="second", format=",.1f"),
        *(alt.Tooltip(f"{one.key}:Q", title=one.title, format=PRECISE) for one in PANELS),
    ]
    if panel not in PANELS:
        told = [told[1], alt.Tooltip(f"{panel.key}:Q", title=panel.title, format=PRECISE)]
    reach = drawn.mark_rule(opacity=0, strokeWidth=6).encode(x=x, tooltip=told).add_params(cursor)
    rule = drawn.mark_rule(style="cursor").encode(x=x).transform_filter(cursor)
    layers = [shade.mark_rect(style="window").encode(x=alt.X("from_s:Q"), x2="to_s:Q"), line, rule, reach]
    if names and len(windows) <= MOST_NAMES:
        layers.append(
            shade.mark_text(style="window-words").encode(x=alt.X("from_s:Q"), y=alt.value(-14), text="load:N")
        )
    return layered(*layers).properties(
        width=width,
        height=HEIGHT,
        title=alt.TitleParams(panel.title, anchor="start", frame="group", offset=16 if names else 4, fontSize=12),
    )
