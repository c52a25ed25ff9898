"""A run on several machines, each with a clock of its own: in one place, and a folder a node."""

import json
import shutil

from everything import MARKS, PLANS, SLO, drawn_rows
from synthetic import MS, START_NS, S, file_facts, steady_samples, watch, write_capture

MOMENTS = ("intended_ns", "sent_ns", "first_byte_ns", "last_byte_ns", "ended_ns")
OFFSETS_NS = (0, 123_456_789_012_345, -77 * S)
"""How far the run's time line is ahead of each node's clock."""

SPEC = {"model": "m", "api": "chat", "slo": SLO}


def on_clock(facts, offset_ns):
    """A row, a mark or a watch with the stamps that a clock so far behind would have given."""
    moved = dict(facts)
    for name in (*MOMENTS, "start_ns", "measure_ns", "stop_ns", "idle_ns", "done_ns"):
        if moved.get(name) is not None:
            moved[name] -= offset_ns
    if "event_ns" in moved:
        moved["event_ns"] = [t_ns - offset_ns for t_ns in moved["event_ns"]]
    return moved


def write_nodes(run_dir, offsets_ns=OFFSETS_NS, workers_a_node=2, rows=None, plans=PLANS, marks=MARKS):
    """RUN with capture/node-K for each offset; requests are dealt to the workers in turn. Gives the numbers of the nodes."""
    rows = drawn_rows() if rows is None else rows
    workers = len(offsets_ns) * workers_a_node
    for worker in range(workers):
        node = worker // workers_a_node
        offset_ns = offsets_ns[node]
        mine = [on_clock(one | {"worker": worker}, offset_ns) for one in rows[worker::workers]]
        facts = file_facts(plans, worker=worker, workers=workers, spec=SPEC, host=f"host-{node}")
        told = [on_clock(mark, offset_ns) for mark in marks]
        samples = steady_samples(START_NS - offset_ns, START_NS - offset_ns + 32 * S, cpu_share=0.1 * (worker + 1))
        parts = [mine[first : first + 16] for first in range(0, len(mine), 16)] or [[]]
        batches = [
            (part, watch(samples[place :: len(parts)], told, sent=len(mine))) for place, part in enumerate(parts)
        ]
        write_capture(run_dir / "capture" / f"node-{node}" / f"worker-{worker:02}.arrow", facts, batches)
    nodes = [
        {
            "node": node,
            "name": f"host-{node}",
            "clock": [[START_NS - offset_ns, offset_ns]],
            "clock_uncertainty_ns": 40_000,
        }
        for node, offset_ns in enumerate(offsets_ns)
    ]
    run = {"schema": 1, "run_id": "synthetic", "loadgen": "0.1.0", "started_at": "2026-11-23T06:00:00+00:00"}
    run |= {"spec": SPEC, "stages": plans, "host": {"name": "driver"}, "ended": {"reason": "finished", "words": ""}}
    run |= {"workers": [{"worker": worker, "core": 1} for worker in range(workers)], "nodes": nodes}
    (run_dir / "run.json").write_text(json.dumps(run))
    return list(range(len(offsets_ns)))


def apart(run_dir, folder, nodes):
    """The captures before they are gathered: each machine's in a folder of its own, and the run's with run.json alone."""
    (folder / "driver").mkdir(parents=True)
    shutil.copy(run_dir / "run.json", folder / "driver")
    for node in nodes:
        shutil.copytree(run_dir / "capture" / f"node-{node}", folder / f"machine-{node}" / "capture")
    return folder / "driver", [folder / f"machine-{node}" for node in nodes]


__all__ = ["MS", "OFFSETS_NS", "apart", "on_clock", "write_nodes"]
