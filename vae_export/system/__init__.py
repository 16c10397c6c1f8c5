"""Functions for the machine: optional packages, hardware, threads, signals and child processes."""
