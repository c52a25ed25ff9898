"""Histograms -> the blocks of percentiles that summary.json is made of, and their intervals."""

import math
from typing import Any, Final

import numpy as np

from analysis import metrics
from analysis.bootstrap import block_bootstrap, quantile_intervals
from analysis.confidence import sample_floor
from analysis.histogram import Histogram, merge, percentiles
from analysis.tally import StageTally, joined

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}

INTERVAL_PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def block(histogram: Histogram, ns_per_unit: int, digits: int) -> dict[str, Any] | None:
    """Count, mean, extremes and PERCENTILES in a unit, and which of them so few values do not bear; None without any."""
    if not histogram.total:
        return None

    def scaled(value_ns: float | None) -> float | None:
        return None if value_ns is None else round(value_ns / ns_per_unit, digits)

    values = percentiles(histogram, list(PERCENTILES.values()))
    return {
        "count": histogram.total,
        "mean": scaled(histogram.mean_ns),
        "min": scaled(histogram.min_ns),
        **{name: scaled(value) for name, value in zip(PERCENTILES, values, strict=True)},
        "max": scaled(histogram.max_ns),
        "unreliable": [name for name, wanted in PERCENTILES.items() if histogram.total < sample_floor(wanted)],
    }


def stage_histograms(tally: StageTally) -> dict[str, Histogram]:
    """A stage's histograms by metric (ttft, itl, ...); `itl_per_token` only where an event held more than a token."""
    histograms = dict(tally.latencies)
    histograms["itl"] = merge([tally.gaps_of_one, tally.gaps_of_many])
    if tally.gaps_of_many.total:
        histograms["itl_per_token"] = merge([tally.gaps_of_one, tally.gaps_of_many_per_token])
    return histograms


def by_turn(tally: StageTally) -> list[dict[str, Any]] | None:
    """By turn of a session, counted from 0; None where there were no sessions."""
    return [
        {
            "turn": turn,
            "count": told.sent,
            "ttft_ms": block(told.ttft, NS_PER_MS, 6),
            "ttft_intended_ms": block(told.ttft_intended, NS_PER_MS, 6),
            "prompt_tokens_mean": round(told.prompt_tokens / told.prompts_told, 3) if told.prompts_told else None,
        }
        for turn, told in sorted(tally.turns.items())
    ] or None


def intervals(tally: StageTally) -> dict[str, Any]:
    """95 % intervals [low, high] within the run: rates by block bootstrap over the bins, percentiles by order statistics.

    An end of a percentile's is None where so few values bound it on that side by nothing.
    """
    line = tally.timeline
    inside = slice(line.before, line.before + line.inside)
    per_s = NS_PER_S / line.bin_ns
    rates_ = {"output_tokens_per_s": line.tokens, "requests_per_s": line.finished}
    told: dict[str, Any] = {}
    for name, by_bin in rates_.items():
        found = block_bootstrap(by_bin[inside] * per_s, np.mean)
        told[name] = None if found is None else [round(found.low, 6), round(found.high, 6)]
    in_order = np.argsort(joined(tally.judged_due_ns), kind="stable")
    for name, pieces in tally.judged.items():
        values = metrics.present(joined(pieces)[in_order])
        found_ = quantile_intervals(values, list(INTERVAL_PERCENTILES.values()))
        told[f"{name}_ms"] = {
            percentile: [_bound_ms(one.low), _bound_ms(one.high)]
            for percentile, one in zip(INTERVAL_PERCENTILES, found_, strict=bool(found_))
        } or None
    return told


def _bound_ms(bound_ns: float) -> float | None:
    return round(bound_ns / NS_PER_MS, 6) if math.isfinite(bound_ns) else None
