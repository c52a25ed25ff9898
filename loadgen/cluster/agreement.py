"""What all nodes have to be like before a run may start on them: one program, clocks that can be told, the same requests."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from loadgen.clock import NS_PER_MS, NS_PER_S, realtime_offset_ns
from loadgen.cluster import agent
from loadgen.cluster.node import Node
from loadgen.errors import RunError, UsageError
from loadgen.local_run import choose_cores
from loadgen.spec import Spec

MOST_UNCERTAINTY_NS: Final = 50 * NS_PER_MS
MOST_WALL_APART_NS: Final = NS_PER_S
"""Clocks that are further apart, or less sure, are refused."""


def check_versions(nodes: Sequence[Node]) -> None:
    """UsageError where a node has another program than this machine, or would make other plans with it."""
    mine = agent.facts(-1)
    for node in nodes:
        for name in agent.MUST_AGREE:
            if node.facts.get(name) != mine[name]:
                raise UsageError(
                    f"--ray: {node.name} has {name} {node.facts.get(name)}, this machine has {mine[name]}; "
                    "allowed is the same on all of them"
                )


def check_clocks(nodes: Sequence[Node]) -> None:
    """RunError where a node's clock cannot be told well enough, or its wall clock is not ours."""
    mine_ns = realtime_offset_ns()
    for node in nodes:
        latest = node.bounds[-1]
        if latest.uncertainty_ns > MOST_UNCERTAINTY_NS:
            raise RunError(
                f"the clock of {node.name} is known to {latest.uncertainty_ns / NS_PER_MS:.0f} ms only, because a round "
                f"trip takes so long; allowed are {MOST_UNCERTAINTY_NS // NS_PER_MS} ms"
            )
        apart_ns = int(node.facts["realtime_offset_ns"]) + latest.offset_ns - mine_ns
        if abs(apart_ns) > MOST_WALL_APART_NS:
            raise RunError(
                f"the wall clock of {node.name} is {abs(apart_ns) / NS_PER_S:.3f} s "
                f"{'ahead of' if apart_ns > 0 else 'behind'} this machine's; allowed is "
                f"{MOST_WALL_APART_NS / NS_PER_S:g} s: have NTP set it"
            )


def check_requests(nodes: Sequence[Node], digests: Sequence[str]) -> None:
    """UsageError where a node has read another file than the rest; `digests` are of what each makes its requests of."""
    ((usual, count), *_) = Counter(digests).most_common(1)
    if count == len(nodes):
        return
    other = next(node for node, digest in zip(nodes, digests, strict=True) if digest != usual)
    raise UsageError(
        f"--ray: {other.name} would make other requests than the rest: its data set, lengths or tokenizer is "
        "another file; allowed is the same file on all nodes"
    )


def cores_of(node: Node, nodes: Sequence[Node], spec: Spec) -> list[int | None]:
    """The cores of a node's workers. Nodes that are one machine (several raylets on it) share its cores.

    UsageError where the node has not those that are wished for.
    """
    told, machine = node.facts["host"], node.facts["machine"]
    usable = list(told["usable_cores"])
    beside = [one for one in nodes if machine and one.facts["machine"] == machine]
    if len(beside) > 1 and spec.cpus is None:
        if len(usable) < len(beside):
            return [None] * (spec.workers or 1)
        usable = usable[beside.index(node) :: len(beside)]
    try:
        return list(choose_cores(spec.workers, spec.cpus, usable, None, told["cpu_quota"]))
    except UsageError as error:
        raise UsageError(f"{error} (on {node.name})") from None
