"""The processes of one training, started by `torchrun`; without it there is one process.

Each process has the whole model and the whole data set on its device, computes its part of every batch, and has the
same weights as the others after every step. Random numbers are a function of seed and step (`train.trainer`): each
process draws those of the whole batch and uses its part, so that many processes follow the loss curve of one, within
rounding. The first process writes the files.

All processes end together. The first that fails stores its exit code in torchrun's store and prints why; the others
notice when they next wait for it, and exit with the same code without a message.
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

#: Key in the store of the rank and the exit code of the first process that failed.
_ENDED = "vae-export-ended"
#: Parts of the messages of gloo and NCCL about a process that is gone.
_GONE = ("onnection closed", "onnection reset", "roken pipe", "onnection refused", "NCCL", "recv timeout", "Timed out")


class PeerEndedError(Exception):
    """Another process of this training failed or was stopped, and printed why. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"another process of this training ended with code {code}")


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    All methods but `batch_slice` and `own_share` must be called by every process.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes on all machines.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_single(self) -> bool:
        """Whether this process trains alone."""
        return self.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def batch_slice(self, size: int) -> slice:
        """Return this process's part of a batch of `size` images. Raises `UsageError` if parts would be unequal."""
        if size % self.count:
            expected, got = f"a multiple of {self.count} processes", size
            raise UsageError("batch size cannot be shared", expected=expected, got=got, do="change --batch-size")
        own = size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the processes, on the device of `value`, without waiting for the device."""
        if self.is_single:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def maximum(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum over the processes of each number."""
        if self.is_single:
            return numbers
        greatest = torch.tensor(numbers)
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
        return tuple(int(number) for number in greatest)

    def gather(self, mine: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.is_single:
            return [mine]
        everybody: list[Any] = [None] * self.count
        dist.all_gather_object(everybody, mine)
        return everybody

    def split_work(self, count: int, work: Callable[[int], T]) -> list[T]:
        """Return `work(0)` to `work(count - 1)` in every process; each is computed by one of them."""
        mine = {number: work(number) for number in range(self.rank, count, self.count)}
        done = {number: value for theirs in self.gather(mine) for number, value in theirs.items()}
        return [done[number] for number in range(count)]

    def own_share(self, values: Tensor) -> Tensor:
        """Return this process's value of those that as many processes gathered; the mean if their number differs."""
        values = values.flatten()
        return values[self.rank] if len(values) == self.count else values.mean()

    def on_first(self, work: Callable[[], T]) -> T:
        """Call `work` in the first process and return its result in every process."""
        if self.is_single:
            return work()
        done: list[Any] = [work() if self.is_first else None]
        dist.broadcast_object_list(done, src=0)
        value: T = done[0]
        return value

    def on_each(self, work: Callable[[], T]) -> T:
        """Call `work` in every process, in the first of each machine before the others: it downloads for them."""
        if self.is_single:
            return work()
        early = [work()] if local_rank() == 0 else []
        dist.barrier()
        return early[0] if early else work()

    @contextmanager
    def first_holds(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """Hold `context` in the first process while the block runs in every process."""
        with ExitStack() as stack:
            self.on_first(lambda: stack.enter_context(context) and None)
            yield


def local_rank() -> int:
    """Return the number of this process on its machine, from 0, which is that of its GPU. Raises `MachineError`."""
    return _number("LOCAL_RANK", 0)


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, until the block ends.

    Raises:
        MachineError: they cannot be reached, or one of them is gone.
        PeerEndedError: one of them ended, and said why.
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
            got, do = str(error).partition(". ")[0], "look for its error in the output, then continue with --resume"
            raise MachineError("a process of this training has ended", got=got, do=do) from error
        raise
    dist.destroy_process_group()


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, str(usual))
    if not text.isdecimal():
        raise MachineError(f"bad {name}", expected="a number, from torchrun", got=text)
    return int(text)
