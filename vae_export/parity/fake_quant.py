"""Compute a graph in PyTorch with the numbers of a lower precision (fake quantisation).

A file of lower precision cannot be as accurate as PyTorch's float32. Its error is compared with the error that PyTorch
makes when it computes with the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.parity.oracle import PartFunction, evaluate_graph, run_module
from vae_export.parity.tolerance import (
    ACTIVATION_LEVELS,
    INT4_LEVELS,
    quantization_steps,
    quantized_layers,
    range_with_zero,
)
from vae_export.precision import FULL, INTEGER, PrecisionName

#: The lowest and the highest input value of each layer, by the layer's name in the module.
InputRanges: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


def in_precision(
    graph: Graph, precision: PrecisionName, calibration: Mapping[str, Array] | None = None
) -> PartFunction:
    """Return a function that computes the graph with the numbers of `precision`, between float32 inputs and outputs.

    PyTorch computes fp16 and bf16 itself. For integer precisions, float32 layers get weights and activations that are
    rounded to levels, as in quantisation-aware training (Jacob et al., arXiv:1712.05877).

    Args:
        graph: a part of a source.
        precision: precision of the file to compare with.
        calibration: input arrays of the part by name, from which `int8-static` takes its ranges.

    Returns:
        A function from float32 arrays (N, *item) by name to float32 arrays (N, *item) by name.

    Raises:
        ModelError: `int8-static` without calibration inputs.
    """
    if precision == FULL:
        return partial(evaluate_graph, graph)
    if precision not in INTEGER:
        return partial(evaluate_graph, graph.at(precision))
    ranges: InputRanges | None = None
    if precision == "int8-static":
        if calibration is None:
            raise ModelError("no inputs to calibrate with", where=f"{graph.spec.part}, {precision}")
        ranges = calibrate(graph, calibration)
    module = fake_quantize(graph.module, precision, ranges)
    return lambda inputs: run_module(graph, module, inputs, torch.float32)


def calibrate(graph: Graph, inputs: Mapping[str, Array]) -> InputRanges:
    """Return the input range of each layer, computed with float32 weights as in a quantiser.

    Args:
        graph: a part of a source.
        inputs: float32 arrays (N, *item) by name.

    Returns:
        The lowest and the highest input value of each layer, by the layer's name.
    """
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        low, high = range_with_zero(arguments[0])
        lowest, highest = ranges.get(name, (low, high))
        ranges[name] = torch.minimum(lowest, low), torch.maximum(highest, high)

    names = _layer_names(graph.module, "int8-static")
    handles = [graph.module.get_submodule(name).register_forward_pre_hook(partial(observe, name)) for name in names]
    try:
        evaluate_graph(graph, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def fake_quantize(module: nn.Module, precision: PrecisionName, ranges: InputRanges | None = None) -> nn.Module:
    """Return a copy whose layers compute in float32 with weights and activations rounded to integer levels.

    Args:
        module: the module of a graph.
        precision: one of `INTEGER`.
        ranges: the input range of each layer, for `int8-static`; `int8` takes the range of each batch.

    Returns:
        The copy; the module itself is unchanged.
    """
    module = copy.deepcopy(module)
    for name in _layer_names(module, precision):
        layer: Any = module.get_submodule(name)
        steps = quantization_steps(layer.weight, precision)
        fixed = None if ranges is None else ranges.get(name)
        if fixed is not None and isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor):
            # Products and biases are summed in units of one weight step times one input step.
            input_step = (fixed[1] - fixed[0]) / ACTIVATION_LEVELS
            layer.bias.copy_(_rounded(layer.bias, steps.flatten(1)[:, 0] * input_step))
        levels = INT4_LEVELS if precision == "int4-weights" else None
        layer.weight.copy_(_rounded(layer.weight, steps, levels))
        if fixed is not None or precision == "int8":
            layer.register_forward_pre_hook(partial(_quantize_input, fixed))
    return module


def _layer_names(module: nn.Module, precision: PrecisionName) -> list[str]:
    """Return the names of the layers that compute with integers; a layer used twice has one name."""
    layers = {id(layer) for layer in quantized_layers(module, precision)}
    return [name for name, layer in module.named_modules() if id(layer) in layers]


def _quantize_input(
    fixed: tuple[Tensor, Tensor] | None, _: nn.Module, arguments: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """Round a layer's input to the levels of a fixed range, or of the input's own range (a forward pre-hook)."""
    return (_rounded_in_range(arguments[0], *(range_with_zero(arguments[0]) if fixed is None else fixed)),)


def _rounded(values: Tensor, step: Tensor, levels: tuple[int, int] | None = None) -> Tensor:
    """Return the values rounded to multiples of a step, from the lowest of the levels to the highest."""
    rounded = torch.round(values / step)
    if levels is not None:
        rounded = rounded.clamp(*levels)
    return torch.where(step != 0, rounded * step, values)


def _rounded_in_range(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the values clipped to the range and rounded to its nearest levels."""
    step = (high - low) / ACTIVATION_LEVELS
    if not step > 0:
        return values
    zero = torch.round(-low / step)
    return (torch.clamp(torch.round(values / step) + zero, 0, ACTIVATION_LEVELS) - zero) * step
