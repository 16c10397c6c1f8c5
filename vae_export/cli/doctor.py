"""`doctor`: show versions, devices, providers and formats of this machine, and how to get what is missing."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from vae_export._version import __version__
from vae_export.cli import console
from vae_export.cli.options import JsonOption
from vae_export.errors import MissingExtraError, TargetError
from vae_export.formats import FORMATS
from vae_export.system.extras import EXTRAS, missing

#: Packages beside those of the formats.
_PACKAGES = ("numpy", "onnxruntime", "torch", "torchvision", "safetensors", "scikit-learn", "matplotlib")
#: Each release series of ExecuTorch is built for one torch: by the torch of November 2026's releases.
_EXECUTORCH = {"2.13": "1.4", "2.14": "1.5"}


@dataclass(frozen=True)
class FormatState:
    """The uses of one format on this machine.

    Attributes:
        name: of the format.
        summary: what the format is for.
        unavailable: why it cannot be written here, with the pip line that would change it; None if it can.
        targets: the targets that run its files here.
    """

    name: str
    summary: str
    unavailable: str | None
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """The packages, devices and formats found on this machine.

    Attributes:
        versions: of each package, None where it is not installed.
        devices: devices and providers; None for one that is ready, else why it is not.
        formats: in the order of the registry.
        extras: None for one that is complete, else what is missing.
    """

    versions: dict[str, str | None]
    devices: dict[str, str | None]
    formats: tuple[FormatState, ...]
    extras: dict[str, str | None]


def examine() -> Machine:
    """Look at this machine. Providers are tried: ONNX Runtime lists CUDA on machines without a GPU too."""
    versions: dict[str, str | None] = {"vae-export": __version__, "python": platform.python_version()}
    packages = (*_PACKAGES, *(package for format in FORMATS.values() for package in format.packages))
    versions |= {package: _version(package) for package in dict.fromkeys(packages)}
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

    Shows versions, devices, ONNX Runtime's providers and formats, and the pip line that installs what is missing.
    """
    found = examine()
    if json:
        console.result_json(asdict(found))
        return
    versions = console.table("package", "version", wrap=["version"])
    for name, number in found.versions.items():
        versions.add_row(name, number or "not installed")
    devices = console.table("device or provider", "state", wrap=["state"])
    for name, state in found.devices.items():
        devices.add_row(name, state or "ready")
    formats = console.table("format", "what for", "writing", "runs on", wrap=["what for", "writing"])
    for item in found.formats:
        writing = "ready" if item.unavailable is None else _reason(item.unavailable)
        formats.add_row(item.name, item.summary, writing, "\n".join(map(console.short_target, item.targets)) or "-")
    installs = console.table("to install more", "missing now", wrap=["missing now"])
    for extra, state in found.extras.items():
        if state:
            installs.add_row(_install_line(extra), _reason(state))
    console.result(versions)
    for table in (devices, formats, installs):
        if table.row_count:
            console.result("")
            console.result(table)


def _reason(line: str) -> str:
    """Return the line of an error without its pip line, which stands in a column of its own."""
    return line.partition("; run: ")[0]


def _install_line(extra: str) -> str:
    """Return the pip line for an extra.

    ExecuTorch is built for one torch each and must not replace the present one; LiteRT needs older packages.
    """
    line = f"pip install 'vae-export[{extra}]'"
    if extra == "litert":
        return f"{line}\n  (an environment of its own)"
    if extra != "executorch" or missing("export", "torch") is not None:
        return line
    fitting = fitting_executorch(version("torch"))
    return f"{line}\n  'executorch=={fitting}.*'" if fitting else f"{line}\n  'torch>=2.13,<2.15'"


def fitting_executorch(torch_version: str) -> str | None:
    """Return the release series of ExecuTorch that is built for a torch, or None where we know of none."""
    return _EXECUTORCH.get(".".join(torch_version.split(".")[:2]))
