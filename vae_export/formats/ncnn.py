"""ncnn's models for phones: a graph as text (`.param`) and its weights (`.bin`): https://github.com/Tencent/ncnn

pnnx translates a TorchScript file to such a pair. A model has no batch axis: it computes one row, and whoever runs it
calls it for each row. It computes in float32 only if the application switches 16-bit storage and arithmetic off, which
ncnn uses by default where the processor has them:
https://github.com/Tencent/ncnn/blob/master/docs/how-to-use-and-FAQ/FAQ-ncnn-produce-wrong-result.md
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError
from vae_export.formats.base import (
    Finding,
    Format,
    Runner,
    StatedFile,
    WriteOptions,
    check_fixed_sizes,
    machine_traces,
    row_runner,
)
from vae_export.formats.structure import Node, Structure, array_constant
from vae_export.formats.torchscript import TorchScript, traced
from vae_export.session_options import SessionOptions
from vae_export.system.child_process import describe_exit, last_line
from vae_export.system.extras import missing, require
from vae_export.system.streams import silenced_descriptors

if TYPE_CHECKING:
    import ncnn

    from vae_export.capture import Graph

_WEIGHTS = ".bin"
#: The first line of a `.param` file.
_MAGIC = "7767517"
#: The parameter of `ExpandDims` and `Squeeze` that names the first axis.
_FIRST_AXIS = ("-23303=1,0",)
#: pnnx's program that runs a model states the batch axis of each input and output: 0, or 233 where the model keeps it.
_BATCH_AXIS = re.compile(r"\b(in\d+|out\d+)\.numpy\((?:\), )?batch_index=(\d+)\)")
#: The most axes of one row.
_MOST_AXES = 4


class Ncnn(Format):
    """Pairs of graph and weights, written by pnnx and run row by row by ncnn on the CPU."""

    name = "ncnn"
    suffix = ".ncnn.param"
    sidecars = (_WEIGHTS,)
    extra = "ncnn"
    packages = ("ncnn", "pnnx", "torch")
    engine = "ncnn"
    summary = "ncnn's model for phones, one row at a time: two files, the graph and `.ncnn.bin` with its weights"
    danger = "is checked by nobody before ncnn reads it"
    may_crash = True
    left_out_of_all = "it cannot compute every network"

    def unavailable(self) -> str | None:
        """Return the reason why models cannot be written, or None."""
        error = missing("export", "torch") or missing(self.extra, "ncnn", "pnnx")
        return TorchScript().unavailable() if error is None else error.line()

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:  # noqa: ARG002 -- a model has no room for metadata
        """Return the graph, with its weights as the sidecar `.bin`. A model stores no metadata.

        Raises:
            ModelError: the part has sizes or types that ncnn has not, or operators that it does not know.
        """
        spec = graph.spec
        self.check_part(spec)
        script = traced(graph.single_row(), tuple(tensor[:1] for tensor in graph.example), spec.part)
        with tempfile.TemporaryDirectory() as folder:
            _convert(script, spec, Path(folder))
            text, weights = (Path(folder, f"part.ncnn.{kind}").read_bytes() for kind in ("param", "bin"))
            batched = _batched_blobs(Path(folder, "part_ncnn.py").read_text("utf-8"), spec)
        model = _parse(text.decode()).without_batch(batched).renamed(_blob_names(spec))
        model.check(spec)
        return FileContent(model.text.encode(), {_WEIGHTS: weights})

    def check_part(self, spec: PartSpec) -> None:
        """Raise `ModelError` for a size, a type or a number of axes that ncnn's models cannot have."""
        check_fixed_sizes(spec, "ncnn")
        do = "write this part in another format, such as onnx"
        for tensor in (*spec.inputs, *spec.outputs):
            where = f"{spec.part}, tensor '{tensor.name}'"
            if tensor.dtype != "float32":
                got = tensor.dtype
                raise ModelError("ncnn models take and give float32", where=where, expected="float32", got=got, do=do)
            if not 1 <= len(tensor.item) <= _MOST_AXES:
                expected = f"1 to {_MOST_AXES} axes besides the batch"
                raise ModelError("ncnn tensors have few axes", where=where, expected=expected, got=tensor.item, do=do)

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find traces of this machine; raise `ValueError` for another format. Capture refuses stochastic ops."""
        _parse(content.data.decode())
        yield from machine_traces(content.data, stated.name)

    def structure(self, content: FileContent) -> Structure:
        """Return the layers with their place, which says where in the weights those of a layer lie, and the weights."""
        import numpy as np

        model = _parse(content.data.decode())
        stored = _weights(content, self.name)
        weights = array_constant(np.frombuffer(stored, np.uint8 if len(stored) % 4 else np.float32), "weights")
        blobs: dict[str, Node] = {}
        for place, layer in enumerate(model.layers):
            facts = {"place": str(place), "parameters": " ".join(layer.parameters)}
            if layer.operator == "Input":
                facts["name"] = layer.outputs[0]
            inputs = (*(blobs[name] for name in layer.inputs), weights)
            for index, output in enumerate(layer.outputs):
                blobs[output] = Node(layer.operator, layer.name, facts, inputs, index)
        names = {name for layer in model.layers if layer.operator == "Input" for name in layer.outputs}
        # ncnn separates words at spaces and line breaks alone, and runs layers that give nothing.
        further = () if model.text.encode() == content.data else ("a text in another form than its layers have",)
        outputs = {name: blobs[name] for name in model.results}
        facts = {"layers": str(len(model.layers))}
        return Structure(tuple(sorted(names)), outputs, further=further, facts=facts)

    def providers(self) -> tuple[str, ...]:
        """Return the CPU if ncnn is installed, else nothing. GPUs, which need Vulkan, are not tested."""
        return ("cpu",) if missing(self.extra, "ncnn") is None else ()

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a model; raise `TargetError` for any provider but "cpu", and `ModelError` if ncnn cannot read it."""
        require(self.extra, "ncnn")
        self.check_provider(options.provider)
        _parse(content.data.decode()).check(spec)
        net = _engine().Net()
        # By default a phone's processor would compute in 16 bits.
        for switch in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "vulkan_compute"):
            setattr(net.opt, f"use_{switch}", False)
        if options.threads is not None:
            net.opt.num_threads = options.threads
        with tempfile.TemporaryDirectory() as folder:
            # From files, because ncnn reads weights in memory without knowing where they end.
            graph, weights = Path(folder, "part.param"), Path(folder, "part.bin")
            graph.write_bytes(content.data)
            weights.write_bytes(_weights(content, spec.part))
            with silenced_descriptors():
                codes = [net.load_param(str(graph)) or net.load_model(str(weights))]
            if codes != [0]:
                raise ModelError("ncnn cannot read the model", where=spec.part)

        names = [tensor.name for tensor in spec.outputs]
        return row_runner(spec, _matrices, functools.partial(_compute, net, names))


@dataclass(frozen=True)
class _Layer:
    """A line of a `.param` file: operator, name, the blobs that it reads and writes, and parameters such as "0=4"."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        return " ".join(
            [f"{self.operator:<24} {self.name:<24} {counts}", *self.inputs, *self.outputs, *self.parameters]
        )


@dataclass(frozen=True)
class _Model:
    """A graph: layers in the order in which they are computed, and in which their weights are stored."""

    layers: tuple[_Layer, ...]

    @property
    def results(self) -> list[str]:
        """The blobs that no layer reads, sorted."""
        read = {name for layer in self.layers for name in layer.inputs}
        return sorted(name for layer in self.layers for name in layer.outputs if name not in read)

    @property
    def text(self) -> str:
        """The `.param` file."""
        blobs = sum(len(layer.outputs) for layer in self.layers)
        return "\n".join([_MAGIC, f"{len(self.layers)} {blobs}", *map(str, self.layers), ""])

    def without_batch(self, batched: Collection[str]) -> _Model:
        """Return the graph with inputs and outputs of one row, where pnnx gave some of them a batch axis of 1."""
        inside = {blob: f"{blob}_batch" for blob in batched}
        layers: list[_Layer] = []
        for layer in self.renamed(inside).layers:
            given = next((blob for blob in batched if layer.outputs == (inside[blob],)), "")
            if layer.operator == "Input" and given:
                layers.append(replace(layer, outputs=(given,)))
                layer = _Layer("ExpandDims", f"expand_{given}", (given,), layer.outputs, _FIRST_AXIS)
            layers.append(layer)
        kept = sorted(set(self.results) & set(batched))
        layers += [_Layer("Squeeze", f"squeeze_{blob}", (inside[blob],), (blob,), _FIRST_AXIS) for blob in kept]
        return _Model(tuple(layers))

    def renamed(self, names: Mapping[str, str]) -> _Model:
        """Return the graph with other names of blobs. An `Input` layer is called as its blob."""

        def all_of(blobs: Sequence[str]) -> tuple[str, ...]:
            return tuple(names.get(blob, blob) for blob in blobs)

        layers = []
        for layer in self.layers:
            inputs, outputs = all_of(layer.inputs), all_of(layer.outputs)
            name = outputs[0] if layer.operator == "Input" else layer.name
            layers.append(replace(layer, name=name, inputs=inputs, outputs=outputs))
        return _Model(tuple(layers))

    def check(self, spec: PartSpec) -> None:
        """Raise `ModelError` for an operator that ncnn does not know, or inputs or outputs unlike the contract's.

        ncnn itself prints the operator and returns a number. The outputs are the blobs that no layer reads.
        """
        known = _engine().layer_to_index
        if unknown := sorted({layer.operator for layer in self.layers if known(layer.operator) < 0}):
            raise ModelError("ncnn does not know an operator", where=spec.part, got=", ".join(unknown))
        inputs = [name for layer in self.layers if layer.operator == "Input" for name in layer.outputs]
        for kind, tensors, got in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, self.results)):
            wanted = [tensor.name for tensor in tensors]
            if sorted(wanted) != sorted(got):
                what, texts = f"{kind} do not match the contract", (", ".join(wanted), ", ".join(got))
                raise ModelError(what, where=spec.part, expected=texts[0], got=texts[1] or "none")


@functools.cache
def _engine() -> Any:
    """Import ncnn so that its threads sleep while they wait for each other; return the module.

    OpenMP's threads spin by default. Where other processes have the cores, a thread then spins for one that does not
    run: with two threads, a row of the default autoencoder took 20 to 365 ms in place of 1. How threads wait is read
    from the environment when the OpenMP library is loaded, and PyTorch has loaded its own, which ncnn would find first.
    """
    flags = sys.getdlopenflags()
    unset = "OMP_WAIT_POLICY" not in os.environ
    if unset:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    # Linux alone: let ncnn find the OpenMP library of its own wheel.
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        import ncnn
    finally:
        sys.setdlopenflags(flags)
        if unset:
            del os.environ["OMP_WAIT_POLICY"]
    return ncnn


def _parse(text: str) -> _Model:
    """Read a `.param` file; raise `ValueError` for anything else, because ncnn prints and does not check all of it."""
    magic, counts, *lines = text.splitlines() or ("", "")
    layers, known = [], set[str]()
    for line in lines:
        operator, name, inputs, outputs, *rest = line.split()
        ends = int(inputs), int(inputs) + int(outputs)
        layer = _Layer(operator, name, tuple(rest[: ends[0]]), tuple(rest[ends[0] : ends[1]]), tuple(rest[ends[1] :]))
        if not set(layer.inputs) <= known or known & set(layer.outputs) or len(rest) < ends[1] or ends[0] < 0:
            raise ValueError(f"not a layer: {line[:80]}")
        known |= {*layer.outputs}
        layers.append(layer)
    stated = [int(count) for count in counts.split()]  # pnnx counts some blobs that it has removed
    if magic != _MAGIC or len(stated) != 2 or stated[0] != len(layers) or stated[1] < len(known) or not layers:
        raise ValueError("not an ncnn model")
    return _Model(tuple(layers))


def _weights(content: FileContent, where: str) -> bytes:
    if _WEIGHTS not in content.sidecars:
        raise ModelError("ncnn model without its weights", where=where, expected=f"a {_WEIGHTS} file beside it")
    return content.sidecars[_WEIGHTS]


def _convert(script: bytes, spec: PartSpec, folder: Path) -> None:
    """Let pnnx translate a TorchScript file in a folder, where it leaves eight; raise `ModelError` if it fails."""
    import pnnx

    (folder / "part.pt").write_bytes(script)
    shapes = ",".join(f"[{','.join(map(str, (1, *tensor.fixed_item)))}]f32" for tensor in spec.inputs)
    # Without fp16=0 the weights would be rounded to 16 bits.
    command = [pnnx.EXEC_PATH, "part.pt", f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode != 0 or not (folder / "part.ncnn.param").exists():
        got = f"pnnx {describe_exit(done.returncode)}: {last_line(done.stderr) or last_line(done.stdout)}"[:400]
        raise ModelError("graph cannot be translated", where=spec.part, got=got)


def _batched_blobs(program: str, spec: PartSpec) -> set[str]:
    """Return pnnx's names of inputs and outputs with a batch axis, which pnnx's own program that runs the model tells.

    pnnx removes the axis where an operator says which one it is, as convolutions do; a `flatten` does not.
    """
    axes = dict(_BATCH_AXIS.findall(program))
    if set(axes) != set(_blob_names(spec)) or not {*axes.values()} <= {"0", "233"}:
        raise ModelError("pnnx names no batch axis", where=spec.part, expected="0 or 233 for each blob", got=axes)
    return {blob for blob, axis in axes.items() if axis == "233"}


def _blob_names(spec: PartSpec) -> dict[str, str]:
    """Return the contract's name of each input and output by pnnx's, which counts them."""
    inputs = {f"in{place}": tensor.name for place, tensor in enumerate(spec.inputs)}
    return inputs | {f"out{place}": tensor.name for place, tensor in enumerate(spec.outputs)}


def _matrices(row: Mapping[str, Array]) -> dict[str, ncnn.Mat]:
    """Return the inputs of one row in ncnn's memory, because it aligns channels and counts the users of a matrix."""
    import numpy as np

    matrix = _engine().Mat
    return {name: matrix(np.ascontiguousarray(array)).clone() for name, array in row.items()}


def _compute(net: ncnn.Net, names: Sequence[str], row: Mapping[str, ncnn.Mat]) -> list[ncnn.Mat]:
    """Return the outputs of one row; raise `ModelError` if ncnn fails."""
    outputs = []
    with net.create_extractor() as extractor:
        for name, matrix in row.items():
            extractor.input(name, matrix)
        for name in names:
            code, matrix = extractor.extract(name)
            if code != 0:
                raise ModelError("ncnn cannot compute an output", where=name, got=f"code {code}")
            outputs.append(matrix)
    return outputs
