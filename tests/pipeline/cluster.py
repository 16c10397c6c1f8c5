"""A Ray cluster of two workers of one core each, every one with a raylet of its own as if it were a machine.

Prints its address and stays until its standard input is closed. For a line "kill" it kills the raylet of a worker, and
for a line "add" it starts another worker; then it prints "done".
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

#: No GPU, so that the tests see one cluster on every machine.
WORKER: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0}
#: A dead machine is noticed after five of these periods, which by default have 3 s.
SYSTEM = {"health_check_period_ms": 500}

head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "_system_config": SYSTEM}
cluster = Cluster(initialize_head=True, head_node_args=head)
workers = [cluster.add_node(wait=False, **WORKER) for _ in range(2)]
cluster.wait_for_nodes()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


say(f"cluster: {cluster.address}")
for line in sys.stdin:
    if line == "kill\n":
        (raylet,) = workers.pop().all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)
    else:
        workers.append(cluster.add_node(**WORKER))
    say("done")
cluster.shutdown()
