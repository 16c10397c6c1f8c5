"""The base class of all PyTorch formats, the runner of a callable, and functions for PyTorch's ZIP archives."""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError
from vae_export.formats.base import BoundCall, Finding, Format, Runner, machine_traces
from vae_export.session_options import SessionOptions


class TorchFormat(Format):
    """A format whose files PyTorch runs."""

    packages = ("torch",)
    engine = "torch"
    danger = "is a program"

    def providers(self) -> tuple[str, ...]:
        """Return the devices of this machine on which PyTorch can run files of this format, the CPU first."""
        if self.unavailable() is not None:
            return ()
        import torch

        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return the options to test: one and two threads on a CPU, TF32 off and on for a GPU."""
        plain = SessionOptions(provider, threads=1)
        return plain, replace(plain, tf32=True) if provider == "cuda" else replace(plain, threads=2)


def torch_runner(module: Callable[..., Any], spec: PartSpec, options: SessionOptions) -> Runner:
    """Return a runner of a PyTorch callable.

    Args:
        module: takes and returns tensors in the order of `spec`; a single output may come without a tuple.
        spec: the inputs and outputs of the part.
        options: the device, the number of threads and TF32, which are set during each call.

    Returns:
        The runner. Fetching its outputs raises `ModelError` if their number is wrong.
    """
    import torch

    def fetch(outputs: Any) -> dict[str, Array]:
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        if len(outputs) != len(spec.outputs):
            raise ModelError("wrong number of outputs", where=spec.part, expected=len(spec.outputs), got=len(outputs))
        return {tensor.name: output.cpu().numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[BoundCall]:
        # Arrays are copied, because torch warns about read-only arrays and could write to them.
        tensors = [torch.from_numpy(inputs[tensor.name].copy()).to(options.provider) for tensor in spec.inputs]

        def synchronized() -> Any:
            outputs = module(*tensors)
            torch.cuda.synchronize()
            return outputs

        with torch.inference_mode(), process_options(options):
            yield BoundCall(functools.partial(module, *tensors) if options.provider == "cpu" else synchronized, fetch)

    return Runner(bind)


@contextlib.contextmanager
def process_options(options: SessionOptions) -> Iterator[None]:
    """Set PyTorch's global threads and TF32 within the block."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_num_threads(), matmul.allow_tf32, cudnn.allow_tf32
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    matmul.allow_tf32 = cudnn.allow_tf32 = options.tf32
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        matmul.allow_tf32, cudnn.allow_tf32 = before[1:]


#: Records with weights. They are not searched for traces, because random bytes can match any pattern by chance.
_WEIGHT_RECORDS = ("/constants/", "/weights/")


def rewrite_archive(archive: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Rewrite each record of a PyTorch archive.

    PyTorch's own reader and writer are used, because PyTorch needs each record aligned to 64 bytes.

    Args:
        archive: the archive.
        change: function from name and content of a record to its new content, or None to leave it out.

    Returns:
        The new archive.
    """
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    for name in reader.get_all_records():
        # The writer adds these itself.
        if name in ("version", "byteorder", ".data/version", ".data/serialization_id"):
            continue
        record = change(name, reader.get_record(name))
        if record is not None:
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return target.getvalue()


def archive_traces(archive: bytes, name: str) -> Iterator[Finding]:
    """Find paths and source lines of a machine in all records of an archive except those with weights."""
    with zipfile.ZipFile(io.BytesIO(archive)) as records:
        for record in records.namelist():
            if record.endswith(".json") or not any(weights in record for weights in _WEIGHT_RECORDS):
                yield from machine_traces(records.read(record), f"{name}, record {record}")
