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
from vae_export.sources.module_runs import ModuleState

#: Differences up to this share of the output's largest value are rounding: kernels sum in an order that depends on the
#: batch size, and the decoder of Stable Diffusion, some hundred layers, is 1.7e-5 off its float64 result. A larger
#: difference is measured again in float64, where rounding is much smaller.
_ROUNDING, _ROUNDING_FLOAT64 = 3e-5, 1e-10


def check_function(
    module: nn.Module, spec: PartSpec, first: Sequence[Tensor], in_float64: Callable[[], nn.Module]
) -> None:
    """Raise `ModelError` if the outputs depend on anything but the inputs of the same row.

    The module is run again on the same batch, then on its rows in another order, and on one row alone.

    Args:
        module: the module of a part, float32.
        spec: the part.
        first: its outputs for `example_inputs`.
        in_float64: returns the module in float64. It is called only where float32 rounding may be the reason for a
            difference.
    """
    inputs = example_inputs(spec)
    with ModuleState(module) as state:
        _check_equal(spec, first, _run(module, inputs))
        if state.is_changed:  # it remembers or counts something, which the next run may take
            _check_equal(spec, first, _run(module, inputs))
        _check_rows(module, spec, inputs, first, in_float64)


def _check_finite(spec: PartSpec, outputs: Sequence[Tensor]) -> None:
    for tensor, output in zip(spec.outputs, outputs, strict=True):
        if output.is_floating_point() and not output.isfinite().all():
            is_open = any(one.role == "data" and not one.is_bounded for one in spec.inputs)
            raise ModelError(
                "module gives numbers that are not finite",
                where=f"{spec.part}, output '{tensor.name}'",
                expected=f"finite numbers for {', '.join(map(str, spec.inputs))}",
                got=f"{int((~output.isfinite()).sum())} others of {output.numel()}",
                do="state the range of the data, such as --data-range 0,1" if is_open else None,
            )


def _check_equal(spec: PartSpec, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    for tensor, one, other in zip(spec.outputs, first, second, strict=True):
        if not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
            raise _refusal(spec, tensor.name, "two runs on the same inputs", _difference(one, other))


def _check_rows(
    module: nn.Module,
    spec: PartSpec,
    inputs: tuple[Tensor, ...],
    first: Sequence[Tensor],
    in_float64: Callable[[], nn.Module],
) -> None:
    """Raise `ModelError` if a row of the outputs depends on the other rows or on their order."""
    if len(inputs[0]) < EXAMPLE_BATCH:
        return
    found = _row_dependence(module, spec, inputs, first, _ROUNDING)
    if found is not None:
        exact, doubles = in_float64(), tuple(value.double() if value.is_floating_point() else value for value in inputs)
        found = _row_dependence(exact, spec, doubles, _run(exact, doubles), _ROUNDING_FLOAT64)
    if found is not None:
        _check_finite(spec, first)  # NaN differs from itself
        raise found


def _row_dependence(
    module: nn.Module, spec: PartSpec, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor], rounding: float
) -> ModelError | None:
    """Return the error for rows that depend on the other rows of a batch or on their order, or None."""
    backwards = _run(module, tuple(value.flip(0) for value in inputs))
    try:
        alone = _run(module, tuple(value[:1] for value in inputs))
    except Exception as error:  # the user's code may raise anything, as batch statistics do for one row
        return _refusal(spec, spec.outputs[0].name, "a row alone and in a batch", f"{type(error).__name__}: {error}")
    for place, tensor in enumerate(spec.outputs):
        batch = outputs[place]
        limit = rounding * float(batch.abs().max())
        for what, one, other in (
            ("rows in another order", batch, backwards[place].flip(0)),
            ("a row alone and in a batch", batch[:1], alone[place]),
        ):
            if other.shape != one.shape:
                return _refusal(spec, tensor.name, what, f"shape {tuple(other.shape)}, not {tuple(one.shape)}")
            # Integers, such as codes, may differ where rounding decides between two of them.
            if one.is_floating_point() and not (one - other).abs().max() <= limit:
                return _refusal(spec, tensor.name, what, _difference(one, other))
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
