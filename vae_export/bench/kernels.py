"""Matrix products, convolutions and reads of memory, as several libraries compute them, one by one.

The roofline is made of them: no library is the fastest at every shape, so each kernel counts with the library that is
the fastest at it. The libraries are PyTorch (MKL and oneDNN), ONNX Runtime (MLAS), OpenVINO (oneDNN), NumPy (OpenBLAS),
and a loop that the C compiler of this machine makes.
"""

from __future__ import annotations

import ctypes
import functools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_export.bench.clock import time_calls
from vae_export.contract import Array

if TYPE_CHECKING:
    import onnx
    import torch

#: The library that is a loop in C.
COMPILED = "compiled"
#: A function without arguments that computes a kernel once.
Call = Callable[[], object]
KernelKind = Literal["product", "convolution", "read", "multiply-add"]

#: The least number of calls of a kernel or a way to compute it.
_MIN_CALLS = 3
#: The measuring time of one of several ways to compute a kernel, in seconds.
_CHOICE_SECONDS = 0.005
#: The largest product or convolution whose arrays are kept from round to round: those of all layers of a network that
#: makes large pictures would not fit into the memory together.
_MAX_KEPT_BYTES = 16 << 20
#: Rounds of `multiply_add` in one call, which takes about a fifth of a millisecond.
_ROUNDS = 100_000
_SEED = 0


@dataclass(frozen=True)
class Kernel:
    """One matrix product, convolution or read, by its sizes; the numbers in it do not matter.

    Attributes:
        kind: "product", "convolution", "read" or "multiply-add" (as many as a processor can, in registers).
        left: shape of the left factor or of the image (N, C, *sizes); of what is read.
        right: shape of the right factor or of the weights.
        is_weight: whether the right factor is a weight, which a library may rearrange beforehand.
        stride, padding, dilation, output_padding, groups, transposed: those of a convolution.
    """

    kind: KernelKind
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    is_weight: bool = True
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the kernel as JSON, which is sent to the child process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kernel:
        """Return the kernel that `to_json` wrote."""
        fields: dict[str, Any] = dict(data)
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**fields)

    def __str__(self) -> str:
        sizes = " · ".join("×".join(map(str, shape)) for shape in (self.left, self.right) if shape)
        return f"{self.kind} {sizes}".rstrip()

    @property
    def operations(self) -> int:
        """Additions and multiplications in a product or a convolution, as the definition computes it."""
        if self.kind == "product":
            return 2 * math.prod(self.left) * self.right[-1]
        if self.kind == "convolution":
            # Each weight meets each pixel of the result, or of the image where the convolution is transposed.
            pixels = self.left if self.transposed else self.result_shape
            return 2 * math.prod(self.right) * pixels[0] * math.prod(pixels[2:])
        return 0

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result of a product or a convolution."""
        if self.kind == "product":
            import numpy as np

            return (*np.broadcast_shapes(self.left[:-2], self.right[:-2]), self.left[-2], self.right[-1])
        sizes = []
        for axis, size in enumerate(self.left[2:]):
            stride, padding = self.stride[axis], self.padding[axis]
            extent = self.dilation[axis] * (self.right[2 + axis] - 1)
            if self.transposed:
                sizes.append((size - 1) * stride - 2 * padding + extent + self.output_padding[axis] + 1)
            else:
                sizes.append((size + 2 * padding - extent - 1) // stride + 1)
        channels = self.right[1] * self.groups if self.transposed else self.right[0]
        return (self.left[0], channels, *sizes)

    @property
    def bytes(self) -> int:
        """The bytes of both factors and the result, in float32."""
        shapes = [self.left, self.right, *([self.result_shape] if self.kind in ("product", "convolution") else [])]
        return 4 * sum(math.prod(shape) for shape in shapes if shape)

    @property
    def read_bytes(self) -> int:
        """The bytes that a read reads."""
        return 4 * math.prod(self.left)


def available_libraries() -> tuple[str, ...]:
    """Return the names of the libraries that this machine has, PyTorch first."""
    return tuple(name for name in _LIBRARIES if (_compiler() if name == COMPILED else find_spec(name)) is not None)


class KernelTimer:
    """Times kernels as one library computes them.

    Args:
        library: a name from `available_libraries()`.
    """

    def __init__(self, library: str) -> None:
        self._library = library
        self._best: dict[tuple[Kernel, int], int | None] = {}
        self._kept: dict[tuple[Kernel, int], Call | None] = {}

    def least_nanoseconds(self, kernel: Kernel, threads: int, seconds: float) -> int | None:
        """Return the duration of the shortest of several calls.

        Args:
            kernel: the kernel.
            threads: the number of threads.
            seconds: the measuring time.

        Returns:
            Nanoseconds, or None if the library has no such kernel or cannot be told to use so many threads.
        """
        way = self._way(kernel, threads)
        if way is None:
            return None
        if self._library == "torch":
            _torch_threads(threads)
        return min(time_calls(way, seconds, _MIN_CALLS, threads))

    def _way(self, kernel: Kernel, threads: int) -> Call | None:
        """Return the fastest way of the library to compute a kernel; which one that is, is measured once."""
        key = kernel, threads
        if key in self._kept:
            return self._kept[key]
        ways: Callable[[Kernel, int], list[Call]] = _LIBRARIES[self._library]
        choices = ways(kernel, threads)
        if key not in self._best:
            shortest = [min(time_calls(way, _CHOICE_SECONDS, _MIN_CALLS, threads)) for way in choices]
            self._best[key] = min(range(len(choices)), key=shortest.__getitem__, default=None)
        best = self._best[key]
        way = None if best is None else choices[best]
        if kernel.kind == "read" or kernel.bytes <= _MAX_KEPT_BYTES:
            self._kept[key] = way
        return way


def _numbers(shape: Sequence[int]) -> Array:
    """Return random numbers of a shape, small enough that no sum of products overflows."""
    import numpy as np

    return np.random.default_rng(_SEED).random(shape, dtype=np.float32) - np.float32(0.5)


def _torch_threads(threads: int) -> None:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _torch_ways(kernel: Kernel, threads: int) -> list[Call]:
    import torch

    _torch_threads(threads)
    torch.set_grad_enabled(False)
    if kernel.kind == "read":
        flat = torch.ones(kernel.left)
        return [functools.partial(torch.sum, flat), functools.partial(torch.dot, flat, flat)]
    if kernel.kind == "multiply-add":
        return []
    left, right = (torch.from_numpy(_numbers(shape)) for shape in (kernel.left, kernel.right))
    if kernel.kind == "convolution":
        return _torch_convolutions(kernel, left, right)
    out = torch.empty(kernel.result_shape)
    # Weights are tried as they are and transposed in memory, and in oneDNN's own order.
    transposed = right.mT.contiguous().mT
    ways: list[Call] = [functools.partial(torch.matmul, left, factor, out=out) for factor in (right, transposed)]
    if kernel.is_weight and right.ndim == 2 and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(right.t().contiguous(), left.shape[0])
        ways.append(functools.partial(torch.ops.mkldnn._linear_pointwise, left, packed, None, "none", [], ""))
    return ways


def _torch_convolutions(kernel: Kernel, image: torch.Tensor, weight: torch.Tensor) -> list[Call]:
    """Return a convolution with channels first, with channels last, and in oneDNN's blocks of channels."""
    import torch

    stride, padding, dilation = list(kernel.stride), list(kernel.padding), list(kernel.dilation)
    settings: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "transposed": kernel.transposed,
        "output_padding": list(kernel.output_padding),
        "groups": kernel.groups,
    }
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(image.ndim, torch.contiguous_format)
    layouts = [
        (image, weight),
        (image.contiguous(memory_format=last), weight.contiguous(memory_format=last)),
    ]
    ways: list[Call] = [functools.partial(torch.convolution, *given, bias=None, **settings) for given in layouts]
    if image.ndim == 4 and not kernel.transposed and torch.backends.mkldnn.is_available():
        # A convolution that changes nothing brings the image into blocks.
        channels = image.shape[1]
        same = torch.eye(channels).reshape(channels, channels, 1, 1)
        blocked = torch.mkldnn_convolution(image.to_mkldnn(), same, None, (0, 0), (1, 1), (1, 1), 1)
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, kernel.groups, list(image.shape)
        )
        ways.append(
            functools.partial(torch.mkldnn_convolution, blocked, packed, None, padding, stride, dilation, kernel.groups)
        )
    return ways


def _numpy_ways(kernel: Kernel, threads: int) -> list[Call]:
    import numpy as np

    if threads != 1:  # OpenBLAS takes its number of threads from the environment, and the child process has set one
        return []
    if kernel.kind == "read":
        flat = np.ones(kernel.left, np.float32)
        return [functools.partial(np.dot, flat, flat)]
    if kernel.kind != "product":
        return []
    left, right = _numbers(kernel.left), _numbers(kernel.right)
    out = np.empty(kernel.result_shape, np.float32)
    transposed = np.ascontiguousarray(right.swapaxes(-1, -2)).swapaxes(-1, -2)
    return [functools.partial(np.matmul, left, factor, out=out) for factor in (right, transposed)]


def _onnxruntime_ways(kernel: Kernel, threads: int) -> list[Call]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    ways: list[Call] = []
    for model in _onnx_models(kernel):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for given in session.get_inputs():
            binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(_numbers(given.shape)))
        out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(kernel.result_shape, np.float32)
        binding.bind_ortvalue_output("y", out)
        ways.append(functools.partial(session.run_with_iobinding, binding))
    return ways


def _openvino_ways(kernel: Kernel, threads: int) -> list[Call]:
    import openvino

    from vae_export.formats.openvino import core

    properties = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    ways: list[Call] = []
    for model in _onnx_models(kernel)[:1]:
        compiled = core().compile_model(core().read_model(model.SerializeToString()), "CPU", properties)
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            request.set_tensor(port, openvino.Tensor(_numbers(list(port.shape))))
        ways.append(request.infer)
    return ways


def _onnx_models(kernel: Kernel) -> list[onnx.ModelProto]:
    """Return models of one node that compute a kernel; none for what is no product."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if kernel.kind not in ("product", "convolution"):
        return []
    left, right = _numbers(kernel.left), _numbers(kernel.right)
    nodes = [(helper.make_node("MatMul", ["x", "w"], ["y"]), right)]
    if kernel.kind == "product":
        if left.ndim == right.ndim == 2:
            nodes.append((helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), np.ascontiguousarray(right.T)))
    else:
        nodes = [(_convolution_node(kernel), right)]

    def info(name: str, sizes: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))

    models = []
    for node, weight in nodes:
        inputs = [info("x", left.shape), *([] if kernel.is_weight else [info("w", weight.shape)])]
        constants = [numpy_helper.from_array(weight, "w")] if kernel.is_weight else []
        graph = helper.make_graph([node], "kernel", inputs, [info("y", kernel.result_shape)], constants)
        models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    return models


def _convolution_node(kernel: Kernel) -> onnx.NodeProto:
    from onnx import helper

    settings: dict[str, Any] = {
        "kernel_shape": kernel.right[2:],
        "strides": kernel.stride,
        "pads": kernel.padding * 2,
        "dilations": kernel.dilation,
        "group": kernel.groups,
    }
    if kernel.transposed:
        settings["output_padding"] = kernel.output_padding
    return helper.make_node("ConvTranspose" if kernel.transposed else "Conv", ["x", "w"], ["y"], **settings)


def _compiled_ways(kernel: Kernel, threads: int) -> list[Call]:
    import numpy as np

    if threads != 1 or kernel.kind not in ("read", "multiply-add"):
        return []
    library = _compiled()
    if kernel.kind == "multiply-add":
        return [functools.partial(library.multiply_add, _ROUNDS, 0.5)]
    values = np.ones(kernel.left, np.float32)
    # The array is an argument, so that it lives as long as the function.
    return [functools.partial(_read_all, library, values)]


def _read_all(library: ctypes.CDLL, values: Array) -> None:
    library.read_all(values.ctypes.data, values.size)


def multiply_adds() -> int:
    """Return the additions and multiplications of one call of the kernel "multiply-add"."""
    return _ROUNDS * int(_compiled().operations_per_round())


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


@functools.cache
def _compiled() -> ctypes.CDLL:
    """Compile peak.c for this processor and load it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([_compiler() or "cc", *flags, source, "-o", out], check=True, capture_output=True)
        library = ctypes.CDLL(str(out))
    library.multiply_add.argtypes, library.multiply_add.restype = [ctypes.c_size_t, ctypes.c_float], ctypes.c_float
    library.read_all.argtypes, library.read_all.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    library.operations_per_round.restype = ctypes.c_size_t
    return library


_LIBRARIES: dict[str, Callable[[Kernel, int], list[Call]]] = {
    "torch": _torch_ways,
    "onnxruntime": _onnxruntime_ways,
    "openvino": _openvino_ways,
    "numpy": _numpy_ways,
    COMPILED: _compiled_ways,
}
