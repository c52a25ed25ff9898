"""What a stage made of the objectives of --slo: the limits, who met them, and fluidity."""

from typing import Any, Final

import numpy as np

from analysis.bootstrap import design_effect, wilson
from analysis.histogram import percentiles
from analysis.latencies import stage_histograms
from analysis.tally import StageTally, joined

NS_PER_MS: Final = 1_000_000


def objectives(tally: StageTally) -> dict[str, Any]:
    """By limit: its percentile's value and whether that meets it, and how many requests met it."""
    histograms = stage_histograms(tally)
    limits = {}
    for name, limit in tally.limits.items():
        limits[name] = {
            "limit_ms": limit.limit_ns / NS_PER_MS,
            "percentile": limit.percentile,
            "value_ms": None,
            "met": None,
            "met_share": tally.met[name] / tally.concerned[name] if tally.concerned[name] else None,
            "attained": _attained(tally, name),
        }
        # There is a value from the intended time only with a schedule, and then the limit is held against that one.
        waited = histograms.get(f"{name}_intended")
        values = waited if waited is not None and waited.total else histograms[name]
        if limit.percentile is not None and values.total:
            value_ns = percentiles(values, [limit.percentile])[0]
            assert value_ns is not None
            limits[name] |= {"value_ms": round(value_ns / NS_PER_MS, 6), "met": value_ns <= limit.limit_ns}
    return limits


def _attained(tally: StageTally, name: str) -> dict[str, Any] | None:
    """The share of the requests answered or failed that met an objective, with Wilson's interval over what they are worth.

    A failure has met nothing; an answer that has not what is limited (slo.concerned) is left out. Neighbours wait in one
    queue: `worth` is how many independent requests they amount to.
    """
    if not tally.judged_due_ns:
        return None
    in_order = np.argsort(joined(tally.judged_due_ns), kind="stable")
    met = joined(tally.judged_met[name])[in_order][joined(tally.judged_concerned[name])[in_order]]
    if not len(met):
        return None
    worth = len(met) / design_effect(met)
    found = wilson(float(np.count_nonzero(met)) / len(met) * worth, worth)
    return {
        "requests": len(met),
        "met": int(np.count_nonzero(met)),
        "worth": round(worth, 3),
        "low": round(found.low, 9),
        "high": round(found.high, 9),
    }


def fluidity(tally: StageTally) -> float | None:
    """The share of the token deadlines that were met; None where there are none."""
    deadlines = tally.deadlines_met + tally.deadlines_missed
    return tally.deadlines_met / deadlines if deadlines else None
