"""What an ONNX file of unknown origin may hold: a plain graph of known operators, and its weights inside it.

Runs in the child process of a trial: parsing a stranger's bytes is the first thing that can go wrong.
"""

from __future__ import annotations

import onnx

from vae_export.errors import ModelError
from vae_export.formats.onnx_walk import DOMAINS, constants, elsewhere, every_graph, weights

MIN_OPSET = 7  # ONNX Runtime reads no older one


def check(data: bytes) -> None:
    """Raise `ModelError` unless these bytes are such a file."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds
        raise ModelError("not an ONNX file", got=type(error).__name__) from error
    opset = _checked_versions(model)
    for graph in every_graph(model.graph):
        _check_graph(graph, opset)


def _checked_versions(model: onnx.ModelProto) -> int:
    """The one operator set that the file uses."""
    newest, newest_ir = onnx.defs.onnx_opset_version(), onnx.IR_VERSION
    if not 1 <= model.ir_version <= newest_ir:
        raise ModelError("IR version not known", expected=f"1 to {newest_ir}", got=model.ir_version)
    for entry in model.opset_import:
        if entry.domain not in DOMAINS:
            raise ModelError("operators of an unknown domain", expected="ai.onnx", got=entry.domain)
        if not MIN_OPSET <= entry.version <= newest:
            raise ModelError("opset not known", expected=f"{MIN_OPSET} to {newest}", got=entry.version)
    # Two sets of one domain: which of them an engine takes is its own affair, and need not be the one that was checked.
    if len(model.opset_import) != 1:
        raise ModelError("not one operator set", expected="ai.onnx once", got=len(model.opset_import))
    if model.functions or model.training_info:
        got = "functions of its own" if model.functions else "training information"
        raise ModelError("more than a graph", expected="a plain graph of ai.onnx operators", got=got)
    return int(model.opset_import[0].version)


def _check_graph(graph: onnx.GraphProto, opset: int) -> None:
    tensors = [tensor for _, tensor in weights(graph)]
    for node in graph.node:
        if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, opset):
            got = f"{node.domain or 'ai.onnx'} {node.op_type}"
            raise ModelError("unknown operator", where=f"node '{node.name}'", got=got)
        tensors += constants(node)
    for tensor in tensors:
        if (location := elsewhere(tensor)) is not None:
            raise ModelError("weights outside the file", where=f"tensor '{tensor.name}'", got=location)
