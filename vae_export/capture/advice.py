"""Say what to write instead of code that no exporter takes."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path

import torch

_PACKED = (
    "run the layer on the padded batch, and take the step of each length: out[torch.arange(len(out)), lengths - 1]; to "
    "read backwards, reverse the steps with torch.gather"
)
#: Advice by a text in the line of code, in the error, or in the names of the functions that it went through.
_ADVICE = {
    "pack_padded_sequence": f"pack_padded_sequence cannot be exported: {_PACKED}",
    "zeros(): argument 'size' failed to unpack": f"a packed sequence cannot be exported: {_PACKED}",
    "complex": "compute with real and imaginary parts as two tensors",
    "fft": "write the transform as a product with a matrix of cosines and sines, which is a buffer",
    "erf_inv": "write the function as a polynomial of plain operators",
    "ndtri": "write the function as a polynomial of plain operators",
    "jacrev": "write the derivative out, or use torch.func.grad of one number",
    "jacfwd": "write the derivative out, or use torch.func.grad of one number",
    "copy_to": "write a Jacobian out, or use torch.func.grad of one number",  # jacrev's error in the ONNX exporter
    "bfloat16": "compute in float32; --precision bf16 makes a file of less precision",
    "DataDependent": "replace a branch or a size that values of a tensor decide by torch.where or a mask",
}
#: Folders of code that is not the user's.
_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), str(Path(traceback.__file__).parent))


def advice(error: BaseException) -> str | None:
    """Return what to write instead of the code at which an error was raised, or None where that is not known.

    Args:
        error: what an exporter raised.
    """
    frames = _frames(error)
    passed = [*(frame.name for frame in frames), *(str(frame.line) for frame in frames if _is_own(frame))]
    text = " ".join((type(error).__name__, str(error), *passed))
    return next((said for sign, said in _ADVICE.items() if sign in text), None)


def advice_for_operators(names: Iterable[str]) -> str | None:
    """Return what to write instead of the operators of a graph that an exporter refused, or None.

    Args:
        names: the names of all its operators, such as "aten.istft.default".
    """
    text = " ".join(names)
    if "fft" in text or "stft" in text:
        return _ADVICE["fft"]
    return _ADVICE["complex"] if "complex" in text or "polar" in text else None


def line_of_code(error: BaseException) -> str | None:
    """Return the file, the number and the text of the last line of the user's code before an error, or None.

    Args:
        error: what an exporter raised.
    """
    own = [frame for frame in _frames(error) if _is_own(frame)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line}" if own else None


def _is_own(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith((*_FOREIGN, "<"))


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames that an error and its causes went through, the first cause last."""
    frames: list[traceback.FrameSummary] = []
    current: BaseException | None = error
    while current is not None:
        frames += traceback.extract_tb(current.__traceback__)
        current = current.__cause__ or current.__context__
    return frames
