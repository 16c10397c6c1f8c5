"""Compare the encoder and the decoder of a VAE with the whole model that they are parts of.

An encoder that returns two tensors of one shape does not say whether the second one is a log-variance, a logarithm of
a standard deviation, or which of them is the mean. The model's `forward` knows, because it makes the latent of them. It
is run with noise of 0 and of 1, so that the mean and the standard deviation are seen exactly.

A decoder may take what the encoder left in the model. Then it is no decoder by itself, and is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.contract import Contract
from vae_export.errors import ModelError
from vae_export.sources.module_calls import MethodModule, accepted_conditions, names_of_conditions, with_names
from vae_export.sources.module_outputs import LOGVAR, Leaf, Meaning, find_leaves
from vae_export.sources.module_runs import ROWS, as_example, flat_or_not, inputs_for, listed_or_not, run_flat_or_not
from vae_export.sources.options import ModelOptions
from vae_export.sources.recognition import recognise

_aten = torch.ops.aten
#: How far float32 rounding may take the latent from mean + noise · deviation, relative to its largest value.
_ROUNDING = 1e-4
#: Draws of distributions that a latent may have, and that nobody corrupts data with.
_OTHER_DRAWS = (_aten._standard_gamma, _aten._sample_dirichlet)


def meanings_by_forward(
    vae: nn.Module, encoder: nn.Module, contract: Contract
) -> tuple[tuple[Meaning, ...] | None, str | None]:
    """Return what the encoder's outputs are where `forward` contradicts the contract, and a line for the user.

    Args:
        vae: the whole model.
        encoder: its encoder, with its outputs as the contract was inferred from them.
        contract: the contract, with one Gaussian latent.

    Returns:
        The meanings in order, or None where the contract is right or nothing is known; the line, or None.

    Raises:
        ModelError: `forward` draws its latent from a distribution that has no mean and log-variance.
    """
    fixed = contract.at()
    try:
        leaves, inputs, still, moved = _seen(vae, encoder, fixed)
        taken = recognise(fixed, encoder, None).encoder or encoder
        with as_example(encoder):
            mean, logvar = taken(*inputs)
    except ModelError:
        raise
    except Exception:  # the user's code may raise anything, such as for arguments of forward() that nobody states
        return None, None
    if still is None or moved is None or still.numel() != mean.numel() or torch.equal(still, moved):
        return None, None
    if _is_close(mean, still) and _is_close(torch.exp(logvar / 2), moved - still):
        return None, None
    found = _matching(leaves, still, moved)
    if found is None:
        return None, (
            "warning: forward() does not make its latent as mean + exp(logvar / 2) · noise from the outputs of the "
            "encoder; check what they are, and name them with --encoder-outputs"
        )
    return found


def meanings_that_forward_shows(
    vae: nn.Module, encoder: nn.Module, options: ModelOptions
) -> tuple[tuple[Meaning, ...], str] | None:
    """Return what the encoder's outputs are where they are not clear without `forward`, and a line for the user.

    A prior that depends on conditions is returned beside the posterior, and looks as that does.

    Args:
        vae: the whole model.
        encoder: its encoder.
        options: what is stated.
    """
    if options.encoder_outputs is not None or options.data_shape is None:
        return None
    taken = accepted_conditions(encoder, 1, options.conditions)
    parts: Mapping[bool, tuple[Literal["encoder", "decoder"], ...]] = {
        True: ("encoder", "decoder"),
        False: ("decoder",),
    }
    conditions = tuple(replace(item, parts=parts[item in taken]) for item in options.conditions)
    try:
        contract = Contract(options.data_shape, (1,), options.bounds, conditions=conditions).at()
        leaves, _, still, moved = _seen(vae, encoder, contract)
        return None if still is None or moved is None else _matching(leaves, still, moved)
    except Exception:  # the user's code may raise anything
        return None


def _seen(
    vae: nn.Module, encoder: nn.Module, contract: Contract
) -> tuple[list[Leaf], tuple[Tensor, ...], Tensor | None, Tensor | None]:
    """Return what the encoder gives, its inputs, and the latent of `forward` with noise of 0 and of 1.

    Raises:
        ModelError: `forward` draws its latent from a distribution that has no mean and log-variance.
        Exception: what the user's code raises.
    """
    specs = contract.spec("encoder").inputs
    names = {spec.name for spec in specs}
    further = [item.tensor for item in contract.conditions if item.name not in names]
    rows = encoder.rows if isinstance(encoder, MethodModule) else None
    drawn = inputs_for(encoder, [*specs, *further], rows or ROWS)
    inputs, values = drawn[: len(specs)], dict(zip([spec.name for spec in [*specs, *further]], drawn, strict=True))
    leaves = find_leaves(run_flat_or_not(encoder, inputs)[1])
    taken = accepted_conditions(vae, 1, contract.conditions)
    forward = with_names(vae, names_of_conditions(vae.forward, 1, taken))
    given = [inputs[0], *(values[item.name] for item in taken)]
    still, moved = (_latent(vae, forward, given, noise) for noise in (0.0, 1.0))
    return leaves, inputs, still, moved


def _matching(leaves: Sequence[Leaf], still: Tensor, moved: Tensor) -> tuple[tuple[Meaning, ...], str] | None:
    """Return the meanings of outputs that explain the latent with noise of 0 and of 1, and a line that says so."""
    if torch.equal(still, moved):
        return None
    fitting = [number for number, leaf in enumerate(leaves) if leaf.tensor.numel() == still.numel()]
    found: dict[tuple[int, int], Meaning] = {}
    for one, other in permutations(fitting, 2):
        for meaning in ("logvar", "logstd", "std", "var"):
            if _is_close(leaves[one].tensor, still) and _is_close(_deviation(leaves[other], meaning), moved - still):
                found.setdefault((one, other), meaning)
    if len(found) != 1:
        return None
    ((one, other), meaning), *_ = found.items()
    words: list[Meaning] = ["other"] * len(leaves)
    words[one], words[other] = "mean", meaning
    line = (
        f"encoder: output {leaves[one].path} is the mean and {leaves[other].path} the {meaning}, as the latent that "
        "forward() makes of them shows"
    )
    return tuple(words), line


def _deviation(leaf: Leaf, meaning: Meaning) -> Tensor:
    return torch.exp(LOGVAR[meaning](leaf.tensor) / 2)


def _is_close(one: Tensor, other: Tensor) -> bool:
    limit = _ROUNDING * float(other.abs().max())
    return bool((one.reshape(-1) - other.reshape(-1)).abs().max() <= limit)


def _latent(vae: nn.Module, forward: Callable[..., object], inputs: Sequence[Tensor], noise: float) -> Tensor | None:
    """Return the latent that `forward` decodes where each drawn normal number is `noise`; None if it decodes none."""
    seen: list[Tensor] = []

    def note(arguments: Sequence[Any]) -> None:
        if not seen and arguments and isinstance(arguments[0], Tensor):
            seen.append(arguments[0].clone())

    with as_example(vae), _FixedNoise(noise) as mode, contextlib.ExitStack() as hooks:
        # Many draw in training only. Layers of torch stay in eval mode.
        for child in vae.modules():
            child.training = not type(child).__module__.startswith("torch.nn")
        if callable(decode := getattr(vae, "decode", None)):
            vae.decode = _noted(decode, note)  # type: ignore[assignment]  # it is removed with the other attributes
        if isinstance(decoder := getattr(vae, "decoder", None), nn.Module):
            hooks.enter_context(decoder.register_forward_pre_hook(lambda _module, arguments: note(arguments)))
        try:
            flat_or_not(forward, inputs)
        except Exception:
            if not seen:  # else the loss failed, perhaps; the latent was there before
                raise
    if mode.other is not None:
        raise ModelError(
            "latent is not drawn from a normal distribution",
            where=f"forward(), operator {mode.other}",
            expected="a mean and a log-variance from the encoder",
            do="state what its outputs are: --encoder-outputs latent,other takes the first one alone; a function that "
            "returns (model.encode, None) exports all with --encoder-outputs latent,latent --latent-shape a=16,b=16",
        )
    return seen[0] if seen else None


def _noted(function: Callable[..., Any], note: Callable[[Sequence[Any]], None]) -> Callable[..., Any]:
    def noted(*arguments: Any, **named: Any) -> Any:
        note(arguments)
        return function(*arguments, **named)

    return noted


class _FixedNoise(TorchDispatchMode):
    """Gives one number for each draw of a standard normal, and leaves everything in dropout.

    Attributes:
        other: the operator of a draw from another distribution that a latent may have, such as a Gamma, or None.
    """

    def __init__(self, noise: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._noise = noise
        self.other: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        name = func.overloadpacket
        if name in _OTHER_DRAWS:
            self.other = str(name)
        if name in (_aten.randn, _aten.randn_like):
            return outputs.fill_(self._noise)
        if name is _aten.normal_:
            mean, deviation = args[1] if len(args) > 1 else 0.0, args[2] if len(args) > 2 else 1.0
            return outputs.fill_(mean + self._noise * deviation)
        if name is _aten.normal and len(args) > 1:
            return torch.zeros_like(outputs) + args[0] + self._noise * args[1]
        if func is _aten.bernoulli_.float:
            return outputs.fill_(args[1] if len(args) > 1 else 0.5)
        return outputs


def check_decoder_remembers_nothing(vae: nn.Module, encoder: nn.Module, decoder: nn.Module, contract: Contract) -> None:
    """Raise `ModelError` if the decoder takes anything that the encoder left in the model.

    Args:
        vae: the whole model.
        encoder, decoder: its parts, which pass conditions as it takes them.
        contract: its contract.
    """
    fixed = contract.at()
    encode, decode = _function(vae, "encode", encoder), _function(vae, "decode", decoder)
    if encode is None or decode is None:
        return
    data, latent = (inputs_for(vae, fixed.spec(part).inputs) for part in ("encoder", "decoder"))

    def decoded() -> list[Leaf]:
        torch.manual_seed(0)
        return find_leaves(listed_or_not(decode, latent, len(fixed.latents))[1])

    with as_example(vae):
        try:
            first = decoded()
            is_drawn = not _are_equal(first, decoded())
            flat_or_not(encode, data)
            second = decoded()
        except Exception:  # the user's code may raise anything; the checks of the parts report it
            return
    if not is_drawn and not _are_equal(first, second):
        raise _remembering()


def check_decoder_runs_alone(vae: nn.Module, encoder: nn.Module, decoder: nn.Module, options: ModelOptions) -> None:
    """Raise `ModelError` if a decoder that cannot be run runs once the encoder has run on the model itself.

    Args:
        vae: the whole model.
        encoder, decoder: its parts, which pass conditions as it takes them.
        options: what is stated.
    """
    encode, decode = _function(vae, "encode", encoder), _function(vae, "decode", decoder)
    if encode is None or decode is None or options.data_shape is None:
        return
    contract = Contract(options.data_shape, (1,), options.bounds, conditions=options.conditions).at()
    data, *conditions = inputs_for(vae, contract.spec("encoder").inputs)
    for further in (conditions, []) if conditions else ([],):
        with as_example(vae):
            if _decodes_after_encoding(encode, decode, data, further):
                raise _remembering()


def _function(vae: nn.Module, name: str, part: nn.Module) -> Callable[..., Any] | None:
    """Return a method or a child of the model itself, which passes conditions as its part does."""
    function = getattr(vae, name, None) or getattr(vae, f"{name}r", None)
    return part.adapted(function) if callable(function) and isinstance(part, MethodModule) else function


def _decodes_after_encoding(
    encode: Callable[..., object], decode: Callable[..., object], data: Tensor, conditions: Sequence[Tensor]
) -> bool:
    try:
        leaves = find_leaves(flat_or_not(encode, [data, *conditions])[1])
    except Exception:  # the user's code may raise anything
        return False
    for leaf in leaves:
        for further in (conditions, []):
            try:
                if find_leaves(decode(leaf.tensor, *further)):
                    return True
            except Exception:  # noqa: S112  # this output is not the latent, or the decoder takes other conditions
                continue
    return False


def _are_equal(one: Sequence[Leaf], other: Sequence[Leaf]) -> bool:
    if [leaf.tensor.shape for leaf in one] != [leaf.tensor.shape for leaf in other]:
        return False
    pairs = zip(one, other, strict=True)
    return all(torch.equal(torch.nan_to_num(a.tensor), torch.nan_to_num(b.tensor)) for a, b in pairs)


def _remembering() -> ModelError:
    return ModelError(
        "decoder depends on what the encoder saw last",
        where="encode() and decode() of one model",
        expected="outputs that depend on the inputs alone",
        do="let the decoder take what the encoder leaves in the model as a further input, stated with --condition",
    )
