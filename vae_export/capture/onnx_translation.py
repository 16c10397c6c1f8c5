"""Translate a captured program to ONNX with PyTorch's exporter, without traces of this machine.

The exporter writes stack traces with paths of this machine into a model, and symbol names of its own. This module
removes the traces and renames the symbols.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch

from vae_export.contract import PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.system.streams import silenced
from vae_export.tensors import BATCH

#: The IR version of every file. Operator set 20 requires it, and older engines can read it.
IR_VERSION = 10


def translate(program: torch.export.ExportedProgram, spec: PartSpec, opset: int) -> onnx.ModelProto:
    """Return the program as an ONNX model with its weights inside.

    Args:
        program: the captured graph of one part.
        spec: names of the inputs and outputs.
        opset: ONNX operator set.

    Raises:
        ModelError: the program cannot be translated, or has no dynamic batch.
        UsageError: the exporter cannot write this operator set.
    """
    with silenced(), _cached_registry():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError("module cannot be written as ONNX", where=spec.part, got=_first_cause(error)) from error
    if exported is None:
        raise ModelError("exporter gave no model", where=spec.part)
    model = exported.model_proto
    model.ir_version = IR_VERSION
    _remove_notes(model)
    _name_batch(model, spec)
    written = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if written.get("ai.onnx") != opset:
        raise UsageError("opset cannot be written", where=spec.part, expected=opset, got=written)
    return model


def _remove_notes(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, because they contain source lines and paths, and differ between equal models."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    described: tuple[Any, ...] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    )
    for item in described:
        del item.metadata_props[:]
        item.doc_string = ""


def _name_batch(model: onnx.ModelProto, spec: PartSpec) -> None:
    """Give the batch axis the contract's name wherever the exporter used a symbol of its own."""
    graph = model.graph
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    if len(symbols) != 1:
        raise ModelError(
            "batch is not dynamic", where=spec.part, expected="one symbol on every input", got=sorted(symbols)
        )
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH


def _first_cause(error: BaseException) -> str:
    """Return the first error of a chain as text, without the long advice that the exporter adds."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _cached_registry() -> Iterator[None]:
    """Cache the registry of PyTorch's exporter for the process: building it takes half the time of an export.

    The registry is private to PyTorch. Without it, the export is only slower.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    original = ONNXRegistry.from_torchlib
    ONNXRegistry.from_torchlib = classmethod(lambda _, opset_version: _registry(original, opset_version))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _registry(original: Callable[[int], object], opset_version: int) -> object:
    return original(opset_version)
