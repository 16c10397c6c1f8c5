"""ONNX files that nobody vouches for: no manifest, no hash. They pass a row of checks before this process opens them.

A file of 108 bytes can ask for gigabytes, name a file of the machine as its weights, or crash the engine. So: a cap on
its size, no data outside it, an operator set and operators that are known, then a trial in a child process with little
memory. What is wrong there is a one-line error here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

from vae_export.contract import Contract, Part
from vae_export.errors import ModelError

#: Larger than any VAE decoder that we have seen, smaller than what protobuf can hold.
MAX_BYTES = 1 << 30
MIN_OPSET = 7  # ONNX Runtime reads no older one
_SECONDS = 60


def admit(path: Path, contract: Contract, part: Part) -> bytes:
    """The bytes of an ONNX file of unknown origin, once it has passed every check; else `ModelError`."""
    data = _read(path)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds
        raise ModelError("not an ONNX file", where=path, got=type(error).__name__) from error
    _check_versions(model, path)
    for graph in _graphs(model.graph):
        _check_graph(graph, model, path)
    _try(data, contract, part, path)
    return data


def _read(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise ModelError("not a plain file", where=path, expected="an ONNX file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ModelError("file too large", where=path, expected=f"{MAX_BYTES:,} bytes at most", got=f"{size:,}")
    return path.read_bytes()


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    newest, newest_ir = onnx.defs.onnx_opset_version(), onnx.IR_VERSION
    if not 1 <= model.ir_version <= newest_ir:
        raise ModelError("IR version not known", where=path, expected=f"1 to {newest_ir}", got=model.ir_version)
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            raise ModelError("operators of an unknown domain", where=path, expected="ai.onnx", got=entry.domain)
        if not MIN_OPSET <= entry.version <= newest:
            raise ModelError("opset not known", where=path, expected=f"{MIN_OPSET} to {newest}", got=entry.version)
    if not model.opset_import or model.functions:
        raise ModelError("functions or no operator set", where=path, expected="a plain graph of ai.onnx operators")


def _check_graph(graph: onnx.GraphProto, model: onnx.ModelProto, path: Path) -> None:
    version = model.opset_import[0].version
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version):
            where = f"{path}, node '{node.name}'"
            raise ModelError("unknown operator", where=where, got=f"{node.domain or 'ai.onnx'} {node.op_type}")
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            raise ModelError("weights outside the file", where=f"{path}, tensor '{tensor.name}'", got=location)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _try(data: bytes, contract: Contract, part: Part, path: Path) -> None:
    """Open and run it in a child process whose memory is limited: a crash there is an error here."""
    arguments = [json.dumps(contract.to_json()), part]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "vae_export.runtime.trial", *arguments],
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError("trial run took too long", where=path, expected=f"{_SECONDS} s at most") from error
    if child.returncode == 0:
        return
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    said = lines[-1] if lines and child.returncode > 0 else f"the engine died of signal {-child.returncode}"
    raise ModelError("trial run failed", where=path, got=said)
