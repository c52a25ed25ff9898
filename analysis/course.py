"""How a stage went from moment to moment: its timeline, whether its halves agree, whether a backlog grows."""

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from analysis import rates
from analysis.confidence import MOST_BLOCKS, halves
from analysis.queueing import growth, longer_waits_s, scatter_of
from analysis.rows import ABSENT, Integers
from analysis.tally import StageTally, joined

NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000
NS_PER_S: Final = 1_000_000_000


class Flow(NamedTuple):
    """What is kept of every request that was sent; `ttft_ns` and `ttft_due_ns` are ABSENT where it did not complete."""

    sent_ns: Integers
    due_ns: Integers
    ended_ns: Integers
    ttft_ns: Integers
    ttft_due_ns: Integers


def flow_of(tally: StageTally) -> Flow:
    """The pieces of a tally put together; without a schedule `due_ns` is `sent_ns`, the very array."""
    sent_ns, ended_ns, ttft_ns = (
        joined(pieces) for pieces in (tally.all_sent_ns, tally.all_ended_ns, tally.all_ttft_ns)
    )
    if all(due is sent for due, sent in zip(tally.all_due_ns, tally.all_sent_ns, strict=True)):
        return Flow(sent_ns, sent_ns, ended_ns, ttft_ns, ttft_ns)
    due_ns = joined(tally.all_due_ns)
    return Flow(sent_ns, due_ns, ended_ns, ttft_ns, np.where(ttft_ns == ABSENT, ABSENT, ttft_ns + (sent_ns - due_ns)))


def timeline(tally: StageTally, flow: Flow, open_loop: bool) -> dict[str, Any]:
    """By bin, from the stage's start to its end; `start_s` counts from the start of the window.

    In open loop the requests that fell due in each bin (dropped ones too) and those that were sent: what runs ahead of the
    other, summed up, is the backlog. `failed` goes by the moment of the failure, `lag_max_us` is the worst read of the
    requests that ended in the bin.
    """
    line, known = tally.timeline, flow.ttft_ns != ABSENT
    sent_ns, due_ns, ttft_ns = flow.sent_ns[known], flow.due_ns[known], flow.ttft_ns[known]
    in_flight = rates.in_flight_means(flow.sent_ns, flow.ended_ns, line.edges_ns)
    return {
        "bin_s": line.bin_ns / NS_PER_S,
        "start_s": (line.origin_ns - tally.window.start_ns) / NS_PER_S,
        "output_tokens": [round(tokens, 3) for tokens in line.tokens.tolist()],
        "in_flight": [round(mean, 3) for mean in in_flight.tolist()],
        "offered": line.offered.tolist() if open_loop else None,
        "sent": line.sent.tolist() if open_loop else None,
        "failed": line.failed.tolist(),
        "lag_max_us": [round(lag_ns / NS_PER_US, 3) for lag_ns in line.lag_max_ns.tolist()],
        "ttft_p50_ms": _p50_by_bin(line, sent_ns, ttft_ns),
        "ttft_intended_p50_ms": _p50_by_bin(line, due_ns, flow.ttft_due_ns[known]) if open_loop else None,
    }


def _p50_by_bin(line: rates.Timeline, times_ns: Integers, values_ns: Integers) -> list[float | None]:
    bins = rates.bins_of(line, times_ns)
    in_order = np.argsort(bins, kind="stable")
    borders = np.searchsorted(bins[in_order], np.arange(len(line.tokens) + 1))
    pieces = (values_ns[in_order[first:after]] for first, after in pairwise(borders))
    return [round(float(np.median(one)) / NS_PER_MS, 6) if len(one) else None for one in pieces]


def steadiness(tally: StageTally, flow: Flow, open_loop: bool) -> dict[str, Any]:
    """The tests of steadiness: tokens by bin, TTFT by request, in time order and inside the window.

    In open loop the one that is judged is TTFT from the intended time: a queue that grows in the client, before the
    send, would not show in the other.
    """
    line = tally.timeline
    per_s = line.tokens[line.before : line.before + line.inside] * (NS_PER_S / line.bin_ns)
    counted = rates.within(tally.window, flow.due_ns) & (flow.ttft_ns != ABSENT)
    in_order = np.flatnonzero(counted)[np.argsort(flow.due_ns[counted], kind="stable")]
    return {
        "output_tokens_per_s": _compared(per_s),
        "ttft_ms": _compared(_medians_ms(flow.ttft_ns[in_order])),
        "ttft_intended_ms": _compared(_medians_ms(flow.ttft_due_ns[in_order])) if open_loop else None,
    }


def _medians_ms(values_ns: Integers) -> list[float]:
    # Blocks of five requests at least: the medians of fewer would be single requests.
    blocks = np.array_split(values_ns, max(1, min(MOST_BLOCKS, len(values_ns) // 5)))
    return [float(np.median(block)) / NS_PER_MS for block in blocks if len(block)]


def _compared(series: Any) -> dict[str, Any] | None:
    compared = halves(series)
    if compared is None:
        return None
    return {
        "first": round(compared.first, 6),
        "second": round(compared.second, 6),
        "change_share": round(compared.change_share, 6),
        "t": round(compared.t, 3),
        "t_limit": round(compared.t_limit, 3),
        "differ": compared.differ,
    }


def backlog(plan: dict[str, Any], tally: StageTally, flow: Flow) -> dict[str, Any] | None:
    """Whether what has come due and is not answered yet grows over the window: a rate above what the endpoint serves."""
    window, line = tally.window, tally.timeline
    edges_ns = line.edges_ns[line.before : line.before + line.inside + 1]
    arrived = int(np.count_nonzero(rates.within(window, flow.due_ns)))
    if len(edges_ns) < 2 or not window.length_ns:
        return None
    waiting = rates.in_flight_means(flow.due_ns, flow.ended_ns, edges_ns)
    known = flow.ttft_due_ns != ABSENT
    found = growth(
        (edges_ns[:-1] - window.start_ns) / NS_PER_S,
        waiting,
        arrived / (window.length_ns / NS_PER_S),
        scatter_of(plan["load"].get("arrivals", "")),
        np.searchsorted(np.sort(flow.ended_ns), edges_ns[1:]),
        longer_waits_s=longer_waits_s(flow.due_ns[known], flow.ttft_due_ns[known]),
    )
    return (
        None
        if found is None
        else {
            "growth_per_s": round(found.per_s, 6),
            "growth_share": round(found.share, 6),
            "deviations": round(found.deviations, 3),
            "grows": found.grows,
        }
    )
