"""Capture the parts of a source as graphs: in eval mode, on the CPU, with a dynamic batch and no stochastic op."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vae_export.capture.part_modules import AutoencoderModule, DecoderModule, EncoderModule, PixelsModule
from vae_export.contract import PIXELS, Part, PartSpec, float_part
from vae_export.errors import ModelError
from vae_export.models.checkpoint import Checkpoint
from vae_export.precision import FULL, PrecisionName
from vae_export.sources import Source
from vae_export.tensors import BATCH

if TYPE_CHECKING:
    import onnx


#: The batch size for capture. Some versions of PyTorch turn a batch of 1 into a constant (pytorch#157621).
_EXAMPLE_BATCH = 2
#: Lower precisions that PyTorch can compute in.
_DTYPES: dict[PrecisionName, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def capture(source: Source, part: Part) -> Graph:
    """Return the graph of one part of a source; raise `ModelError` if the modules do not keep the contract."""
    if float_part(part) not in source.parts:
        raise ModelError("part cannot be made", where=part, expected=" | ".join(source.parts))
    modules = [module for module in (source.recognised.encoder, source.recognised.decoder) if module is not None]
    if part == "encoder":
        module: nn.Module = EncoderModule(modules[0])
    elif part == "decoder":
        module = DecoderModule(modules[-1])
    elif part in PIXELS.values():
        module = PixelsModule(modules[-1], source.contract.image_range, part)
    else:
        module = AutoencoderModule(*modules)
    # The module is copied, so that the caller's modules keep their mode and device.
    graph = Graph(source.contract.spec(part), copy.deepcopy(module).cpu().float().eval().requires_grad_(False))
    graph.check()
    return graph


class Captured:
    """A source with the graphs of its parts. Each graph is copied, checked and captured once, at its first use.

    Stages that need the same graphs share one instance: writing, golden vectors and verification.

    Args:
        source: the model to export.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._graphs: dict[Part, Graph] = {}

    @classmethod
    def of(cls, source: Source | Checkpoint | Captured) -> Captured:
        """Wrap a source or a checkpoint; return a `Captured` unchanged."""
        return source if isinstance(source, Captured) else cls(Source.of(source))

    def graph(self, part: Part) -> Graph:
        """Return the graph of a part; raise the errors that `capture` raises."""
        if part not in self._graphs:
            self._graphs[part] = capture(self.source, part)
        return self._graphs[part]

    def graphs(self, parts: Iterable[Part] = ()) -> dict[Part, Graph]:
        """Return the graphs of all parts of the source and of `parts`, by part."""
        return {part: self.graph(part) for part in dict.fromkeys((*self.source.parts, *parts))}


@dataclass(frozen=True)
class Graph:
    """One part of a source, which any format can write. It does not depend on a model family.

    Attributes:
        spec: names, shapes and dtypes of the inputs and outputs.
        module: the part in eval mode on the CPU, with inputs and outputs in the order of `spec`.
    """

    spec: PartSpec
    module: nn.Module
    _translations: dict[int, onnx.ModelProto] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs for capturing the graph, in the order of the spec, each (2, *item); the values are arbitrary."""
        return tuple(torch.full((_EXAMPLE_BATCH, *tensor.fixed_item), 0.5) for tensor in self.spec.inputs)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph captured by torch.export, with a dynamic batch. Formats share it, so copy it before changing it."""
        return self.capture_program()

    def onnx(self, opset: int) -> onnx.ModelProto:
        """Return the program as an ONNX model, which is cached for each operator set. Copy it before changing it."""
        from vae_export.capture.onnx_translation import translate

        if opset not in self._translations:
            self._translations[opset] = translate(self.program, self.spec, opset)
        return self._translations[opset]

    def check_program(self) -> None:
        """Raise `ModelError` if torch.export cannot capture the graph, or if it draws random numbers."""
        _ = self.program

    def capture_program(self, max_batch: int | None = None) -> torch.export.ExportedProgram:
        """Capture the graph again, for batches of 1 to `max_batch`, because some engines plan memory for the largest.

        Args:
            max_batch: the largest batch; None for no limit.

        Raises:
            ModelError: torch.export cannot capture the module, or the graph draws random numbers.
        """
        batch = torch.export.Dim(BATCH, min=1, max=max_batch)
        dynamic = {tensor.name: {0: batch} for tensor in self.spec.inputs}
        try:
            program = torch.export.export(self.module, self.example, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # torch.export may raise any error
            raise ModelError(
                "module cannot be captured", where=self.spec.part, got=f"{type(error).__name__}: {error}"
            ) from error
        _remove_unused(program)
        self._refuse_stochastic_ops(program)
        return _without_source_lines(_without_dropout(program))

    def at(self, precision: PrecisionName) -> Graph:
        """Return the graph with an encoder and decoder that compute in `precision`; inputs and outputs stay float32.

        Raises:
            ModelError: PyTorch cannot compute in this precision.
        """
        if precision == FULL:
            return self
        if precision not in _DTYPES:
            raise ModelError("PyTorch cannot compute in this precision", where=precision, expected=" | ".join(_DTYPES))
        module = copy.deepcopy(self.module)
        for name, child in list(module.named_children()):
            setattr(module, name, _Cast(child, _DTYPES[precision]).eval().requires_grad_(False))
        return Graph(self.spec, module)

    def check(self) -> None:
        """Raise `ModelError` unless the module is in eval mode and its outputs keep the contract's shapes."""
        training = [name or "(itself)" for name, module in self.module.named_modules() if module.training]
        if training:
            raise ModelError("module is in training mode", where=self.spec.part, got=", ".join(training))
        with torch.no_grad():
            try:
                outputs = self.module(*self.example)
            except Exception as error:  # the user's modules may raise any error
                raise ModelError(
                    "module cannot be run", where=self.spec.part, got=f"{type(error).__name__}: {error}"
                ) from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(outputs) != len(self.spec.outputs):
            names = [tensor.name for tensor in self.spec.outputs]
            raise ModelError("wrong number of outputs", where=self.spec.part, expected=names, got=len(outputs))
        for tensor, output in zip(self.spec.outputs, outputs, strict=True):
            if not isinstance(output, Tensor):
                raise ModelError(
                    "not a tensor", where=f"{self.spec.part}, output '{tensor.name}'", got=type(output).__name__
                )
            expected = (_EXAMPLE_BATCH, *tensor.fixed_item)
            if tuple(output.shape) != expected or output.dtype != getattr(torch, tensor.dtype):
                raise ModelError(
                    "output does not keep the contract",
                    where=f"{self.spec.part}, output '{tensor.name}'",
                    expected=f"{tensor.dtype} {expected}",
                    got=f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}",
                )

    def _refuse_stochastic_ops(self, program: torch.export.ExportedProgram) -> None:
        """Raise `ModelError` if the graph draws random numbers, because its outputs differ in each run."""
        stochastic = [str(node.target) for node in program.graph.nodes if is_stochastic(node)]
        if stochastic:
            raise ModelError(
                "graph draws random numbers",
                where=f"{self.spec.part}, operator {stochastic[0]}",
                expected="noise as an input",
                do="return mean and logvar and let the caller draw",
            )


class _Cast(nn.Module):
    """A module that computes in another dtype, with float32 inputs and outputs."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.module(values.to(self.dtype))
        return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()


def is_stochastic(node: torch.fx.Node) -> bool:
    """Whether the op draws random numbers; dropout in eval mode and attention without dropout do not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = _arguments(node)
    return not (given.get("train") is False or given.get("training") is False or given.get("dropout_p") == 0)


def _remove_unused(program: torch.export.ExportedProgram) -> None:
    """Remove what no output depends on, draws too: an encoder may draw a latent that the contract does not want."""
    program.graph.eliminate_dead_code(lambda node: node.is_impure() and not is_stochastic(node))


def _without_dropout(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Remove dropout nodes, which are the identity in eval mode."""
    ends = {output for node in program.graph.find_nodes(op="output") for output in node.all_input_nodes}
    for node in list(program.graph.nodes):
        # The program's signature contains the names of the outputs, so that their nodes must stay.
        if str(node.target).endswith("dropout.default") and _arguments(node).get("train") is False and node not in ends:
            node.replace_all_uses_with(node.all_input_nodes[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Return the arguments of an op by the names in its schema, including defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # every target of a captured graph is an operator
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip(given, node.args, strict=False))
    return given | dict(node.kwargs)


def _without_source_lines(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Remove the node metadata that would write paths and source lines of this machine into a file."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack"):
            node.meta.pop(key, None)
    return program
