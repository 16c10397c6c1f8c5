"""What this machine has: versions, devices, providers, formats that can be written and run."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vae_export import __version__
from vae_export.errors import MissingExtraError, TargetError
from vae_export.extras import EXTRAS, missing
from vae_export.formats import FORMATS

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "torch",
    "torchvision",
    "safetensors",
    "onnx",
    "onnxscript",
    "openvino",
    "executorch",
    "scikit-learn",
    "matplotlib",
)


@dataclass(frozen=True)
class FormatState:
    """Attributes:
    unavailable: why it cannot be written here, and the pip line that would change it; None if it can.
    targets: what its files can be run on here.
    """

    name: str
    summary: str
    unavailable: str | None
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """Attributes:
    versions: of each package, None where it is not installed.
    devices: None for one that is ready, else why it is not.
    formats: in the order of the registry.
    extras: None for one that is complete, else what is missing.
    """

    versions: dict[str, str | None]
    devices: dict[str, str | None]
    formats: tuple[FormatState, ...]
    extras: dict[str, str | None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Machine:
    """Look around. A provider is tried, not just listed: ONNX Runtime lists CUDA on machines without a GPU."""
    versions: dict[str, str | None] = {"vae-export": __version__, "python": platform.python_version()}
    versions |= {package: _version(package) for package in _PACKAGES}
    devices = _torch_devices() | _providers()
    formats = tuple(
        FormatState(
            name,
            format.summary,
            format.unavailable(),
            tuple(f"{name}/{provider}" for provider in format.providers() if devices.get(provider) is None),
        )
        for name, format in FORMATS.items()
    )
    extras = {extra: None if (error := missing(extra)) is None else error.line() for extra in EXTRAS}
    return Machine(versions, devices, formats, extras)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return _version(f"{package}-gpu") if package == "onnxruntime" else None


def _torch_devices() -> dict[str, str | None]:
    if missing("export", "torch") is not None:
        return {"cpu": MissingExtraError("torch", "export").line()}
    import torch

    cuda = None if torch.cuda.is_available() else f"torch {torch.__version__} finds no NVIDIA GPU"
    mps = None if torch.backends.mps.is_available() else "no Apple GPU"
    return {"cpu": None, "cuda": cuda, "mps": mps}


def _providers() -> dict[str, str | None]:
    from vae_export.runtime.session import PROVIDERS, try_provider

    states: dict[str, str | None] = {}
    for provider in PROVIDERS:
        try:
            try_provider(provider)
            states[provider] = None
        except TargetError as error:
            states[provider] = "; ".join(part for part in (error.what, error.do) if part)
    return states
