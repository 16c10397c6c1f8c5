"""Runs a PyTorch callable on arrays, by the names of a contract.

PyTorch's zip archives, rewritten without what should not leave this machine.
"""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats.base import Bound, Finding, Runner, machine_traces
from vae_export.session_options import SessionOptions


def torch_devices() -> tuple[str, ...]:
    """The devices of this machine that PyTorch can run an exported file on, the CPU first."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def torch_session_options(provider: str) -> tuple[SessionOptions, ...]:
    """On a CPU with one thread and with two; on a GPU without TF32 and with it."""
    plain = SessionOptions(provider, threads=1)
    return plain, replace(plain, tf32=True) if provider == "cuda" else replace(plain, threads=2)


def check_device(device: str) -> None:
    """Raise `TargetError` unless an exported file can run on `device` here. Ask before loading one onto it."""
    if device not in torch_devices():
        raise TargetError("device is not there", where=device, expected=" | ".join(torch_devices()))


def torch_runner(module: Callable[..., Any], spec: PartSpec, options: SessionOptions) -> Runner:
    """`module` takes and gives tensors in the order of `spec`; the runner takes and gives arrays by name."""
    import torch

    def fetch(outputs: Any) -> dict[str, Array]:
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        if len(outputs) != len(spec.outputs):
            raise ModelError("wrong number of outputs", where=spec.part, expected=len(spec.outputs), got=len(outputs))
        return {tensor.name: output.cpu().numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
        # A copy: torch warns of, and could write to, arrays that are read-only.
        tensors = [torch.from_numpy(inputs[tensor.name].copy()).to(options.provider) for tensor in spec.inputs]

        def waited() -> Any:
            outputs = module(*tensors)
            torch.cuda.synchronize()
            return outputs

        with torch.inference_mode(), process_set(options):
            yield Bound(functools.partial(module, *tensors) if options.provider == "cpu" else waited, fetch)

    return Runner(bind)


@contextlib.contextmanager
def process_set(options: SessionOptions) -> Iterator[None]:
    """PyTorch's threads and TF32 are global; they are put back."""
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


#: Records that hold weights: among random bytes any pattern turns up at last.
_WEIGHTS = ("/constants/", "/weights/")


def rewritten(archive: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with every record as `change` gives it, by its name and data; None leaves it out.

    Python's zipfile cannot do this: PyTorch wants every record aligned to 64 bytes, so its own reader and writer are
    used.
    """
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    for name in reader.get_all_records():
        # The writer adds the version and the identity of an archive itself.
        if name in ("version", "byteorder", ".data/version", ".data/serialization_id"):
            continue
        record = change(name, reader.get_record(name))
        if record is not None:
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return target.getvalue()


def archive_traces(archive: bytes, name: str) -> Iterator[Finding]:
    """Paths and source lines of a machine in the records of an archive, its weights apart."""
    with zipfile.ZipFile(io.BytesIO(archive)) as records:
        for record in records.namelist():
            if record.endswith(".json") or not any(weights in record for weights in _WEIGHTS):
                yield from machine_traces(records.read(record), f"{name}, record {record}")
