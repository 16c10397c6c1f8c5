"""Copy a user's module as float32 on the CPU, in eval mode. The user's own module is not changed.

`copy.deepcopy` alone is not enough: it refuses tensors that were computed from weights, which old `weight_norm` and
cached activations leave in a module, and modules that hold locks, files or generators.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from vae_export.errors import ModelError
from vae_export.sources.module_runs import unwrapped
from vae_export.system.streams import silenced

#: Dtypes that a module may name in an attribute; its weights become float32, and so must these.
_HALVES = (torch.float16, torch.bfloat16)


def copy_module(module: nn.Module, where: str) -> nn.Module:
    """Return a copy in float32 on the CPU, in eval mode and without gradients.

    `torch.compile` and data-parallel wrappers are removed, and weights that torch's `weight_norm` and `spectral_norm`
    compute in each call are computed once.

    Args:
        module: the module.
        where: what it is, for messages: "encoder" or "decoder".

    Raises:
        ModelError: the module is TorchScript, lazy, on the meta device, or cannot be copied.
    """
    _refuse_kinds(module, where)
    try:
        with _DetachedCopies():
            copied = unwrapped(copy_sharing_weights(module))
    except Exception as error:  # an attribute's own copying may raise anything
        raise ModelError(
            "module cannot be copied",
            where=_first_uncopyable(module, where),
            got=f"{type(error).__name__}: {error}",
            do="remove this attribute before exporting, and set it again afterwards",
        ) from error
    copied = copied.cpu().float().eval().requires_grad_(False)
    for inner in copied.modules():
        _convert_attributes(inner)
        _compute_normed_weights(inner)
    return copied.requires_grad_(False)


def copy_sharing_weights(module: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters have the memory of the module's; buffers and attributes are copied.

    The copy's parameters are objects of their own, so that converting it or replacing a weight does not change the
    module. Large weights are there once.
    """
    shared = {
        id(item): nn.Parameter(item.detach(), False) for item in module.parameters() if type(item) is nn.Parameter
    }
    hidden = {id(item): ScriptedModule.of(item) for item in _scripted(module)}
    copied: nn.Module = copy.deepcopy(module, dict[int, Any](shared | hidden))
    return copied


class ScriptedModule(nn.Module):
    """A part of a module that is TorchScript, with weights that are constants of the graph.

    torch.export takes the weights of TorchScript for other objects in each call, and its optimised runs, after the
    first two, for those of one size.

    Args:
        scripted: the part, float32 on the CPU in eval mode. It is shared by copies of this module.
    """

    def __init__(self, scripted: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.hidden = [scripted]  # in a list, it is no child

    @classmethod
    def of(cls, given: torch.jit.ScriptModule) -> ScriptedModule:
        """Return a copy of a part of a user's module."""
        file = io.BytesIO()
        with silenced():  # torch says that TorchScript is deprecated
            torch.jit.save(given, file)
            file.seek(0)
            scripted = torch.jit.load(file, map_location="cpu").float().eval()
        for parameter in scripted.parameters():
            parameter.requires_grad_(False)
        return cls(scripted)

    def __deepcopy__(self, _memo: object) -> ScriptedModule:
        return ScriptedModule(self.hidden[0]).train(self.training)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the part returns."""
        run = self.hidden[0]._c._get_method("forward")
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch has it without listing it
            return run(*inputs, **named)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of this module, or else of the part."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["hidden"][0], name)


def _scripted(module: nn.Module) -> Iterator[torch.jit.ScriptModule]:
    """Yield the children at any depth that are TorchScript, without theirs."""
    for child in module.children():
        if isinstance(child, torch.jit.ScriptModule):
            yield child
        else:
            yield from _scripted(child)


def _refuse_kinds(module: nn.Module, where: str) -> None:
    """Raise `ModelError` for modules without Python code or without weights."""
    if isinstance(module, torch.jit.ScriptModule):
        do = "give the nn.Module that it was made from"
        raise ModelError("module is TorchScript", where=where, expected="Python code", do=do)
    for name, inner in module.named_modules():
        place = f"{where}.{name}" if name else where
        for key, tensor in (*inner._parameters.items(), *inner._buffers.items()):
            if tensor is None:
                continue
            if is_lazy(tensor):
                do = "run the module once on an example"
                raise ModelError("module is lazy", where=f"{place}, '{key}'", expected="weights with a shape", do=do)
            if tensor.is_meta:
                do = "load its weights"
                raise ModelError("module is on the meta device", where=f"{place}, '{key}'", expected="weights", do=do)


class _DetachedCopies(TorchFunctionMode):
    """A context in which `copy.deepcopy` also copies tensors that were computed from weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _first_uncopyable(module: nn.Module, where: str) -> str:
    """Return the name of the first attribute that cannot be copied."""
    for name, inner in module.named_modules():
        for key, value in vars(inner).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                with _DetachedCopies():
                    copy.deepcopy(value)
            except Exception:  # this is the attribute that is looked for
                return f"{where}, attribute '{name + '.' if name else ''}{key}'"
    return where


def _convert_attributes(module: nn.Module) -> None:
    """Convert what `Module.cpu` and `Module.float` leave out: plain tensors and dtypes in attributes."""
    for name, value in list(vars(module).items()):
        if isinstance(value, Tensor):
            vars(module)[name] = value.detach().cpu().float() if value.is_floating_point() else value.cpu()
        elif isinstance(value, torch.dtype) and value in _HALVES:
            vars(module)[name] = torch.float32


def _compute_normed_weights(module: nn.Module) -> None:
    """Replace weights that torch's own normalisations compute in each call by their values."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        for name in list(lists):
            if all(type(inner).__module__ == parametrizations.__name__ for inner in lists[name]):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
