"""The pictures of a run as Altair charts: for report.html, for PNG and SVG, and for a notebook.

Every function takes what `analysis.summary` gives (a summary, several by their labels, or an Analysis), does its arithmetic
in numpy, and hands Altair a few hundred values. Words from outside (names of stages, of models, of errors) are only ever
values of the data or of a title, never part of an expression.

Needs the extra `loadgen[plots]`.
"""

from analysis.figures.curves import throughput_by_load, throughput_latency, throughput_latency_grid
from analysis.figures.distributions import latency_histogram, percentile_spectrum
from analysis.figures.facts import LATENCIES
from analysis.figures.requests import waterfall
from analysis.figures.static import on_paper, png, svg
from analysis.figures.theme import DARK, LIGHT
from analysis.figures.timeline import timeline

__all__ = [
    "DARK",
    "LATENCIES",
    "LIGHT",
    "latency_histogram",
    "on_paper",
    "percentile_spectrum",
    "png",
    "svg",
    "throughput_by_load",
    "throughput_latency",
    "throughput_latency_grid",
    "timeline",
    "waterfall",
]
