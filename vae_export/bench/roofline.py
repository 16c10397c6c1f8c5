"""The roofline of a graph: the time that this machine needs for its matrix products alone, or to read its weights.

Both times are measured like every subject, in the same rounds, with PyTorch's fastest call for them on this machine. No
engine that computes in float32 can avoid either, so the longer of the two is the roofline. It is a measured bound: an
engine with better matrix products than PyTorch's libraries can be faster, and an engine with fewer bits usually is.
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
#: The least number of calls, and the least number of seconds, for which a variant is timed.
_TRIALS, _TRIAL_SECONDS = 5, 0.005


def products(graph: Graph, threads: int) -> Runner:
    """Return a runner of the graph's matrix products and convolutions, without biases and activations.

    Args:
        graph: a part of a model.
        threads: threads that PyTorch uses.
    """

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
        tensors = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs]
        with torch.no_grad(), _ProductRecorder() as recorder:
            graph.module(*tensors)
        with torch.inference_mode(), process_options(SessionOptions(threads=threads)):
            chosen = [_fastest(variants) for variants in recorder.products]

            def call() -> None:
                for product in chosen:
                    product()

            yield Bound(call, lambda _: {})

    return Runner(bind)


def weights(graph: Graph, threads: int) -> Runner:
    """Return a runner that reads as many bytes as the weights have, from the cache or from memory.

    Args:
        graph: a part of a model.
        threads: threads that PyTorch uses.
    """
    flat = torch.ones(weight_bytes(graph) // 4)

    @contextlib.contextmanager
    def bind(_inputs: Mapping[str, Array]) -> Iterator[Bound]:
        with torch.inference_mode(), process_options(SessionOptions(threads=threads)):
            yield Bound(_fastest([lambda: torch.sum(flat), lambda: torch.dot(flat, flat)]), lambda _: {})

    return Runner(bind)


def weight_bytes(graph: Graph) -> int:
    """Return the size of the float32 weights and buffers of a graph in bytes."""
    tensors = [*graph.module.parameters(), *graph.module.buffers()]
    return 4 * sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def operations(graph: Graph, inputs: Mapping[str, Array]) -> int:
    """Return the number of additions and multiplications in the matrix products of one call.

    Args:
        graph: a part of a model.
        inputs: float32 arrays (N, *item) by name.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph.module(*(torch.from_numpy(inputs[tensor.name]) for tensor in graph.spec.inputs))
    return int(counter.get_total_flops())


class _ProductRecorder(TorchDispatchMode):
    """Records each matrix product that runs inside it, as a list of variants that compute it again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # a method of torch: the rule for its functions does not cover `super`
        self.products: list[Sequence[Product]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is _aten.addmm.default:
            self.products.append(matrix_product_variants(args[1], args[2]))
        elif func is _aten.mm.default:
            self.products.append(matrix_product_variants(args[0], args[1]))
        elif func in (_aten.bmm.default, _aten.baddbmm.default):
            left, right = args[-2:]
            self.products.append([_into(torch.bmm, left, right, left.shape[:2] + right.shape[2:])])
        elif func is _aten.convolution.default:
            image, weight, _, *rest = args
            self.products.append(convolution_variants(image, weight, rest))
        return func(*args, **(kwargs or {}))


def matrix_product_variants(left: Tensor, right: Tensor) -> list[Product]:
    """Return two variants of a product: with the weights as they are, and copied into contiguous memory."""
    shape = torch.Size((left.shape[0], right.shape[1]))
    return [_into(torch.mm, left, weight, shape) for weight in (right, right.contiguous())]


def _into(product: Callable[..., object], left: Tensor, right: Tensor, shape: torch.Size) -> Product:
    out = torch.empty(shape)
    return functools.partial(product, left, right, out=out)


def convolution_variants(image: Tensor, weight: Tensor, rest: list[Any]) -> list[Product]:
    """Return two variants of a convolution: channels first and channels last. PyTorch has no in-place convolution.

    Args:
        image: the input, (N, C, *sizes).
        weight: the kernels, (C_out, C_in, *sizes).
        rest: stride, padding, dilation, transposed, output padding and groups, in the order of `torch.convolution`.

    Returns:
        Functions without arguments that compute the convolution without a bias.
    """
    last = torch.channels_last if image.ndim == 4 else torch.contiguous_format
    layouts = [(image, weight), (image.contiguous(memory_format=last), weight.contiguous(memory_format=last))]
    return [functools.partial(torch.convolution, *given, None, *rest) for given in layouts]


def _fastest(variants: Sequence[Product]) -> Product:
    """Return the variant with the shortest call."""
    return min(variants, key=_shortest_call) if len(variants) > 1 else variants[0]


def _shortest_call(variant: Product) -> float:
    """Return the duration of the shortest of several calls, in seconds."""
    variant()
    taken: list[float] = []
    until = time.perf_counter() + _TRIAL_SECONDS
    while len(taken) < _TRIALS or time.perf_counter() < until:
        started = time.perf_counter()
        variant()
        taken.append(time.perf_counter() - started)
    return min(taken)
