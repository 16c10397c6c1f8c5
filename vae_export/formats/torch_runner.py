"""Runs a PyTorch callable on arrays, by the names of a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats.base import Runner


def torch_devices() -> tuple[str, ...]:
    """The devices of this machine that PyTorch can run an exported file on, the CPU first."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def check_device(device: str) -> None:
    """Raise `TargetError` unless an exported file can run on `device` here. Ask before loading one onto it."""
    if device not in torch_devices():
        raise TargetError("device is not there", where=device, expected=" | ".join(torch_devices()))


def torch_runner(module: Callable[..., Any], spec: PartSpec, device: str) -> Runner:
    """`module` takes and gives tensors in the order of `spec`; the runner takes and gives arrays by name."""
    import torch

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        # A copy: torch warns of, and could write to, arrays that are read-only.
        tensors = [torch.from_numpy(inputs[tensor.name].copy()).to(device) for tensor in spec.inputs]
        with torch.inference_mode():
            outputs = module(*tensors)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        if len(outputs) != len(spec.outputs):
            raise ModelError("wrong number of outputs", where=spec.part, expected=len(spec.outputs), got=len(outputs))
        return {tensor.name: output.cpu().numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}

    return run
