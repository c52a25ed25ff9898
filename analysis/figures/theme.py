"""Colours and type of all figures, as Vega-Lite configurations: a figure names a role, the theme says how that looks.

Every text and line colour has a contrast of 4.5 : 1, every mark of data 3 : 1 at least, on the page's background (WCAG 2.2).
Loads go from light to dark (in the dark theme the other way), so that the heaviest stands out in print and to any eye.
"""

from typing import Any, Final

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def _theme(
    ink: str, muted: str, grid: str, surface: str, bad: str, good: str, series: list[str], loads: dict[str, Any]
) -> dict[str, Any]:
    text = {"color": muted, "fontSize": 11, "font": FONT}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "title": {"color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 8},
        "axis": {
            "labelColor": muted,
            "titleColor": muted,
            "titleFontWeight": 400,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "gridColor": grid,
            "domainColor": muted,
            "tickColor": muted,
            "labelOverlap": "greedy",
            "labelFlush": True,
        },
        "axisY": {"domain": False, "ticks": False, "tickCount": 5},
        "axisX": {"grid": False},
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "titleFontWeight": 400,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "symbolStrokeWidth": 3,
            "labelLimit": 240,
            "columnPadding": 14,
            "symbolLimit": 0,
        },
        "line": {"strokeWidth": 2.25, "strokeJoin": "round"},
        "range": {"category": series, "ordinal": loads},
        "mark": {"color": series[0]},
        "style": {
            "load": {**text, "color": ink, "fontWeight": 600, "dy": -13, "limit": 110},
            "slo": {"color": bad, "strokeDash": [6, 4], "strokeWidth": 1.5},
            "slo-words": {**text, "color": bad, "align": "left", "baseline": "bottom", "dx": 4, "dy": -3},
            "interval": {"color": series[0], "strokeWidth": 1.5, "opacity": 0.55},
            "limit": {"color": good, "strokeWidth": 2},
            "limit-band": {"color": good, "fillOpacity": 0.14},
            "limit-words": {**text, "color": good, "fontWeight": 600, "baseline": "bottom", "limit": 360},
            "window": {"color": muted, "fillOpacity": 0.09},
            "window-words": {**text, "baseline": "top", "align": "left", "dx": 4, "dy": 3, "limit": 150},
            "bad": {"color": bad},
            "cursor": {"color": ink, "strokeWidth": 1},
            "surface": {"color": surface},
        },
    }


LIGHT: Final = _theme(
    ink="#1b2430",
    muted="#56616e",
    grid="#e4e8ed",
    surface="#ffffff",
    bad="#c02f3a",
    good="#0b7a45",
    series=["#1864c7", "#b8500a", "#0d7f76", "#7b4bd0", "#b32d80", "#5d6773"],
    loads={"scheme": "viridis", "extent": [0.62, 0]},
)

DARK: Final = _theme(
    ink="#e7ebf0",
    muted="#a3adb9",
    grid="#2c343e",
    surface="#161b22",
    bad="#ff7b82",
    good="#4fcf8d",
    series=["#6cb0ff", "#f2984a", "#3fc9bd", "#bd9bff", "#f481bd", "#9aa4b0"],
    loads={"scheme": "viridis", "extent": [0.4, 1]},
)
