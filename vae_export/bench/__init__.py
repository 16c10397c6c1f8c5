"""Measure latency, throughput, memory and load time of exported files, beside PyTorch and the roofline of this machine.

`bench()` is in `benchmark.py` and is not imported here: the memory and load time of a child process, which imports
this package, are part of the measurement.
"""
