"""A real Ray cluster on this machine: several raylets on loopback, in a process of their own that ends with its input."""

import json
import os
import sys
import tempfile


def main(nodes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder
        os.mkdir(f"{folder}/ray")
        from ray.cluster_utils import Cluster

        memory = {"object_store_memory": 80 * 1024 * 1024}
        dashboard = {"include_dashboard": True, "dashboard_port": 0}  # it takes jobs
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **memory, **dashboard})
        try:
            others = [cluster.add_node(num_cpus=2, include_dashboard=False, **memory) for _ in range(nodes - 1)]
            processes = [_raylet(node) for node in (cluster.head_node, *others)]
            cluster.wait_for_nodes()
            told = {"address": cluster.address, "dashboard": cluster.head_node.webui_url, "raylets": processes}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
        finally:
            cluster.shutdown()


def _raylet(node) -> int:
    """The process id of a node's raylet: killing it kills the node."""
    from ray._private import ray_constants

    return node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid


if __name__ == "__main__":
    main(int(sys.argv[1]))
