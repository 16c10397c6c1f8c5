"""Open what a user's module returns, and wrap the module so that it returns the contract's tensors.

Modules return a tuple, a dict, a dataclass, a distribution, a tensor of moments, …. `find_leaves` opens these, and a
`Pick` says which leaf becomes a tensor of the contract.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_export.errors import ModelError
from vae_export.sources.module_runs import ROWS, flattened, in_a_list, without_value_checks
from vae_export.tensors import Shape

#: What one tensor from an encoder means, as `--encoder-outputs` names it.
Meaning = Literal["latent", "mean", "logvar", "logstd", "std", "var", "moments", "codes", "other"]
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
#: Where a tensor of moments has mean and log-variance.
Split = Literal["channels", "features", "pairs"]
#: How each measure of a Gaussian's width becomes a log-variance.
LOGVAR: Mapping[str, Callable[[Tensor], Tensor]] = {
    "logvar": lambda x: x,
    "logstd": lambda x: 2 * x,
    "std": lambda x: 2 * torch.log(x),
    "var": torch.log,
}
#: The names that encoders give their outputs, without underscores and capitals, and without the words of `_FILLERS`.
_ENCODED: Mapping[str, Meaning] = {
    **dict.fromkeys(("mean", "means", "mu", "mus", "loc", "m"), "mean"),
    **dict.fromkeys(("logvar", "logvars", "logvariance", "logcovariance", "logv", "logsigma2", "logsigmasq"), "logvar"),
    **dict.fromkeys(("logstd", "logsigma", "logscale", "logstddev", "lnstd", "lnsigma"), "logstd"),
    **dict.fromkeys(("std", "sigma", "scale", "stddev"), "std"),
    **dict.fromkeys(("var", "variance", "v", "sigma2", "sigmasq"), "var"),
    **dict.fromkeys(("latent", "latents", "z", "sample", "encoding", "encoded", "embedding", "quantized"), "latent"),
    **dict.fromkeys(("codes", "code", "indices", "codeindices", "encodingindices", "tokens"), "codes"),
    **dict.fromkeys(("moments", "parameters", "params"), "moments"),
}
#: Words that say whose mean or logvar it is.
_FILLERS = ("z", "q", "qz", "posterior", "latent", "enc", "encoder", "x")


@dataclass(frozen=True)
class Leaf:
    """One tensor in what a module returned.

    Attributes:
        path: where it is, such as "latent_dist.mean" or "1".
        tensor: its value.
    """

    path: str
    tensor: Tensor

    @property
    def name(self) -> str:
        """The name without capitals and underscores; "" for an element of a tuple or list."""
        last = self.path.rpartition(".")[2]
        return "" if last.isdigit() else last.lower().replace("_", "")

    @property
    def meaning(self) -> Meaning | None:
        """The meaning that the name of an encoder's output has, or None."""
        if not self.name:
            return None
        return meaning_of(self.path.rpartition(".")[2])

    def __str__(self) -> str:
        return f"{self.path or 'tensor'} {tuple(self.tensor.shape)}"


def meaning_of(name: str) -> Meaning | None:
    """Return the meaning that an encoder's output has by its name, such as mu or z_log_var, or None."""
    words = [word for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name) if word]
    plain = [word.lower().rstrip("0123456789") for word in words]  # z1_mean and mu2 are of several latents
    short = "".join(word for word in plain if word not in _FILLERS)
    return _ENCODED.get(name.lower().replace("_", "")) or _ENCODED.get(short)


@dataclass(frozen=True)
class Pick:
    """The way in which one tensor of the contract comes from the leaves of what a module returned.

    Attributes:
        leaf: number of the leaf.
        meaning: what the leaf is; a width is turned into a log-variance.
        half: 0 or 1 for a half of a tensor of moments.
        split: where a tensor of moments has its halves: in the channels, in the last axis, or as pairs there.
        item: the shape of one row in the contract where the leaf has another, such as flat pixels.
        dtype: the dtype of codes.
    """

    leaf: int
    meaning: Meaning
    half: int | None = None
    item: tuple[int, ...] | None = None
    dtype: str | None = None
    split: Split = "channels"

    def take(self, leaves: Sequence[Leaf]) -> Tensor:
        """Return the tensor of the contract."""
        tensor = leaves[self.leaf].tensor
        if self.half is not None:
            axis = 1 if self.split == "channels" else -1
            halves = tensor.unbind(axis) if self.split == "pairs" else tensor.chunk(2, dim=axis)
            tensor = halves[self.half]
        if self.meaning in LOGVAR:
            tensor = LOGVAR[self.meaning](tensor)
        if self.item is not None:
            tensor = tensor.reshape(tensor.shape[0], *self.item)
        return tensor if self.dtype is None else tensor.to(getattr(torch, self.dtype))


class RecognisedModule(nn.Module):
    """A user's module that takes the contract's inputs and returns its outputs, in the contract's order.

    Args:
        module: the user's module.
        picks: one for each output of the contract.
        flatten: whether the module takes the data as a flat row (N, D).
        listed: the number of first inputs that the module takes as one list; 0 for none.
    """

    def __init__(self, module: nn.Module, picks: Sequence[Pick], *, flatten: bool = False, listed: int = 0) -> None:
        super().__init__()
        self.module = module
        self.picks = tuple(picks)
        self.flatten = flatten
        self.listed = listed

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the tensors of the contract."""
        with without_value_checks():
            leaves = find_leaves(self.module(*in_a_list(flattened(inputs, self.flatten), self.listed)))
        outputs = tuple(pick.take(leaves) for pick in self.picks)
        return outputs if len(outputs) > 1 else outputs[0]


def follow_path(returned: object, path: str) -> Tensor:
    """Return the tensor at a path in what a decoder returned.

    Args:
        returned: any value.
        path: keys, numbers and attributes with dots between them, such as "px_rate", "0" or "dist.mean".

    Raises:
        ModelError: nothing is there, or no tensor.
    """
    value = returned
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, Sequence) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = getattr(value, name, None)
    if not isinstance(value, Tensor):
        got = path if value is None else f"{path}, which is of type {type(value).__name__}"
        raise ModelError("decoder gives no such output", where="--decoder-output", expected=_members(returned), got=got)
    return value


def _members(value: object) -> str:
    """Return the names of the tensors in a value, or its type where it has none."""
    try:
        leaves = find_leaves(value)
    except ModelError:  # a distribution
        leaves = []
    return ", ".join(map(str, leaves)) or type(value).__name__


def find_leaves(value: object, path: str = "") -> list[Leaf]:
    """Return the tensors with a batch axis in what a module returned, in order.

    Tuples, lists, named tuples, mappings, dataclasses, namespaces and distributions are opened; anything else is
    skipped.
    """
    if isinstance(value, Tensor):
        return [Leaf(path, value)] if value.ndim else []
    return [leaf for name, item in _items(value) for leaf in find_leaves(item, f"{path}.{name}" if path else str(name))]


def _items(value: object) -> list[tuple[str, object]]:
    """Return the members of a container by name or number."""
    while isinstance(value, torch.distributions.Independent):
        value = value.base_dist
    if isinstance(value, torch.distributions.Normal):
        return [("mean", value.loc), ("std", value.scale)]
    if isinstance(value, torch.distributions.Bernoulli):
        return [("probs", value.probs)]
    if isinstance(value, Distribution):
        name = type(value).__name__
        do = "return mean and logvar of a Normal, or the tensors themselves; of a decoder, pass --decoder-output mean"
        raise ModelError("distribution is not supported", expected="Normal | Bernoulli", got=name, do=do)
    if isinstance(value, Mapping):
        return [(str(name), item) for name, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return [(str(number), item) for number, item in enumerate(value)]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if type(value).__name__ == "IdentityDistribution":  # diffusers' name for a latent without a distribution
        return [("latent", getattr(value, "parameters", None))]
    pair = {name: getattr(value, name, None) for name in ("mean", "logvar")}  # as diffusers' own distribution
    if any(isinstance(item, Tensor) for item in pair.values()):
        return [(name, item) for name, item in pair.items() if isinstance(item, Tensor)]
    if isinstance(value, type | nn.Module):
        return []
    attributes = getattr(value, "__dict__", {})  # of a namespace, or of a class of the user's
    kinds = (Tensor, Distribution, Mapping, tuple, list)
    return [(name, item) for name, item in attributes.items() if not name.startswith("_") and isinstance(item, kinds)]


def has_item(tensor: Tensor, item: Shape) -> bool:
    """Whether the rows of a tensor have this shape, or the tensor or the shape is flat and the numbers are as many."""
    found = tuple(tensor.shape[1:])
    if tensor.shape[0] != ROWS:
        return False
    return found == item or (
        math.prod(found) == math.prod(map(int, item)) and (len(_squeezed(found)) <= 1 or len(_squeezed(item)) <= 1)
    )


def _squeezed(item: Shape) -> Shape:
    return tuple(size for size in item if size != 1)
