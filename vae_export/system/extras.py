"""Check whether optional dependencies are installed, without importing them, and name the `pip install` command."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NoReturn

from vae_export.errors import MissingExtraError

#: The modules that each extra of pyproject.toml brings, by the names under which they are imported.
EXTRAS: dict[str, tuple[str, ...]] = {
    "cli": ("typer", "rich"),
    "export": ("torch", "safetensors", "onnx", "onnxscript", "jinja2", "PIL"),
    "pictures": ("PIL",),
    "parquet": ("pyarrow",),
    "ray": ("ray", "pyarrow"),
    "train": ("torch", "safetensors", "torchvision", "sklearn", "matplotlib", "PIL"),
    "tensorboard": ("tensorboardX",),
    "diffusers": ("diffusers",),
    "pythae": ("pythae",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "ncnn": ("ncnn", "pnnx"),
    "sign": ("cryptography",),
    "serve": ("uvicorn", "httptools", "starlette", "orjson", "grpc", "google.protobuf", "prometheus_client"),
}


def missing(extra: str, *modules: str) -> MissingExtraError | None:
    """Return the error for the first module that is not installed, or None.

    Args:
        extra: the extra of pyproject.toml that brings them.
        modules: names of modules; all modules of the extra where none is given.
    """
    for module in modules or EXTRAS[extra]:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # the package of a submodule is missing
            found = None
        if found is None:
            return MissingExtraError(module, extra)
    return None


def require(extra: str, *modules: str) -> None:
    """Raise `MissingExtraError` unless the modules are installed; see `missing`."""
    if (error := missing(extra, *modules)) is not None:
        raise error


def missing_stub(name: str, module: str, extra: str) -> Any:
    """Return a placeholder class for a name whose module is not installed.

    Args:
        name: the requested public name.
        module: the missing module.
        extra: the extra that brings it.

    Returns:
        A class; calling it raises `MissingExtraError`.
    """

    class Stub(type):
        def __call__(cls, *_: object, **__: object) -> NoReturn:
            raise MissingExtraError(module, extra)

    return Stub(name, (), {"__doc__": f"Not usable here: {MissingExtraError(module, extra)}."})
