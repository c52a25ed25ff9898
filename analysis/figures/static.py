"""Charts as PNG and SVG, drawn in this process: no browser, no network."""

import json
from typing import Any

import altair as alt
import vl_convert

from analysis.figures.theme import LIGHT

SCALE = 2
"""Pixels of a PNG to each of the figure's."""


def description(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The Vega-Lite description of a chart."""
    with alt.data_transformers.disable_max_rows():  # a limit against raw data; a run of many stages has many bins
        described: dict[str, Any] = chart.to_dict(validate=False)
    return described


def on_paper(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """The same chart with the light theme inside, for where nobody else brings one: a notebook, a file."""
    themed = description(chart) | {"config": _opaque(LIGHT)}
    made = type(chart).from_dict(themed, validate=False)  # type: ignore[attr-defined]
    assert isinstance(made, alt.TopLevelMixin)
    return made


def png(chart: alt.TopLevelMixin, theme: dict[str, Any] = LIGHT) -> bytes:
    """A PNG on the theme's background."""
    drawn: bytes = vl_convert.vegalite_to_png(json.dumps(description(chart)), config=_opaque(theme), scale=SCALE)
    return drawn


def svg(chart: alt.TopLevelMixin, theme: dict[str, Any] = LIGHT) -> str:
    """An SVG on the theme's background."""
    drawn: str = vl_convert.vegalite_to_svg(json.dumps(description(chart)), config=_opaque(theme))
    return drawn


def _opaque(theme: dict[str, Any]) -> dict[str, Any]:
    return theme | {"background": theme["style"]["surface"]["color"], "padding": 16}
