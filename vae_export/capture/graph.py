"""Capture the parts of a source as graphs: in eval mode, on the CPU, with dynamic axes and no stochastic op."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vae_export.capture.copying import copy_module, copy_sharing_weights
from vae_export.capture.float32 import in_float32
from vae_export.capture.function_check import check_function
from vae_export.capture.part_modules import part_module
from vae_export.capture.program import (
    capture_narrowed,
    example_inputs,
    example_sizes,
    export_program,
    user_code,
    with_fixed_sizes,
)
from vae_export.capture.promotion import DtypeFinder, float64_module
from vae_export.contract import Contract, Part, PartSpec, float_part
from vae_export.errors import ModelError
from vae_export.models.checkpoint import Checkpoint
from vae_export.precision import FULL, PrecisionName
from vae_export.sources import Source
from vae_export.sources.module_runs import ModuleState, check_weights_stay, weight_sums
from vae_export.system.streams import silenced
from vae_export.system.time_limit import TimeLimitExceeded, time_limit
from vae_export.tensors import BATCH, sizes_at

if TYPE_CHECKING:
    from vae_export.capture.onnx_weights import Translation
    from vae_export.sources.recognition import Recognised

#: Seconds that capturing all parts of a source may take, unless another limit is given.
CAPTURE_SECONDS = 600.0
#: How many sizes are tried, from the lowest up, until the modules run.
_TRIED_SIZES = 8
#: The most bytes of an ONNX model that is kept for another precision or format.
CACHED_BYTES = 64 << 20
#: Lower precisions that PyTorch can compute in.
_DTYPES: dict[PrecisionName, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def capture(source: Source, part: Part) -> Graph:
    """Return the graph of one part of a source; raise `ModelError` if the modules do not keep the contract."""
    return Captured(source, source.contract).graph(part)


class Captured:
    """A source with the graphs of its parts. Each graph is copied, checked and captured once, at its first use.

    Stages that need the same graphs share one instance: writing, golden vectors and verification.

    Args:
        source: the model to export. Its modules are copied, so that they keep their mode and device.
        contract: a contract that capturing has narrowed before, such as a manifest's. Without one, the first use of
            `contract`, `source` or `graph` captures all parts, and finds the sizes that they support.

    Attributes:
        given: the model to export, with its own contract.
        has_stated_contract: whether the contract was stated, as by a manifest, and not found by capturing.
        notes: what was found in the modules and what was narrowed, a line each.
    """

    def __init__(self, source: Source, contract: Contract | None = None) -> None:
        self.given = source
        #: Seconds that capturing may take; None for no limit.
        self.seconds: float | None = CAPTURE_SECONDS
        self.notes: tuple[str, ...] = ()
        self.has_stated_contract = contract is not None
        self._contract = contract
        self._graphs: dict[Part, Graph] = {}

    @classmethod
    def of(cls, source: Source | Checkpoint | Captured, contract: Contract | None = None) -> Captured:
        """Wrap a source or a checkpoint; return a `Captured` unchanged unless it has another contract than given."""
        if isinstance(source, Captured):
            if contract is None or source._contract == contract:
                return source
            source = source.given
        return cls(Source.of(source), contract)

    @property
    def contract(self) -> Contract:
        """The source's contract, narrowed to the sizes and batches that its graphs support; the same for all parts."""
        return self.narrow(self.given.parts)

    @cached_property
    def source(self) -> Source:
        """The source with the narrowed contract."""
        return self.given if self.contract == self.given.contract else replace(self.given, contract=self.contract)

    def narrow(
        self,
        parts: Sequence[Part],
        report: Callable[[str], None] = lambda _line: None,
        check: Callable[[Graph], object] = lambda _graph: None,
    ) -> Contract:
        """Capture parts, check that they are functions of their inputs, and return the contract that all of them keep.

        Args:
            parts: the parts to capture, at the first call; later calls return the same contract.
            report: called with a line for each part.
            check: called with the graph of each part. Where it raises `ModelError`, such as for an operator that ONNX
                has for fixed sizes only, sizes or the batch are fixed.

        Raises:
            ModelError: a part cannot be captured in time, does not keep the contract, or is no function of its inputs.
        """
        if self._contract is None:
            try:
                with time_limit(self.seconds):
                    self._contract = self._checked(parts, report, check)
            except TimeLimitExceeded as error:
                expected, do = f"{self.seconds:g} s at most", "pass a longer --capture-minutes, or 0 for no limit"
                raise ModelError(
                    "capturing takes too long", where=", ".join(parts), expected=expected, do=do
                ) from error
        return self._contract

    def _checked(
        self, parts: Sequence[Part], report: Callable[[str], None], check: Callable[[Graph], object]
    ) -> Contract:
        """Capture parts and check their graphs, with sizes fixed where `check` refuses free ones."""
        wide = self._runnable(parts)
        contract = self._narrowed(wide, parts, report)
        try:
            self._check_graphs(parts, check)
        except ModelError as refusal:
            contract = self._fixed(wide, parts, report, check, refusal)
        self.notes = (*self.recognised.notes, *_narrowings(self.given.contract, wide, contract))
        return contract

    def _fixed(
        self,
        wide: Contract,
        parts: Sequence[Part],
        report: Callable[[str], None],
        check: Callable[[Graph], object],
        refusal: ModelError,
    ) -> Contract:
        """Capture parts with fewer free sizes until `check` takes their graphs; raise `refusal` if it never does."""
        for fixed in with_fixed_sizes(wide):
            self._graphs.clear()
            with contextlib.suppress(ModelError):  # the refusal of free sizes says more
                contract = self._narrowed(fixed, parts, report)
                self._check_graphs(parts, check)
                report(f"note: {refusal}")
                return contract
        raise refusal

    def _check_graphs(self, parts: Sequence[Part], check: Callable[[Graph], object]) -> None:
        for part in parts:
            check(self._graphs[part])

    def _narrowed(self, contract: Contract, parts: Sequence[Part], report: Callable[[str], None]) -> Contract:
        """Capture parts, keep their graphs, and return the contract that all of them keep."""
        programs = dict[Part, torch.export.ExportedProgram]()
        checked: dict[Part, tuple[PartSpec, tuple[Tensor, ...]]] = {}
        # The decoder first, because it is the one that often narrows the batch.
        left = sorted(parts, key=("decoder", "encoder", "autoencoder").index)
        while left:
            part = left.pop(0)
            report(f"capturing {part}")
            graph = self._graph(part, contract)
            checked[part] = graph.spec, graph.check()
            programs[part], narrowed = capture_narrowed(graph.module, contract, part)
            # A program of wider bounds keeps narrower ones; one of other sizes is captured again.
            left += [other for other in programs if other not in left and not _same_sizes(contract, narrowed, other)]
            left = [other for other in left if other != part]
            contract = narrowed
        for part in parts:
            graph = self._graphs[part] = self._graph(part, contract)
            vars(graph)["program"] = programs[part]
            if part != "autoencoder":  # it consists of the others
                spec, outputs = checked[part]
                if (spec.inputs, example_sizes(spec)) != (graph.spec.inputs, example_sizes(graph.spec)):
                    outputs = graph.check()
                check_function(graph.module, graph.spec, outputs, graph.in_float64)
        return contract

    def _runnable(self, parts: Sequence[Part]) -> Contract:
        """Return the contract with higher lowest sizes where the modules fail at the lowest, such as padding does."""
        contract = self.given.contract
        usual = {name: symbol.usual_value for name, symbol in contract.free_symbols.items()}
        for name, symbol in contract.free_symbols.items():
            for low in range(symbol.low, min(symbol.low + _TRIED_SIZES, symbol.usual_value)):
                if all(self._runs(contract.at({**usual, name: low}), part) for part in parts):
                    contract = contract.narrowed({name: replace(symbol, low=low)}) if low > symbol.low else contract
                    break
        together = contract  # all at their lowest at once: instance normalisation needs two pixels
        for _ in range(_TRIED_SIZES):
            symbols = together.free_symbols
            lows = {name: symbol.low for name, symbol in symbols.items()}
            raised = {
                name: replace(symbol, low=symbol.low + 1)
                for name, symbol in symbols.items()
                if symbol.low < symbol.usual_value
            }
            if not raised or all(self._runs(together.at(lows), part) for part in parts):
                return together
            together = together.narrowed(raised)
        return contract

    def _runs(self, contract: Contract, part: Part) -> bool:
        graph = self._graph(part, contract)
        with user_code(), ModuleState(graph.module):
            try:
                graph.module(*graph.example)
            except Exception:  # the user's modules may raise any error
                return False
        return True

    def graph(self, part: Part) -> Graph:
        """Return the graph of a part; raise `ModelError` if the modules do not keep the contract."""
        contract = self.contract
        if part not in self._graphs:
            graph = self._graph(part, contract)
            graph.check()
            self._graphs[part] = graph
        return self._graphs[part]

    def graphs(self, parts: Iterable[Part] = ()) -> dict[Part, Graph]:
        """Return the graphs of all parts of the source and of `parts`, by part."""
        return {part: self.graph(part) for part in dict.fromkeys((*self.given.parts, *parts))}

    def _graph(self, part: Part, contract: Contract) -> Graph:
        if float_part(part) not in self.given.parts:
            raise ModelError("part cannot be made", where=part, expected=" | ".join(self.given.parts))
        module = part_module(contract, part, self.recognised.encoder, self.recognised.decoder)
        return Graph(contract.spec(part), module.eval())

    @cached_property
    def recognised(self) -> Recognised:
        """Copies of the encoder and decoder, which all parts share, with the contract's outputs."""
        source = self.given
        encoder = None if source.encoder is None else copy_module(source.encoder, "encoder")
        decoder = None if source.decoder is None else copy_module(source.decoder, "decoder")
        copies: dict[Part, nn.Module | None] = {"encoder": encoder, "decoder": decoder}
        sums = {part: weight_sums(module) for part, module in copies.items() if module is not None}
        with DtypeFinder((torch.float64,)) as finder:
            found = replace(source, encoder=encoder, decoder=decoder).recognised
        if finder.found:
            found = self._in_float32(encoder, decoder)
        for part, module in copies.items():
            if module is not None:
                check_weights_stay(module, sums[part], part)
        return found

    def _in_float32(self, encoder: nn.Module | None, decoder: nn.Module | None) -> Recognised:
        """Return copies, of which at least one asks for float64 in its code, as modules that compute in float32."""
        source, lines = self.given, []
        contract = source.contract.at()
        if encoder is not None and source.encoder is not None:
            encoder, line = in_float32(encoder, source.encoder, contract, "encoder")
            lines.append(line)
        if decoder is not None and source.decoder is not None:
            decoder, line = in_float32(decoder, source.decoder, contract, "decoder")
            lines.append(line)
        found = replace(source, encoder=encoder, decoder=decoder).recognised
        return replace(found, notes=(*found.notes, *(line for line in lines if line is not None)))


def _same_sizes(one: Contract, other: Contract, part: Part) -> bool:
    """Whether two contracts have the same tensors in a part, whatever the bounds of their symbols."""
    first, second = one.spec(part), other.spec(part)
    return (first.inputs, first.outputs) == (second.inputs, second.outputs)


def _narrowings(before: Contract, runnable: Contract, after: Contract) -> Iterable[str]:
    """Yield a line for each symbol whose values were narrowed.

    Args:
        before: the source's contract.
        runnable: the contract with the lowest sizes at which the modules run.
        after: the contract that all graphs keep.
    """
    for name, symbol in {BATCH: before.symbols.get(BATCH), **before.free_symbols}.items():
        now = after.symbols.get(name)
        if now == symbol:
            continue
        what = "batch" if name == BATCH else f"size {name}"
        if now is None and symbol is not None:
            yield f"{what} cannot be dynamic in this module; it is fixed to {symbol.usual_value}"
        elif now is not None and now.is_fixed:
            yield f"{what} cannot be dynamic in this module; it is fixed to {now.low}"
        elif now is not None and now == runnable.symbols.get(name):
            yield f"{what} is {now.low} or more, because the module fails at smaller ones"
        elif now is not None:
            yield f"{what} is limited to {now.low} to {now.high or 'any'}, because the module branches on it"


@dataclass(frozen=True)
class Graph:
    """One part of a source, which any format can write. It does not depend on a model family.

    Attributes:
        spec: names, shapes and dtypes of the inputs and outputs.
        module: the part in eval mode on the CPU, with inputs and outputs in the order of `spec`.
    """

    spec: PartSpec
    module: nn.Module
    _translations: dict[tuple[int, int], Translation] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs for capturing the graph, in the order of the spec, at the usual sizes."""
        return example_inputs(self.spec)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph captured by torch.export, with dynamic axes. Formats share it, so copy it before changing it."""
        return self.capture_program()

    def onnx(self, opset: int, max_inside: int) -> Translation:
        """Return the program as an ONNX model, which is cached for each operator set. Copy it before changing it.

        Args:
            opset: ONNX operator set.
            max_inside: the most bytes of weights that a file can have inside. A large model is not cached.
        """
        from vae_export.capture.onnx_translation import translate

        if (opset, max_inside) in self._translations:
            return self._translations[opset, max_inside]
        translation = translate(self.program, self.spec, opset, max_inside)
        if translation.size + translation.model.ByteSize() <= CACHED_BYTES:
            self._translations[opset, max_inside] = translation
        return translation

    def check_program(self) -> None:
        """Raise `ModelError` if torch.export cannot capture the graph, or if it draws random numbers."""
        _ = self.program

    def capture_program(self, max_batch: int | None = None) -> torch.export.ExportedProgram:
        """Capture the graph again, for batches of 1 to `max_batch`, because some engines plan memory for the largest.

        Args:
            max_batch: the largest batch; None for the contract's limit.

        Raises:
            ModelError: torch.export cannot capture the module, or the graph draws random numbers.
        """
        return export_program(self.module, self.spec, max_batch)

    def single_row(self) -> torch.fx.GraphModule:
        """Return the part for a batch of 1, captured at the usual sizes and taken apart into plain operators.

        For engines without a batch axis. Plain operators are those into which PyTorch itself decomposes others, such
        as `mT` into `transpose`.

        Raises:
            ModelError: torch.export cannot capture the module, or the graph draws random numbers.
        """
        one = self.spec.at(example_sizes(self.spec))
        inputs, outputs = (
            tuple(replace(tensor, batch=1) for tensor in tensors) for tensors in (one.inputs, one.outputs)
        )
        program = export_program(self.module, replace(one, inputs=inputs, outputs=outputs))
        with silenced():  # torch warns of its own code
            module: torch.fx.GraphModule = program.run_decompositions({}).module(check_guards=False)
        return module

    def in_float64(self) -> nn.Module:
        """Return the part in float64, with float64 inputs and outputs; see `float64_module`."""
        return float64_module(self.module, self.spec, lambda: self.program)

    def at(self, precision: PrecisionName) -> Graph:
        """Return the graph with an encoder and decoder that compute in `precision`; inputs and outputs stay float32.

        Raises:
            ModelError: PyTorch cannot compute in this precision.
        """
        if precision == FULL:
            return self
        if precision not in _DTYPES:
            raise ModelError("PyTorch cannot compute in this precision", where=precision, expected=" | ".join(_DTYPES))
        module = copy_sharing_weights(self.module)
        for name, child in list(module.named_children()):
            setattr(module, name, _Cast(child, _DTYPES[precision]).eval().requires_grad_(False))
        return Graph(self.spec, module)

    def check(self) -> tuple[Tensor, ...]:
        """Return the outputs for `example`.

        Raises:
            ModelError: the module is in training mode, cannot be run, or its outputs do not keep the contract's shapes.
        """
        training = [name or "(itself)" for name, module in self.module.named_modules() if module.training]
        if training:
            raise ModelError("module is in training mode", where=self.spec.part, got=", ".join(training))
        example = self.example
        with user_code(), ModuleState(self.module):
            try:
                outputs = self.module(*example)
            except ModelError:
                raise
            except Exception as error:  # the user's modules may raise any error
                raise ModelError(
                    "module cannot be run", where=self.spec.part, got=f"{type(error).__name__}: {error}"
                ) from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(outputs) != len(self.spec.outputs):
            names = [tensor.name for tensor in self.spec.outputs]
            raise ModelError("wrong number of outputs", where=self.spec.part, expected=names, got=len(outputs))
        sizes = example_sizes(self.spec)
        for tensor, output in zip(self.spec.outputs, outputs, strict=True):
            if not isinstance(output, Tensor):
                where = f"{self.spec.part}, output '{tensor.name}'"
                raise ModelError("not a tensor", where=where, got=type(output).__name__)
            expected = (len(example[0]), *sizes_at(tensor.item, sizes))
            if tuple(output.shape) != expected or output.dtype != getattr(torch, tensor.dtype):
                raise ModelError(
                    "output does not keep the contract",
                    where=f"{self.spec.part}, output '{tensor.name}'",
                    expected=f"{tensor.dtype} {expected}",
                    got=f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}",
                )
        return outputs


class _Cast(nn.Module):
    """A module that computes in another dtype, with float32 inputs and outputs."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.module(*(_to(value, self.dtype) for value in inputs))
        return pytree.tree_map_only(Tensor, lambda value: _to(value, torch.float32), outputs)


def _to(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
