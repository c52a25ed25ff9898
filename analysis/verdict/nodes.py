"""Doubts about the machines of a run that was made on several: one was lost, one is slow, clocks are not known well."""

from statistics import median
from typing import Final

from analysis.verdict.doubt import Doubt, Facts, span_of

SLOW_FACTOR: Final = 3.0
LEAST_SLOW_US: Final = 1000.0
"""A node is slow that is so much later than the others, and late enough to matter anywhere."""

MOST_UNSURE_SHARE: Final = 0.5
"""Of a bin of the timeline: beyond it, what is shown side by side did not happen side by side."""

MEASURES: Final = (("lag_p99_us", "reads"), ("lateness_p99_us", "sends"))


def lost_nodes(summary: Facts) -> Doubt | None:
    """A machine was lost in mid-run, and its share of the load with it."""
    lost = [node for node in summary.get("nodes") or () if node["lost"]]
    if not lost:
        return None
    workers, left = summary["capture"]["workers"], summary["capture"]["requests"]
    share = sum(node["workers"] for node in lost) / workers if workers else 0.0
    told = "; ".join(f"node {node['node']} ({node['name']}): {node['lost']}" for node in lost[:4])
    return Doubt(
        "node-lost",
        f"{len(lost)} of {len(summary['nodes'])} nodes were lost, and with them {share:.1%} of the load: {told}. What their "
        f"captures hold up to their last batch is counted ({left:,} requests of all nodes), what came later is not known",
        "look at the node (memory, preemption, network), and run it again",
    )


def slow_node(stage: Facts) -> Doubt | None:
    """A machine that reads or sends much later than the others do."""
    found = [
        f"node {node['node']} ({node['name']}) is slow: {words}" for node, words in slow(stage.get("by_node") or [])
    ]
    if not found:
        return None
    return Doubt(
        "slow-node",
        "; ".join(found[:4]),
        "see what else runs there; fewer workers on it, or leave it out (--nodes)",
    )


def slow(by_node: list[Facts]) -> list[tuple[Facts, str]]:
    """The slow ones among the machines of a stage, and in what."""
    told = []
    for node in by_node:
        others = [other for other in by_node if other is not node]
        for name, what in MEASURES:
            mine, theirs = node[name], [other[name] for other in others if other[name] is not None]
            if mine is None or not theirs:
                continue
            usual = median(theirs)
            if mine > LEAST_SLOW_US and mine > SLOW_FACTOR * usual:
                told.append((node, f"its {what} were {span_of(mine)} late (p99), those of the others {span_of(usual)}"))
                break
    return told


def clocks_unsure(stage: Facts) -> Doubt | None:
    """The clocks of the machines are not known well enough for what is shown over time."""
    unsure = [node for node in stage.get("by_node") or () if node["clock_uncertainty_us"] is not None]
    if not unsure:
        return None
    worst = max(unsure, key=lambda node: float(node["clock_uncertainty_us"]))
    worst_s, bin_s = worst["clock_uncertainty_us"] / 1e6, stage["timeline"]["bin_s"]
    if worst_s <= MOST_UNSURE_SHARE * bin_s:
        return None
    return Doubt(
        "clocks-unsure",
        f"the clock of node {worst['node']} ({worst['name']}) is known to {worst_s * 1000:,.1f} ms, and a bin of the "
        f"timeline is {bin_s * 1000:,.0f} ms: throughput and concurrency over time are no surer than that. Latencies do "
        "not need it",
        "a network between the nodes with shorter round trips",
    )
