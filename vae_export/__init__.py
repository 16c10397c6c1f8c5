"""Export a trained VAE's encoder and decoder, and prove that the files compute what PyTorch computed.

    checkpoint = vae_export.load_checkpoint("artifacts/mnist/checkpoint.safetensors")
    artifact, certificate = vae_export.export(checkpoint, "exported", formats=["onnx"])
    certificate = vae_export.verify(artifact, checkpoint)                 # again, at any time
    model = vae_export.load("exported")                                   # needs numpy and onnxruntime alone
    images = model.decode(latents)
    vae_export.bundle("exported", "digits.zip")                           # one file for applications

Each name is imported when it is first used, so that importing this package is fast. `load` never imports PyTorch.
Exporting and verifying need more packages than running: `pip install 'vae-export[export]'` installs them, and
`pip install 'vae-export[cli]'` installs the command `vae-export`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from vae_export._version import __version__

if TYPE_CHECKING:
    from vae_export.artifact.folder import Artifact, open_artifact
    from vae_export.contract import Condition, Contract
    from vae_export.errors import VaeExportError
    from vae_export.exporter import bundle, export
    from vae_export.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from vae_export.parity import Certificate, verify
    from vae_export.runtime import Model, load
    from vae_export.sources import Source, load_source
    from vae_export.tensors import Symbol

# Since 1.29 ONNX Runtime's wheels send hashes of the graph and weights of each file that they open to Microsoft, and
# leave an identifier in the home folder. ONNX Runtime reads this variable once, while it is loaded, and child processes
# inherit it. So it is set here, before any module loads ONNX Runtime.
# https://github.com/microsoft/onnxruntime/pull/27379
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

#: The module that each public name is imported from.
_HOMES = {
    "Artifact": "artifact.folder",
    "Certificate": "parity",
    "Checkpoint": "models.checkpoint",
    "Condition": "contract",
    "Contract": "contract",
    "Model": "runtime",
    "Source": "sources",
    "Symbol": "tensors",
    "VaeExportError": "errors",
    "bundle": "exporter",
    "export": "exporter",
    "load": "runtime",
    "load_checkpoint": "models.checkpoint",
    "load_source": "sources",
    "open_artifact": "artifact.folder",
    "save_checkpoint": "models.checkpoint",
    "verify": "parity",
}

__all__ = [
    "Artifact",
    "Certificate",
    "Checkpoint",
    "Condition",
    "Contract",
    "Model",
    "Source",
    "Symbol",
    "VaeExportError",
    "__version__",
    "bundle",
    "export",
    "load",
    "load_checkpoint",
    "load_source",
    "open_artifact",
    "save_checkpoint",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        # Star import, help() and tab completion read every name. They must not fail where PyTorch is missing.
        from vae_export.system.extras import EXTRAS, missing_stub

        if error.name is None or error.name.partition(".")[0] not in EXTRAS["export"]:
            raise
        return missing_stub(name, error.name.partition(".")[0], "export")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
