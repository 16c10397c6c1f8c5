"""Translate a captured program to ONNX with PyTorch's exporter, without traces of this machine.

The exporter writes stack traces with paths of this machine into a model, and symbol names of its own. This module
removes the traces and renames the symbols.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vae_export.capture.advice import advice, advice_for_operators
from vae_export.capture.onnx_rewrites import rewritten
from vae_export.capture.onnx_weights import Translation
from vae_export.capture.program import operator_names
from vae_export.contract import PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.system.streams import silenced
from vae_export.tensors import Expression

if TYPE_CHECKING:
    import onnx_ir

#: The IR version of every file of the operator sets that PyTorch writes. Set 20 requires it, and older engines can read
#: it. Files of older operator sets have the oldest IR version that their set allows.
IR_VERSION = 10
#: The oldest operator set that PyTorch writes. ONNX's own converter makes older ones from it.
WRITTEN_OPSET = 18
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
#: Registries of PyTorch's exporter by operator set, and by whether torchvision's operator is among them.
_registries: dict[tuple[int, bool], object] = {}


def ir_version(opset: int) -> int:
    """Return the IR version of a file of an operator set."""
    if opset >= WRITTEN_OPSET:
        return IR_VERSION
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def translate(program: torch.export.ExportedProgram, spec: PartSpec, opset: int, max_inside: int) -> Translation:
    """Return the program as an ONNX model.

    Args:
        program: the captured graph of one part.
        spec: names and sizes of the inputs and outputs.
        opset: ONNX operator set.
        max_inside: the most bytes of weights that a file can have inside, which ONNX's converter needs there.

    Raises:
        ModelError: the program cannot be translated, or has other dynamic axes than the contract.
        UsageError: the exporter cannot write this operator set.
    """
    with silenced(), _cached_registry():
        try:
            exported = torch.onnx.export(
                rewritten(program),
                dynamo=True,
                opset_version=max(opset, WRITTEN_OPSET),
                external_data=False,
                optimize=False,
                verbose=False,
            )
            if exported is None:
                raise ModelError("exporter gave no model", where=spec.part)
            _optimize(exported.model)
        except torch.onnx.OnnxExporterError as error:
            got, do = _first_cause(error), advice(error) or advice_for_operators(operator_names(program))
            raise ModelError("module cannot be written as ONNX", where=spec.part, got=got, do=do) from error
    translation = Translation.of(exported.model)
    if opset < WRITTEN_OPSET:
        if translation.size > max_inside:
            where = f"{spec.part}, a large model"
            raise UsageError("opset cannot be written", where=where, expected=WRITTEN_OPSET, got=opset)
        translation = Translation(_converted(translation.complete(), spec, opset), {})
    model = translation.model
    model.ir_version = ir_version(opset)
    _remove_notes(model)
    _name_tensors(model.graph, spec)
    _name_sizes(model.graph, spec)
    written = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if written.get("ai.onnx") != opset:
        raise UsageError("opset cannot be written", where=spec.part, expected=opset, got=written)
    return translation


def _converted(model: onnx.ModelProto, spec: PartSpec, opset: int) -> onnx.ModelProto:
    """Return a model in an older operator set; raise `UsageError` if this set cannot express one of its operators."""
    from onnx import version_converter

    reasons = []
    for lowest in range(opset, WRITTEN_OPSET):
        try:
            converted = version_converter.convert_version(model, lowest)
        except Exception as error:  # the converter raises RuntimeError and ConvertError
            reasons.append(str(error).rpartition("failed: ")[2] or type(error).__name__)
            continue
        if not reasons:
            return converted
        break
    else:
        lowest = WRITTEN_OPSET
    where, expected = f"{spec.part}, {reasons[0]}", f"{lowest} and up for this model"
    raise UsageError("opset cannot be written", where=where, expected=expected, got=opset)


def _optimize(model: onnx_ir.Model) -> None:
    """Fold constants and simplify the graph in place, with the passes of the exporter that keep its values.

    The exporter's own optimiser also removes `x + 0` and `x * 1`, and takes constants up to 1e-8 for 0 and constants
    within 1e-5 of 1 for 1. A network that adds 1e-15 before it divides becomes NaN.
    """
    import onnx_ir
    import onnx_ir.passes.common as common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import _no_op

    inexact = {id(rule) for rule in _no_op.rules}
    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if id(rule) not in inexact]
    common.InlinePass()(model)
    for _ in range(2):  # folding makes rules match, and they make more constants
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.rewrite(model, rules)
    onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


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


def _name_tensors(graph: onnx.GraphProto, spec: PartSpec) -> None:
    """Give inputs and outputs the contract's names, and other names to inner values that have one of these."""
    wanted = {value.name: tensor.name for value, tensor in zip(graph.input, spec.inputs, strict=True)}
    wanted |= {value.name: tensor.name for value, tensor in zip(graph.output, spec.outputs, strict=True)}
    inner = {name for within in _graphs(graph) for name in _names(within)} - wanted.keys()
    taken = inner | set(wanted.values())
    names = dict(wanted)
    for name in sorted(inner & set(wanted.values())):
        names[name] = next(new for count in itertools.count(1) if (new := f"{name}_{count}") not in taken)
        taken.add(names[name])
    for within in _graphs(graph):
        for node in within.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*within.input, *within.output, *within.initializer, *within.value_info):
            value.name = names.get(value.name, value.name)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all values of a graph, without those of its subgraphs."""
    for value in (*graph.input, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from node.output


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _name_sizes(graph: onnx.GraphProto, spec: PartSpec) -> None:
    """Write the contract's sizes on inputs and outputs, and its symbols on inner values, in place of the exporter's."""
    symbols: dict[str, str] = {}
    for values, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            dims = value.type.tensor_type.shape.dim
            found = [dim.dim_param or dim.dim_value for dim in dims]
            if [isinstance(size, str) for size in found] != [isinstance(size, str) for size in tensor.shape]:
                where = f"{spec.part}, '{tensor.name}'"
                raise ModelError("axes are not those of the contract", where=where, expected=tensor.shape, got=found)
            for dim, size in zip(dims, tensor.shape, strict=True):
                if not isinstance(size, str):
                    continue
                with contextlib.suppress(ModelError):  # the exporter also writes expressions in several symbols
                    symbols.setdefault(Expression.parse(dim.dim_param).symbol, Expression.parse(size).symbol)
                dim.dim_param = size
    for value in graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _SYMBOL.sub(lambda found: symbols.get(found[0], found[0]), dim.dim_param)


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

    def cached(_: object, opset_version: int) -> object:
        key = opset_version, "torchvision" in sys.modules  # it adds an operator when it is imported
        if key not in _registries:
            _registries[key] = _registry(original, opset_version)
        return _registries[key]

    ONNXRegistry.from_torchlib = classmethod(cached)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


def _registry(original: Callable[[int], object], opset_version: int) -> object:
    with contextlib.suppress(Exception), _unparsed_functions():
        return original(opset_version)
    return original(opset_version)


@contextlib.contextmanager
def _unparsed_functions() -> Iterator[None]:
    """Let onnxscript list its functions without parsing the source of each, because only the domain is read.

    The class is private to onnxscript. Without it, the list takes three times as long.
    """
    from onnxscript._internal.values import TracedOnnxFunction

    name = "function_ir"
    parsed = getattr(TracedOnnxFunction, name)
    setattr(TracedOnnxFunction, name, property(lambda function: SimpleNamespace(domain=function.opset.domain)))
    try:
        yield
    finally:
        setattr(TracedOnnxFunction, name, parsed)
