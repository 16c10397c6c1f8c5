"""Capture the parts of a source as graphs: in eval mode, on the CPU, with a dynamic batch and no stochastic op.

From here on nothing knows a model family. A `Graph` is one part of a `Source`, ready to be written by any format; the
module of each part gives its tensors in the order of the contract.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vae_export.contract import BATCH, MAX_LEVEL, PIXELS, Part, PartSpec, float_part
from vae_export.errors import ModelError
from vae_export.models import reparameterize
from vae_export.models.checkpoint import Checkpoint
from vae_export.precision import FULL, PrecisionName
from vae_export.sources import Source


class EncoderGraph(nn.Module):
    """image (N, C, H, W) → mean, logvar, each (N, *latent)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        return mean, logvar


class DecoderGraph(nn.Module):
    """latent (N, *latent) → image (N, C, H, W), and what else the likelihood has."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tensors in the order of the contract."""
        outputs: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        return outputs


class AutoencoderGraph(nn.Module):
    """image (N, C, H, W), noise (N, *latent) → reconstruction, mean, logvar, latent, and what else p(x|z) has."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        latent = reparameterize(mean, logvar, noise)
        decoded = self.decoder(latent)
        reconstruction, *rest = decoded if isinstance(decoded, tuple) else (decoded,)
        return reconstruction, mean, logvar, latent, *rest


class PixelsGraph(nn.Module):
    """latent (N, *latent) → pixels, uint8: the decoder's image as an application would round it, in 8 bits.

    The same rounding as `vae_export.pixels.levels`, half up: the cast cuts off what is behind the point. What else the
    likelihood has is left out.
    """

    def __init__(self, decoder: nn.Module, image_range: tuple[float, float], part: Part) -> None:
        super().__init__()
        self.decoder = decoder
        low, high = image_range
        self.scale = MAX_LEVEL / (high - low)
        self.shift = 0.5 - low * self.scale
        self.channels_last = part == PIXELS["uint8-hwc"]

    def forward(self, latent: Tensor) -> Tensor:
        """(N, H, W, C) or (N, C, H, W), row-major: a host copies it to its canvas as it is."""
        decoded: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        image = decoded[0] if isinstance(decoded, tuple) else decoded
        pixels = (image * self.scale + self.shift).clamp(0, MAX_LEVEL).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous() if self.channels_last else pixels


#: Graphs are captured with this batch: some versions bake a batch of 1 into the graph (pytorch#157621).
_EXAMPLE_BATCH = 2
#: Precisions that PyTorch computes in, beside its own.
_DTYPES: dict[PrecisionName, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def capture(source: Source, part: Part) -> Graph:
    """The graph of `part` of a source; raises `ModelError` if the modules do not keep the contract."""
    if float_part(part) not in source.parts:
        raise ModelError("part cannot be made", where=part, expected=" | ".join(source.parts))
    modules = [module for module in (source.encoder, source.decoder) if module is not None]
    if part == "encoder":
        module: nn.Module = EncoderGraph(modules[0])
    elif part == "decoder":
        module = DecoderGraph(modules[-1])
    elif part in PIXELS.values():
        module = PixelsGraph(modules[-1], source.contract.image_range, part)
    else:
        module = AutoencoderGraph(*modules)
    # A copy: the caller's modules keep their mode and device.
    graph = Graph(source.contract.spec(part), copy.deepcopy(module).cpu().float().eval().requires_grad_(False))
    graph.check()
    return graph


class Captured:
    """The parts of one source, each captured when it is first asked for and never again.

    Whoever needs the same graphs twice, such as `export` for writing, golden vectors and verification, passes this on.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._graphs: dict[Part, Graph] = {}

    @classmethod
    def of(cls, source: Source | Checkpoint | Captured) -> Captured:
        """Wrap a source or a checkpoint; return what is captured already as it is."""
        return source if isinstance(source, Captured) else cls(Source.of(source))

    def graph(self, part: Part) -> Graph:
        """Return the graph of `part`; raises as `capture` does."""
        if part not in self._graphs:
            self._graphs[part] = capture(self.source, part)
        return self._graphs[part]

    def graphs(self, parts: Iterable[Part] = ()) -> dict[Part, Graph]:
        """Return the graphs of all parts of the source, and of `parts`, by name."""
        return {part: self.graph(part) for part in dict.fromkeys((*self.source.parts, *parts))}


class _Cast(nn.Module):
    """A module that computes in another dtype; what goes in and comes out is float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.module(values.to(self.dtype))
        return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()


@dataclass(frozen=True)
class Graph:
    """One part, ready to be written: its names and shapes, and a module in eval mode on the CPU."""

    spec: PartSpec
    module: nn.Module

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs to capture the graph with, in the order of the spec; the values are arbitrary."""
        return tuple(torch.full((_EXAMPLE_BATCH, *tensor.item), 0.5) for tensor in self.spec.inputs)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph captured by torch.export, with a dynamic batch; most formats share it."""
        return self.captured()

    def captured(self, most: int | None = None) -> torch.export.ExportedProgram:
        """The graph captured anew, for batches of 1 to `most`: an engine that plans its memory must know how many."""
        batch = torch.export.Dim(BATCH, min=1, max=most)
        dynamic = {tensor.name: {0: batch} for tensor in self.spec.inputs}
        try:
            program = torch.export.export(self.module, self.example, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # torch.export raises whatever the module's code led it to
            raise ModelError(
                "module cannot be captured", where=self.spec.part, got=f"{type(error).__name__}: {error}"
            ) from error
        self._refuse_draws(program)
        return _without_source_lines(_without_dropout(program))

    def at(self, precision: PrecisionName) -> Graph:
        """The same graph, whose encoder and decoder compute in `precision`, between float32 inputs and outputs.

        Raises `ModelError` for a precision that PyTorch has no numbers of.
        """
        if precision == FULL:
            return self
        if precision not in _DTYPES:
            raise ModelError("PyTorch has no such numbers", where=precision, expected=" | ".join(_DTYPES))
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
            except Exception as error:  # the modules are somebody else's
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
            expected = (_EXAMPLE_BATCH, *tensor.item)
            if tuple(output.shape) != expected or output.dtype != getattr(torch, tensor.dtype):
                raise ModelError(
                    "output does not keep the contract",
                    where=f"{self.spec.part}, output '{tensor.name}'",
                    expected=f"{tensor.dtype} {expected}",
                    got=f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}",
                )

    def _refuse_draws(self, program: torch.export.ExportedProgram) -> None:
        """Randomness is an input: a graph that draws gives other values at each run, and cannot be verified."""
        drawing = [str(node.target) for node in program.graph.nodes if is_stochastic(node)]
        if drawing:
            raise ModelError(
                "graph draws random numbers",
                where=f"{self.spec.part}, operator {drawing[0]}",
                expected="noise as an input",
                do="return mean and logvar and let the caller draw",
            )


def is_stochastic(node: torch.fx.Node) -> bool:
    """Does this operator take numbers from a random generator? Dropout in eval mode and attention without it do not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = _arguments(node)
    return not (given.get("train") is False or given.get("training") is False or given.get("dropout_p") == 0)


def _without_dropout(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Take out dropout, which in eval mode hands on what it is given."""
    ends = {output for node in program.graph.find_nodes(op="output") for output in node.all_input_nodes}
    for node in list(program.graph.nodes):
        # An output has its name in the program's signature, and stays.
        if str(node.target).endswith("dropout.default") and _arguments(node).get("train") is False and node not in ends:
            node.replace_all_uses_with(node.all_input_nodes[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """What an operator was called with, by the names of its schema; a default that was not given is there too."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # every target of a captured graph is an operator
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip(given, node.args, strict=False))
    return given | dict(node.kwargs)


def _without_source_lines(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Drop what would carry paths and source lines of this machine into a file."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack"):
            node.meta.pop(key, None)
    return program
