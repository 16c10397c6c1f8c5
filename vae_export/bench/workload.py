"""Record the matrix products and convolutions of a graph, which every engine has to compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.bench.kernels import Kernel
from vae_export.bench.roofline import Workload
from vae_export.capture import Graph
from vae_export.contract import Array

_aten = torch.ops.aten
#: Attention in one operator: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
_ATTENTION = (
    _aten.scaled_dot_product_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_attention_math.default,
)


def workload(graph: Graph, inputs: Mapping[str, Array]) -> Workload:
    """Run a graph once, and return its products and the size of its weights.

    Args:
        graph: a part of a model.
        inputs: float32 arrays (N, *item) by name.
    """
    with torch.no_grad(), _ProductRecorder(graph.module) as recorder:
        graph.module(*(torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs))
    return Workload(dict(recorder.products), weight_bytes(graph))


def weight_bytes(graph: Graph) -> int:
    """Return the size of the float32 weights and buffers of a graph in bytes."""
    tensors = [*graph.module.parameters(), *graph.module.buffers()]
    return 4 * sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


class _ProductRecorder(TorchDispatchMode):
    """Counts the matrix products and convolutions that run inside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # a method of torch: the rule for its functions does not cover `super`
        self.products: Counter[Kernel] = Counter()
        tensors = [*module.parameters(), *module.buffers()]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func in (_aten.addmm.default, _aten.baddbmm.default):
            self._count(args[1], args[2])
        elif func in (_aten.mm.default, _aten.bmm.default):
            self._count(args[0], args[1])
        elif func in _ATTENTION:
            query, key, value = args[:3]
            self._count(query, key.mT)
            self.products[_product((*query.shape[:-1], key.shape[-2]), value.shape, is_weight=False)] += 1
        elif func is _aten.convolution.default:
            self.products[_convolution(*args)] += 1
        return func(*args, **(kwargs or {}))

    def _count(self, left: Tensor, right: Tensor) -> None:
        is_weight = right.untyped_storage().data_ptr() in self._weights
        self.products[_product(left.shape, right.shape, is_weight=is_weight)] += 1


def _product(left: Sequence[int], right: Sequence[int], *, is_weight: bool) -> Kernel:
    return Kernel("product", tuple(left), tuple(right), is_weight)


def _convolution(
    image: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Kernel:
    axes = image.ndim - 2
    steps = (tuple(value) * (axes // len(value)) for value in (stride, padding, dilation, output_padding))
    stride, padding, dilation, output_padding = steps
    return Kernel(
        "convolution",
        tuple(image.shape),
        tuple(weight.shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
        groups=groups,
        transposed=transposed,
    )
