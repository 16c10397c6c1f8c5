"""Call what a user's module has: any method as a module, conditions by name, code that takes batches of one size.

Methods take their conditions by position, by name or by `**kwargs`, with arguments of other kinds between them.
`MethodModule` takes the contract's inputs in order, whatever the method wants.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from vae_export.contract import Condition
from vae_export.sources.module_outputs import find_leaves, follow_path
from vae_export.sources.module_runs import without_value_checks


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
        in_float32: whether it computes in float32 where its code asks for float64.
    """

    def __init__(
        self,
        module: nn.Module,
        method: str = "forward",
        without: Sequence[str] = (),
        output: str | None = None,
        names: Sequence[str] = (),
        rows: int | None = None,
        in_float32: bool = False,
    ) -> None:
        super().__init__()
        self.module = without_children(module, without)
        self.method = method
        self.output = output
        self.names = tuple(names)
        self.rows = rows
        self.in_float32 = in_float32

    def forward(self, *inputs: Tensor) -> object:
        """Return what the method returns, or the one tensor of it."""
        method = self.module if self.method == "forward" else getattr(self.module, self.method)  # hooks of a module run
        return self.adapted(method)(*inputs)

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that takes inputs and gives outputs as this module does."""
        function = with_names(function, self.names)
        if self.output is not None:
            function = _following(function, self.output)
        if self.in_float32:
            function = _computing_in_float32(function)
        return function if self.rows is None else in_batches(function, self.rows)

    def changed(self, **arguments: Any) -> MethodModule:
        """Return the same method with other arguments of the constructor."""
        same: dict[str, Any] = {
            "output": self.output,
            "names": self.names,
            "rows": self.rows,
            "in_float32": self.in_float32,
        }
        return MethodModule(self.module, self.method, **(same | arguments))


def without_children(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a module that shares its weights with the given one, without some of its children."""
    part = copy.copy(module)
    part._modules = {name: child for name, child in module._modules.items() if name not in names}
    return part


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


def _computing_in_float32(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function that computes in float32 where its code asks for float64, unless it gets float64 itself."""

    def called(*inputs: Any) -> object:
        dtypes = {torch.get_default_dtype(), *(value.dtype for value in inputs if isinstance(value, Tensor))}
        if torch.float64 in dtypes:  # the oracle computes everything in float64
            return function(*inputs)
        with _WithoutFloat64():
            return function(*inputs)

    return called


class _WithoutFloat64(TorchFunctionMode):
    """A context in which functions of torch take and give float32 in place of float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = pytree.tree_map(_in_float32, (args, dict(kwargs or {})))
        return pytree.tree_map(_in_float32, (Tensor.float if func is Tensor.double else func)(*args, **kwargs))


def _in_float32(value: Any) -> Any:
    """Return float32 for the dtype float64, whose Python name is `float`, and for tensors of it; else the value."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.float64 else value
    return torch.float32 if value is torch.float64 or value is float else value


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
