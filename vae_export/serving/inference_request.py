"""An inference request, whatever protocol brought it, and how its tensors become arrays that fit the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vae_export.contract import Array
from vae_export.errors import InputError, ModelError
from vae_export.serving.models import DATATYPES, ServedModel
from vae_export.serving.refusals import TooLargeError
from vae_export.tensors import TensorSpec, axes_text

#: Sizes of a tensor that a request may state. No contract comes near.
_MOST_AXES, _LARGEST_AXIS = 16, 1 << 40


@dataclass(frozen=True)
class RequestTensor:
    """An input as a client sent it.

    Attributes:
        name, datatype, shape: as stated.
        data: little-endian bytes; or numbers, nested in any way: lists of JSON, a repeated field of gRPC.
    """

    name: str
    datatype: str
    shape: Sequence[Any]
    data: Any


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a client asked for.

    Attributes:
        name: its name.
        binary: whether it is to come as bytes after the JSON.
    """

    name: str
    binary: bool = False


@dataclass(frozen=True)
class InferenceRequest:
    """A request.

    Attributes:
        id: the client's name for the request, which the response repeats; may be empty.
        tensors: the inputs.
        outputs: the outputs that the client wants; empty for all.
        binary: whether outputs come as bytes unless the client says otherwise.
    """

    id: str = ""
    tensors: Sequence[RequestTensor] = ()
    outputs: Sequence[RequestedOutput] = field(default_factory=tuple)
    binary: bool = False

    def wanted(self, model: ServedModel) -> list[RequestedOutput]:
        """Return the outputs to send; raise `InputError` for an unknown one."""
        known = [tensor.name for tensor in model.spec.outputs]
        for output in self.outputs:
            if output.name not in known:
                raise InputError("unknown output", where=model.name, expected=" | ".join(known), got=output.name[:100])
        return list(self.outputs) or [RequestedOutput(name, self.binary) for name in known]


def read_inputs(model: ServedModel, tensors: Sequence[RequestTensor], max_output_bytes: int) -> dict[str, Array]:
    """Return the inputs of a request as arrays that fit the contract.

    Args:
        model: the model.
        tensors: the inputs as the client sent them.
        max_output_bytes: how large the outputs may become.

    Returns:
        Arrays (N, …) by name, of the contract's dtype, finite and within their ranges.

    Raises:
        InputError: an input is missing, unknown or given twice, or does not fit; the message names it.
        TooLargeError: the outputs would exceed the limit.
    """
    spec = {tensor.name: tensor for tensor in model.spec.inputs}
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name not in spec:
            raise InputError("unknown input", where=model.name, expected=" | ".join(spec), got=tensor.name[:100])
        if tensor.name in arrays:
            raise InputError("input is given twice", where=f"tensor '{tensor.name}'")
        arrays[tensor.name] = _array(spec[tensor.name], tensor)
    if missing := [name for name in spec if name not in arrays]:
        raise InputError("input is missing", where=model.name, expected=" and ".join(spec), got=_names(arrays, missing))
    rows = model.spec.check_inputs(arrays)
    model.spec.check_ranges(arrays)
    sizes = model.spec.at(model.spec.sizes(arrays))
    expected = rows * sum(tensor.bytes_per_row for tensor in sizes.outputs)
    if expected > max_output_bytes:
        what, limit = "response would be too large", f"{max_output_bytes:,} bytes at most"
        do = "send fewer rows a request"
        raise TooLargeError(what, where=model.name, expected=limit, got=f"{rows:,} rows, {expected:,} bytes", do=do)
    return arrays


def _names(arrays: dict[str, Array], missing: list[str]) -> str:
    return f"{' and '.join(arrays) or 'none'}, without {' and '.join(missing)}"


def _array(spec: TensorSpec, tensor: RequestTensor) -> Array:
    """Return a tensor as an array of the contract's dtype; sizes, range and finiteness are checked by the contract."""
    where, datatype = f"tensor '{spec.name}'", DATATYPES[spec.dtype]
    if tensor.datatype != datatype:
        raise InputError("wrong datatype", where=where, expected=datatype, got=str(tensor.datatype)[:100])
    shape = tuple(tensor.shape)
    sizes = len(shape) <= _MOST_AXES and all(type(size) is int and 0 <= size <= _LARGEST_AXIS for size in shape)
    if not sizes:
        raise InputError("bad shape", where=where, expected=str(spec), got=str(list(shape))[:100])
    if len(shape) != len(spec.shape):
        raise ModelError("wrong shape", where=where, expected=axes_text(spec.shape), got=shape)
    count, dtype = math.prod(shape), np.dtype(spec.dtype).newbyteorder("<")
    if isinstance(tensor.data, bytes | bytearray | memoryview):
        if len(tensor.data) != count * dtype.itemsize:
            expected = f"{count * dtype.itemsize:,} for {list(shape)}"
            raise InputError("wrong number of bytes", where=where, expected=expected, got=f"{len(tensor.data):,}")
        flat = np.frombuffer(tensor.data, dtype)
    else:
        flat = _numbers(spec, tensor.data, where)
        if flat.size != count:
            raise InputError("wrong number of values", where=where, expected=f"{count:,}", got=f"{flat.size:,}")
    # ONNX Runtime reads aligned numbers in the machine's own order.
    return np.require(flat.astype(spec.dtype, copy=False).reshape(shape), requirements=["C", "A"])


def _numbers(spec: TensorSpec, data: Any, where: str) -> Array:
    """Return numbers of a text or a message, in one axis and in the contract's dtype."""
    expected = "integers" if spec.is_integer else "numbers"
    try:
        found = np.asarray(data)
    except (ValueError, TypeError, OverflowError):  # lists of different lengths
        raise InputError("data is not an array", where=where, expected=expected) from None
    kinds = "iu" if spec.is_integer else "iuf"
    if found.dtype.kind not in kinds and found.size:
        raise InputError("data is not an array", where=where, expected=expected, got=_kind(found))
    flat = found.reshape(-1)
    if spec.is_integer and flat.size:
        bounds = np.iinfo(spec.dtype)
        if int(flat.min()) < bounds.min or int(flat.max()) > bounds.max:
            raise InputError("out of range", where=where, expected=f"{spec.dtype} integers")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which the contract refuses
        return flat.astype(spec.dtype, copy=False)


def _kind(found: Array) -> str:
    return {"b": "booleans", "U": "texts", "f": "fractions"}.get(found.dtype.kind, "lists of different kinds")
