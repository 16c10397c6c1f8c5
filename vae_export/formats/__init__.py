"""The file formats, one file each. Command-line choices, parity and the docs iterate `FORMATS`."""

from vae_export.formats.base import OPSET, Bound, Format, Runner, Setting, WriteOptions
from vae_export.formats.onnx import Onnx
from vae_export.formats.pt2 import Pt2
from vae_export.formats.torchscript import TorchScript

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Onnx(),
        TorchScript(),
        Pt2(),
    )
}

__all__ = ["FORMATS", "OPSET", "Bound", "Format", "Runner", "Setting", "WriteOptions"]
