"""Doubts about a whole run: what is missing of it, and what this machine did to it."""

from typing import Final

from analysis.verdict.doubt import Doubt, Facts, listed

MOST_THROTTLED_MS: Final = 10


def interrupted(summary: Facts) -> Doubt | None:
    """The run did not come to its end, or nobody was left to note it."""
    ended, capture = summary["ended"], summary["capture"]
    begun = f"after {capture['stages_begun']} of {capture['stages_planned']} stages had begun"
    if ended is None:
        if _cut(summary):  # killed, or still at work: cut_captures says so
            return None
        words = f"the run noted no end {begun}, though its workers ended: what drove it was killed"
        return Doubt("run-killed", words, "read what is there with care, or run it again")
    if ended["reason"] == "finished":
        return None
    words = f"the run {'failed' if ended['reason'] == 'failed' else 'was ' + ended['reason']} {begun}"
    if ended.get("words"):
        words += f": {ended['words']}"
    return Doubt(f"run-{ended['reason']}", words, "read what is there with care, or run it again")


def cut_captures(summary: Facts) -> Doubt | None:
    """A worker did not close its capture: killed, or still running."""
    cut, workers = _cut(summary), summary["capture"]["workers"]
    if not cut:
        return None
    return Doubt(
        "capture-cut",
        f"{len(cut)} of {workers} workers did not close their capture (worker {listed(cut)}): killed, or still at work. "
        f"It reads up to its last whole batch; {summary['capture']['cut_requests']:,} requests that had been sent by then "
        "have no row, and what came later is not known",
        "wait for the run to end and report again; if it has ended, look for a worker killed for its memory",
    )


def _cut(summary: Facts) -> list[int]:
    """Workers whose capture is cut, but for those of a node that was lost: that is told of the node (lost_nodes)."""
    of_lost: set[int] = set()
    first = 0
    for node in summary.get("nodes") or ():  # workers are numbered through the nodes
        if node["lost"]:
            of_lost |= set(range(first, first + node["workers"]))
        first += node["workers"]
    return [worker for worker in summary["capture"]["cut_workers"] if worker not in of_lost]


def missing_workers(summary: Facts) -> Doubt | None:
    """A planned worker left no file at all."""
    missing, workers = summary["capture"]["missing_workers"], summary["capture"]["workers"]
    if not missing:
        return None
    return Doubt(
        "worker-missing",
        f"{len(missing)} of {workers} workers left no capture (worker {listed(missing)}), and its load is missing",
        "bring their files into capture/, or run it again",
    )


def unpinned(summary: Facts) -> Doubt | None:
    """The system refused a worker the core that it was to have."""
    refused = summary["capture"]["unpinned_workers"]
    if not refused:
        return None
    return Doubt(
        "unpinned",
        f"worker {listed(refused)} could not be bound to a core of its own: the system refused it, and may move it about",
        "allow sched_setaffinity in the container, or give --cpus that it may use",
    )


def throttled(summary: Facts) -> Doubt | None:
    """The CPU quota of a control group stopped the run's processes."""
    held_ms = summary["throttled_ms"] or 0
    if held_ms <= MOST_THROTTLED_MS:
        return None
    return Doubt(
        "throttled",
        f"the CPU quota of the control group held its processes back for {held_ms:,.0f} ms in all",
        "fewer --workers, or a higher quota (cpu.max, docker --cpus)",
    )


def stages_missing(summary: Facts) -> Doubt | None:
    """Stages that were planned and never began, in a run that does not say that it was stopped."""
    begun, planned = summary["capture"]["stages_begun"], summary["capture"]["stages_planned"]
    if begun == planned or interrupted(summary):
        return None
    return Doubt("stages-missing", f"{planned - begun} of {planned} stages have not begun", "wait for the run to end")
