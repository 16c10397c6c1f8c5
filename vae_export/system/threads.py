"""Choose the number of PyTorch's threads by measuring.

On busy cores, small matrix products are several times slower with two threads than with one, because each thread waits
for the other. Large products are faster with more threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

#: Work that takes less time than this on one thread uses one thread: more threads would save little time.
_SHORT_SECONDS = 0.1


@contextlib.contextmanager
def fastest_threads(work: Callable[[], object]) -> Iterator[int]:
    """Run the block with one of PyTorch's threads or with all of them, whichever makes `work` quicker.

    Yields the chosen number of threads. The previous number is restored after the block.
    """
    everything = torch.get_num_threads()
    try:
        yield _choose(work, everything)
    finally:
        torch.set_num_threads(everything)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with one of PyTorch's threads, so that sums have the same order for any number of cores."""
    everything = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(everything)


def _choose(work: Callable[[], object], everything: int) -> int:
    alone = _seconds(work, 1)
    if alone > _SHORT_SECONDS and _seconds(work, everything) < alone:
        return everything
    torch.set_num_threads(1)
    return 1


def _seconds(work: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    work()  # the first run allocates and plans
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
