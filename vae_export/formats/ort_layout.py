"""The bytes of an ORT file in one canonical order.

An ORT file is a FlatBuffer (schema: onnxruntime/core/flatbuffers/schema/ort.fbs). ONNX Runtime writes the model first,
then the types that each operator's kernel takes (`KernelTypeStrResolver`), last the root. The types come out of a hash
table, so that they lie in another order in each process, although the list of them is sorted. Here the file's head, all
that is not model, is written again in the order of that list; a FlatBuffer grows towards its front, so that the model
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: FlatBuffers align a file to its largest item: here numbers of 64 bits, and tensors, which are vectors of bytes.
_ALIGNMENT = 16
_IDENTIFIER = b"ORTM"


def canonical(data: bytes) -> bytes:
    """The same file, with equal bytes for equal content."""
    import flatbuffers
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import InferenceSession as Root
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import KernelTypeStrResolver as Resolver

    root = Root.InferenceSession.GetRootAs(data)
    model, resolver = root.Model()._tab, root.KernelTypeStrResolver()
    # A table begins with the distance to its list of fields, which lies before it.
    start = model.Pos - model.Get(flatbuffers.number_types.SOffsetTFlags, model.Pos)
    builder = _builder_with(data[start:])
    version = builder.CreateString(root.OrtVersion().decode())
    kernels = [resolver.OpKernelTypeStrArgs(place) for place in range(resolver.OpKernelTypeStrArgsLength())]
    written = [_kernel(builder, kernel) for kernel in kernels]
    vector = _vector(builder, Resolver.StartOpKernelTypeStrArgsVector, written)
    Resolver.Start(builder)
    Resolver.AddOpKernelTypeStrArgs(builder, vector)
    types = Resolver.End(builder)
    Root.Start(builder)
    Root.AddOrtVersion(builder, version)
    Root.AddModel(builder, len(data) - model.Pos)
    Root.AddKernelTypeStrResolver(builder, types)
    builder.Finish(Root.End(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _builder_with(tail: bytes) -> Any:
    """A builder that has written `tail` already; what it writes next lies before it."""
    import flatbuffers

    builder = flatbuffers.Builder(2 * len(tail))
    builder.head -= len(tail)
    builder.Bytes[builder.head :] = tail
    builder.minalign = _ALIGNMENT
    return builder


def _kernel(builder: Any, kernel: Any) -> int:
    """The types of one operator's kernel: a name, and for each type which inputs and outputs have it."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import ArgTypeAndIndex as Argument
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import KernelTypeStrArgsEntry as Type
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import OpIdKernelTypeStrArgsEntry as Kernel

    types = []
    for entry in (kernel.KernelTypeStrArgs(place) for place in range(kernel.KernelTypeStrArgsLength())):
        arguments = []
        for argument in (entry.Args(place) for place in range(entry.ArgsLength())):
            Argument.Start(builder)
            Argument.AddIndex(builder, argument.Index())
            Argument.AddArgType(builder, argument.ArgType())
            arguments.append(Argument.End(builder))
        vector = _vector(builder, Type.StartArgsVector, arguments)
        name = builder.CreateString(entry.KernelTypeStr().decode())
        Type.Start(builder)
        Type.AddKernelTypeStr(builder, name)
        Type.AddArgs(builder, vector)
        types.append(Type.End(builder))
    vector = _vector(builder, Kernel.StartKernelTypeStrArgsVector, types)
    name = builder.CreateString(kernel.OpId().decode())
    Kernel.Start(builder)
    Kernel.AddOpId(builder, name)
    Kernel.AddKernelTypeStrArgs(builder, vector)
    return int(Kernel.End(builder))


def _vector(builder: Any, start: Callable[[Any, int], object], offsets: Sequence[int]) -> int:
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
