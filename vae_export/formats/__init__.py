"""The file formats, each in its own module. The command line, parity and the docs iterate `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from vae_export.formats.aoti import Aoti
from vae_export.formats.base import OPSET, BoundCall, Format, Runner, WriteOptions
from vae_export.formats.executorch import ExecuTorch
from vae_export.formats.litert import LiteRt
from vae_export.formats.ncnn import Ncnn
from vae_export.formats.onnx import Onnx
from vae_export.formats.openvino import OpenVino
from vae_export.formats.ort import Ort
from vae_export.formats.pt2 import Pt2
from vae_export.formats.torchscript import TorchScript

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Onnx(),
        TorchScript(),
        Pt2(),
        OpenVino(),
        Ort(),
        Aoti(),
        ExecuTorch(),
        LiteRt(),
        Ncnn(),
    )
}


def versions(formats: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of PyTorch and of the packages of these formats, by package."""
    found = {}
    for package in sorted({"torch", *(package for format in formats for package in FORMATS[format].packages)}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # onnxruntime-gpu in place of onnxruntime, for example
            continue
    return found


__all__ = ["FORMATS", "OPSET", "BoundCall", "Format", "Runner", "WriteOptions", "versions"]
