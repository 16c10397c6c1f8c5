"""Find the largest inputs that a network takes without overflowing anywhere inside, which the probe `largest` has."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.parity.oracle import evaluate_rows

#: Powers of two between the largest probe and PyTorch's overflow, because another summation order may overflow earlier.
_HEADROOM = 8
#: Exponents of `largest`: the highest, the lowest, and how many are tried one after the other before the interval is
#: halved. Most networks overflow near the highest, and those with an exponential near the lowest.
_HIGHEST_EXPONENT, _LOWEST_EXPONENT, _TRIED_IN_TURN = 127, 3, 8
#: Operators that return the reciprocal of a deviation last.
_NORMALISATIONS = (
    torch.ops.aten.native_group_norm.default,
    torch.ops.aten.native_layer_norm.default,
    torch.ops.aten._fused_rms_norm.default,
)


def largest_finite(is_finite: Callable[[float], bool]) -> float | None:
    """Return the power of two that lies `_HEADROOM` powers below the largest for which a network gives finite numbers.

    Args:
        is_finite: whether the network gives finite numbers for inputs of this size.

    Returns:
        The power, at least 1; None if the network overflows even for small inputs.
    """
    tried = range(_HIGHEST_EXPONENT, _HIGHEST_EXPONENT - _TRIED_IN_TURN, -1)
    found = next((exponent for exponent in tried if is_finite(2.0**exponent)), None)
    if found is None:
        below = range(_LOWEST_EXPONENT, tried[-1])
        found = bisect_left(below, True, key=lambda exponent: not is_finite(2.0**exponent)) + _LOWEST_EXPONENT - 1
    return None if found < _LOWEST_EXPONENT else 2.0 ** max(found - _HEADROOM, 0)


def largest_without_overflow(graph: Graph, sized: Callable[[float], dict[str, Array]]) -> float | None:
    """Return the size that `largest_finite` finds for a graph, inside of which no operator may overflow.

    The outputs alone do not show it. Where a mean of squares overflows, `x * rsqrt(mean + eps)` is 0 in PyTorch, and
    `x / sqrt(mean + eps)` is NaN in an engine that computes the square first.

    Args:
        graph: a part of a source.
        sized: returns inputs (N, *item) of this size by name.
    """
    usual = _OverflowFinder()
    with usual:
        evaluate_rows(graph, sized(1.0))

    def is_finite(size: float) -> bool:
        try:
            with _OverflowFinder(usual.found):
                evaluate_rows(graph, sized(size))
        except _Overflow:
            return False
        return True

    return largest_finite(is_finite)


class _Overflow(Exception):  # noqa: N818  # no error of the user: it ends an evaluation early
    """An operator has overflowed."""


class _OverflowFinder(TorchDispatchMode):
    """Finds operators that return infinite numbers or NaN, or that overflow inside a normalisation.

    Args:
        usual: numbers of the operators that do so on usual inputs too, as where attention is masked with -inf; at
            any other, `_Overflow` is raised. None raises nothing.

    Attributes:
        found: numbers of the operators that did, in the order in which they ran.
    """

    def __init__(self, usual: Collection[int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._usual = usual
        self._count = 0
        self.found: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self._count += 1
        if _overflows(func, outputs if isinstance(outputs, tuple | list) else (outputs,)):
            self.found.add(self._count)
            if self._usual is not None and self._count not in self._usual:
                raise _Overflow
        return outputs


def _overflows(func: Any, outputs: Sequence[Any]) -> bool:
    """Whether an operator has returned numbers that are not finite, or divided by an infinite deviation."""
    if getattr(func, "is_view", False):
        return False
    tensors = [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]
    if func in _NORMALISATIONS and not tensors[-1].all():
        return True
    # One pass without a copy; NaN is the lowest and the highest of numbers among which it is.
    ends = [end for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor)]
    return not all(math.isfinite(end.item()) for end in ends)
