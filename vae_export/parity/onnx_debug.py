"""Find the first wrong node of an ONNX file, and nodes that ran on another provider.

To find the first wrong node, the file runs unoptimised with every intermediate value as an output. The values are
compared with those of the captured program in PyTorch: in float32, in float64, and in float64 with perturbed weights
and inputs, as for the outputs. The exporter names values after the program's nodes, so most values match by name.
It may count the values of an operator anew: `mul_7` is then another one than the program's. Such values, and renamed
ones, are matched by operator and shape, in order, between two values that match by name.
"""

from __future__ import annotations

import json
import re
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
from vae_export.parity.cases import Case
from vae_export.parity.compare import CaseResult, describe_fault, json_numbers
from vae_export.parity.oracle import PERTURBATIONS, perturbation_direction
from vae_export.parity.tolerance import FP32_UNIT_ROUNDOFF, TOLERANCE_FACTORS, ErrorLimits
from vae_export.precision import FULL
from vae_export.session_options import CPU

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class NodeMismatch:
    """The first node of a file whose value is wrong.

    Attributes:
        node: name and operator of the node in the ONNX graph.
        output: name of the value that the node computes.
        index: index of the largest difference from PyTorch, batch first.
        exported, expected: the number at that index, in the file and in PyTorch's float64.
        error, tolerance: the distance between the two numbers, and the distance that rounding explains.
    """

    node: str
    output: str
    index: tuple[int, ...]
    exported: float
    expected: float
    error: float
    tolerance: float

    def line(self) -> str:
        """Return the mismatch as one line of text, with the number in the file and PyTorch's."""
        where = f"first differs at node {self.node}, value '{self.output}'{list(self.index)}"
        return f"{where}: {self.exported:.6g} in the file, {self.expected:.6g} in PyTorch's float64"

    def to_json(self) -> dict[str, Any]:
        """Return the mismatch as an object of certificate.json (docs/parity.md)."""
        figures = {
            "exported": self.exported,
            "expected": self.expected,
            "error": self.error,
            "band": self.tolerance,
        }
        return {"node": self.node, "output": self.output, "index": self.index} | json_numbers(figures)


def explain_failure(
    data: bytes, name: str, graph: Graph, failures: Sequence[CaseResult], cases: Sequence[Case]
) -> NodeMismatch | Finding | None:
    """Return the first wrong node of an ONNX file that failed.

    Args:
        data: the bytes of the file.
        name: the name of the file.
        graph: the part in PyTorch.
        failures: the failed results of the file, at least one.
        cases: the test cases of the part.

    Returns:
        The first wrong node, None if no node is wrong, or a warning if the file cannot be run node by node.
    """
    # Nodes are judged by their worst number, so a result that fails only by its mean may have no wrong node.
    errors = ((result, result.comparison.error) for result in failures)
    failed = next((result for result, error in errors if error is None or error > result.tolerance), failures[0])
    key = failed.probe, failed.batch, failed.sizes
    case = next(case for case in cases if (case.probe, case.batch, case.sizes) == key)
    try:
        return first_mismatch(data, graph, case.inputs)
    except Exception as error:  # whatever its reader, its engine or the program raises
        return Finding("no-divergence", "warning", name, f"node by node, {describe_fault(error)}")


def first_mismatch(data: bytes, graph: Graph, inputs: Mapping[str, Array]) -> NodeMismatch | None:
    """Return the first node of an ONNX file that differs from PyTorch by more than rounding explains.

    Args:
        data: the bytes of the file.
        graph: the part in PyTorch.
        inputs: float32 arrays (N, *item) by name.

    Returns:
        The node, or None if no node differs by more.
    """
    import onnx

    model = onnx.load_from_string(data)
    exported = _intermediates(model, inputs)
    for node, name, value in _paired(model, _values(graph, inputs), exported):
        output = exported[name]
        error = np.abs(output - value.expected)
        # Written so that a NaN counts as wrong.
        if not bool((error <= value.tolerance).all()):
            index = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
            return NodeMismatch(
                node=f"{node.name or '(no name)'} ({node.op_type})",
                output=name,
                index=tuple(int(i) for i in index),
                exported=float(output[index]),
                expected=float(value.expected[index]),
                error=float(error[index]),
                tolerance=value.tolerance,
            )
    return None


def node_providers(data: bytes, provider: str, inputs: Mapping[str, Array]) -> dict[str, str]:
    """Return the provider that each node of an ONNX file ran on, read from the profile of one run.

    Args:
        data: the bytes of the file.
        provider: the provider that the session asks for.
        inputs: float32 arrays (N, *item) by name.

    Returns:
        The provider of each node, by the node's name.
    """
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


def cpu_node_warnings(providers: Mapping[str, str], name: str, provider: str) -> Iterator[Finding]:
    """Warn about each node that ran on the CPU instead of the requested provider, which ONNX Runtime does not report.

    Args:
        providers: the result of `node_providers`.
        name: name of the file.
        provider: the requested provider.

    Yields:
        The warnings.
    """
    for node, where in providers.items():
        if where == CPU != provider:
            yield Finding("node-on-cpu", "warning", f"{name}, node '{node}'", f"ran on {where}, not on {provider}")


@dataclass(frozen=True)
class _Value:
    """One value of the program: its name, its float64 numbers, and the tolerance that rounding explains."""

    name: str
    expected: Array
    tolerance: float


def _intermediates(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return every float value that the file computes, in the order of the file."""
    import onnx

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
    """Return every tensor of the captured program, in the program's order; outputs have the contract's names."""
    program = graph.program
    ordered = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs]
    module = program.module()
    eager = _trace(module, ordered, torch.float32)
    expected = _trace(module, ordered, torch.float64)
    perturbed = [_trace(module, ordered, torch.float64, index) for index in range(PERTURBATIONS)]
    [output] = module.graph.find_nodes(op="output")
    results = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    renamed = {node.name: tensor.name for node, tensor in zip(results, graph.spec.outputs, strict=True)}
    return [
        _Value(renamed.get(name, name), value.numpy(), _tolerance(value, eager[name], [run[name] for run in perturbed]))
        for name, value in expected.items()
    ]


def _tolerance(expected: Tensor, eager: Tensor, perturbed: list[Tensor]) -> float:
    if not expected.numel():
        return 0.0
    sensitivity = max(float((other - expected).abs().max()) for other in perturbed) / TOLERANCE_FACTORS[FULL]
    return ErrorLimits(float((eager - expected).abs().max()), sensitivity, float(expected.abs().max())).tolerance()


class _Recorder(torch.fx.Interpreter):
    """Runs a graph module in a dtype and keeps the result of each operator.

    If `index` is not None, the weights and inputs are perturbed as in `Oracle.perturbed`.
    """

    def __init__(self, module: torch.fx.GraphModule, dtype: torch.dtype, index: int | None) -> None:
        super().__init__(module)
        self.dtype = dtype
        seed, self.factor = (0, 0.0) if index is None else perturbation_direction(index)
        self.generator = None if index is None else torch.Generator().manual_seed(seed)
        self.seen: dict[str, Tensor] = {}

    def cast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.dtype)
        if self.generator is None:
            return tensor
        noise = torch.rand(tensor.shape, generator=self.generator, dtype=self.dtype) * 2 - 1
        return tensor * (1 + noise * (FP32_UNIT_ROUNDOFF * self.factor))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        weight = super().get_attr(target, args, kwargs)
        return self.cast(weight) if isinstance(weight, Tensor) and weight.is_floating_point() else weight

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            self.seen[n.name] = value
        return value


def _trace(
    module: torch.fx.GraphModule, inputs: list[Tensor], dtype: torch.dtype, index: int | None = None
) -> dict[str, Tensor]:
    recorder = _Recorder(module, dtype, index)
    with torch.no_grad():
        recorder.run(*map(recorder.cast, inputs))
    return recorder.seen


def _paired(
    model: onnx.ModelProto, values: list[_Value], exported: Mapping[str, Array]
) -> Iterator[tuple[onnx.NodeProto, str, _Value]]:
    """Yield each node of the file with its output and the program's value for it, in the file's order."""
    known = {value.name for value in values}
    recounted = {_operator(name) for name in exported if name not in known}
    position = {value.name: index for index, value in enumerate(values) if _operator(value.name) not in recounted}
    operators = set(map(_operator, known))
    following = 0
    for node in model.graph.node:
        for name in node.output:
            if name not in exported:
                continue
            index = position.get(name)
            if index is None:
                shape, operator = exported[name].shape, _operator(name)
                fits = (
                    i
                    for i in range(following, len(values))
                    if values[i].expected.shape == shape
                    and not (values[i].name in position and values[i].name in exported)
                    and (operator not in operators or _operator(values[i].name) == operator)
                )
                index = next(fits, None)
            # A known name with another shape means that the file was altered, so the value has no counterpart.
            if index is not None and values[index].expected.shape == exported[name].shape:
                following = index + 1
                yield node, name, values[index]


def _operator(name: str) -> str:
    """Return the name of a value without its number: "mul" for "mul_7"; ONNX subtracts 1 - x as it does x - 1."""
    operator = re.sub(r"_\d+$", "", name)
    return "sub" if operator == "rsub" else operator
