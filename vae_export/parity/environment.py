"""Where and with what a verification ran."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import onnxruntime
import torch

from vae_export import __version__
from vae_export.artifact import Artifact
from vae_export.formats import versions
from vae_export.graphs import Source


def environment(source: Source, threads: int, artifact: Artifact) -> dict[str, Any]:
    """JSON-able: versions, machine, TF32 switches, what the probes were made from. No host name, no path, no time."""
    return {
        "versions": {
            "vae-export": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        }
        | versions({entry.format for entry in artifact.manifest.known}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads_of_the_reference": threads,
        "nvidia_tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "images": "real" if source.images is not None else "uniform noise, since the source has no images",
    }
