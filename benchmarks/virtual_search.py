"""The search for the highest rate within objectives, in virtual time: hundreds of searches in the time of one.

The next rate comes from analysis.search, the arrivals from loadgen.schedule, the endpoint is the simulator's engine, and the
lengths of the stages are those of loadgen.job.saturate with two minutes. What is left out is the client: what a stage shows
is what the engine did.

    python benchmarks/virtual_search.py [--runs 40] [--arrivals typical|poisson]

A row an endpoint: how many answers lie within 5 % of the truth (virtual.py), how many intervals hold it, mean and standard
deviation of what they are off.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np
from bench import save
from saturation import ENDPOINTS, Endpoint
from virtual import NS, Asked, highest_within

from analysis.bootstrap import Interval, design_effect, wilson
from analysis.queueing import growth, longer_waits_s
from analysis.search import Answer, Bounds, Point, long_share, next_for_slo, so_far
from loadgen.schedule.arrivals import Process, offsets_ns
from loadgen.schedule.profile import parse_profile
from loadgen.simulator.engine import Engine, capacity

BUDGET_S: Final = 120.0
MOST_RATE: Final = 1e5
SAMPLE_S: Final = 0.1


def alone_s(endpoint: Endpoint) -> float:
    """How long a response takes without other load."""
    engine, (n_input, n_output) = endpoint.engine, endpoint.tokens
    prefill_s = n_input / engine.prefill_tokens_per_s if engine.prefill_tokens_per_s else 0.0
    return engine.ttft_ns / NS + prefill_s + n_output * engine.step_ns / NS


def lengths_s(endpoint: Endpoint, left_s: float, n_long: int, *, is_long: bool) -> tuple[float, float]:
    """(warm-up, window) of a stage, as loadgen.job.saturate has them."""
    taken_s = alone_s(endpoint)
    warmup_s, window_s = max(0.3, 1.3 * taken_s), max(3.0, 2.5 * taken_s)
    if is_long:
        whole_s = max(left_s * long_share(n_long) - 1.25 * taken_s - 1, warmup_s + window_s)
        warmup_s, window_s = max(warmup_s, whole_s / 4), whole_s * 3 / 4
    return warmup_s, window_s


def driven(endpoint: Endpoint, due_ns: Any, end_ns: int, seed: int) -> list[Asked]:
    """What became of requests that are due then."""
    engine: Engine[Asked] = Engine(endpoint.engine, seed)
    asked: list[Asked] = []
    next_due = iter(int(one) for one in due_ns)
    sent_ns = next(next_due, end_ns)
    while (now_ns := min(sent_ns, end_ns, end_ns if engine.next_due_ns is None else engine.next_due_ns)) < end_ns:
        if sent_ns <= now_ns:
            one = Asked(*endpoint.tokens)
            one.sent_ns, one.first_ns, one.last_ns = sent_ns, 0, 0
            asked.append(one)
            engine.submit(one, sent_ns)
            sent_ns = next(next_due, end_ns)
            continue
        for one in engine.advance(now_ns):
            one.first_ns = one.first_ns or now_ns
            one.last_ns = now_ns
    return asked


def stage(
    endpoint: Endpoint, rate: float, seconds: tuple[float, float], arrivals: str, number: int, seed: int
) -> tuple[dict[str, Any], bool]:
    """By objective which requests met it, in the order sent; and whether the backlog grew."""
    warm_ns, until_ns = int(seconds[0] * NS), int(sum(seconds) * NS)
    taken_ns = round(alone_s(endpoint) * 1000) * (NS // 1000)
    process = Process("typical", response_ns=taken_ns) if arrivals == "typical" else Process("poisson")
    due_ns = offsets_ns(
        process, parse_profile(f"{rate:.9g}"), seed=seed, stage=number, until_ns=until_ns, warmup_ns=warm_ns
    )
    asked = driven(endpoint, due_ns, until_ns + 2 * taken_ns + NS, seed)
    counted = [one for one in asked if one.sent_ns >= warm_ns]
    done = np.array([one.tokens_done >= one.output_tokens for one in counted], dtype=bool)
    first, last, sent = (
        np.array([getattr(one, name) for one in counted], dtype=float) for name in ("first_ns", "last_ns", "sent_ns")
    )
    values = {"ttft": (first - sent) / 1e6, "tpot": (last - first) / 1e6 / max(endpoint.tokens[1] - 1, 1)}
    facts: dict[str, Any] = {
        metric: (percentile, done & (values[metric] <= limit), values[metric][done] / limit)
        for metric, (percentile, limit) in endpoint.objectives.items()
    }
    times = np.arange(warm_ns, until_ns, SAMPLE_S * NS)
    ended = np.sort([one.last_ns if one.tokens_done >= one.output_tokens else math.inf for one in asked])
    backlog = np.searchsorted([one.sent_ns for one in asked], times) - np.searchsorted(ended, times)
    begun = first > 0
    waits_s = longer_waits_s(sent[begun], (first - sent)[begun])
    found = growth(times / NS, backlog, rate, answered=np.searchsorted(ended, times), longer_waits_s=waits_s)
    return facts, bool(found and found.grows)


def point(
    endpoint: Endpoint, rate: float, stages: list[tuple[dict[str, Any], bool]], *, is_long: bool, served_per_s: float
) -> Point:
    """As analysis.saturation makes it of a summary."""
    meets: list[bool | None] = []
    leans, strain, worst = True, 0.0, (0.0, 0.0, 0.0)
    for metric, (percentile, _) in endpoint.objectives.items():
        parts = [facts[metric][1] for facts, _ in stages]
        n, met = sum(map(len, parts)), int(sum(part.sum() for part in parts))
        if not n:
            meets.append(None)
            continue
        worth = sum(len(part) / design_effect(part) for part in parts if len(part))
        share, wanted = wilson(met / n * worth, worth), percentile / 100
        meets.append(True if share.low >= wanted else False if share.high < wanted else None)
        leans = leans and met / n >= wanted
        ratios = np.concatenate([facts[metric][2] for facts, _ in stages])
        strain = max(strain, float(np.percentile(ratios, percentile)) if len(ratios) else 0.0)
        missed, allowed = n - met, 1 - wanted
        worst = max(worst, ((missed or 0.5) / n / allowed, missed / n * worth, allowed * worth))
    saturated = sum(grows for _, grows in stages) > len(stages) / 2
    decided = False if saturated or False in meets else None if None in meets else True
    per_s = Interval(*[min(rate, served_per_s)] * 3)
    return Point(
        rate, per_s, per_s, stages=len(stages), meets=decided, leans=leans and not saturated, strain=strain,
        misses=worst[1], may_miss=worst[2], is_long=is_long, saturated=saturated,
    )  # fmt: skip


def searched(seed: int, endpoint: Endpoint, arrivals: str) -> Answer:
    """One search."""
    left_s, number, n_long = BUDGET_S, 0, 0
    served_per_s = capacity(endpoint.engine, *endpoint.tokens).requests_per_s
    bounds = Bounds(1 / alone_s(endpoint), MOST_RATE, whole=False)
    seen: dict[float, list[tuple[dict[str, Any], bool]]] = {}
    points: dict[float, Point] = {}
    while not isinstance(step := next_for_slo(list(points.values()), bounds), Answer):
        seconds = lengths_s(endpoint, left_s, n_long, is_long=step.is_long)
        left_s -= sum(seconds) + 1.25 * alone_s(endpoint) + 1
        if left_s < -1:
            return so_far("slo", list(points.values()), bounds)
        number, n_long = number + 1, n_long + step.is_long
        seen.setdefault(step.load, []).append(stage(endpoint, step.load, seconds, arrivals, number, seed))
        points[step.load] = point(endpoint, step.load, seen[step.load], is_long=step.is_long, served_per_s=served_per_s)
    return step


def main() -> None:
    """All endpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--arrivals", choices=("typical", "poisson"), default="typical")
    chosen = parser.parse_args()
    for endpoint in ENDPOINTS:
        most = 4 * capacity(endpoint.engine, *endpoint.tokens).requests_per_s
        truth = highest_within(endpoint.engine, endpoint.tokens, "rate", endpoint.objectives, most)
        with ProcessPoolExecutor() as pool:
            found = partial(searched, endpoint=endpoint, arrivals=chosen.arrivals)
            answers = list(pool.map(found, range(chosen.runs)))
        off = np.array([answer.load.value / truth - 1 for answer in answers])
        save(
            "saturation",
            {
                "case": "virtual",
                "endpoint": endpoint.name,
                "arrivals": chosen.arrivals,
                "runs": chosen.runs,
                "truth": round(truth, 3),
                "within_5_per_cent": int((abs(off) <= 0.05).sum()),
                "holds": sum(answer.load.low <= truth <= answer.load.high for answer in answers),
                "off_mean": round(float(off.mean()), 4),
                "off_sd": round(float(off.std()), 4),
                "half_width": round(
                    float(np.mean([(one.load.high - one.load.low) / 2 / one.load.value for one in answers])), 4
                ),
            },
        )


if __name__ == "__main__":
    main()
