"""Open what a user's module returns, and wrap the module so that it returns the contract's tensors.

Modules return a tuple, a dict, a dataclass, a distribution, a tensor of moments, …. `find_leaves` opens these, and a
`Pick` says which leaf becomes a tensor of the contract.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from vae_export.contract import Condition
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


class MethodModule(nn.Module):
    """A method of a module as a module: its inputs and outputs are the method's.

    Args:
        module: the module.
        method: the name of the method.
        without: children of the module that the method does not use, whose weights are left out.
        output: the path of the one tensor to return, see `follow_path`; None returns what the method returns.
        names: names of arguments that the last inputs are passed by, see `names_of_conditions`.
        rows: the number of rows of every batch where the method takes no other: smaller batches are filled up, and
            larger ones divided. None passes batches as they are.
    """

    def __init__(
        self,
        module: nn.Module,
        method: str = "forward",
        without: Sequence[str] = (),
        output: str | None = None,
        names: Sequence[str] = (),
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.module = without_children(module, without)
        self.method = method
        self.output = output
        self.names = tuple(names)
        self.rows = rows

    def forward(self, *inputs: Tensor) -> object:
        """Return what the method returns, or the one tensor of it."""
        method = self.module if self.method == "forward" else getattr(self.module, self.method)  # hooks of a module run
        return self.adapted(method)(*inputs)

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that takes inputs and gives outputs as this module does."""
        function = with_names(function, self.names)
        if self.output is not None:
            function = _following(function, self.output)
        return function if self.rows is None else in_batches(function, self.rows)

    def changed(self, **arguments: Any) -> MethodModule:
        """Return the same method with other arguments of the constructor."""
        same = {"without": (), "output": self.output, "names": self.names, "rows": self.rows}
        return MethodModule(self.module, self.method, **{**same, **arguments})


def with_names(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a function that passes its last arguments by these names."""
    if not names:
        return function

    def called(*inputs: Any) -> Any:
        first = len(inputs) - len(names)
        return function(*inputs[:first], **dict(zip(names, inputs[first:], strict=True)))

    return called


def in_batches(function: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """Return a function of batches of any size that calls one which takes batches of one size alone.

    It returns the tensors of what that one returns by their paths, see `find_leaves`.

    Args:
        function: the function.
        rows: the size of the batches that it takes. A smaller one is filled up with its first row.
    """

    def called(*inputs: Any) -> Tensor | dict[str, Tensor]:
        found = in_turn(inputs)
        return found.get("", found)  # one tensor has no path

    def in_turn(inputs: Any) -> dict[str, Tensor]:
        count = len(pytree.tree_leaves(inputs)[0])
        if count <= rows:
            return {path: tensor[:count] for path, tensor in one(pytree.tree_map(filled, inputs)).items()}
        first, rest = (
            one(pytree.tree_map(lambda x: x[:rows], inputs)),
            in_turn(pytree.tree_map(lambda x: x[rows:], inputs)),
        )
        return {path: torch.cat((first[path], rest[path])) for path in first}

    def one(inputs: Any) -> dict[str, Tensor]:
        return {leaf.path: leaf.tensor for leaf in find_leaves(function(*inputs)) if len(leaf.tensor) == rows}

    def filled(tensor: Tensor) -> Tensor:
        return torch.cat((tensor, tensor[:1].expand(rows, *tensor.shape[1:])))[:rows]

    return called


def _following(function: Callable[..., object], output: str) -> Callable[..., Tensor]:
    """Return a function that gives the one tensor at a path in what a function returns."""

    def called(*inputs: Any) -> Tensor:
        with without_value_checks():
            return follow_path(function(*inputs), output)

    return called


def taking_by_name(module: nn.Module, count: int, conditions: Sequence[Condition]) -> nn.Module:
    """Return a module that passes the conditions which it takes by the names of its arguments, where it has these.

    An argument of another name may stand before a condition, and conditions may be stated in another order than the
    arguments.

    Args:
        module: the module, which takes the conditions as its last inputs.
        count: the number of arguments before the conditions.
        conditions: all conditions.
    """
    method = module if isinstance(module, MethodModule) else MethodModule(module)
    names = () if method.names else names_of_conditions(_function(module), count, conditions)
    return method.changed(names=names) if names else module


def names_of_conditions(
    function: Callable[..., object], count: int, conditions: Sequence[Condition]
) -> tuple[str, ...]:
    """Return the names of the conditions that a function takes by name; () where it takes them by position.

    Args:
        function: the function.
        count: the number of arguments before the conditions.
        conditions: all conditions.
    """
    parameters = _parameters(function)
    named = [item.name for item in conditions if item.name in _names_after(parameters, count)]
    if not named and _takes_any_name(parameters, count, len(conditions)):
        named = [item.name for item in conditions]
    return tuple(named)


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


def without_children(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a module that shares its weights with the given one, without some of its children."""
    part = copy.copy(module)
    part._modules = {name: child for name, child in module._modules.items() if name not in names}
    return part


def find_leaves(value: object, path: str = "") -> list[Leaf]:
    """Return the tensors with a batch axis in what a module returned, in order.

    Tuples, lists, named tuples, mappings, dataclasses and distributions are opened; anything else is skipped.
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
    pair = [(name, getattr(value, name, None)) for name in ("mean", "logvar")]  # as diffusers' own distribution
    return [(name, item) for name, item in pair if isinstance(item, Tensor)]


def accepted_conditions(module: nn.Module, count: int, conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions that a module takes: those that its arguments are named after, or all where none is.

    Args:
        module: the module.
        count: the number of arguments before the conditions.
        conditions: all conditions.
    """
    parameters = _parameters(_function(module))
    if parameters is None:
        return tuple(conditions)
    after = _names_after(parameters, count)
    if named := tuple(condition for condition in conditions if condition.name in after):
        return named
    enough = len(_positional(parameters)) - count >= len(conditions)
    return tuple(conditions) if enough or _takes_any_name(parameters, count, len(conditions)) else ()


def argument_names(module: nn.Module, conditions: Sequence[Condition]) -> list[str]:
    """Return the names of the arguments that a decoder needs beside the conditions; [] where that is not known."""
    own = _positional(_parameters(_function(module)))
    taken = [item for item in conditions if "decoder" in item.parts]
    names = [parameter.name for parameter in own if parameter.default is parameter.empty]
    left = [name for name in names if name not in {item.name for item in taken}]
    return left if len(left) < len(names) or not taken else names[: len(names) - len(taken)]


def needed_names(module: nn.Module, count: int) -> list[str]:
    """Return the names of the arguments without a default that a module takes by name, and after its first `count`."""
    parameters = _parameters(_function(module))
    after = _names_after(parameters, count)
    return [item.name for item in parameters or () if item.name in after and item.default is item.empty]


def _function(module: nn.Module) -> Callable[..., object]:
    """Return the function that a module runs."""
    return getattr(module.module, module.method) if isinstance(module, MethodModule) else module.forward


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter] | None:
    """Return the arguments of a function, or None if it takes any number or does not tell."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    return None if any(item.kind is item.VAR_POSITIONAL for item in parameters) else parameters


def _positional(parameters: Sequence[inspect.Parameter] | None) -> list[inspect.Parameter]:
    return [item for item in parameters or () if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]


def _names_after(parameters: Sequence[inspect.Parameter] | None, count: int) -> set[str]:
    """Return the names that a function takes after its first `count` arguments by position."""
    first = {item.name for item in _positional(parameters)[:count]}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {item.name for item in parameters or () if item.kind in kinds} - first


def _takes_any_name(parameters: Sequence[inspect.Parameter] | None, count: int, conditions: int) -> bool:
    """Whether a function takes conditions by any name, because it has `**kwargs` and too few other arguments."""
    variadic = any(item.kind is item.VAR_KEYWORD for item in parameters or ())
    return variadic and len(_positional(parameters)) - count < conditions


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
