"""Batch work on the machines of a Ray cluster: an engine, the driver process that it starts, and its workers."""
