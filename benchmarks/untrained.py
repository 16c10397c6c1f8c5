"""An untrained checkpoint for benchmarks whose figures do not depend on the values of the weights."""

from __future__ import annotations

from pathlib import Path

import torch

from vae_export.models import VAE, VAEConfig
from vae_export.models.checkpoint import Checkpoint, save_checkpoint
from vae_export.models.config import Family


def initialised(folder: Path, family: Family = "mlp") -> Path:
    """Write the checkpoint of a freshly initialised default network, with 64 images of noise, and return its path."""
    torch.manual_seed(0)
    config = VAEConfig(family)
    path = folder / f"{family}.safetensors"
    examples = torch.randint(0, 256, (64, *config.image_shape), dtype=torch.uint8)
    save_checkpoint(Checkpoint(config, VAE(config).state_dict(), examples), path)
    return path
