"""A run that has something of everything."""

import numpy as np
from synthetic import MS, START_NS, S, mark, open_plan, row, stage_plan

SLO = {"ttft": {"percentile": 99, "limit_ms": 80.0}}


def drawn_rows():
    """Two stages: a closed loop, then an open one with failures, users who left, arrivals never sent, several tokens an
    event, reasoning.
    """
    rng = np.random.default_rng(11)
    rows = []
    for k in range(300):
        sent_ns = START_NS + k * 30 * MS
        gaps = rng.integers(4 * MS, 7 * MS, rng.integers(1, 20))
        events = (sent_ns + int(rng.integers(20 * MS, 90 * MS)) + np.cumsum(gaps)).tolist()
        facts = {"request_id": k, "worker": 0, "prompt_tokens": 100 + k % 7, "output_tokens": len(events)}
        rows.append(row(sent_ns, events, finish_reason="stop", response_id=f"id-{k}", **facts))
    for k in range(300, 500):
        due_ns = START_NS + 20 * S + (k - 300) * 40 * MS
        sent_ns = due_ns + int(rng.integers(0, 3 * MS))
        events = (sent_ns + int(rng.integers(20 * MS, 90 * MS)) + np.cumsum(rng.integers(4 * MS, 7 * MS, 9))).tolist()
        facts = {"request_id": k, "stage": 1, "intended_ns": due_ns}
        if k % 10 == 1:
            facts |= {"error": "http-503", "status": 503}
            events = []
        elif k % 10 == 2:
            facts |= {"error": "cancelled"}
        elif k % 10 == 3:
            facts |= {"error": "dropped", "status": None}
            events = []
        elif k % 10 == 4:
            facts |= {"event_tokens": [1, 2, 3] * 3, "event_kind": [1] * 3 + [0] * 6, "reasoning_tokens": 6}
        rows.append(row(sent_ns, events, **facts))
    return sorted(rows, key=lambda one: (one["stage"], one["ended_ns"]))


PLANS = [stage_plan(0, name="calm"), open_plan(1, rate_per_s=25.0, load_max_in_flight=64)]
MARKS = [mark(0), mark(1, START_NS + 20 * S)]


def measured_rows(rows, stage):
    """Those that the latencies of a stage are of."""
    begin_ns = START_NS + stage * 20 * S
    of_stage = [r for r in rows if r["stage"] == stage and r.get("error") is None]
    due = [r["sent_ns"] if r.get("intended_ns") is None else r["intended_ns"] for r in of_stage]
    return [r for r, due_ns in zip(of_stage, due, strict=True) if begin_ns <= due_ns < begin_ns + 10 * S]
