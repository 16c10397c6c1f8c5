"""Import torchvision, whichever torch it was built for.

PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled operators do not load, and the import dies on
registering the shapes of one of them: "operator torchvision::nms does not exist" (pytorch/vision#9085). Reading data
needs no compiled operator, so the two that the import asks for are declared, without a body, and it is tried again.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def torchvision_datasets() -> ModuleType:
    """The module `torchvision.datasets`."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported; a second import would return them as they are
    for schema in _SCHEMAS:
        _declarations().define(schema)
    return importlib.import_module("torchvision.datasets")


@functools.cache
def _declarations() -> torch.library.Library:
    """Cached, since a schema is forgotten together with the library object that declared it."""
    return torch.library.Library("torchvision", "FRAGMENT")
