"""An ONNX model apart from its large weights, which join it only when it is written: in its file, or beside it.

Protobuf copies a message whenever it is changed, checked or serialised. Weights that stay out of the message are there
once, in the memory of the captured program.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    import onnx_ir

#: Weights beside a model start at multiples of a memory page, so that engines can map the file. Smaller ones stay
#: inside.
_PAGE, _FEWEST_APART = 4096, 1024
#: What stands for the name of the file with the weights, until it is known.
_UNNAMED = "weights"
#: Numbers of fields that hold the weights: the graph of a model, the initialisers of a graph, the bytes of a tensor.
_GRAPH, _INITIALISER, _RAW_DATA = 7, 5, 9
#: The type of these fields in protobuf's encoding: a length, and so many bytes.
_WITH_LENGTH = 2


@dataclass(frozen=True)
class Translation:
    """A program as an ONNX model, and its large weights.

    Attributes:
        model: the model, in which a position in a file of weights stands for each large weight.
        weights: the large weights by position. They have the memory of the program's, unless they were computed.
    """

    model: onnx.ModelProto
    weights: Mapping[int, onnx_ir.TensorProtocol]

    @classmethod
    def of(cls, model: onnx_ir.Model) -> Translation:
        """Take the large weights out of a model, which is changed."""
        import onnx_ir

        weights: dict[int, onnx_ir.TensorProtocol] = {}
        end = 0
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _FEWEST_APART or isinstance(tensor, onnx_ir.StringTensor):
                continue
            start = end + -end % _PAGE
            weights[start], end = tensor, start + tensor.nbytes
            shape, name = onnx_ir.Shape(tensor.shape.numpy()), value.name or ""
            value.const_value = onnx_ir.ExternalTensor(
                _UNNAMED, start, tensor.nbytes, tensor.dtype, shape=shape, name=name
            )
        return cls(onnx_ir.to_proto(model), weights)

    @property
    def size(self) -> int:
        """The bytes of a file with the large weights."""
        return max((start + tensor.nbytes for start, tensor in self.weights.items()), default=0)

    def stating(self, metadata: Mapping[str, str]) -> Translation:
        """Return a copy with texts in the metadata of the model, sorted by key."""
        model = _copy(self.model)
        for key, value in sorted(metadata.items()):
            model.metadata_props.add(key=key, value=value)
        return Translation(model, self.weights)

    def without_weights(self) -> onnx.ModelProto:
        """Return the model with inputs in place of its large weights, because onnx's checker wants their file."""
        model = _copy(self.model)
        del model.graph.initializer[:]
        for tensor in self.model.graph.initializer:
            if tensor.external_data:
                value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                model.graph.input.append(value)
            else:
                model.graph.initializer.append(tensor)
        return model

    def complete(self) -> onnx.ModelProto:
        """Return the model with all weights inside."""
        model = _copy(self.model)
        for tensor in model.graph.initializer:
            if (position := _take_position(tensor)) is not None:
                tensor.raw_data = self.weights[position].tobytes()
        return model

    def one_file(self) -> bytes:
        """Return the bytes of `complete()`, as protobuf serialises it, without a second copy of all weights.

        The encoding of a message is that of its fields in the order of their numbers, and that of a field with a length
        is its number and type, the length, and its content (https://protobuf.dev/programming-guides/encoding).
        """
        before_graph, after_graph = _around(self.model, _GRAPH)
        before, after = _around(self.model.graph, _INITIALISER)
        initialisers = [self._encoded(tensor) for tensor in self.model.graph.initializer]
        size = len(before) + len(after)
        size += sum(len(start) + (weight.nbytes if weight else 0) + len(end) for start, weight, end in initialisers)
        file = io.BytesIO()
        file.write(before_graph + _head(_GRAPH, size) + before)
        for start, weight, end in initialisers:
            file.write(start)
            if weight is not None:
                file.write(weight.tobytes())
            file.write(end)
        file.write(after + after_graph)
        return file.getvalue()

    def _encoded(self, initialiser: onnx.TensorProto) -> tuple[bytes, onnx_ir.TensorProtocol | None, bytes]:
        """Return the encoding of an initialiser before the bytes of a large weight, the weight, and the rest."""
        tensor = onnx.TensorProto()
        tensor.CopyFrom(initialiser)
        position = _take_position(tensor)
        if position is None:
            content = tensor.SerializeToString(deterministic=True)
            return _head(_INITIALISER, len(content)), None, content
        weight = self.weights[position]
        start, end = _around(tensor, _RAW_DATA)
        start += _head(_RAW_DATA, weight.nbytes)
        return _head(_INITIALISER, len(start) + weight.nbytes + len(end)) + start, weight, end

    def two_files(self, name: str) -> tuple[bytes, bytes]:
        """Return the bytes of the model, and those of the file with its large weights, which has this name."""
        model = _copy(self.model)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = name
        file = io.BytesIO()
        for start, weight in self.weights.items():
            file.seek(start)  # fills the gap with zeros
            file.write(weight.tobytes())
        return model.SerializeToString(deterministic=True), file.getvalue()


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _take_position(tensor: onnx.TensorProto) -> int | None:
    """Remove what stands for a large weight, and return its position; None for a weight that is inside."""
    position = next((int(entry.value) for entry in tensor.external_data if entry.key == "offset"), None)
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")
    return position


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """Return the encoding of the fields of a message before and after the field of this number."""
    before, after = type(message)(), type(message)()
    for field, value in message.ListFields():
        if field.number == number:
            continue
        part = before if field.number < number else after
        if isinstance(value, int | float | str | bytes):
            setattr(part, field.name, value)
        else:
            getattr(part, field.name).MergeFrom(value)
    return tuple(part.SerializeToString(deterministic=True) for part in (before, after))


def _head(number: int, length: int) -> bytes:
    """Return what precedes the content of a field: its number and type, and its length, as base-128 numbers."""
    head = bytearray()
    for rest in (number << 3 | _WITH_LENGTH, length):
        while rest >= 0x80:
            head.append(rest & 0x7F | 0x80)
            rest >>= 7
        head.append(rest)
    return bytes(head)
