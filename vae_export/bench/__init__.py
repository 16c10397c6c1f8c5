"""Latency, throughput, memory and load time of what an application could use, beside the machine's own limit.

`rounds.py` has `bench()`; it is not imported here, since the child processes of this room must not load what only their
parent needs: their memory and their load time are figures. docs/bench.md has the method.
"""
