"""Import torchvision whichever torch it was built for."""

from __future__ import annotations

import functools
import importlib
import sys
from importlib.util import find_spec
from typing import Any


@functools.cache
def import_torchvision() -> Any:
    """Import torchvision, and return it; None where it is not installed. Others can import it afterwards.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled operators do not load, and the import fails
    with "operator torchvision::nms does not exist" (pytorch/vision#9085). Reading data and importing diffusers need no
    compiled operator, so the two that the import asks for are declared without a body, and the import is tried again.
    """
    if find_spec("torchvision") is None:
        return None
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported: another import would return them as they are
    for operator in ("nms", "qnms"):
        _operator_library().define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


@functools.cache
def _operator_library() -> Any:
    """Return the library of declarations, which torch forgets together with this object, so that it is cached."""
    import torch

    return torch.library.Library("torchvision", "FRAGMENT")
