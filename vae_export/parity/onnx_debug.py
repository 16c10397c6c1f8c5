"""Which nodes of a graph ran where: ONNX Runtime gives what a provider cannot do to the CPU, without a word.

Where a failed file leaves the path: the first node whose output is further from the truth than rounding explains.

The ONNX graph runs unoptimised with every intermediate value as an output. PyTorch's side is the captured program, node
by node: in float32, in float64, and in float64 with weights and inputs moved by one rounding, as for the outputs. The
exporter names values after the program's nodes, so most match by name; what it renamed is matched by shape, in order,
between those that do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.formats.base import Finding
from vae_export.parity.compare import CaseResult, describe_fault
from vae_export.parity.oracle import PERTURBATIONS, perturbation_direction
from vae_export.parity.reference import Case
from vae_export.parity.tolerance import FP32_UNIT_ROUNDOFF, TOLERANCE_FACTORS, ErrorLimits
from vae_export.precision import FULL
from vae_export.session_options import CPU

if TYPE_CHECKING:
    import onnx


def nodes_on_the_cpu(data: bytes, name: str, provider: str, inputs: Mapping[str, Array]) -> Iterator[Finding]:
    """A warning for each node of the ONNX file that ran on the CPU although `provider` was asked for."""
    for node, where in node_providers(data, provider, inputs).items():
        if where == CPU != provider:
            yield Finding("node-on-cpu", "warning", f"{name}, node '{node}'", f"ran on {where}, not on {provider}")


def node_providers(data: bytes, provider: str, inputs: Mapping[str, Array]) -> dict[str, str]:
    """The provider that each node ran on, read from the profile of one run."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
        session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    found: dict[str, str] = {}
    for event in events:
        where = event.get("args", {}).get("provider")
        if event.get("cat") == "Node" and where:
            found[event["name"].removesuffix("_kernel_time")] = where
    return found


@dataclass(frozen=True)
class NodeMismatch:
    """Attributes:
    node: name and operator in the ONNX graph.
    output: the value that it computes.
    index: where the two are furthest apart, batch first.
    exported, expected: the values there, the file's and float64's.
    error, band: the distance between them, and what rounding allows.
    """

    node: str
    output: str
    index: tuple[int, ...]
    exported: float
    expected: float
    error: float
    band: float

    def line(self) -> str:
        where = f"first differs at node {self.node}, value '{self.output}'{list(self.index)}"
        return f"{where}: {self.exported:.6g} in the file, {self.expected:.6g} in PyTorch's float64"


@dataclass(frozen=True)
class _Value:
    """One value of the program, by its name there; `band` is what rounding allows, found as for an output."""

    name: str
    exact: Array
    band: float


def explain_failure(
    data: bytes, name: str, graph: Graph, failures: Sequence[CaseResult], cases: Sequence[Case]
) -> NodeMismatch | Finding | None:
    """Where the first failed row of the ONNX file `name` leaves the path; None where no node does.

    A file too broken to be run node by node is a warning: its rows say what is wrong with it.
    """
    # Nodes are judged by their worst number: a row that only its mean fails may not show one.
    plain = (row for row in failures if row.comparison.error is None or row.comparison.error > row.tolerance)
    failed = next(plain, failures[0])
    case = next(case for case in cases if (case.probe, case.batch) == (failed.probe, failed.batch))
    try:
        return first_mismatch(data, graph, case.inputs)
    except Exception as error:  # whatever its reader, its engine or the program raises
        return Finding("no-divergence", "warning", name, f"node by node, {describe_fault(error)}")


def first_mismatch(data: bytes, graph: Graph, inputs: Mapping[str, Array]) -> NodeMismatch | None:
    """The first node of the ONNX file `data` that leaves the band for `inputs`; None if none of them does."""
    import onnx

    model = onnx.load_from_string(data)
    exported = _intermediates(model, inputs)
    for node, name, value in _paired(model, _values(graph, inputs), exported):
        output = exported[name]
        error = np.abs(output - value.exact)
        # Written so that a NaN counts as outside.
        if not bool((error <= value.band).all()):
            index = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
            return NodeMismatch(
                node=f"{node.name or '(no name)'} ({node.op_type})",
                output=name,
                index=tuple(int(i) for i in index),
                exported=float(output[index]),
                expected=float(value.exact[index]),
                error=float(error[index]),
                band=value.band,
            )
    return None


def _intermediates(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every float value that the graph computes, in its order."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    already = {value.name for value in shown.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in already:
                shown.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return {
        name: output
        for name, output in zip(names, session.run(names, dict(inputs)), strict=True)
        if isinstance(output, np.ndarray) and output.dtype == np.float32
    }


def _values(graph: Graph, inputs: Mapping[str, Array]) -> list[_Value]:
    """Every tensor that the captured program computes, in its order; outputs carry the names of the contract."""
    program = graph.program
    ordered = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs]
    module = program.module()
    eager = _trace(module, ordered, torch.float32)
    exact = _trace(module, ordered, torch.float64)
    moved = [_trace(module, ordered, torch.float64, turn) for turn in range(PERTURBATIONS)]
    [output] = module.graph.find_nodes(op="output")
    results = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    renamed = {node.name: tensor.name for node, tensor in zip(results, graph.spec.outputs, strict=True)}
    return [
        _Value(renamed.get(name, name), truth.numpy(), _band(truth, eager[name], [turn[name] for turn in moved]))
        for name, truth in exact.items()
    ]


def _band(exact: Tensor, eager: Tensor, moved: list[Tensor]) -> float:
    if not exact.numel():
        return 0.0
    sensitivity = max(float((other - exact).abs().max()) for other in moved) / TOLERANCE_FACTORS[FULL]
    return ErrorLimits(float((eager - exact).abs().max()), sensitivity, float(exact.abs().max())).tolerance()


class _Recorder(torch.fx.Interpreter):
    """Runs a graph module in a precision and keeps what each operator gave.

    With a `turn`, each weight and input is moved at random by as many roundings as `Oracle.perturbed` does.
    """

    def __init__(self, module: torch.fx.GraphModule, dtype: torch.dtype, turn: int | None) -> None:
        super().__init__(module)
        self.dtype = dtype
        seed, self.reach = (0, 0.0) if turn is None else perturbation_direction(turn)
        self.generator = None if turn is None else torch.Generator().manual_seed(seed)
        self.seen: dict[str, Tensor] = {}

    def cast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.dtype)
        if self.generator is None:
            return tensor
        noise = torch.rand(tensor.shape, generator=self.generator, dtype=self.dtype) * 2 - 1
        return tensor * (1 + noise * (FP32_UNIT_ROUNDOFF * self.reach))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        weight = super().get_attr(target, args, kwargs)
        return self.cast(weight) if isinstance(weight, Tensor) and weight.is_floating_point() else weight

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            self.seen[n.name] = value
        return value


def _trace(
    module: torch.fx.GraphModule, inputs: list[Tensor], dtype: torch.dtype, turn: int | None = None
) -> dict[str, Tensor]:
    recorder = _Recorder(module, dtype, turn)
    with torch.no_grad():
        recorder.run(*map(recorder.cast, inputs))
    return recorder.seen


def _paired(
    model: onnx.ModelProto, values: list[_Value], exported: Mapping[str, Array]
) -> Iterator[tuple[onnx.NodeProto, str, _Value]]:
    """Nodes of the file with the program's value that each should compute, in the file's order."""
    position = {value.name: index for index, value in enumerate(values)}
    following = 0
    for node in model.graph.node:
        for name in node.output:
            if name not in exported:
                continue
            index = position.get(name)
            if index is None:
                shape = exported[name].shape
                fits = (
                    i
                    for i in range(following, len(values))
                    if values[i].exact.shape == shape and values[i].name not in exported
                )
                index = next(fits, None)
            # A value of another shape under a known name has been tampered with, and has no counterpart.
            if index is not None and values[index].exact.shape == exported[name].shape:
                following = index + 1
                yield node, name, values[index]
