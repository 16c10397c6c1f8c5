"""The processes that share one training, as `torchrun` starts them; one, where it did not.

Each has the whole model and the whole data set on its device, takes its part of every batch, and has the same weights
as the others after every step. What is drawn is a function of seed and step (`train.trainer`): each draws for the whole
batch and keeps its part, so that many processes follow the loss curve of one, within rounding. The first one writes.

All end together. Whoever fails first leaves its exit code in the store that torchrun keeps for them, and says why; the
others, which notice as soon as they wait for it, end in silence with the same code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vae_export.errors import MachineError, UsageError

T = TypeVar("T")

#: In the store: the exit code of the first process that ended.
_ENDED = "vae-export-ended"
#: What gloo and NCCL say of a process that is gone.
_GONE = ("onnection closed", "onnection reset", "roken pipe", "onnection refused", "NCCL", "recv timeout", "Timed out")


class PeerEndedError(Exception):
    """Another process of this training failed or was stopped, and said so. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"another process of this training ended with code {code}")


@dataclass(frozen=True)
class Processes:
    """Attributes:
    rank: of this one, from 0.
    count: of all, on all machines.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_single(self) -> bool:
        return self.count == 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def batch_slice(self, size: int) -> slice:
        """Which of `size` images of a batch are this process's. Raises `UsageError` where parts would be unequal."""
        if size % self.count:
            expected, got = f"a multiple of {self.count} processes", size
            raise UsageError("batch size cannot be shared", expected=expected, got=got, do="change --batch-size")
        own = size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes, on the device of `value`, without waiting for it."""
        if self.is_single:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def maximum(self, *numbers: int) -> tuple[int, ...]:
        """The greatest that any process has for each of these."""
        if self.is_single:
            return numbers
        greatest = torch.tensor(numbers)
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
        return tuple(int(number) for number in greatest)

    def gather(self, mine: T) -> list[T]:
        """What each process has, in the order of their ranks, for all of them."""
        if self.is_single:
            return [mine]
        everybody: list[Any] = [None] * self.count
        dist.all_gather_object(everybody, mine)
        return everybody

    def split_work(self, count: int, work: Callable[[int], T]) -> list[T]:
        """What `work` gives for 0 to count - 1, for all of them; each number is one process's work."""
        mine = {number: work(number) for number in range(self.rank, count, self.count)}
        done = {number: value for theirs in self.gather(mine) for number, value in theirs.items()}
        return [done[number] for number in range(count)]

    def own_share(self, values: Tensor) -> Tensor:
        """This process's of the values (count,) that were gathered; of another count's, the mean. A scalar."""
        values = values.flatten()
        return values[self.rank] if len(values) == self.count else values.mean()

    def on_first(self, work: Callable[[], T]) -> T:
        """What `work` gives where the first process does it, for all; the others wait."""
        if self.is_single:
            return work()
        done: list[Any] = [work() if self.is_first else None]
        dist.broadcast_object_list(done, src=0)
        value: T = done[0]
        return value

    def on_each(self, work: Callable[[], T]) -> T:
        """`work` in every process, first in the first one of each machine, which fetches what is to be fetched."""
        if self.is_single:
            return work()
        early = [work()] if local_rank() == 0 else []
        dist.barrier()
        return early[0] if early else work()

    @contextmanager
    def first_holds(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """The block, while the first process holds `context`."""
        with ExitStack() as stack:
            self.on_first(lambda: stack.enter_context(context) and None)
            yield


def local_rank() -> int:
    """Of this process on its machine, from 0: the number of the GPU that it takes. Raises `MachineError`."""
    return _number("LOCAL_RANK", 0)


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started beside this one, until the block ends.

    Raises:
        MachineError: they cannot be reached, or one of them is gone.
        EndedElsewhereError: one of them ended, and said why.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield Processes()
        return
    try:
        from torch.distributed.rendezvous import rendezvous

        store, rank, count = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    except (ValueError, RuntimeError, OSError) as error:
        do = "start them with torchrun, see docs/scaling.md"
        raise MachineError("processes cannot be joined", got=error, do=do) from error
    try:
        yield Processes(rank, count)
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _GONE):
            code = MachineError.exit_code
        first = int(store.compare_set(_ENDED, "", f"{rank} {code}").split()[0])
        if first != rank:
            raise PeerEndedError(int(store.get(_ENDED).split()[1])) from error
        if code == MachineError.exit_code and not isinstance(error, MachineError):
            got, do = str(error).partition(". ")[0], "look for it in the output, then go on with --resume"
            raise MachineError("a process of this training is gone", got=got, do=do) from error
        raise
    dist.destroy_process_group()


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, str(usual))
    if not text.isdecimal():
        raise MachineError(f"bad {name}", expected="a number, from torchrun", got=text)
    return int(text)
