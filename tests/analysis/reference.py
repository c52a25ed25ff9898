"""The metrics once more, slowly, a request at a time, from the definitions; shares nothing with the product."""

import math
from itertools import pairwise
from typing import Any

Request = dict[str, Any]


def ttft(r: Request) -> int | None:
    return r["event_ns"][0] - r["sent_ns"] if r["event_ns"] else None


def due(r: Request) -> int:
    return r["sent_ns"] if r.get("intended_ns") is None else r["intended_ns"]


def lateness(r: Request) -> int | None:
    return None if r.get("intended_ns") is None or r.get("retries") else r["sent_ns"] - r["intended_ns"]


def ttft_intended(r: Request) -> int | None:
    return r["event_ns"][0] - r["intended_ns"] if r["event_ns"] and r.get("intended_ns") is not None else None


def ttfa(r: Request) -> int | None:
    kinds = r.get("event_kind")
    if not kinds or 1 not in kinds:
        return None
    return next((t - r["sent_ns"] for t, kind in zip(r["event_ns"], kinds, strict=True) if kind != 1), None)


def e2e(r: Request) -> int | None:
    return r["event_ns"][-1] - r["sent_ns"] if r["event_ns"] else None


def e2e_intended(r: Request) -> int | None:
    return r["event_ns"][-1] - r["intended_ns"] if r["event_ns"] and r.get("intended_ns") is not None else None


def end_of_stream(r: Request) -> int | None:
    return None if r.get("last_byte_ns") is None else r["last_byte_ns"] - r["sent_ns"]


def connect(r: Request) -> int | None:
    return r.get("connect_ns")


def output_tokens(r: Request) -> int:
    if r.get("output_tokens") is not None:
        return r["output_tokens"]
    if r.get("event_tokens") is not None:
        return sum(r["event_tokens"])
    return len(r["event_ns"])


def tpot(r: Request) -> int | None:
    if len(r["event_ns"]) < 2:
        return None
    first = r["event_tokens"][0] if r.get("event_tokens") is not None else 1
    rest = output_tokens(r) - first
    return round((r["event_ns"][-1] - r["event_ns"][0]) / rest) if rest > 0 else None


def gaps(r: Request) -> list[int]:
    return [later - earlier for earlier, later in zip(r["event_ns"], r["event_ns"][1:], strict=False)]


def gaps_per_token(r: Request) -> list[int]:
    tokens = r.get("event_tokens") or [1] * len(r["event_ns"])
    return [round(gap / max(count, 1)) for gap, count in zip(gaps(r), tokens[1:], strict=False)]


def event_tokens(r: Request) -> list[float]:
    if r.get("event_tokens") is not None:
        return [float(count) for count in r["event_tokens"]]
    return [output_tokens(r) / len(r["event_ns"])] * len(r["event_ns"]) if r["event_ns"] else []


def tokens_between(requests: list[Request], start_ns: int, stop_ns: int) -> float:
    return sum(
        count
        for r in requests
        for t, count in zip(r["event_ns"], event_tokens(r), strict=True)
        if start_ns <= t < stop_ns
    )


def in_flight(spans: list[tuple[int, int]], start_ns: int, stop_ns: int) -> tuple[float, int]:
    """Mean and peak of the step function, by walking over every moment at which it changes."""
    moments = sorted({start_ns, stop_ns, *(t for span in spans for t in span if start_ns < t < stop_ns)})
    area, peak = 0, 0
    for here, there in pairwise(moments):
        level = sum(sent <= here < ended for sent, ended in spans)
        area += level * (there - here)
        peak = max(peak, level)
    return area / (stop_ns - start_ns), peak


def nearest_rank(values: list[int], percentile: float) -> int:
    """The percentile, to four decimals, by counting."""
    rank = max(1, math.ceil(len(values) * round(percentile * 10_000) / 1_000_000 - 1e-9))
    return sorted(values)[rank - 1]


def deadlines(r: Request, first_ns: int, each_ns: int) -> tuple[int, int]:
    """Token by token, with the slack carried in a variable, as the paper has it."""
    met = missed = slack = 0
    before = due(r)
    for index, t in enumerate(r["event_ns"]):
        took, allowed = t - before, (first_ns if index == 0 else each_ns) + slack
        before = t
        if took <= allowed:
            met += 1
            slack = allowed - took
        else:
            missed += 1 + (took - allowed) // each_ns
            slack = 0
    return met, missed
