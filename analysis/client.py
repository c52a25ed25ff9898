"""The client's own account of a stage: lag, lateness, CPU, and what else befell the workers."""

from collections.abc import Sequence
from typing import Any, Final

from analysis import watches
from analysis.captures import Capture
from analysis.histogram import Histogram, merge, percentiles
from analysis.latencies import block
from analysis.rates import TOKEN
from analysis.tally import StageTally

NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000
NS_PER_S: Final = 1_000_000_000

LONG_SILENCE_NS: Final = NS_PER_S
"""Samples are taken every 100 ms: a worker that takes none for so long was held up."""


def client(tally: StageTally, captures: list[Capture]) -> dict[str, Any]:
    """What all workers together say of themselves: lag and lateness of the window, the rest from start to end."""
    window = tally.window
    span = (window.begin_ns, window.end_ns)
    reads = sum(watches.counted(capture, "reads", *span) for capture in captures)
    unstamped = sum(watches.counted(capture, "unstamped", *span) for capture in captures)
    return {
        "lag_us": block(worst_lag(tally), NS_PER_US, 3),
        "lateness_us": block(lateness(tally), NS_PER_US, 3),
        "coalesced_share": round(tally.coalesced_events / tally.events, 9) if tally.events else None,
        "cpu_share": [_cpu_share(capture, tally) for capture in captures],
        "kernel_stamps": tally.unstamped_requests == 0 if tally.sent else None,
        "stamp_source": "kernel" if all(c.facts["stamp_source"] == "kernel" for c in captures) else "read",
        "unstamped_share": round(unstamped / reads, 9) if reads else None,
        "unstamped_requests": tally.unstamped_requests,
        "unprepared_requests": round(sum(watches.counted(capture, "unprepared", *span) for capture in captures)),
        "reopened_connections": round(sum(watches.counted(capture, "reopened", *span) for capture in captures)),
        "clock_steps_ms": [
            step_ns / NS_PER_MS for node in _nodes(captures).values() for _, step_ns in watches.clock_steps(node, *span)
        ],
        "suspended_ms": sum(
            slept_ns for node in _nodes(captures).values() for _, slept_ns in watches.sleeps(node, *span)
        )
        / NS_PER_MS,
        "silent_ms": {
            str(capture.worker): silence_ns / NS_PER_MS
            for capture in captures
            if (silence_ns := watches.longest_silence_ns(capture, *span)) > LONG_SILENCE_NS
        },
    }


def by_worker(tally: StageTally, captures: list[Capture]) -> list[dict[str, Any]]:
    """The same in short, a worker an entry; also of those that sent nothing."""
    told = []
    for capture in captures:
        worker = tally.workers.get(capture.worker)
        told.append(
            {
                "worker": capture.worker,
                "core": capture.facts["core"],
                "sent": worker.sent if worker else 0,
                "output_tokens": round(worker.output_tokens, 3) if worker else 0,
                "lag_p99_us": _p99_us(worker.lag) if worker else None,
                "lateness_p99_us": _p99_us(worker.lateness) if worker else None,
                "cpu_share": _cpu_share(capture, tally),
            }
        )
    return told


def by_node(tally: StageTally, captures: list[Capture], nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, a machine an entry; `nodes` are the entries of run.json. Also of those whose captures are not there."""
    mine = _nodes(captures)
    told = []
    for node in nodes:
        of_node = mine.get(int(node["node"]), [])
        workers = [tally.workers[one.worker] for one in of_node if one.worker in tally.workers]
        shares = [share for one in of_node if (share := _cpu_share(one, tally)) is not None]
        uncertainty_ns = node.get("clock_uncertainty_ns")
        told.append(
            {
                "node": int(node["node"]),
                "name": node.get("name"),
                "workers": len(of_node),
                "sent": sum(worker.sent for worker in workers),
                "output_tokens": round(sum(worker.output_parts for worker in workers) / TOKEN, 3),
                "lag_p99_us": _p99_us(merge(worker.lag for worker in workers)),
                "lateness_p99_us": _p99_us(merge(worker.lateness for worker in workers)),
                "cpu_share": max(shares, default=None),
                "clock_uncertainty_us": None if uncertainty_ns is None else uncertainty_ns / NS_PER_US,
                "lost": (node.get("lost") or {}).get("words"),
            }
        )
    return told


def _nodes(captures: list[Capture]) -> dict[int, list[Capture]]:
    """The captures of each machine: what its clocks did, each of its workers saw."""
    found: dict[int, list[Capture]] = {}
    for capture in captures:
        found.setdefault(capture.node, []).append(capture)
    return found


def _cpu_share(capture: Capture, tally: StageTally) -> float | None:
    share = watches.cpu_share(capture, tally.window.start_ns, tally.window.stop_ns)
    return None if share is None else round(share, 6)


def _p99_us(histogram: Histogram) -> float | None:
    p99_ns = percentiles(histogram, [99])[0]
    return None if p99_ns is None else p99_ns / NS_PER_US


def worst_lag(tally: StageTally) -> Histogram:
    """The worst read of each request."""
    return merge(worker.lag for worker in tally.workers.values())


def lateness(tally: StageTally) -> Histogram:
    """Sent - intended of each request that has an intended time."""
    return merge(worker.lateness for worker in tally.workers.values())
