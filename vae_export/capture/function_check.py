"""Check that a module is a function of its inputs, row by row.

A file computes the same outputs for the same inputs, and applications cut and join batches as they like. A module that
draws from NumPy or Python, counts its calls, or mixes the rows of a batch is captured without an error, and its file
computes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vae_export.capture.program import EXAMPLE_BATCH, example_inputs, user_code
from vae_export.contract import PartSpec
from vae_export.errors import ModelError

#: Differences up to this share of the output's largest value are rounding: kernels sum in an order that depends on the
#: batch size. A larger one is measured again in float64, where rounding is this much smaller.
_ROUNDING, _ROUNDING_FLOAT64 = 1e-6, 1e-10


def check_function(module: nn.Module, spec: PartSpec, in_float64: Callable[[], nn.Module]) -> None:
    """Raise `ModelError` if the outputs depend on anything but the inputs of the same row.

    The module is run twice on the same batch, then on its rows in another order and one by one.

    Args:
        module: the module of a part, float32.
        spec: the part.
        in_float64: returns the module in float64. It is called only where float32 rounding may be the reason for a
            difference.
    """
    inputs = example_inputs(spec)
    first, again = _run(module, inputs), _run(module, inputs)
    for tensor, one, other in zip(spec.outputs, first, again, strict=True):
        if not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
            raise _refusal(spec, tensor.name, "two runs on the same inputs", _difference(one, other))
    if len(inputs[0]) < EXAMPLE_BATCH:
        return
    found = _row_dependence(module, spec, inputs, first, _ROUNDING)
    if found is not None:
        exact, doubles = in_float64(), tuple(value.double() if value.is_floating_point() else value for value in inputs)
        found = _row_dependence(exact, spec, doubles, _run(exact, doubles), _ROUNDING_FLOAT64)
    if found is not None:
        raise found


def _row_dependence(
    module: nn.Module, spec: PartSpec, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor], rounding: float
) -> ModelError | None:
    """Return the error for rows that depend on the other rows of a batch or on their order, or None."""
    backwards = _run(module, tuple(value.flip(0) for value in inputs))
    rows = [_run(module, tuple(value[row : row + 1] for value in inputs)) for row in range(len(inputs[0]))]
    for place, tensor in enumerate(spec.outputs):
        batch = outputs[place]
        limit = rounding * float(batch.abs().max())
        for what, other in (
            ("rows in another order", backwards[place].flip(0)),
            ("rows alone and in a batch", torch.cat([row[place] for row in rows])),
        ):
            if other.shape != batch.shape:
                return _refusal(spec, tensor.name, what, f"shape {tuple(other.shape)}, not {tuple(batch.shape)}")
            # Integers, such as codes, may differ where rounding decides between two of them.
            if batch.is_floating_point() and not (batch - other).abs().max() <= limit:
                return _refusal(spec, tensor.name, what, _difference(batch, other))
    return None


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with user_code(torch.float64 if any(value.dtype == torch.float64 for value in inputs) else torch.float32):
        outputs = module(*(value.clone() for value in inputs))  # a module may write to its inputs
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _difference(one: Tensor, other: Tensor) -> str:
    return f"a difference of {float((one.double() - other.double()).abs().max()):.2g}"


def _refusal(spec: PartSpec, output: str, what: str, got: str) -> ModelError:
    return ModelError(
        f"module is no function of its inputs: {what} differ",
        where=f"{spec.part}, output '{output}'",
        expected="each row of the output from the same row of the inputs alone",
        got=got,
    )
