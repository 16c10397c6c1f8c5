"""The least that the machine needs for a graph: its matrix products alone, and reading its weights alone.

Both are measured like every side, in the same rounds, with the quickest call that PyTorch has for them here. No engine
that computes in float32 can do without either, so the longer of the two is the limit. It is a measured one: an engine
with a better matrix product than PyTorch's libraries can pass it, and one that computes in fewer bits does.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.formats import Bound, Runner
from vae_export.formats._torch import process_options
from vae_export.session_options import SessionOptions

Product = Callable[[], object]

_aten = torch.ops.aten
#: What a call takes at least before two ways of doing it can be told apart.
_TRIALS, _TRIAL_SECONDS = 5, 0.005


def products(graph: Graph, threads: int) -> Runner:
    """Every matrix product and convolution of the graph, with no bias, no activation, and results in place."""

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
        tensors = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs]
        with torch.no_grad(), _Recorder() as recorder:
            graph.module(*tensors)
        with torch.inference_mode(), process_options(SessionOptions(threads=threads)):
            chosen = [_fastest(ways) for ways in recorder.products]

            def call() -> None:
                for product in chosen:
                    product()

            yield Bound(call, lambda _: {})

    return Runner(bind)


def weights(graph: Graph, threads: int) -> Runner:
    """As many bytes as the weights have, read once a call from wherever the last call left them: cache or memory."""
    flat = torch.ones(weight_bytes(graph) // 4)

    @contextlib.contextmanager
    def bind(_inputs: Mapping[str, Array]) -> Iterator[Bound]:
        with torch.inference_mode(), process_options(SessionOptions(threads=threads)):
            yield Bound(_fastest([lambda: torch.sum(flat), lambda: torch.dot(flat, flat)]), lambda _: {})

    return Runner(bind)


def weight_bytes(graph: Graph) -> int:
    """Of the float32 weights and buffers that the graph reads."""
    tensors = [*graph.module.parameters(), *graph.module.buffers()]
    return 4 * sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def operations(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """Additions and multiplications in the products of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph.module(*(torch.from_numpy(inputs[tensor.name]) for tensor in graph.spec.inputs))
    return int(counter.get_total_flops())


class _Recorder(TorchDispatchMode):
    """Notes each product that runs under it, as the ways of doing it again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch's; the rule for its functions misses `super`
        self.products: list[Sequence[Product]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is _aten.addmm.default:
            self.products.append(_matrix_product(args[1], args[2]))
        elif func is _aten.mm.default:
            self.products.append(_matrix_product(args[0], args[1]))
        elif func in (_aten.bmm.default, _aten.baddbmm.default):
            left, right = args[-2:]
            self.products.append([_into(torch.bmm, left, right, left.shape[:2] + right.shape[2:])])
        elif func is _aten.convolution.default:
            image, weight, _, *rest = args
            self.products.append(_convolution(image, weight, rest))
        return func(*args, **(kwargs or {}))


def _matrix_product(left: Tensor, right: Tensor) -> list[Product]:
    """The weights as the module has them, and laid out the other way, which other kernels like better."""
    shape = torch.Size((left.shape[0], right.shape[1]))
    return [_into(torch.mm, left, weight, shape) for weight in (right, right.contiguous())]


def _into(product: Callable[..., object], left: Tensor, right: Tensor, shape: torch.Size) -> Product:
    out = torch.empty(shape)
    return functools.partial(product, left, right, out=out)


def _convolution(image: Tensor, weight: Tensor, rest: list[Any]) -> list[Product]:
    """Channels first, and channels last. PyTorch has no convolution into a given place."""
    last = torch.channels_last if image.ndim == 4 else torch.contiguous_format
    layouts = [(image, weight), (image.contiguous(memory_format=last), weight.contiguous(memory_format=last))]
    return [functools.partial(torch.convolution, *given, None, *rest) for given in layouts]


def _fastest(ways: Sequence[Product]) -> Product:
    """The way with the shortest call of a few."""
    return min(ways, key=_shortest_call) if len(ways) > 1 else ways[0]


def _shortest_call(way: Product) -> float:
    way()
    taken: list[float] = []
    until = time.perf_counter() + _TRIAL_SECONDS
    while len(taken) < _TRIALS or time.perf_counter() < until:
        started = time.perf_counter()
        way()
        taken.append(time.perf_counter() - started)
    return min(taken)
