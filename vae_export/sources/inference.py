"""Infer a contract from modules and the shape of the data: latent, encoding, range, and which sizes can be free."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vae_export.contract import Condition, Contract, Encoding
from vae_export.errors import ModelError, UsageError
from vae_export.sources.module_calls import accepted_conditions, argument_names, needed_names
from vae_export.sources.module_outputs import Leaf, find_leaves, has_item
from vae_export.sources.module_runs import ROWS, as_example, inputs_for, run, run_flat_or_not, run_listed_or_not
from vae_export.sources.options import ModelOptions
from vae_export.sources.recognition import UNCLEAR, recognise
from vae_export.tensors import Expression, Shape, Size, Symbol, shape_text, sizes_at

#: Latents that show the range of a decoder, from narrow ones to ones that drive an activation into its ends.
_RANGE_ROWS, _WIDEST = 8, 30.0
#: How autograd names operators that change a shape or add a bias, and those of linear layers.
_RESHAPING = (
    "View",
    "Reshape",
    "UnsafeView",
    "Permute",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Clone",
    "Expand",
    "Add",
)
_LINEAR = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution")
#: Ranges of activations that decoders end in, and how far rounding may exceed them.
_RANGES = ((0.0, 1.0), (-1.0, 1.0))
_SLACK = 1e-6

#: What the message of an encoder or a decoder that refuses its inputs says after its name.
CANNOT_RUN = "cannot be run"
#: The shape of one row of the latent, or of several latents by name.
Latents: TypeAlias = Shape | Mapping[str, Shape]


@dataclass
class Inference:
    """A contract, and what of it was not stated.

    Attributes:
        contract: the contract.
        facts: what was inferred, for the provenance.
        notes: lines for the user.
    """

    contract: Contract
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def infer_contract(encoder: nn.Module | None, decoder: nn.Module | None, options: ModelOptions) -> Inference:
    """Return the contract of modules.

    Args:
        encoder, decoder: the modules, with their weights.
        options: what is stated: the shape of the data at least.

    Raises:
        ModelError: the modules refuse the data, or what they return is not clear.
        UsageError: a shape or a number that cannot be inferred is not stated.
    """
    if options.data_shape is None:
        raise UsageError("shape of the data is needed", do="pass --data-shape, such as 1x28x28 or 3x64x64")
    symbols = {Expression.parse(size).symbol: Symbol() for size in options.data_shape if isinstance(size, str)}
    values = {name: symbol.usual_value for name, symbol in symbols.items()}
    data = sizes_at(options.data_shape, values)
    fixed = _fixed_contract(data, values, encoder, decoder, options)
    found = Inference(fixed)
    if options.latent_shape is None:
        shapes = {latent.name: list(latent.item) for latent in fixed.latents}
        found.facts["latent_shape"] = shapes if len(shapes) > 1 else list(fixed.latents[0].item)
    if encoder is not None:
        found.facts["encoding"] = fixed.encoding
    if symbols:
        found.contract = _freed(fixed, encoder, decoder, options, values)
    elif encoder is not None and (sizes := _other_sizes(fixed, encoder, decoder, options)):
        found.facts["other_sizes"] = sizes
        found.notes.append(f"the modules run at other sizes too: --data-shape {sizes} leaves them free")
    if decoder is not None:
        if fixed.output_shape is not None and options.tokens is None:
            found.notes.append(_unlike_data(fixed, encoder, options))
        _find_range(found, decoder, options)
    return found


def _fixed_contract(
    data: Shape,
    values: dict[str, int],
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    options: ModelOptions,
) -> Contract:
    """Return the contract at one size, of the first latent and encoding that both modules agree with."""
    bounds = options.bounds if options.data_range is not None else _RANGES[0] if _like_image(data) else None
    stated = None if options.latent_shape is None else _shapes_at(options.latent_shape, values)
    conditions = _conditions(encoder, decoder, options)
    base = Contract(data, stated or (1,), bounds, conditions=conditions)
    if options.tokens is not None:  # the decoder's shape is found below
        base = replace(base, data_range=(0, options.tokens - 1), data_name="", data_dtype="int64", output_shape=data)
    if encoder is None:
        if stated is None:
            raise UsageError("latent of a decoder alone is not known", do="pass --latent-shape, such as 128 or 4x8x8")
        candidates: list[tuple[Encoding, Latents]] = [("codes" if options.codebook_size else "gaussian", stated)]
    else:
        candidates = _candidates(encoder, decoder, base, stated, options)
    fitting: list[Contract] = []
    failure: Exception | None = None
    for encoding, latent in candidates:
        sizes = _codebook_sizes(options, encoder, decoder) if encoding == "codes" else []
        unclear = encoding == "codes" and len(sizes) != 1
        # Where their number is not clear, codes of 0 alone show whether the decoder takes any.
        codes = None if encoding != "codes" else 1 if unclear else sizes[0]
        contract = replace(base, latent_shape=latent, encoding=encoding, codebook_size=codes, prior=None)
        try:
            recognise(contract, encoder, None, encoder_outputs=options.encoder_outputs)
        except ModelError as error:
            failure = failure or error
            continue
        if decoder is None:
            if unclear:
                raise _unclear_number(sizes)
            fitting.append(contract)
            continue
        try:
            inputs = inputs_for(decoder, contract.spec("decoder").inputs)
            leaves = find_leaves(run_listed_or_not(decoder, inputs, len(contract.latents))[1])
        except ModelError as error:  # of what the decoder returns
            failure = failure or error
            continue
        except Exception as error:  # a decoder refuses a latent that is not its own with any error
            failure = failure or ModelError(
                f"decoder {CANNOT_RUN}",
                where=", ".join(map(str, contract.spec("decoder").inputs)),
                got=f"{type(error).__name__}: {error}",
                do=_unstated(decoder, len(contract.latents), options)
                or _other_classes(error, options)
                or "check --latent-shape and --condition; if the decoder takes another latent than the encoder gives, "
                "export each by a function of its own, that returns (model.encode, None) or (None, model.decode)",
            )
            continue
        if unclear:
            raise _unclear_number(sizes)
        return _with_output(contract, leaves)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        got = " | ".join(f"{contract.encoding} {', '.join(map(str, contract.latents))}" for contract in fitting)
        raise ModelError(UNCLEAR, got=got, do="name them: --encoder-outputs")
    raise failure or ModelError("encoder gives no tensor", where=shape_text(data))


def _shapes_at(latents: Latents, values: dict[str, int]) -> Latents:
    """Return the shapes of latents with symbols replaced by numbers."""
    if isinstance(latents, Mapping):
        return {name: sizes_at(shape, values) for name, shape in latents.items()}
    return sizes_at(latents, values)


def _conditions(encoder: nn.Module | None, decoder: nn.Module | None, options: ModelOptions) -> tuple[Condition, ...]:
    """Return the conditions, each with the modules that take it."""
    taken: dict[Literal["encoder", "decoder"], tuple[Condition, ...]] = {}
    if encoder is not None:
        taken["encoder"] = accepted_conditions(encoder, 1, options.conditions)
    if decoder is not None:
        taken["decoder"] = accepted_conditions(decoder, options.latents, options.conditions)
    found = []
    for condition in options.conditions:
        parts = tuple(part for part, accepted in taken.items() if condition in accepted)
        found.append(replace(condition, parts=parts or condition.parts))
    return tuple(found)


def _several(
    leaves: Sequence[Leaf], decoder: nn.Module | None, base: Contract
) -> tuple[list[tuple[Encoding, Latents]], bool]:
    """Return encodings with several latents that what the encoder returns allows, and whether the decoder needs them.

    The latents have the names of the decoder's arguments, or z1, z2, ….
    """
    names = [] if decoder is None else argument_names(decoder, base.conditions)
    shapes = [tuple(leaf.tensor.shape[1:]) for leaf in leaves if leaf.tensor.is_floating_point()]
    integers = [tuple(leaf.tensor.shape[1:]) for leaf in leaves if not leaf.tensor.is_floating_point()]
    half = len(shapes) // 2
    pairs = shapes[::2] if shapes[::2] == shapes[1::2] else shapes[:half] if shapes[:half] == shapes[half:] else []
    several: list[tuple[Encoding, Sequence[tuple[int, ...]]]] = [("gaussian", pairs), ("codes", integers)]
    several.append(("deterministic", shapes if len(names) == len(shapes) else []))
    found: list[tuple[Encoding, Latents]] = []
    for encoding, items in several:
        if len(items) > 1 and all(items):
            own = names if len(names) == len(items) and base.data.name not in names else ()
            found.append((encoding, dict(zip(own or [f"z{n + 1}" for n in range(len(items))], items, strict=True))))
    return found, len(names) > 1


def _candidates(
    encoder: nn.Module, decoder: nn.Module | None, base: Contract, stated: Latents | None, options: ModelOptions
) -> list[tuple[Encoding, Latents]]:
    """Return encodings and latents that what the encoder returns allows, the likeliest first."""
    inputs = inputs_for(encoder, base.spec("encoder").inputs)
    try:
        _, returned = run_flat_or_not(encoder, inputs)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"encoder {CANNOT_RUN}",
            where=", ".join(map(str, base.spec("encoder").inputs)),
            got=f"{type(error).__name__}: {error}",
            do=_unstated(encoder, 1, options) or _other_classes(error, options) or "check --data-shape and --condition",
        ) from error
    leaves = [leaf for leaf in find_leaves(returned) if leaf.tensor.ndim > 1 and len(leaf.tensor) == ROWS]
    if not leaves:
        raise ModelError("encoder gives no tensor with a batch axis", got=type(returned).__name__)
    floats = [tuple(leaf.tensor.shape[1:]) for leaf in leaves if leaf.tensor.is_floating_point()]
    integers = [tuple(leaf.tensor.shape[1:]) for leaf in leaves if not leaf.tensor.is_floating_point()]
    halves = [(shape[0] // 2, *shape[1:]) for shape in floats if shape[0] % 2 == 0]
    words = set(options.encoder_outputs or ())
    candidates: list[tuple[Encoding, Latents]] = []
    if not words or words & {"mean", "moments"}:
        candidates += [("gaussian", shape) for shape in dict.fromkeys([*(floats if len(floats) > 1 else []), *halves])]
    if not words or "codes" in words:
        candidates += [("codes", shape) for shape in dict.fromkeys(integers)]
    if not words or words <= {"latent", "other"}:
        candidates += [("deterministic", shape) for shape in dict.fromkeys(floats)]
    if decoder is not None and (not words or words & {"mean", "moments"}):
        # Last, because a decoder that takes maps of any size takes half of one too.
        pairs = [shape[:-1] for shape in floats if len(shape) > 1 and shape[-1] == 2]
        pairs += [(*shape[:-1], shape[-1] // 2) for shape in floats if len(shape) > 1 and shape[-1] % 2 == 0]
        candidates += [("gaussian", shape) for shape in dict.fromkeys(pairs)]
    several, needed = _several(leaves, decoder, base)
    candidates = [*several, *candidates] if needed else [*candidates, *several]
    if stated is not None:
        kinds = dict.fromkeys(encoding for encoding, _ in candidates)
        candidates = [(encoding, stated) for encoding in kinds]
    return candidates


def _unstated(module: nn.Module, count: int, options: ModelOptions) -> str | None:
    """Return what to pass for an argument that a module needs and that is not stated, or None."""
    stated = {condition.name for condition in options.conditions}
    needed = [name for name in needed_names(module, count) if name not in stated]
    return f"state '{needed[0]}' with --condition, such as --condition {needed[0]}:int64:10" if needed else None


def _other_classes(error: Exception, options: ModelOptions) -> str | None:
    """Return how to state classes that do not begin at 0, where a module refuses an index, or None."""
    named = [item for item in options.conditions if item.dtype != "float32" and item.low == 0]
    if not named or not (isinstance(error, IndexError) or str(error).startswith("Class values")):
        return None
    name, dtype, count = named[0].name, named[0].dtype, int(named[0].high) + 1
    return f"check the number of classes; those that begin at 1 are --condition {name}:{dtype}:1..{count}"


def _codebook_sizes(options: ModelOptions, *modules: nn.Module | None) -> list[int]:
    """Return the stated number of codes, or the sizes of all embeddings."""
    if options.codebook_size is not None:
        return [options.codebook_size]
    tables = (child for module in modules if module is not None for child in module.modules())
    return sorted({child.num_embeddings for child in tables if isinstance(child, nn.Embedding)})


def _unclear_number(sizes: Sequence[int]) -> UsageError:
    return UsageError("number of codes is not clear", do="pass --codes", got=list(sizes) or None)


def _with_output(contract: Contract, leaves: Sequence[Leaf]) -> Contract:
    """Return the contract with the shape of what the decoder gives, where it is not the data's."""
    item = contract.data.fixed_item
    if any(has_item(leaf.tensor, item) for leaf in leaves):
        return contract
    return replace(contract, output_shape=_only_shape(contract, leaves))


def _only_shape(contract: Contract, leaves: Sequence[Leaf]) -> tuple[int, ...]:
    """Return the shape of the rows that a decoder gives; raise `ModelError` if there are several."""
    shapes = {tuple(leaf.tensor.shape[1:]) for leaf in leaves if leaf.tensor.ndim > 1 and len(leaf.tensor) == ROWS}
    if len(shapes) != 1:
        got, expected = ", ".join(map(str, leaves)) or "no tensor", f"data {shape_text(contract.data.fixed_item)}"
        raise ModelError("outputs of the decoder are not clear", expected=expected, got=got)
    return shapes.pop()


def _unlike_data(contract: Contract, encoder: nn.Module | None, options: ModelOptions) -> str:
    """Return a warning that the decoder gives rows of another shape than the data.

    A decoder may well do so: it gives the parameters of a distribution, several samples, or a larger picture.

    Raises:
        UsageError: it gives as many numbers as the data has, and the encoder takes data of its shape: --data-shape is
            the one that is wrong.
    """
    data, output = contract.data.fixed_item, contract.output.fixed_item
    stated, given = ("x".join(map(str, shape)) for shape in (data, output))
    if math.prod(output) == math.prod(data):
        latents = [latent.fixed_item for latent in contract.latents]
        with contextlib.suppress(ModelError):
            if encoder is None or _latents_at(contract, encoder, output, options) == latents:
                raise UsageError(
                    "data and output of the decoder have unlike shapes",
                    where="--data-shape",
                    expected=f"{given}, as the decoder gives",
                    got=stated,
                    do=f"pass --data-shape {given}",
                )
    return (
        f"warning: the decoder gives {given} for data of {stated}: its output is not held against the data; "
        f"if it is a reconstruction, pass --data-shape {given}"
    )


def _freed(
    contract: Contract,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    options: ModelOptions,
    values: dict[str, int],
) -> Contract:
    """Return the contract with the symbols of the stated data, and the sizes of the latent in them."""
    data = options.data_shape or ()
    latents: Latents
    if options.latent_shape is not None:
        latents = options.latent_shape
    elif encoder is None:
        raise UsageError("shape of the latent is needed", do="pass --latent-shape with the same symbols")
    else:
        free: list[list[Size]] = [list(latent.item) for latent in contract.latents]
        for name, value in values.items():
            larger = _latents_at(contract, encoder, sizes_at(data, {**values, name: 2 * value}), options)
            for sizes, latent, item in zip(free, contract.latents, larger, strict=True):
                _free_sizes(sizes, latent.fixed_item, item, name, value)
        shapes = {latent.name: tuple(sizes) for latent, sizes in zip(contract.latents, free, strict=True)}
        latents = shapes if isinstance(contract.latent_shape, Mapping) else tuple(free[0])
    freed = replace(contract, data_shape=data, data_name="", latent_shape=latents, symbols={})
    if contract.output_shape is None or decoder is None:
        return freed
    sizes = list[Size](contract.output.fixed_item)
    for name, value in values.items():
        item = _output_at(freed.at({**values, name: 2 * value}), decoder)
        _free_sizes(sizes, contract.output.fixed_item, item, name, value, "output of the decoder")
    return replace(freed, output_shape=tuple(sizes))


def _output_at(contract: Contract, decoder: nn.Module) -> tuple[int, ...]:
    """Return the shape of what the decoder gives at the sizes of a contract."""
    inputs = inputs_for(decoder, contract.spec("decoder").inputs)
    try:
        leaves = find_leaves(run_listed_or_not(decoder, inputs, len(contract.latents))[1])
    except Exception as error:  # the user's code may raise anything
        got = f"{type(error).__name__}: {error}"
        raise ModelError(
            "decoder refuses another size", where=", ".join(map(str, contract.spec("decoder").inputs)), got=got
        ) from error
    return _only_shape(contract, leaves)


def _free_sizes(
    sizes: list[Size],
    small: tuple[int, ...],
    large: tuple[int, ...],
    name: str,
    value: int,
    what: str = "latent",
) -> None:
    """Replace the sizes of a latent or an output that grow with a symbol by expressions, in place.

    Args:
        sizes: the sizes so far.
        small, large: the latent where the symbol has its value, and twice that value.
        name, value: the symbol.
        what: what has these sizes.
    """
    for axis, (size, larger) in enumerate(zip(small, large, strict=True)):
        if larger == size:
            continue
        factor, rest = divmod(larger - size, value)
        if rest or not isinstance(sizes[axis], int) or factor < 1:
            raise ModelError(
                f"sizes of the {what} do not follow the data",
                where=f"--data-shape, {name}",
                expected="a multiple of the symbol",
                got=f"{size} at {value} and {larger} at {2 * value}",
                do="state --latent-shape, or numbers",
            )
        sizes[axis] = str(Expression(name, factor, size - factor * value))


def _latents_at(contract: Contract, encoder: nn.Module, data: Shape, options: ModelOptions) -> list[tuple[int, ...]]:
    """Return the shapes of the latents for data of another size."""
    spec = replace(contract, data_shape=data, data_name="").spec("encoder")
    wrapped = recognise(contract, encoder, None, encoder_outputs=options.encoder_outputs).encoder
    try:
        outputs = run(encoder if wrapped is None else wrapped, inputs_for(encoder, spec.inputs))
    except Exception as error:  # the user's code may raise anything
        got = f"{type(error).__name__}: {error}"
        raise ModelError("encoder refuses another size", where=shape_text(data), got=got) from error
    step = 2 if contract.encoding == "gaussian" else 1
    tensors = outputs[::step] if isinstance(outputs, tuple) else (outputs,)
    return [tuple(tensor.shape[1:]) for tensor in tensors if isinstance(tensor, Tensor)]


def _other_sizes(
    contract: Contract, encoder: nn.Module, decoder: nn.Module | None, options: ModelOptions
) -> str | None:
    """Return the data shape with free sizes if images of another size go through both modules, or None."""
    data, latent = contract.data.fixed_item, contract.latents[0].fixed_item
    axes = len(data) - 1
    if axes != 2 or len(latent) < axes or contract.output_shape is not None or len(contract.latents) > 1:
        return None
    factors = [size // small for size, small in zip(data[-axes:], latent[-axes:], strict=True)]
    if any(size != factor * small for size, factor, small in zip(data[-axes:], factors, latent[-axes:], strict=True)):
        return None
    steps = range(1, axes + 1)  # another step on each axis, so that height and width are told apart
    larger = (*data[:-axes], *(size + step * f for size, step, f in zip(data[-axes:], steps, factors, strict=True)))
    expected = (*latent[:-axes], *(size + step for size, step in zip(latent[-axes:], steps, strict=True)))
    try:
        if _latents_at(contract, encoder, larger, options) != [expected]:
            return None
        if decoder is not None:
            spec = replace(contract, data_shape=larger, data_name="", latent_shape=expected).spec("decoder")
            leaves = find_leaves(run(decoder, inputs_for(decoder, spec.inputs)))
            if not any(tuple(leaf.tensor.shape[1:]) == larger for leaf in leaves):
                return None
    except Exception:  # a network of one size refuses others with any error
        return None
    symbols = (Expression(symbol, factor) for symbol, factor in zip("hw", factors, strict=True))
    return "x".join(map(str, (*data[:-axes], *symbols)))


def _find_range(found: Inference, decoder: nn.Module, options: ModelOptions) -> None:
    """Set the range of the data from what the decoder gives, or hold it against the stated one."""
    contract = found.contract
    fixed = contract.at()
    recognised = recognise(fixed, None, decoder).decoder
    wrapped = decoder if recognised is None else recognised
    inputs = inputs_for(decoder, fixed.spec("decoder").inputs, _RANGE_ROWS)
    usual = _extent(run(wrapped, inputs))
    wide = _extent(run(wrapped, [_widened(tensor) for tensor in inputs]))
    low, high = min(usual[0], wide[0]), max(usual[1], wide[1])
    ends = next((ends for ends in _RANGES if _within(low, high, ends)), None)
    last = _last_operator(wrapped, inputs)
    if last.startswith(_LINEAR):  # its values are in no range, however small they are
        ends = None
    elif ends is not None and last.startswith("Tanh"):
        ends = _RANGES[1]
    stated = options.data_range is not None
    shape = contract.output_shape or contract.data_shape
    if contract.output_shape is not None:
        found.contract = replace(contract, output_range=ends)
    elif stated and options.bounds is None:
        return
    elif stated and options.bounds is not None:
        if _within(low, high, options.bounds):
            return
        span = options.bounds[1] - options.bounds[0]
        if usual[0] < options.bounds[0] - span or usual[1] > options.bounds[1] + span:
            raise ModelError(
                "decoder gives values far out of the range",
                where="--data-range",
                expected=f"[{options.bounds[0]:g}, {options.bounds[1]:g}]",
                got=f"[{usual[0]:.3g}, {usual[1]:.3g}]",
                do="end the decoder with its activation, or state another range or none",
            )
        found.contract = replace(contract, output_shape=shape, output_range=None)
        found.notes.append(_outside(low, high, options.bounds))
    elif ends is not None:
        found.contract = replace(contract, data_range=ends)
        found.facts["data_range"] = list(ends)
    elif contract.data_range is not None:
        found.contract = replace(contract, output_shape=shape, output_range=None)
        found.facts["data_range"] = list(contract.data_range)
        found.notes.append(f"{_outside(low, high, contract.data_range)}; --data-range states another one, or none")


def _widened(tensor: Tensor) -> Tensor:
    """Return rows that grow from the usual width to one that drives an activation into its ends."""
    if not tensor.is_floating_point():
        return tensor
    scale = torch.linspace(1.0, _WIDEST, len(tensor)).to(tensor)
    return tensor * scale.reshape(-1, *[1] * (tensor.ndim - 1))


def _last_operator(decoder: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Return autograd's name of the last operator that does more than change a shape or add a bias; "" if unknown."""
    with contextlib.suppress(Exception), as_example(decoder), torch.enable_grad():  # it may have no gradient
        returned = decoder(*(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs))
        node = (returned[0] if isinstance(returned, tuple) else returned).grad_fn
        while node.name().startswith(_RESHAPING):
            node = node.next_functions[0][0]
        return str(node.name())
    return ""


def _extent(returned: object) -> tuple[float, float]:
    tensor = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(tensor, Tensor):
        return -math.inf, math.inf
    return tensor.min().item(), tensor.max().item()


def _within(low: float, high: float, ends: tuple[float, float]) -> bool:
    return ends[0] - _SLACK <= low and high <= ends[1] + _SLACK


def _outside(low: float, high: float, ends: tuple[float, float]) -> str:
    return (
        f"warning: data is taken to lie in [{ends[0]:g}, {ends[1]:g}], and the decoder gives {low:.3g} to {high:.3g}; "
        "pictures are clipped"
    )


def _like_image(shape: Shape) -> bool:
    return len(shape) == 3 and shape[0] in (1, 2, 3, 4)
