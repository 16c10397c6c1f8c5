"""Time the calls of a function so that other programs on the same cores add as little as possible."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

#: Calls that take longer than this are also timed by the CPU's clock, whose reading takes most of a microsecond.
_LONG_NANOSECONDS = 500_000


def time_calls(
    call: Callable[[], object], seconds: float, least: int, threads: int, warm_seconds: float = 0.0
) -> list[int]:
    """Call a function at least once as a warm-up, then time its calls.

    A core that other programs take away for a while makes a long call longer. With one thread, a long call counts with
    the CPU time of this process if that is shorter, so that its waiting for a core does not count.

    Args:
        call: the function.
        seconds: the measuring time.
        least: number of calls that are timed even if they take longer.
        threads: the number of threads that the function may use.
        warm_seconds: the time of the warm-up, which fills caches and wakes threads.

    Returns:
        The durations in nanoseconds.
    """
    wall, cpu, taken = time.perf_counter_ns, time.process_time_ns, list[int]()
    gc.disable()
    try:
        started = wall()
        call()
        reads_cpu = threads == 1 and wall() - started > _LONG_NANOSECONDS
        until = started + int(warm_seconds * 1e9)
        while wall() < until:
            call()
        until = wall() + int(seconds * 1e9)
        while True:
            used = cpu() if reads_cpu else 0
            started = wall()
            call()
            stopped = wall()
            taken.append(min(stopped - started, cpu() - used) if reads_cpu else stopped - started)
            if stopped >= until and len(taken) >= least:
                return taken
    finally:
        gc.enable()
