"""What is exported: the modules of `part_modules` in eval mode, captured once, never a draw inside.

From here on nothing knows a model family. A `Source` is an encoder, a decoder and a contract, whoever built them; a
`Graph` is one part of it, ready to be written by any format.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae_export.checkpoint import Checkpoint
from vae_export.contract import BATCH, PIXELS, Array, Contract, Part, PartSpec, float_part
from vae_export.errors import ModelError
from vae_export.part_modules import AutoencoderGraph, DecoderGraph, EncoderGraph, PixelsGraph
from vae_export.precision import FULL, PrecisionName

#: Graphs are captured with this batch: some versions bake a batch of 1 into the graph (pytorch#157621).
_EXAMPLE_BATCH = 2
#: Precisions that PyTorch computes in, beside its own.
_DTYPES: dict[PrecisionName, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """What is exported, and what parity compares with.

    Attributes:
        contract: shapes and ranges.
        encoder: image (N, C, H, W) → (mean, logvar), each (N, *latent); None exports no encoder.
        decoder: latent (N, *latent) → image (N, C, H, W) in the contract's range, or a tuple of it and what else the
            contract's likelihood has (see `vae_export.likelihood`); None exports no decoder.
        images: real images (M, C, H, W), float32 in the contract's range, that parity probes with; None has it probe
            with uniform noise, and say so.
        provenance: JSON-able; goes into the manifest and into every file's metadata.
    """

    contract: Contract
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    images: Array | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ModelError("nothing to export", expected="an encoder, a decoder, or both")
        try:
            json.dumps(dict(self.provenance), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ModelError("provenance is no JSON", got=str(error)) from error
        if self.images is not None:
            self.contract.spec("encoder").inputs[0].check(self.images)

    @classmethod
    def of(cls, source: Source | Checkpoint) -> Source:
        """A checkpoint of ours as a source; a source as it is."""
        if isinstance(source, Source):
            return source
        model = source.model()
        images = source.examples.numpy().astype(np.float32) / 255 if len(source.examples) else None
        provenance = {
            "checkpoint_sha256": source.sha256,
            "config": source.config.to_json(),
            "training": dict(source.provenance),
        }
        return cls(source.config.contract, model.encoder, model.decoder, images, provenance)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of `PARTS` that these modules can make. With a decoder, `graph` makes those of `PIXELS` too."""
        parts: list[Part] = []
        if self.encoder is not None:
            parts.append("encoder")
        if self.decoder is not None:
            parts.append("decoder")
        if self.encoder is not None and self.decoder is not None:
            parts.append("autoencoder")
        return tuple(parts)

    def graph(self, part: Part) -> Graph:
        """The graph of `part`; raises `ModelError` if the modules do not keep the contract."""
        if float_part(part) not in self.parts:
            raise ModelError("part cannot be made", where=part, expected=" | ".join(self.parts))
        modules = [module for module in (self.encoder, self.decoder) if module is not None]
        if part == "encoder":
            module: nn.Module = EncoderGraph(modules[0])
        elif part == "decoder":
            module = DecoderGraph(modules[-1])
        elif part in PIXELS.values():
            module = PixelsGraph(modules[-1], self.contract.image_range, part)
        else:
            module = AutoencoderGraph(*modules)
        # A copy: the caller's modules keep their mode and device.
        graph = Graph(self.contract.spec(part), copy.deepcopy(module).cpu().float().eval().requires_grad_(False))
        graph.check()
        return graph


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
        drawing = [str(node.target) for node in program.graph.nodes if draws(node)]
        if drawing:
            raise ModelError(
                "graph draws random numbers",
                where=f"{self.spec.part}, operator {drawing[0]}",
                expected="noise as an input",
                do="return mean and logvar and let the caller draw",
            )


def draws(node: torch.fx.Node) -> bool:
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
