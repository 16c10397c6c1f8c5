"""Measure latency, throughput, memory and load time of exported files, beside PyTorch and the roofline of this machine.

`bench()` is in `benchmark.py` and is not imported here, because a child process imports this package, and its memory
and load time are part of the measurement.
"""
