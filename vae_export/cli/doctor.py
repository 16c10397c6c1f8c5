"""What this machine has: versions, devices, providers, formats that can be written and run.

`doctor`: what this machine has, what can be written and run here, and what would change that.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.table import Table

from vae_export._version import __version__
from vae_export.cli import console
from vae_export.cli.options import JsonOption
from vae_export.errors import MissingExtraError, TargetError
from vae_export.formats import FORMATS
from vae_export.system.extras import EXTRAS, missing

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
    from vae_export.runtime.session import try_provider
    from vae_export.session_options import PROVIDERS

    states: dict[str, str | None] = {}
    for provider in PROVIDERS:
        try:
            try_provider(provider)
            states[provider] = None
        except TargetError as error:
            states[provider] = "; ".join(part for part in (error.what, error.do) if part)
    return states


def doctor(json: JsonOption = False) -> None:
    """Show what this machine can write and run.

    Versions, devices, ONNX Runtime's providers, formats; and the pip line that would change what is missing.
    """
    found = examine()
    if json:
        console.result_json(found.to_json())
        return
    console.result(
        _table(("package", "version"), [(name, version or "not installed") for name, version in found.versions.items()])
    )
    console.result("")
    console.result(
        _table(("device or provider", "state"), [(name, state or "ready") for name, state in found.devices.items()])
    )
    console.result("")
    missing = [(f"pip install 'vae-export[{extra}]'", state) for extra, state in found.extras.items() if state]
    rows = [
        (item.name, item.summary, item.unavailable or "ready", ", ".join(item.targets) or "-") for item in found.formats
    ]
    console.result(_table(("format", "what for", "writing", "runs on"), rows))
    if missing:
        console.result("")
        console.result(_table(("to have more", "which is missing here"), missing))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
