"""Stages of a search -> points of search.py, and the answer -> saturation.json.

A stage tells either of the endpoint or of the load generator. It tells of the generator when a worker had no CPU left, read
so late that events merged, or could not send what was planned; then it is no point of the endpoint's curve. Whatever is not
CPU may have been a disturbance of this machine: such a stage is run again, and counts against the generator only when it
happens twice.
"""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from analysis.bootstrap import Interval, block_bootstrap, wilson
from analysis.search import Answer, Point
from analysis.verdict.client import busy_workers, coalesced, lag

Facts = dict[str, Any]

SATURATION_SCHEMA: Final = 1

DEFAULT_PERCENTILE: Final = 99.0
"""Of an objective that names none."""

MOST_LATE_SHARE: Final = 0.1
"""Of the median TTFT: when the median send is later than this, the load is not the one that was asked for. The verdict
doubts a run far sooner, for a few late sends; here they have to be the rule."""

FEWEST_SENDS: Final = 20

LEAST_IN_FLIGHT_SHARE: Final = 0.95

BUSY_SHARE: Final = 0.4
"""Of a core: a worker less busy than this has not met its own limit. If it read or sent late all the same, something else
held it up (the verdict says so), and merged reads are the server's writes."""

MOST_FAILED_SHARE: Final = 0.5

SHORT_S: Final = 1.0


def client_limits(stage: Facts) -> list[str]:
    """Why a stage tells of the load generator, each with what to do; [] where it tells of the endpoint."""
    client = stage["client"]
    busiest = max((share for share in client["cpu_share"] if share is not None), default=0.0)
    if busiest < BUSY_SHARE:
        return []
    doubts = (busy_workers(stage), lag(stage), coalesced(stage))
    reasons = [f"{doubt.words}; try {doubt.try_}" for doubt in doubts if doubt]
    load, requests = stage["load"], stage["requests"]
    late, ttft_ms = client["lateness_us"] or {"count": 0}, (stage["ttft_ms"] or {}).get("p50")
    waits = load.get("max_in_flight") or load.get("late_drop_s")
    if late["count"] >= FEWEST_SENDS and ttft_ms and not waits and late["p50"] > MOST_LATE_SHARE * ttft_ms * 1000:
        reasons.append(
            f"half of the sends were {late['p50']:,.0f} us late, TTFT p50 is {ttft_ms:,.3f} ms; try more --workers or --cpus"
        )
    is_plain = load["mode"] == "concurrency" and not load.keys() & {"profile", "think", "unit"}
    in_flight = (stage["concurrency"] or {"mean": 0.0})["mean"]
    if is_plain and not requests["failed"] and in_flight < LEAST_IN_FLIGHT_SHARE * load["value"]:
        reasons.append(
            f"{in_flight:,.4g} requests were in flight on average, {load['value']:,} were planned; try more --workers"
        )
    return reasons


def is_sure(stage: Facts) -> bool:
    """Whether what speaks against the client cannot have been a passing disturbance."""
    return busy_workers(stage) is not None


def grouped(stages: Sequence[Facts]) -> dict[float, list[Facts]]:
    """The stages of a search by their load."""
    groups: dict[float, list[Facts]] = {}
    for stage in stages:
        groups.setdefault(float(stage["load"]["value"]), []).append(stage)
    return groups


def disturbed(stages: Sequence[Facts]) -> float | None:
    """A load that has to be run again, because its only stage was disturbed by something on this machine; None if none."""
    for load, group in grouped(stages).items():
        if len(group) == 1 and client_limits(group[0]) and not is_sure(group[0]):
            return load
    return None


def points(stages: Sequence[Facts], long: Collection[float] = ()) -> list[Point]:
    """A point for each load; stages that were disturbed are left out where there is one that was not.

    `long`: the loads whose stages were the long ones of the search.
    """
    tokens_a_request = _tokens_a_request(stages)
    made = []
    for load, group in sorted(grouped(stages).items()):
        clean = [stage for stage in group if not client_limits(stage)]
        made.append(_point(load, clean or group, tokens_a_request, is_clean=bool(clean), is_long=load in long))
    return made


def _point(
    load: float, group: Sequence[Facts], tokens_a_request: float | None, *, is_clean: bool, is_long: bool
) -> Point:
    # A queue may grow by chance for the length of one stage.
    saturated = sum(is_saturated(stage) for stage in group) > len(group) / 2
    chosen = [stage for stage in group if is_saturated(stage)] if saturated else list(group)
    tokens = _pooled([_throughput(stage) for stage in chosen])
    if group[0]["load"]["mode"] == "rate" and tokens_a_request:
        # Completions lag behind while a queue grows, and are few in a short window; tokens are neither.
        requests = Interval(*(one / tokens_a_request for one in tokens))
    else:
        requests = _pooled([_rate(stage, "requests_per_s") for stage in chosen])
    meets, leans, strain = _objectives(group)
    if saturated:
        meets, leans = False, False
    misses, may_miss = _misses(group)
    return Point(
        load=load,
        output_tokens_per_s=tokens,
        requests_per_s=requests,
        stages=len(group),
        meets=meets,
        leans=leans,
        strain=strain,
        misses=misses,
        may_miss=may_miss,
        is_long=is_long,
        saturated=saturated,
        client=() if is_clean else tuple(client_limits(group[0])),
    )


def is_saturated(stage: Facts) -> bool:
    """Whether an open-loop stage did not keep up."""
    return bool((stage["backlog"] or {}).get("grows")) or (stage["outcome"] or {}).get("reason") == "cut"


def _throughput(stage: Facts) -> Interval:
    """Output tokens a second: over the window; where the backlog grows over its second half, when the endpoint was full."""
    if not is_saturated(stage):
        return _rate(stage, "output_tokens_per_s")
    line = stage["timeline"]
    bin_s = line["bin_s"]
    starts = line["start_s"] + bin_s * np.arange(len(line["output_tokens"]))
    inside = (starts >= stage["window_s"] / 2 - 1e-9) & (starts + bin_s <= stage["window_s"] + 1e-9)
    per_s = np.array(line["output_tokens"])[inside] / bin_s
    found = block_bootstrap(per_s, np.mean)
    if found is None:
        value = float(per_s.mean()) if len(per_s) else stage["output_tokens_per_s"] or 0.0
        return Interval(value, value * 0.9, value * 1.1)
    return found


def _rate(stage: Facts, name: str) -> Interval:
    value = stage[name] or 0.0
    low, high = (stage["intervals"] or {}).get(name) or (value * 0.9, value * 1.1)  # too short to have an interval
    return Interval(value, low, high)


def _pooled(intervals: Sequence[Interval]) -> Interval:
    """The mean of several stages, their errors taken as independent."""
    value = sum(one.value for one in intervals) / len(intervals)
    half = float(np.sqrt(sum(((one.high - one.low) / 2) ** 2 for one in intervals))) / len(intervals)
    return Interval(value, value - half, value + half)


def _tokens_a_request(stages: Sequence[Facts]) -> float | None:
    known = [(stage["requests"]["completed"], stage["output_tokens_a_request"]) for stage in stages]
    counts = [(n, tokens) for n, tokens in known if n and tokens]
    return sum(n * tokens for n, tokens in counts) / sum(n for n, _ in counts) if counts else None


def _objectives(group: Sequence[Facts]) -> tuple[bool | None, bool, float]:
    """(meets, leans, strain) over the stages of one load; (None, True, 0) without objectives."""
    meets: list[bool | None] = []
    leans, strain = True, 0.0
    for name in group[0]["slo"] or {}:
        limits = [stage["slo"][name] for stage in group]
        told = [limit["attained"] for limit in limits if limit["attained"]]
        wanted = (limits[0]["percentile"] or DEFAULT_PERCENTILE) / 100
        requests = sum(one["requests"] for one in told)
        if not requests:
            meets.append(None)
            continue
        share = sum(one["met"] for one in told) / requests
        worth = sum(one["worth"] for one in told)
        found = wilson(share * worth, worth)
        meets.append(True if found.low >= wanted else False if found.high < wanted else None)
        leans = leans and share >= wanted
        values = [limit["value_ms"] for limit in limits if limit["value_ms"] is not None]
        strain = max([strain, *(value / limits[0]["limit_ms"] for value in values)])
    failed, sent = (sum(stage["requests"][key] for stage in group) for key in ("failed", "sent"))
    if sent and failed > MOST_FAILED_SHARE * sent:
        return False, False, strain
    decided = False if False in meets else None if None in meets else True
    return (decided if meets else None), leans, strain


def _misses(group: Sequence[Facts]) -> tuple[float, float]:
    """Of the objective that is missed most: what its misses are worth in independent requests, and how many may miss."""
    found: list[tuple[float, float, float]] = []
    for name in group[0]["slo"] or {}:
        limits = [stage["slo"][name] for stage in group]
        told = [limit["attained"] for limit in limits if limit["attained"]]
        requests = sum(one["requests"] for one in told)
        if not requests:
            continue
        missed = requests - sum(one["met"] for one in told)
        allowed = 1 - (limits[0]["percentile"] or DEFAULT_PERCENTILE) / 100
        worth = sum(one["worth"] for one in told)
        # Half a request where none missed: the one of fewest requests tells least.
        ratio = (missed or 0.5) / requests / max(allowed, 1e-9)
        found.append((ratio, missed / requests * worth, allowed * worth))
    return max(found, default=(0.0, 0.0, 0.0))[1:]


def document(question: str, mode: str, answer: Answer, known: Sequence[Point], stages: Sequence[Facts]) -> Facts:
    """saturation.json as plain values; low and high are 95 %, an open end is null."""
    groups = grouped(stages)
    return {
        "schema": SATURATION_SCHEMA,
        "question": question,
        "load": {"mode": mode, **_named(answer.load)},
        "output_tokens_per_s": _named(answer.output_tokens_per_s),
        "limited_by": answer.limited_by,
        "reasons": list(answer.reasons),
        "method": METHODS[question if question == "knee" else mode],
        "points": [
            {
                "load": point.load,
                "stages": [stage["stage"] for stage in groups[point.load]],
                "output_tokens_per_s": _named(point.output_tokens_per_s),
                "requests_per_s": _named(point.requests_per_s),
                "meets": point.meets if question == "slo" else None,
                "saturated": point.saturated,
                "client": list(point.client),
            }
            for point in known
        ],
    }


METHODS: Final = {
    "concurrency": "doubling, then bisection; Wilson's interval on the share of requests that met each objective",
    "rate": "doubling, then long stages near the limit (Robbins and Monro) at typical Poisson arrivals; the rate at which "
    "as many requests miss as may, from a log-linear fit with its posterior interval",
    "knee": "segmented fit of the operational bounds (Kleinrock; Denning and Buzen); intervals by parametric bootstrap",
}


def _named(interval: Interval) -> dict[str, float | None]:
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in interval._asdict().items()}


def write(run_dir: Path, told: Facts) -> None:
    """Writes saturation.json, whole or not at all."""
    part = run_dir / "saturation.json.part"
    part.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, run_dir / "saturation.json")


def read(run_dir: Path) -> Facts | None:
    """What was written; None where there is nothing, or nothing that can be read."""
    try:
        told: Facts = json.loads((run_dir / "saturation.json").read_bytes())
    except (OSError, ValueError):
        return None
    return told if told.get("schema") == SATURATION_SCHEMA else None
