"""Capture a module with torch.export, with the contract's symbols as dynamic axes, as a pure function of its inputs.

torch.export decides which sizes a graph is valid for. Where it allows less than the contract, the contract is narrowed:
first as torch suggests, such as N <= 63 for a branch on the batch size, and else by fixing sizes and the batch.
"""

from __future__ import annotations

import builtins
import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from vae_export.capture.advice import advice, line_of_code
from vae_export.capture.known_values import known_values
from vae_export.contract import Contract, Part, PartSpec
from vae_export.errors import ModelError
from vae_export.sources.module_runs import ModuleState, as_exported, random_tensor
from vae_export.system.streams import silenced
from vae_export.tensors import BATCH, Expression, Symbol, sizes_at

#: The batch size for capture. torch.export turns a batch of 1 into a constant.
EXAMPLE_BATCH = 2
#: How often torch's suggestions are followed before sizes are fixed.
_ROUNDS = 6
#: The batch of a graph whose batch cannot be dynamic: applications split larger batches into single rows.
_FIXED_BATCH = 1
#: torch's suggestions: a range such as "N = Dim('N', min=2, max=63)", or anything else, such as "h = 8".
_SUGGESTION = re.compile(r"^\s+(?P<name>\w+) = (?P<value>.+)$", re.MULTILINE)
#: A size that torch excludes, such as that of a whole table, of which smaller sizes take a slice.
_EXCLUSION = re.compile(
    r"Not all values of (?P<name>\w+) = \S+ in the specified range .*satisfy .* != (?P<value>\d+)\.?$", re.M
)
_BOUND = re.compile(r"\b(min|max)=(\d+)")


def example_inputs(spec: PartSpec, rows: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """Return inputs at the usual sizes, in the order of the spec: random numbers in each tensor's range.

    Args:
        spec: the part.
        rows: the number of rows; None takes the fixed batch, or `EXAMPLE_BATCH`.
        seed: seed of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = example_sizes(spec)
    inputs = []
    for tensor in spec.inputs:
        batch = rows or (tensor.batch if isinstance(tensor.batch, int) else EXAMPLE_BATCH)
        shape = (batch, *map(int, sizes_at(tensor.item, sizes)))
        inputs.append(random_tensor(tensor, shape, generator))
    return tuple(inputs)


def example_sizes(spec: PartSpec) -> dict[str, int]:
    """Return the usual value of each symbol without the batch, but at least 2: torch.export makes 1 a constant."""
    return {
        name: max(symbol.usual_value, min(2, symbol.high or 2))
        for name, symbol in spec.symbols.items()
        if name != BATCH
    }


@contextlib.contextmanager
def user_code(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Run a user's module without gradients, without warnings, and as its graph computes, see `as_exported`.

    Args:
        dtype: the dtype of new tensors for which the module names none.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with silenced(), torch.no_grad(), as_exported():
            yield
    finally:
        torch.set_default_dtype(before)


def capture_narrowed(
    module: nn.Module, contract: Contract, part: Part
) -> tuple[torch.export.ExportedProgram, Contract]:
    """Capture a part, and narrow the contract where the module does not support all of its sizes.

    Args:
        module: the module of the part.
        contract: the contract.
        part: the part.

    Returns:
        The program, and the contract that it keeps.

    Raises:
        ModelError: torch.export cannot capture the module at any size, or the graph is no function of its inputs.
    """
    narrowed, error = contract, None
    for _ in range(_ROUNDS):
        try:
            return export_program(module, narrowed.spec(part)), narrowed
        except ModelError as refused:
            error = refused
        following = _as_suggested(narrowed, error.__cause__)
        if following == narrowed:
            break
        narrowed = following
    for fixed in with_fixed_sizes(contract):
        try:
            return export_program(module, fixed.spec(part)), fixed
        except ModelError as refused:
            error = refused
    raise error or ModelError("module cannot be captured", where=part)


def export_program(module: nn.Module, spec: PartSpec, max_batch: int | None = None) -> torch.export.ExportedProgram:
    """Capture a part once, as a pure function: no random numbers, no changed buffers, no dropout, no source lines.

    Args:
        module: the module of the part.
        spec: the part; its symbols become dynamic axes.
        max_batch: the largest batch, where an engine plans memory for it; None takes the spec's.

    Raises:
        ModelError: torch.export cannot capture the module, the graph draws random numbers, or it depends on a buffer
            that it changes.
    """
    if max_batch is not None:
        batch = spec.symbols.get(BATCH, Symbol())
        high = min(max_batch, batch.high or max_batch)
        spec = replace(spec, symbols={**spec.symbols, BATCH: Symbol(batch.low, high)})
    with user_code(), ModuleState(module):
        try:
            program = _pure_program(module, spec)
        except ModelError as error:
            context: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
            if _differentiates(error):
                module = _below_autograd(module, spec)
            elif _may_be_known(error):
                context = known_values(module, example_inputs(spec))
            elif "specialized" in str(error.__cause__):
                context = _symbolic_sizes()
            else:
                raise
            with context:
                program = _pure_program(module, spec)
        if _is_transformed(program):
            program = _pure_program(_below_autograd(module, spec), spec)
        _remove_source_lines(program)
    return program


@contextlib.contextmanager
def _symbolic_sizes() -> Iterator[None]:
    """Let `len(tensor)` and `torch.linspace` take a size that may change. Python and PyTorch make it a number."""
    original = builtins.len

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) and value.ndim else original(value)

    builtins.len = length  # a module finds it there, unless it defines its own
    try:
        with _SymbolicLinspace():
            yield
    finally:
        builtins.len = original


class _SymbolicLinspace(TorchFunctionMode):
    """A context in which `torch.linspace` is computed from `torch.arange` where the number of steps is a symbol."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(("start", "end", "steps"), args, strict=False)), **(kwargs or {})}
        if func is not torch.linspace or not isinstance(given["steps"], torch.SymInt):
            return func(*args, **(kwargs or {}))
        start, end, steps = (given.pop(name) for name in ("start", "end", "steps"))
        dtype = given.pop("dtype", None) or torch.get_default_dtype()
        places = torch.arange(steps, dtype=dtype, **given)
        step = (end - start) / torch.sym_max(steps - 1, 1)
        # From both ends, as torch computes it, so that the last number is exactly the end.
        return torch.where(2 * places < steps, start + step * places, end - step * (steps - 1 - places))


def _pure_program(module: nn.Module, spec: PartSpec) -> torch.export.ExportedProgram:
    """Capture a part as a pure function; see `export_program`."""
    try:
        shapes = _dynamic_shapes(spec)
        if not isinstance(module, torch.fx.GraphModule):
            shapes = (shapes,)  # the module of a part takes *inputs
        program = torch.export.export(module, example_inputs(spec), dynamic_shapes=shapes, strict=False)
        program = _without_mutations(program, spec)
    except ModelError:
        raise
    except Exception as error:  # torch.export may raise any error
        raise _uncapturable(spec, error) from error
    _remove_dropout(program)
    _remove_dead_nodes(program)
    _refuse_stochastic_ops(program, spec)
    return program


def _differentiates(error: ModelError) -> bool:
    """Whether capturing failed at a gradient that the module computes inside."""
    return "has no attribute 'constant'" in str(error) or "fake tensor in the exported program" in str(error)


def _is_transformed(program: torch.export.ExportedProgram) -> bool:
    """Whether a program has regions of `torch.vmap`, which the exporters cannot read."""
    targets = (node.target for graph in fx_graphs(program) for node in graph.nodes)
    return any("functorch" in str(getattr(target, "__module__", "")) for target in targets)


def _below_autograd(module: nn.Module, spec: PartSpec) -> torch.fx.GraphModule:
    """Return a module as the plain operators that autograd and `torch.vmap` run for it, with its tensors.

    Args:
        module: the module of a part.
        spec: the part.
    """
    try:
        traced = make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example_inputs(spec))
    except Exception as error:  # the user's code and torch may raise any error
        raise _uncapturable(spec, error) from error
    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    tensors = {}
    for node in traced.graph.find_nodes(op="get_attr"):
        tensor = getattr(traced, node.target)
        node.target = names.get(id(tensor), node.target)
        tensors[node.target] = tensor
    return torch.fx.GraphModule(tensors, traced.graph).eval()


def _uncapturable(spec: PartSpec, error: Exception) -> ModelError:
    """Return the error for a module that torch cannot capture, with the line of the user's code and advice."""
    line = line_of_code(error)
    return ModelError(
        "module cannot be captured",
        where=spec.part if line is None else f"{spec.part}, {line}",
        got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        do=advice(error),
    )


def _may_be_known(error: ModelError) -> bool:
    """Whether capturing failed at a number read from a tensor, or at a draw of a generator of the module's own."""
    return "DataDependent" in type(error.__cause__).__name__ or ".generator" in str(error)


def _dynamic_shapes(spec: PartSpec) -> tuple[Any, ...]:
    """Return the dynamic axes of each input."""
    dims = {
        name: torch.export.Dim(name, min=symbol.low, max=symbol.high)
        for name, symbol in ({BATCH: Symbol()} | dict(spec.symbols)).items()
        if not symbol.is_fixed
    }
    shapes = []
    for tensor in spec.inputs:
        axes: dict[int, Any] = {}
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, str) and (expression := Expression.parse(size)).symbol in dims:
                dim = dims[expression.symbol]
                scaled = dim if expression.factor == 1 else expression.factor * dim
                axes[axis] = scaled + expression.offset if expression.offset else scaled
        shapes.append(axes)
    return tuple(shapes)


def _as_suggested(contract: Contract, error: BaseException | None) -> Contract:
    """Return the contract narrowed as torch suggests in an error, or unchanged if it suggests nothing that narrows."""
    _, _, text = str(error).partition("Suggested fixes:")
    bounds: dict[str, Symbol] = {}
    fixed: dict[str, int] = {}
    for found in _SUGGESTION.finditer(text):
        name, value = found["name"], found["value"]
        if name != BATCH and name not in contract.free_symbols:
            continue
        symbol = contract.symbols.get(name, Symbol())
        if value.startswith("Dim("):
            limits = {kind: int(number) for kind, number in _BOUND.findall(value)}
            low = max(symbol.low, limits.get("min", symbol.low))
            high = min(limits["max"], symbol.high or limits["max"]) if "max" in limits else symbol.high
            if high is None or low <= high:
                usual = symbol.usual if symbol.usual is None else min(max(symbol.usual, low), high or symbol.usual)
                bounds[name] = Symbol(low, high, usual)
                continue
        fixed[name] = _FIXED_BATCH if name == BATCH else symbol.usual_value
    if not bounds and not fixed:
        bounds = dict(_without_an_end(contract, str(error)))
    return contract.narrowed(bounds).fixed(fixed) if bounds or fixed else contract


def _without_an_end(contract: Contract, text: str) -> Iterator[tuple[str, Symbol]]:
    """Yield the bounds of symbols without their highest value, where torch excludes that one alone."""
    for found in _EXCLUSION.finditer(text):
        symbol = contract.symbols.get(found["name"], Symbol())
        if found["name"] in contract.free_symbols and symbol.high == int(found["value"]) > max(symbol.low, 2):
            high = symbol.high - 1
            usual = symbol.usual if symbol.usual is None else min(symbol.usual, high)
            yield found["name"], Symbol(symbol.low, high, usual)


def with_fixed_sizes(contract: Contract) -> Iterator[Contract]:
    """Yield the contract with all sizes fixed to their usual values, with the batch fixed, and with both."""
    sizes = {name: symbol.usual_value for name, symbol in contract.free_symbols.items()}
    batch = {} if contract.max_batch == 1 else {BATCH: _FIXED_BATCH}
    for values in (sizes, batch, sizes | batch):
        if values:
            yield contract.fixed(values)


def _without_mutations(program: torch.export.ExportedProgram, spec: PartSpec) -> torch.export.ExportedProgram:
    """Return the program without writes to buffers and inputs; raise `ModelError` if an output depends on them."""
    if not any(_is_mutable(node) for graph in fx_graphs(program) for node in graph.nodes):
        return program
    program = program.run_decompositions({})  # in-place operators become outputs of the graph
    signature = program.graph_signature
    changed = set(signature.buffers_to_mutate.values())
    for node in program.graph.find_nodes(op="placeholder"):
        buffer = signature.inputs_to_buffers.get(node.name)
        if buffer in changed and _reaches(node, set(signature.user_outputs)):
            raise ModelError(
                "module changes its own state",
                where=f"{spec.part}, buffer '{buffer}'",
                expected="outputs that depend on the inputs alone",
                do="keep counters and running statistics out of the forward pass",
            )
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        output = program.graph.output_node()
        kept = [
            (value, stated)
            for value, stated in zip(output.args[0], signature.output_specs, strict=True)
            if stated.kind is torch.export.graph_signature.OutputKind.USER_OUTPUT
        ]
        output.args = (tuple(value for value, _ in kept),)
        signature.output_specs[:] = [stated for _, stated in kept]
        program.graph_module.recompile()
    return program


def fx_graphs(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Graph]:
    """Yield the graph of a program and those of its regions, such as a block under autocast."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield module.graph


def operator_names(program: torch.export.ExportedProgram) -> list[str]:
    """Return the names of all operators of a program, such as "aten.istft.default"."""
    return [str(node.target) for graph in fx_graphs(program) for node in graph.nodes if node.op == "call_function"]


def _is_mutable(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _reaches(node: torch.fx.Node, names: set[str]) -> bool:
    """Whether one of the named nodes is computed from a node."""
    seen, left = set[torch.fx.Node](), [node]
    while left:
        if (current := left.pop()) not in seen:
            if current.name in names:
                return True
            seen.add(current)
            left += current.users
    return False


def _remove_dropout(program: torch.export.ExportedProgram) -> None:
    """Remove dropout nodes, which are the identity in eval mode."""
    ends = {output for node in program.graph.find_nodes(op="output") for output in node.all_input_nodes}
    for graph in fx_graphs(program):
        for node in list(graph.nodes):
            # The program's signature contains the names of the outputs, so that their nodes must stay.
            is_dropout = str(node.target).endswith("dropout.default") and _arguments(node).get("train") is False
            if is_dropout and node not in ends:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
    program.graph_module.recompile()


def _remove_dead_nodes(program: torch.export.ExportedProgram) -> None:
    """Remove what has no influence on the outputs, such as a sample that an encoder draws beside its mean."""

    def stays(node: torch.fx.Node) -> bool:
        return node.op in ("placeholder", "output") or _is_mutable(node) or _is_check(node)

    for graph in fx_graphs(program):
        graph.eliminate_dead_code(is_impure_node=stays)
    program.graph_module.recompile()


def _is_check(node: torch.fx.Node) -> bool:
    """Whether a node checks sizes or values; checks of dtypes say what the captured graph shows anyway."""
    name = str(node.target)
    return ("_assert" in name and "metadata" not in name) or "sym_constrain" in name


def is_stochastic(node: torch.fx.Node) -> bool:
    """Whether the op draws random numbers; dropout in eval mode and attention without dropout do not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = _arguments(node)
    return not (given.get("train") is False or given.get("training") is False or given.get("dropout_p") == 0)


def _refuse_stochastic_ops(program: torch.export.ExportedProgram, spec: PartSpec) -> None:
    """Raise `ModelError` if the graph draws random numbers, because its outputs differ in each run."""
    stochastic = [str(node.target) for graph in fx_graphs(program) for node in graph.nodes if is_stochastic(node)]
    if stochastic:
        raise ModelError(
            "graph draws random numbers",
            where=f"{spec.part}, operator {stochastic[0]}",
            expected="noise as an input",
            do="return mean and logvar and let the caller draw",
        )


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """Return the arguments of an op by the names in its schema, including defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # the caller has seen that it is an operator
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip(given, node.args, strict=False))
    return given | dict(node.kwargs)


def _remove_source_lines(program: torch.export.ExportedProgram) -> None:
    """Remove the node metadata that would write paths and source lines of this machine into a file."""
    for graph in fx_graphs(program):
        for node in graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack"):
                node.meta.pop(key, None)
