"""What happened when: rows that share one axis of time, so that a stall, a queue and an error stand above each other."""

import warnings
from collections.abc import Sequence
from typing import Final

import altair as alt

from analysis.figures.facts import PRECISE, Facts, Rows, chart_of, layered
from analysis.figures.panels import PANELS, Panel, server_panels, timeline_rows, windows

WIDTH: Final = 900
HEIGHT: Final = 92
AXIS_PX: Final = 52
"""Left of every row, so that their times align whatever their numbers are."""

MOST_NAMES: Final = 12
"""Stages that have their load written above them; more would run into each other."""


def timeline(summary: Facts, beside: Sequence[tuple[Panel, Rows]] = (), *, width: int = WIDTH) -> alt.VConcatChart:
    """Tokens a second, requests in flight, TTFT, failures and the client's lag over the whole run; windows are shaded.

    Below, on the same axis, what the server said of itself, where it was scraped. `beside` has more panels with rows of
    their own (`t_s`, and the panel's key).
    """
    rows, shaded = timeline_rows(summary), windows(summary)
    panels = [*((panel, rows) for panel in PANELS), *server_panels(summary), *beside]
    # Panels have times of their own; the cursor is at one that some panel has, and shows in all of them.
    moments: Rows = [{"t_s": t_s} for t_s in sorted({row["t_s"] for _, values in panels for row in values})]
    end_s = max([moment["t_s"] for moment in moments[-1:]] + [window["to_s"] for window in shaded], default=1.0)
    cursor = alt.selection_point(
        name="cursor", nearest=True, on="pointerover", clear="pointerout", fields=["t_s"], empty=False
    )
    charts = [
        _panel(
            panel, values, shaded, moments, end_s, cursor, names=place == 0, last=place == len(panels) - 1, width=width
        )
        for place, (panel, values) in enumerate(panels)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Automatically deduplicated")  # one cursor for all panels is what is wanted
        return alt.vconcat(*charts, spacing=10)


def _panel(
    panel: Panel,
    rows: Rows,
    shaded: Rows,
    moments: Rows,
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
    shade = chart_of(shaded)
    # A panel whose values are all zero still has an axis.
    top = max((row[panel.key] or 0 for row in rows), default=0)
    y = alt.Y(
        f"{panel.key}:Q",
        title=None,
        stack=None,
        scale=alt.Scale(zero=True) if top else alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=",.3~s" if top >= 1000 else ",~r", tickCount=3, minExtent=AXIS_PX, maxExtent=AXIS_PX),
    )
    told = [alt.Tooltip("t_s:Q", title="second", format=",.1f")]
    if panel in PANELS:
        told.insert(0, alt.Tooltip("name:N", title="load"))
        told += [alt.Tooltip(f"{one.key}:Q", title=one.title, format=PRECISE) for one in PANELS]
    else:
        told.append(alt.Tooltip(f"{panel.key}:Q", title=panel.title, format=PRECISE))
    by_source = len({row.get("source") for row in rows}) > 1
    if by_source:
        told.insert(0, alt.Tooltip("source:N", title="page"))
    drawn = chart_of(rows)
    # Thick and unseen, so that the pointer need not hit a line of one pixel.
    reach = drawn.mark_rule(opacity=0, strokeWidth=6).encode(x=x, tooltip=told).add_params(cursor)
    rule = chart_of(moments).mark_rule(style="cursor").encode(x=x).transform_filter(cursor)
    line = _line(panel, drawn, by_source).encode(x=x, y=y)
    layers = [shade.mark_rect(style="window").encode(x=alt.X("from_s:Q"), x2="to_s:Q"), line, rule, reach]
    if names and len(shaded) <= MOST_NAMES:
        layers.append(
            shade.mark_text(style="window-words").encode(x=alt.X("from_s:Q"), y=alt.value(-14), text="load:N")
        )
    return layered(*layers).properties(
        width=width,
        height=HEIGHT,
        title=alt.TitleParams(panel.title, anchor="start", frame="group", offset=16 if names else 4, fontSize=12),
    )


def _line(panel: Panel, drawn: alt.Chart, by_source: bool) -> alt.Chart:
    """A panel's mark: an area from value to value; a line of points where values are sparse; a line a page of several."""
    style = "bad" if panel.bad else alt.Undefined
    line: alt.Chart
    if by_source:
        line = drawn.mark_line(interpolate="step-after", strokeWidth=1.5)
        line = line.encode(
            color=alt.Color("source:N", legend=alt.Legend(orient="bottom", title=None, symbolType="stroke"))
        )
    elif panel.sparse:
        known = drawn.transform_filter(f"isValid(datum.{panel.key})")
        line = known.mark_line(strokeWidth=1.5, point={"size": 14, "filled": True}, style=style)
    else:
        outline = {"strokeWidth": 1.5} | ({"style": "bad"} if panel.bad else {})
        line = drawn.mark_area(
            interpolate="step-after", fillOpacity=0.16, line=outline, style=style, clip=panel not in PANELS
        )
    line = line.encode(detail="stage:N")
    if panel not in PANELS:
        line.mark.clip = True  # the scrape before a stage lies left of the axis
    return line
