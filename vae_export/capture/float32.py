"""Make a module compute in float32 where its code asks for float64.

A float64 buffer, `x.double()` or an array of NumPy's widens everything that is computed with it. Files are in float32:
engines have no float64, or a slow one. A module that needs the further digits is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vae_export.capture.promotion import DtypeFinder
from vae_export.contract import Contract, Part
from vae_export.errors import ModelError
from vae_export.sources.module_calls import MethodModule, taking_by_name
from vae_export.sources.module_outputs import find_leaves
from vae_export.sources.module_runs import as_example, flat_or_not, inputs_for, listed_or_not

#: How far outputs in float32 may be from those in float64, relative to the largest of an output.
_SAME = 1e-3


def in_float32(
    copied: nn.Module, given: nn.Module, contract: Contract, part: Literal["encoder", "decoder"]
) -> tuple[nn.Module, str | None]:
    """Return a module that computes in float32, and a line for the user where its code asks for float64.

    Args:
        copied: the copy of an encoder or decoder, float32.
        given: the user's module, which is run.
        contract: the contract, with sizes in numbers.
        part: the part.

    Returns:
        The copy, and None, where the module has no float64 inside, or has float64 weights throughout.

    Raises:
        ModelError: it gives something else in float32.
    """
    inputs = inputs_for(given, contract.spec(part).inputs)
    if any(value.dtype == torch.float64 for value in inputs):
        return copied, None
    wide, narrow = _method(given, contract, part), _method(copied, contract, part).changed(in_float32=True)
    finder = DtypeFinder((torch.float64,))
    try:
        first = _outputs(wide, inputs, contract, part, finder)
        second = _outputs(wide, inputs, contract, part, seed=1)
        inputs = tuple(value.cpu().float() if value.is_floating_point() else value.cpu() for value in inputs)
        found = _outputs(narrow, inputs, contract, part)
    except Exception:  # the user's code may raise anything; the check of the graph reports it
        return copied, None
    if not finder.found:
        return copied, None
    for path, expected in first.items():
        if not torch.equal(expected, second[path]):  # it is drawn
            continue
        difference = (found[path].cpu().double() - expected.cpu().double()).abs().max().item()
        largest = expected.abs().max().item()
        if not difference <= _SAME * largest:
            raise ModelError(
                "module needs float64",
                where=f"{part}, output {path or 'tensor'}",
                expected="the same outputs in float32, in which files compute",
                got=f"a difference of {difference:.2g} at {largest:.2g}",
                do="compute what needs more digits before, as a buffer, or without differences of large numbers",
            )
    return narrow, f"{part}: it computes in float64; the files compute in float32"


def _method(module: nn.Module, contract: Contract, part: Literal["encoder", "decoder"]) -> MethodModule:
    """Return a module that takes the inputs of its part in order."""
    method = module if isinstance(module, MethodModule) else MethodModule(module)
    count = 1 if part == "encoder" else len(contract.latents)
    taken = taking_by_name(method, count, [item for item in contract.conditions if part in item.parts])
    return taken if isinstance(taken, MethodModule) else method


def _outputs(
    module: nn.Module,
    inputs: Sequence[Tensor],
    contract: Contract,
    part: Part,
    finder: contextlib.AbstractContextManager[object] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the outputs that are numbers by their paths."""
    with as_example(module), finder or contextlib.nullcontext():  # restoring the module's state copies its buffers
        torch.manual_seed(seed)
        if part == "encoder":
            returned = flat_or_not(module, inputs)[1]
        else:
            returned = listed_or_not(module, inputs, len(contract.latents))[1]
    return {leaf.path: leaf.tensor for leaf in find_leaves(returned) if leaf.tensor.is_floating_point()}
