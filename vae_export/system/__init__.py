"""The machine: optional packages, hardware, threads, signals, child processes."""
