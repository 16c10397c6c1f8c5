"""A Ray cluster of two workers of one core each, every one with a raylet of its own as if it were a machine.

Prints its address and the process of each worker, and stays until its standard input is closed.
"""

from __future__ import annotations

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
pids = [process.process.pid for node in workers for process in node.all_processes["raylet"]]
sys.stdout.write(f"cluster: {cluster.address} {' '.join(map(str, pids))}\n")
sys.stdout.flush()
sys.stdin.read()
cluster.shutdown()
