"""Single requests: a few seconds of a stage, each request a bar of waiting, the way to the first token, and decoding."""

from typing import Final

import altair as alt
import numpy as np

from analysis.closeups import CloseUp
from analysis.figures.facts import PRECISE, Rows, chart_of
from analysis.summary import Analysis

SHOWN: Final = 80
"""Requests in the picture."""

SPAN_OF_MEDIANS: Final = 3
"""The picture spans so many times the median request."""

STEP_PX: Final = 6
WIDTH: Final = 900

NS_PER_MS: Final = 1e6
NS_PER_S: Final = 1e9

PHASES: Final = ("waiting for a place", "to the first token (queue, prefill)", "decode", "longest pause")


def shown(sample: list[CloseUp], start_ns: int, stop_ns: int, most: int = SHOWN) -> list[CloseUp]:
    """At most so many requests of a stretch in the middle of the window, by the moment they were due.

    The stretch is as long as three requests; where the sample is too thin for that to hold as many as are shown, longer.
    """
    if not sample:
        return []
    span_ns = SPAN_OF_MEDIANS * float(np.median([one.ended_ns - one.due_ns for one in sample]))
    length_ns = max(stop_ns - start_ns, 1)
    span_ns = min(max(span_ns, length_ns * min(most / len(sample), 1)), length_ns)
    from_ns = start_ns + (length_ns - span_ns) / 2
    inside = [one for one in sample if from_ns <= one.due_ns <= from_ns + span_ns] or sample
    # The sample comes in an order that means nothing, so its first ones are as good as any.
    return sorted(inside[:most], key=lambda one: (one.due_ns, one.ended_ns))


def waterfall_rows(analysis: Analysis, stage: int, most: int = SHOWN) -> Rows:
    """Bars of the stage at this place of the summary: seconds since its window began."""
    facts = analysis.summary["stages"][stage]
    start_ns, stop_ns = facts["window"]["start_ns"], facts["window"]["stop_ns"]
    rows: Rows = []
    for place, one in enumerate(shown(analysis.details[facts["stage"]].sample, start_ns, stop_ns, most)):
        first_ns = one.ended_ns if one.first_ns is None else one.first_ns
        last_ns = one.ended_ns if one.last_ns is None else one.last_ns
        told = {
            "place": place,
            "request": f"{one.request_id}",
            "outcome": one.outcome or "completed",
            "tokens": one.output_tokens,
            "ttft_ms": None if one.first_ns is None else round((one.first_ns - one.sent_ns) / NS_PER_MS, 3),
            "e2e_ms": None if one.last_ns is None else round((one.last_ns - one.sent_ns) / NS_PER_MS, 3),
            "pause_ms": round(one.pause_ns / NS_PER_MS, 3),
        }
        bars = [(0, one.due_ns, one.sent_ns), (1, one.sent_ns, first_ns), (2, first_ns, last_ns)]
        if one.pause_from_ns is not None and one.events > 2:
            bars.append((3, one.pause_from_ns, one.pause_from_ns + one.pause_ns))
        rows += [
            told
            | {
                "phase": PHASES[phase],
                "from_s": round((from_ns - start_ns) / NS_PER_S, 6),
                "to_s": round((to_ns - start_ns) / NS_PER_S, 6),
            }
            for phase, from_ns, to_ns in bars
            if to_ns > from_ns
        ]
    return rows


def waterfall(analysis: Analysis, stage: int | None = None, *, most: int = SHOWN) -> alt.Chart:
    """A sample of a stage's requests in the middle of its window; by default of the last stage, the heaviest load.

    `stage` is its place in the summary. The longest pause between two events of a request is marked within its decoding.
    """
    stages = analysis.summary["stages"]
    stage = len(stages) - 1 if stage is None else stage
    rows = waterfall_rows(analysis, stage, most)
    present = {row["phase"] for row in rows}
    height = STEP_PX * max((row["place"] + 1 for row in rows), default=1)
    begins = min((row["from_s"] for row in rows), default=0.0)
    ends = max((row["to_s"] for row in rows), default=1.0)
    drawn: alt.Chart = (
        chart_of(rows)
        .mark_bar(height=STEP_PX - 1.5)
        .encode(
            x=alt.X(
                "from_s:Q",
                title="seconds since the window began",
                scale=alt.Scale(domain=[begins, ends], nice=False, zero=False),
                axis=alt.Axis(format=",~r", orient="top", grid=True),
            ),
            x2="to_s:Q",
            y=alt.Y("place:O", axis=None, sort=None),
            color=alt.Color(
                "phase:N",
                title=None,
                sort=None,
                scale=alt.Scale(domain=list(PHASES)),
                legend=alt.Legend(
                    orient="top", columns=2, symbolType="square", values=[one for one in PHASES if one in present]
                ),
            ),
            tooltip=[
                alt.Tooltip("request:N"),
                alt.Tooltip("phase:N"),
                alt.Tooltip("from_s:Q", title="from, s", format=",.3f"),
                alt.Tooltip("to_s:Q", title="to, s", format=",.3f"),
                alt.Tooltip("outcome:N"),
                alt.Tooltip("tokens:Q", title="output tokens", format=","),
                alt.Tooltip("ttft_ms:Q", title="TTFT, ms", format=PRECISE),
                alt.Tooltip("e2e_ms:Q", title="E2E, ms", format=PRECISE),
                alt.Tooltip("pause_ms:Q", title="longest pause, ms", format=PRECISE),
            ],
        )
        .properties(width=WIDTH, height=height)
    )
    return drawn
