"""What PyTorch makes of a graph with no other numbers than those of a precision.

A file of lower precision cannot be as near to the truth as PyTorch's float32 is. What it can be held against is what
PyTorch itself loses when it computes with the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.parity.oracle import evaluate_graph, run_module
from vae_export.parity.tolerance import ACTIVATION_LEVELS, quantization_steps, quantized_layers, range_with_zero
from vae_export.precision import FULL, INTEGER, PrecisionName

#: A graph's outputs by name, of its inputs by name.
Evaluate = Callable[[Mapping[str, Array]], dict[str, Array]]


def fake_quantize(graph: Graph, precision: PrecisionName, calibration: Mapping[str, Array] | None = None) -> Evaluate:
    """The graph with the numbers of `precision`, its outputs float32 again.

    fp16 and bf16 are PyTorch's own. For integers its float32 layers are given weights and activations that have been
    rounded to levels, as quantisation-aware training does it (Jacob et al., arXiv:1712.05877).

    Args:
        calibration: inputs of the part by name, from which `int8-static` takes its ranges.
    """
    if precision == FULL:
        return lambda inputs: evaluate_graph(graph, inputs)
    if precision not in INTEGER:
        graph = graph.at(precision)
    module = copy.deepcopy(graph.module)
    if precision == "int8-static":
        if calibration is None:
            raise ModelError("no inputs to calibrate with", where=f"{graph.spec.part}, {precision}")
        # With weights that are still float32: so a quantiser sees them too.
        spans = _spans(graph, module, precision, calibration)
        _round_biases(spans)
        _clip(spans)
    for layer in quantized_layers(module, precision):
        layer.weight.copy_(_to_levels(layer.weight, quantization_steps(layer.weight, precision)))
        if precision == "int8":
            layer.register_forward_pre_hook(
                lambda _, arguments: (_in_span(arguments[0], *range_with_zero(arguments[0])),)
            )
    return lambda inputs: run_module(graph, module, inputs, torch.float32)


def _spans(
    graph: Graph, module: nn.Module, precision: PrecisionName, inputs: Mapping[str, Array]
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Lowest and highest value that each layer is given for these inputs."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def look(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        low, high = range_with_zero(arguments[0])
        before = seen.get(layer, (low, high))
        seen[layer] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    handles = [layer.register_forward_pre_hook(look) for layer in quantized_layers(module, precision)]
    run_module(graph, module, inputs, torch.float32)
    for handle in handles:
        handle.remove()
    return seen


def _round_biases(spans: Mapping[nn.Module, tuple[Tensor, Tensor]]) -> None:
    """To whole numbers of what the sums of products are counted in: a step of the weights times one of the inputs."""
    for layer, (low, high) in spans.items():
        weight, bias = layer.weight, layer.bias
        if isinstance(weight, Tensor) and isinstance(bias, Tensor):
            of_channels = quantization_steps(weight, "int8-static").flatten(1)[:, 0]
            bias.copy_(_to_levels(bias, of_channels * (high - low) / ACTIVATION_LEVELS))


def _clip(spans: Mapping[nn.Module, tuple[Tensor, Tensor]]) -> None:
    for layer, (low, high) in spans.items():
        layer.register_forward_pre_hook(lambda _, arguments, low=low, high=high: (_in_span(arguments[0], low, high),))


def _to_levels(values: Tensor, step: Tensor) -> Tensor:
    return torch.where(step > 0, torch.round(values / step) * step, values)


def _in_span(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clipped to the levels between two ends, and rounded to the nearest."""
    step = (high - low) / ACTIVATION_LEVELS
    if not step > 0:
        return values
    zero = torch.round(-low / step)
    return (torch.clamp(torch.round(values / step) + zero, 0, ACTIVATION_LEVELS) - zero) * step
