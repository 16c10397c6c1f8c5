"""Choose the number of PyTorch's threads by measuring.

Small matrix products on busy cores run several times slower on two threads than on one, because each waits for the
other; large ones gain.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

#: Work that takes less than this on one thread stays there: there is little to win and much to lose.
_SHORT_SECONDS = 0.1


@contextlib.contextmanager
def fastest_threads(work: Callable[[], object]) -> Iterator[int]:
    """Run the block with one of PyTorch's threads or with all of them, whichever makes `work` quicker.

    Yields the number that was chosen; what was set before is set again after.
    """
    everything = torch.get_num_threads()
    try:
        yield _choose(work, everything)
    finally:
        torch.set_num_threads(everything)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with one of PyTorch's threads: the same sums in the same order, however many cores there are."""
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
