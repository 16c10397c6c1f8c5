"""An ONNX Runtime session that raises an error where ONNX Runtime would fail silently.

ONNX Runtime falls back to the CPU if a provider is missing, misreads big-endian arrays, and returns a NaN image for an
infinite latent. Each of these raises an error here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, OutOfMemoryError, TargetError
from vae_export.runtime.fast_path import FastPath, run_into
from vae_export.session_options import CPU, CUDA, EXACT_INT8, EXACT_INT8_ENTRY, PROVIDERS, TENSORRT, SessionOptions
from vae_export.tensors import BATCH, Expression, Size, signature_text

#: The levels of `vae_export.session_options.OPTIMISATION_LEVELS`, as ONNX Runtime has them.
OPTIMISATIONS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
#: Functions that set each of `vae_export.session_options.SWITCHES`.
#: https://onnxruntime.ai/docs/performance/tune-performance/threading.html
SET_SWITCH: dict[str, Callable[[ort.SessionOptions], None]] = {
    "no-spinning": lambda options: options.add_session_config_entry("session.intra_op.allow_spinning", "0"),
    "parallel": lambda options: setattr(options, "execution_mode", ort.ExecutionMode.ORT_PARALLEL),
    "no-arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no-pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    EXACT_INT8: lambda options: options.add_session_config_entry(*EXACT_INT8_ENTRY),
}
#: ONNX Runtime's log level "fatal": its errors come as exceptions, and this module checks what it only warns about.
LOG_FATAL = 4
#: The contract's dtypes, as ONNX Runtime names them.
_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "int32": "tensor(int32)", "int64": "tensor(int64)"}

_DEFAULT = SessionOptions()


class Session:
    """One opened ONNX file.

    Args:
        data: the file's bytes, whose hash the caller has compared; or its path, from which ONNX Runtime reads a large
            model and maps the weights beside it, in half the memory.
        spec: names, dtypes and shapes that the graph must have.
        options: provider, threads, optimisation, tf32 and switches.
        sidecars: the bytes of the files with weights of a large model, by name.

    Raises:
        ModelError: the bytes are no ONNX graph, or one with other inputs or outputs.
        TargetError: the provider is missing, or does not work.
    """

    def __init__(
        self,
        data: bytes | Path,
        spec: PartSpec,
        options: SessionOptions = _DEFAULT,
        sidecars: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._session = _open(data, options, where=spec.part, sidecars=sidecars)
        self._spec = spec
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._is_open = any(name != BATCH for name in spec.symbols)
        self._check_signature()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Check the inputs and compute the outputs.

        Args:
            inputs: arrays by name, each (N, *item) of the contract's dtype, with finite numbers.

        Returns:
            Arrays by name, each (N, *item).

        Raises:
            ModelError: an input does not fit the contract, or an output is not finite.
            OutOfMemoryError: there is no room for the result.
        """
        return self.compute(inputs, self._spec.check_inputs(inputs))

    def fast_path(self, most_rows: int) -> FastPath | None:
        """Return the fast path of calls with at most this many rows, if the part has one."""
        return FastPath(self._session, self._spec, most_rows) if FastPath.serves(self._session, self._spec) else None

    def compute(
        self, inputs: Mapping[str, Array], rows: int, into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Compute the outputs for inputs that the caller has checked; see `run`.

        Args:
            inputs: arrays by name.
            rows: the number of rows of each array.
            into: contiguous arrays by name, into which the outputs are written; None makes new ones.
        """
        results = self._call(inputs) if into is None else self._call_into(inputs, into)
        sizes = self._spec.sizes(inputs) if self._is_open else {}
        for tensor in self._spec.outputs:
            # Finite latents such as 1e30 can overflow inside the network. An error is better than a NaN image.
            tensor.check(results[tensor.name], batch=rows, sizes=sizes)
        return results

    def _call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._errors(inputs):
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def _call_into(self, inputs: Mapping[str, Array], into: Mapping[str, Array]) -> dict[str, Array]:
        if self._session.get_providers()[0] != CPU:
            for name, array in self._call(inputs).items():
                np.copyto(into[name], array)
            return dict(into)
        with self._errors(inputs):
            run_into(self._session, inputs, into)
        return dict(into)

    @contextlib.contextmanager
    def _errors(self, inputs: Mapping[str, Array]) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # ONNX Runtime's exceptions have no class in common
            if "alloc" in str(error):
                raise OutOfMemoryError(f"{len(next(iter(inputs.values()))):,} rows of {self._spec.part}") from error
            raise ModelError("cannot run", where=self._spec.part, got=str(error)) from error

    def bind(self, inputs: Mapping[str, Array]) -> tuple[Callable[[], None], Callable[[object], dict[str, Array]]]:
        """Bind inputs and outputs on the device of the provider, so that `bench` times the computation alone.

        Args:
            inputs: arrays by name. They are not checked.

        Returns:
            A function that computes, without allocating, copying or checking anything; and a function that takes its
            result and returns the outputs by name.
        """
        where = "cpu" if self._session.get_providers()[0] == CPU else "cuda"
        binding = self._session.io_binding()
        for tensor in self._spec.inputs:
            binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(inputs[tensor.name], where))
        rows, spec = len(inputs[self._spec.inputs[0].name]), self._spec.at(self._spec.sizes(inputs))
        outputs = {
            tensor.name: ort.OrtValue.ortvalue_from_shape_and_type(
                (rows, *tensor.fixed_item), np.dtype(tensor.dtype), where
            )
            for tensor in spec.outputs
        }
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return (
            lambda: self._session.run_with_iobinding(binding),
            lambda _: {name: value.numpy().copy() for name, value in outputs.items()},
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts with which the file describes itself, by key."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _check_signature(self) -> None:
        for kind, expected, got in (
            ("inputs", self._spec.inputs, self._session.get_inputs()),
            ("outputs", self._spec.outputs, self._session.get_outputs()),
        ):
            wanted = [(tensor.name, _TYPES[tensor.dtype], list(tensor.shape)) for tensor in expected]
            found = [(value.name, value.type, list(map(_size, value.shape))) for value in got]
            if wanted != found:
                what, texts = f"{kind} do not match the contract", (signature_text(wanted), signature_text(found))
                raise ModelError(what, where=self._spec.part, expected=texts[0], got=texts[1])


def _size(size: int | str | None) -> Size | None:
    """Return a size of an ONNX file in the contract's form: "4*t + 1" is "4*t+1"."""
    if not isinstance(size, str):
        return size
    try:
        return str(Expression.parse(size))
    except ModelError:  # an expression that no contract has
        return size


def available_providers() -> tuple[str, ...]:
    """Return the providers that this build of ONNX Runtime lists; `try_provider` checks whether one works."""
    available = ort.get_available_providers()
    return tuple(provider for provider in PROVIDERS if provider in available)


def check_provider(provider: str) -> None:
    """Raise `TargetError` unless this build of ONNX Runtime lists the provider."""
    if provider not in (available := available_providers()):
        do = "run: pip install onnxruntime-gpu" if provider in (CUDA, TENSORRT) else "see `vae-export doctor`"
        raise TargetError("provider not found", where=provider, expected=" | ".join(available), do=do)


def try_provider(provider: str) -> None:
    """Raise `TargetError` unless the provider runs a graph on this machine."""
    _open(_IDENTITY, SessionOptions(provider), where="probe")


@functools.cache
def adds_in_16_bits() -> bool:
    """Whether ONNX Runtime adds products of unsigned and signed bytes in 16 bits, where two of them do not always fit.

    It does on x86 processors that have AVX2 and no VNNI, unless the session has the entry `EXACT_INT8_ENTRY`.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#data-type-selection
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, LOG_FATAL
    session = ort.InferenceSession(_PRODUCT, settings, providers=[CPU])
    (found,) = session.run(None, {"x": np.full((1, 4), 255, np.uint8)})
    return int(found[0, 0]) != 4 * 255 * 127


#: A graph of one MatMulInteger node, uint8 (1, 4) times four signed bytes 127, opset 18, as onnx.helper makes it.
_PRODUCT = (
    b'\x08\x08:X\n\x18\n\x01x\n\x01w\x12\x01y"\rMatMulInteger\x12\x01g*\x0f\x08\x04\x08\x01\x10\x03B\x01w'
    b"J\x04\x7f\x7f\x7f\x7fZ\x13\n\x01x\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x04"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
#: A graph of one Identity node, float32 (N,) → (N,), opset 18, as onnx.helper makes it.
_IDENTITY = (
    b'\x08\x08\x12\x00:9\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01N'
    b"b\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01NB\x04\n\x00\x10\x12"
)


def _open(
    data: bytes | Path, options: SessionOptions, where: str, sidecars: Mapping[str, bytes] = MappingProxyType({})
) -> ort.InferenceSession:
    provider = options.provider
    check_provider(provider)
    settings = ort.SessionOptions()
    settings.log_severity_level = LOG_FATAL
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.optimisation is not None:
        settings.graph_optimization_level = OPTIMISATIONS[options.optimisation]
    needed = (EXACT_INT8,) if adds_in_16_bits() else ()
    for switch in dict.fromkeys((*needed, *options.switches)):  # ONNX Runtime warns of an entry that is set twice
        SET_SWITCH[switch](settings)
    if sidecars:
        names, buffers = list(sidecars), list(sidecars.values())
        settings.add_external_initializers_from_files_in_memory(names, buffers, list(map(len, buffers)))
    try:
        session = ort.InferenceSession(
            data, settings, providers=[(provider, _provider_options(options))], enable_fallback=0
        )
    except Exception as error:
        if provider != CPU:
            raise TargetError("provider is not usable", where=provider, got=str(error)) from error
        raise ModelError("ONNX file cannot be opened", where=where, got=str(error)) from error
    used = session.get_providers()[0]
    if used != provider:
        raise TargetError("provider is not usable", where=provider, expected=provider, got=used)
    return session


def _provider_options(options: SessionOptions) -> dict[str, str]:
    """Return the provider's options: CUDA uses TF32 by default (microsoft/onnxruntime#19288), and here only on request.

    TensorRT has no such option: `NVIDIA_TF32_OVERRIDE` in the environment decides (see `vae_export.parity.targets`).
    """
    return {"use_tf32": str(int(options.tf32))} if options.provider == CUDA else {}
