"""Optional dependencies: are they here, and which `pip install` brings them? Asked without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from vae_export.errors import MissingExtraError

#: What each extra of pyproject.toml is needed for, by the modules that are imported.
EXTRAS: dict[str, tuple[str, ...]] = {
    "export": ("torch", "safetensors", "onnx", "onnxscript", "jinja2", "PIL"),
    "pictures": ("PIL",),
    "parquet": ("pyarrow",),
    "ray": ("ray", "pyarrow"),
    "train": ("torch", "safetensors", "torchvision", "sklearn", "matplotlib", "PIL"),
    "tensorboard": ("tensorboardX",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
}


def missing(extra: str, *modules: str) -> MissingExtraError | None:
    """The error that names the first of `modules` (default: all of the extra) that is not installed, or None."""
    for module in modules or EXTRAS[extra]:
        if find_spec(module) is None:
            return MissingExtraError(module, extra)
    return None


def require(extra: str, *modules: str) -> None:
    """Raise `MissingExtraError` unless all of them are installed."""
    if (error := missing(extra, *modules)) is not None:
        raise error
