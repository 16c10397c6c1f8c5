"""Recognise what a user's encoder and decoder return, and turn it into the tensors of the contract.

Each module is run on an example. The contract's tensors are found by name, by shape, and by which of them are random,
and the module is wrapped so that it returns them in the contract's order. A module that does so already is left alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from vae_export.contract import Array, Contract
from vae_export.errors import ModelError, UsageError
from vae_export.sources.module_calls import taking_by_name
from vae_export.sources.module_outputs import (
    LOGVAR,
    MEANINGS,
    Leaf,
    Meaning,
    Pick,
    RecognisedModule,
    Split,
    find_leaves,
    has_item,
    meaning_of,
)
from vae_export.sources.module_runs import ROWS, as_example, flattened, inputs_for, run_flat_or_not, run_listed_or_not
from vae_export.tensors import Shape, TensorSpec, shape_text

#: How the message of an encoder begins whose outputs do not say what they are.
UNCLEAR = "outputs of the encoder are not clear"
_WIDTHS: tuple[Meaning, ...] = ("logvar", "logstd", "std", "var")
#: The names that decoders give the data, in the same spelling, the clearest first.
_DECODED = (
    *("reconstruction", "reconx", "xrecon", "recon", "reconstructed", "reconstructedx", "xhat", "xreconstructed"),
    *("sample", "decoded", "output", "out", "image", "images", "mean", "mu", "loc", "probs", "x", "y"),
)
#: How often a random encoder is run to measure the spread of its latent.
_DRAWS = 48
#: Rows of the batch that shows whether an output is ever negative, and the seconds that it may take about.
_MANY_ROWS = 64
_WIDTH_SECONDS = 2.0


@dataclass(frozen=True)
class Recognised:
    """The modules of a source as the contract describes them.

    Attributes:
        encoder, decoder: the user's modules, or wrappers of them.
        notes: lines for the user: what was found by measuring, and what looks wrong.
        facts: what was found, for the provenance.
    """

    encoder: nn.Module | None
    decoder: nn.Module | None
    notes: tuple[str, ...]
    facts: Mapping[str, Any]


def recognise(
    contract: Contract,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    *,
    encoder_outputs: Sequence[str] | None = None,
    images: Array | None = None,
) -> Recognised:
    """Return the modules with the contract's outputs.

    The modules are run in eval mode on a few rows, and left as they were.

    Args:
        contract: what they shall return.
        encoder, decoder: the user's modules.
        encoder_outputs: what the encoder returns, in order, as `read_meanings` takes it; None finds out.
        images: real data that the contract describes; None runs the modules on random numbers.

    Raises:
        ModelError: what a module returns is ambiguous, or is nothing that the contract describes.
        UsageError: an unknown word in `encoder_outputs`, or a standard deviation or variance that is negative.
    """
    encoder_outputs = read_meanings(encoder_outputs)
    notes: list[str] = []
    facts: dict[str, Any] = {}
    example = contract.at()
    if encoder is not None:
        encoder = taking_by_name(encoder, 1, [item for item in contract.conditions if "encoder" in item.parts])
        encoder = _Encoder(encoder, example, encoder_outputs, images, notes, facts).recognised()
    if decoder is not None:
        taken = [item for item in contract.conditions if "decoder" in item.parts]
        decoder = taking_by_name(decoder, len(contract.latents), taken)
        decoder = _recognised_decoder(decoder, example, facts)
    return Recognised(encoder, decoder, tuple(notes), facts)


def read_meanings(words: Sequence[str] | None) -> tuple[Meaning, ...] | None:
    """Return what words say of an encoder's outputs, or None for None.

    Args:
        words: of `MEANINGS`, or usual names of them, such as mu or log_var.

    Raises:
        UsageError: a word that does not name an encoder's output.
    """
    if words is None:
        return None
    meanings: list[Meaning] = []
    for word in words:
        meaning = next((known for known in MEANINGS if known == word), None) or meaning_of(word)
        if meaning is None:
            raise UsageError("unknown output", where="--encoder-outputs", expected=" | ".join(MEANINGS), got=word)
        meanings.append(meaning)
    return tuple(meanings)


class _Encoder:
    """The search for the contract's tensors in what an encoder returns."""

    def __init__(
        self,
        module: nn.Module,
        contract: Contract,
        stated: Sequence[str] | None,
        images: Array | None,
        notes: list[str],
        facts: dict[str, Any],
    ) -> None:
        self.module, self.contract, self.notes, self.facts = module, contract, notes, facts
        self.stated = None if stated is None else list(stated)
        self.inputs, self.outputs = contract.spec("encoder").inputs, contract.spec("encoder").outputs
        self.images = images
        self.flatten = False
        self.seconds = 0.0

    def recognised(self) -> nn.Module:
        inputs = self._example(ROWS)
        started = time.perf_counter()
        try:
            self.flatten, returned = run_flat_or_not(self.module, inputs)
        except Exception:  # any error of the user's code; the check of the graph reports it
            return self.module
        self.seconds = time.perf_counter() - started
        leaves = find_leaves(returned)
        if not leaves:
            got = type(returned).__name__
            raise ModelError("encoder gives no tensor", expected=_specs(self.outputs), got=got)
        roles = [_role(output) for output in self.outputs]
        if self._is_plain(returned, leaves) and not self.flatten and self.stated in (None, roles):
            if self.stated is None and len(leaves) > 1:
                self._warn_of_width(1)
            return self.module
        picks = self._picks(leaves)
        self._refuse_negative_widths(picks, leaves)
        self._note_left_out(picks, leaves)
        self.facts["encoder_outputs"] = [leaf.path or "tensor" for leaf in leaves]
        self.facts["encoder_takes"] = {
            output.name: f"{leaves[pick.leaf].path or 'tensor'} as {pick.meaning}"
            for output, pick in zip(self.outputs, picks, strict=True)
        }
        return RecognisedModule(self.module, picks, flatten=self.flatten)

    def _refuse_negative_widths(self, picks: Sequence[Pick], leaves: Sequence[Leaf]) -> None:
        """Raise `UsageError` for a standard deviation or variance that is negative: its logarithm is no number."""
        for pick in picks:
            lowest = leaves[pick.leaf].tensor.min().item()
            if pick.meaning in ("std", "var") and lowest < 0:
                raise UsageError(
                    f"{pick.meaning} is negative",
                    where=f"encoder, output {leaves[pick.leaf].path}",
                    expected="a number above 0, unless it is logstd or logvar",
                    got=f"{lowest:.3g}",
                    do=f"name {_list(leaves)} in order with --encoder-outputs, in words of {' | '.join(MEANINGS)}",
                )

    def _note_left_out(self, picks: Sequence[Pick], leaves: Sequence[Leaf]) -> None:
        """Note outputs beside a latent without a spread, since one of them may be its spread."""
        if self.contract.encoding != "deterministic" or self.stated is not None:
            return
        taken = {pick.leaf for pick in picks}
        left = [leaf for n, leaf in enumerate(leaves) if n not in taken and leaf.tensor.ndim > 1]
        if named := [str(leaf) for leaf in left if leaf.tensor.is_floating_point() and len(leaf.tensor) == ROWS]:
            self.notes.append(
                f"encoder: {leaves[picks[0].leaf].path} is taken as the latent, and {', '.join(named)} left out; where "
                "that says how the latent is spread, the files do not have it"
            )

    def _is_plain(self, returned: object, leaves: Sequence[Leaf]) -> bool:
        """Whether the module returns the contract's tensors alone, in order: a tuple, or one tensor."""
        several = isinstance(returned, tuple) and len(returned) == len(self.outputs) == len(leaves)
        alone = isinstance(returned, Tensor) and len(self.outputs) == 1
        fitting = all(
            tuple(leaf.tensor.shape[1:]) == output.item and not leaf.name
            for leaf, output in zip(leaves, self.outputs, strict=False)
        )
        exact = fitting and all(
            leaf.tensor.dtype == getattr(torch, output.dtype)
            for leaf, output in zip(leaves, self.outputs, strict=False)
            if output.is_integer
        )
        return exact and (alone or several)  # a graph that draws its outputs is refused when it is captured

    def _picks(self, leaves: Sequence[Leaf]) -> list[Pick]:
        if self.stated is not None:
            return self._stated_picks(leaves)
        by_name = self._named_picks(leaves)
        if by_name is not None:
            return by_name
        fitting = [number for number, leaf in enumerate(leaves) if self._fits(leaf, self.outputs[0])]
        if any(leaves[number].name for number in fitting):
            raise self._ambiguous(leaves)
        if self.contract.encoding != "gaussian":
            return self._in_order(leaves, [None] * len(self.outputs))
        if len(self.outputs) == 2:
            moments = [n for n, leaf in enumerate(leaves) if self._are_moments(leaf)]
            if not fitting and len(moments) == 1:
                last = " of the last axis" if self._last_axis(leaves[moments[0]]) else ""
                self.notes.append(f"encoder: one tensor of moments, the first half{last} is mean and the second logvar")
                return self._halves(moments[0], leaves)
            if len(fitting) == 2 and self.random.isdisjoint(fitting):
                self._warn_of_width(fitting[1])
                return [self._pick(fitting[0], leaves, "mean", 0), self._pick(fitting[1], leaves, "logvar", 1)]
            if len(fitting) == 3:
                return self._of_three(fitting, leaves)
            raise self._ambiguous(leaves)
        return self._in_order(leaves, ["mean", "logvar"] * (len(self.outputs) // 2))

    def _stated_picks(self, leaves: Sequence[Leaf]) -> list[Pick]:
        words = cast(list[Meaning], list(self.stated or ()))
        if len(words) != len(leaves):
            expected, got = f"{len(leaves)} words for {_list(leaves)}", ",".join(words)
            raise ModelError("outputs of the encoder do not fit --encoder-outputs", expected=expected, got=got)
        found: dict[str, list[int]] = {}
        for number, word in enumerate(words):
            found.setdefault("logvar" if word in LOGVAR else word, []).append(number)
        if self.contract.encoding == "gaussian" and len(found.get("moments", ())) == 1 and len(self.outputs) == 2:
            return self._halves(found["moments"][0], leaves)
        wanted = [_role(output) for output in self.outputs]
        picks = []
        for position, role in enumerate(wanted):
            numbers = found.get(role, [])
            if len(numbers) != wanted.count(role):
                expected = f"{wanted.count(role)} of '{role}' for {_specs(self.outputs)}"
                raise ModelError(
                    "outputs do not fit the contract", where="--encoder-outputs", expected=expected, got=words
                )
            number = numbers[wanted[:position].count(role)]
            picks.append(self._pick(number, leaves, words[number], position))
        return picks

    def _named_picks(self, leaves: Sequence[Leaf]) -> list[Pick] | None:
        """Return a pick for each output by the names of the leaves, or None where they do not tell."""
        meanings = [leaf.meaning for leaf in leaves]
        width: Meaning = next((m for m in _WIDTHS if m in meanings), "logvar")
        taken: list[tuple[str, Shape]] = []
        picks = []
        for position, output in enumerate(self.outputs):
            role, kind = _role(output), (_role(output), output.item)
            named = [n for n, leaf in enumerate(leaves) if leaf.path == output.name and self._fits(leaf, output)]
            alike = sum((_role(other), other.item) == kind for other in self.outputs)
            accepted = width if role == "logvar" else role
            numbers = [
                n for n, m in enumerate(meanings) if m is not None and m == accepted and self._fits(leaves[n], output)
            ]
            if role == "mean" and not numbers:  # pythae's name of the mean
                numbers = [n for n, leaf in enumerate(leaves) if leaf.name == "embedding" and self._fits(leaf, output)]
            if len(named) != 1 and len(numbers) != alike:
                break
            number = named[0] if len(named) == 1 else numbers[taken.count(kind)]
            taken.append(kind)
            meaning = meanings[number] if role == "logvar" and meanings[number] in LOGVAR else role
            picks.append(self._pick(number, leaves, meaning or role, position))
        else:
            return picks
        moments = [n for n, m in enumerate(meanings) if m == "moments" and self._are_moments(leaves[n])]
        if self.contract.encoding == "gaussian" and len(self.outputs) == 2 and len(moments) == 1:
            return self._halves(moments[0], leaves)
        return None

    def _of_three(self, fitting: Sequence[int], leaves: Sequence[Leaf]) -> list[Pick]:
        """Find mean and width of three tensors, one of which is the latent."""
        random = [number for number in fitting if number in self.random]
        if len(random) == 1:
            return self._measured(random[0], [number for number in fitting if number not in random], leaves)
        widths = [] if random else _width_pairs(fitting, leaves)
        if len(widths) == 1:
            (exact, logvar), (mean,) = widths[0], [number for number in fitting if number not in widths[0]]
            self.notes.append(
                f"encoder: output {leaves[exact].path} is left out: it is another measure of the width that "
                f"{leaves[logvar].path} gives as logvar"
            )
            return [self._pick(mean, leaves, "mean", 0), self._pick(logvar, leaves, "logvar", 1)]
        pairs = [(a, b) for a in fitting for b in fitting if a < b and torch.equal(leaves[a].tensor, leaves[b].tensor)]
        if not random and len(pairs) == 1:  # the latent is the mean in eval mode
            (same, _), (width,) = pairs[0], [number for number in fitting if number not in pairs[0]]
            self._warn_of_width(width)
            return [self._pick(same, leaves, "mean", 0), self._pick(width, leaves, "logvar", 1)]
        raise self._ambiguous(leaves)

    def _measured(self, latent: int, others: Sequence[int], leaves: Sequence[Leaf]) -> list[Pick]:
        """Find which tensor is the mean and what the other one is, from the spread of the drawn latent."""
        with as_example(self.module):
            torch.manual_seed(0)
            inputs = flattened(self._example(ROWS), self.flatten)
            drawn = torch.stack([find_leaves(self.module(*inputs))[latent].tensor.double() for _ in range(_DRAWS)])
        slack = 6 * math.sqrt(2 / drawn.numel())  # six standard errors
        found: tuple[Meaning, int, int] | None = None
        for mean, width in (others, list(reversed(others))):
            for meaning in _WIDTHS:
                logvar = LOGVAR[meaning](leaves[width].tensor.double())
                scaled = (drawn - leaves[mean].tensor.double()) * torch.exp(-logvar / 2)
                spread, centre = scaled.square().mean().item(), abs(scaled.mean().item())
                if found is None and abs(spread - 1) <= slack and centre <= slack:
                    found = meaning, mean, width
        if found is None:
            raise self._ambiguous(leaves)
        meaning, mean, width = found
        paths = {number: leaves[number].path for number in (latent, mean, width)}
        self.notes.append(
            f"encoder: output {paths[latent]} is drawn, and left out; {paths[mean]} is its mean and "
            f"{paths[width]} its {meaning}, as the spread of {_DRAWS} draws shows"
        )
        return [self._pick(mean, leaves, "mean", 0), self._pick(width, leaves, meaning, 1)]

    def _in_order(self, leaves: Sequence[Leaf], meanings: Sequence[Meaning | None]) -> list[Pick]:
        """Take the leaves that fit the outputs one by one; raise `ModelError` unless each fits exactly once."""
        shapes = {output.item for output in self.outputs}
        fitting = [n for n, leaf in enumerate(leaves) if any(self._fits(leaf, output) for output in self.outputs)]
        if len(fitting) == len(self.outputs):
            by_place = [self._fits(leaves[n], output) for n, output in zip(fitting, self.outputs, strict=True)]
            if all(by_place):
                order = fitting
            else:  # ([mean1, mean2], [logvar1, logvar2])
                half = len(fitting) // 2
                order = [n for pair in zip(fitting[:half], fitting[half:], strict=True) for n in pair]
            # Four outputs of one shape can be two pairs or two lists.
            clear = len(shapes) > 1 or len(self.outputs) < 4
            if clear and all(self._fits(leaves[n], output) for n, output in zip(order, self.outputs, strict=True)):
                return [
                    self._pick(n, leaves, meanings[position] or _role(self.outputs[position]), position)
                    for position, n in enumerate(order)
                ]
        raise self._ambiguous(leaves)

    def _halves(self, number: int, leaves: Sequence[Leaf]) -> list[Pick]:
        first, second = self._pick(number, leaves, "mean", 0), self._pick(number, leaves, "logvar", 1)
        split = self._last_axis(leaves[number]) or "channels"
        first, second = (dataclasses.replace(pick, split=split) for pick in (first, second))
        return [dataclasses.replace(first, half=0), dataclasses.replace(second, half=1)]

    def _are_moments(self, leaf: Leaf) -> bool:
        return self._last_axis(leaf) is not None or self._fits(leaf, self.outputs[0], channels=2)

    def _last_axis(self, leaf: Leaf) -> Split | None:
        """Return how a tensor has the moments along its last axis, or None."""
        *rest, last = item = self.outputs[0].fixed_item
        shape = tuple(leaf.tensor.shape[1:])
        if len(leaf.tensor) != ROWS or not leaf.tensor.is_floating_point():
            return None
        return "pairs" if shape == (*item, 2) else "features" if rest and shape == (*rest, 2 * last) else None

    def _pick(self, number: int, leaves: Sequence[Leaf], meaning: Meaning, position: int) -> Pick:
        output = self.outputs[position]
        tensor, item = leaves[number].tensor, output.fixed_item
        reshaped = None if tuple(tensor.shape[1:]) == item else item
        if meaning in ("moments",) or tensor.shape[1:].numel() != math.prod(item):
            reshaped = None
        dtype = output.dtype if output.is_integer and tensor.dtype != getattr(torch, output.dtype) else None
        return Pick(number, meaning, None, reshaped, dtype)

    def _fits(self, leaf: Leaf, output: TensorSpec, channels: int = 1) -> bool:
        """Whether a leaf has the shape of an output, perhaps flat, and integers where the output has them."""
        first, *rest = output.fixed_item
        return has_item(leaf.tensor, (channels * first, *rest)) and _is_integer(leaf.tensor) == output.is_integer

    @cached_property
    def random(self) -> set[int]:
        """Numbers of the leaves that differ under two seeds."""
        with as_example(self.module):
            inputs = flattened(self._example(ROWS), self.flatten)
            runs = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                runs.append(find_leaves(self.module(*inputs)))
        pairs = enumerate(zip(*runs, strict=True))
        return {number for number, (one, other) in pairs if not torch.equal(one.tensor, other.tensor)}

    def _example(self, rows: int) -> tuple[Tensor, ...]:
        return inputs_for(self.module, self.inputs, rows, self.images)

    def _warn_of_width(self, number: int) -> None:
        """Note that a log-variance by position is never negative, as a standard deviation would be."""
        if self.contract.encoding != "gaussian":
            return
        affordable = int(ROWS * _WIDTH_SECONDS / max(self.seconds, 1e-6))
        rows = max(ROWS, min(_MANY_ROWS, affordable))
        data, *rest = flattened(self._example(rows), self.flatten)
        with as_example(self.module):
            torch.manual_seed(0)
            if data.is_floating_point():
                # Far beyond the range too: there a layer without softplus, exp or ReLU behind it gives either sign.
                scale = torch.logspace(-1, 2, rows).to(data).reshape(-1, *[1] * (data.ndim - 1))
                data = data + scale * torch.randn_like(data)
            try:
                leaves = find_leaves(self.module(data, *rest))
            except Exception:  # the user's code refuses such data, or conditions that it takes in other rows
                return
        if leaves[number].tensor.min() >= 0 and leaves[number].tensor.max() > 0:
            self.notes.append(
                f"warning: output {leaves[number].path} of the encoder is taken as logvar, and is never negative on "
                f"{rows} inputs; if it is a standard deviation, pass --encoder-outputs with std in its place"
            )

    def _ambiguous(self, leaves: Sequence[Leaf]) -> ModelError:
        return ModelError(
            UNCLEAR,
            expected=_specs(self.outputs),
            got=_list(leaves),
            do=f"name them in order, as --encoder-outputs {','.join(_suggestion(self.outputs, len(leaves)))} or "
            f"Source(encoder_outputs=…), in words of {' | '.join(MEANINGS)}; or state another latent or encoding",
        )


def _recognised_decoder(module: nn.Module, contract: Contract, facts: dict[str, Any]) -> nn.Module:
    """Return a decoder that gives the data of the contract, and the likelihood's second output."""
    spec = contract.spec("decoder")
    try:
        inputs = inputs_for(module, spec.inputs)
        listed, returned = run_listed_or_not(module, inputs, len(contract.latents))
    except Exception:  # any error of the user's code; the check of the graph reports it
        return module
    leaves = find_leaves(returned)
    expected = [output.fixed_item for output in spec.outputs]
    found = [tuple(leaf.tensor.shape[1:]) for leaf in leaves]
    if (
        not listed
        and found == expected
        and (isinstance(returned, Tensor) or (type(returned) is tuple and len(returned) == len(found)))
    ):
        return module
    fitting = [n for n, leaf in enumerate(leaves) if has_item(leaf.tensor, expected[0])]
    numbers = fitting
    if len(spec.outputs) == 2:
        if len(fitting) == 2 and leaves[fitting[1]].meaning not in (None, *LOGVAR):
            numbers = []
    elif len(fitting) > 1:
        known = [n for n in fitting if leaves[n].name in _DECODED]
        numbers = sorted(known, key=lambda n: _DECODED.index(leaves[n].name))[:1]
    if len(numbers) != len(spec.outputs):
        if isinstance(returned, Tensor) or not leaves:
            return module  # the check of the graph says which shape is wrong
        do = "name one with --decoder-output, or wrap the decoder in a module that returns these alone"
        raise ModelError(
            "outputs of the decoder are not clear", expected=_specs(spec.outputs), got=_list(leaves), do=do
        )
    picks = []
    for n, item in zip(numbers, expected, strict=True):
        meaning = leaves[n].meaning if n != numbers[0] and leaves[n].meaning in LOGVAR else "other"
        same = tuple(leaves[n].tensor.shape[1:]) == item
        picks.append(Pick(n, meaning or "other", None, None if same else item))
    facts["decoder_outputs"] = [leaf.path or "tensor" for leaf in leaves]
    facts["decoder_takes"] = [leaves[n].path or "tensor" for n in numbers]
    return RecognisedModule(module, picks, listed=listed)


def _width_pairs(numbers: Sequence[int], leaves: Sequence[Leaf]) -> list[tuple[int, int]]:
    """Return the pairs of leaves of which the first is the standard deviation or variance of the second, a logvar."""

    def is_width(one: Tensor, logvar: Tensor) -> bool:
        return any(torch.allclose(one, torch.exp(share * logvar), rtol=1e-3, atol=1e-6) for share in (0.5, 1.0))

    tensors = {number: leaves[number].tensor.float() for number in numbers}
    return [(a, b) for a in numbers for b in numbers if a != b and is_width(tensors[a], tensors[b])]


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point()


def _role(output: TensorSpec) -> Meaning:
    """Return the meaning that an output of the encoder has in the contract."""
    if output.role != "statistic":
        return "codes" if output.role == "codes" else "latent"
    return "logvar" if output.name.endswith("logvar") else "mean"


def _suggestion(outputs: Sequence[TensorSpec], count: int) -> list[Meaning]:
    words = [_role(output) for output in outputs]
    others: list[Meaning] = ["other"] * (count - len(words))
    return [*words, *others] if count == 2 * len(words) else [*others, *words]  # a prior follows, a sample precedes


def _specs(outputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{output.name} {shape_text(output.item)}" for output in outputs)


def _list(leaves: Sequence[Leaf]) -> str:
    return ", ".join(map(str, leaves)) or "no tensor"
