"""Models that the tests export: small checkpoints of this project, and a VAE that is not from it."""

from __future__ import annotations

import io
import json
import platform
import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from vae_export import Checkpoint, Contract, Source
from vae_export.formats import FORMATS
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family

LATENT, HIDDEN = 4, 16
PROVENANCE = {"data": {"name": "noise", "protocol": "grey"}, "scores": {"loss": 1.25e-7}, "note": "é"}


def checkpoint(
    family: Family = "mlp",
    image_shape: tuple[int, int, int] = (1, 28, 28),
    *,
    seed: int = 0,
    examples: int = 8,
) -> Checkpoint:
    """A network with random weights and biases, far enough from zero that each of them shows in the output."""
    config = VAEConfig(family, image_shape, LATENT, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (examples, *image_shape), generator=generator, dtype=torch.uint8)
    return Checkpoint(config, weights(config, generator), images, PROVENANCE)


def weights(config: VAEConfig, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
        for name, tensor in VAE(config).state_dict().items()
    }


def replaced(base: Checkpoint, **changes: Tensor) -> dict[str, Tensor]:
    """The weights of a checkpoint, some of them replaced; `decoder__body__0__bias` stands for `decoder.body.0.bias`."""
    return {**base.weights, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}


class MapEncoder(nn.Module):
    """image (N, 3, 32, 32) in [-1, 1] → mean, logvar, each (N, 4, 4, 4): latents that are feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Dropout2d(0.3),
            nn.Conv2d(8, 8, 4, stride=2, padding=1),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.down(image).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)


class MapDecoder(nn.Module):
    """latent (N, 4, 4, 4) → image (N, 3, 32, 32) in [-1, 1], with attention in the middle as AutoencoderKL has it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(8, 3, 4, stride=4),
            nn.Tanh(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(latent).flatten(2).mT.unsqueeze(1) for layer in layers)  # (N, 1 head, 16, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.up(self.norm(latent + mixed.squeeze(1).mT.unflatten(2, (4, 4))))


#: What the tests export again and again: all that `--format all` writes here.
QUICK = tuple(name for name, item in FORMATS.items() if not item.left_out_of_all and item.unavailable() is None)

FOREIGN_CONTRACT = Contract((3, 32, 32), (4, 4, 4), (-1.0, 1.0))


def foreign_source(provenance: Mapping[str, object] | None = None) -> Source:
    """A colour, convolutional VAE with feature-map latents, still in training mode as its owner left it."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).uniform(-1, 1, (8, 3, 32, 32)).astype(np.float32)
    return Source(FOREIGN_CONTRACT, MapEncoder(), MapDecoder(), images, provenance or {"model": "somebody's"})


class Lambda(nn.Module):
    """A module made of one function, for modules that do not keep the contract."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)  # type: ignore[operator]


def aoti_package(library: bytes) -> bytes:
    """A package in the form of AOTInductor's with this shared library, compiled for this machine."""
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    folder = "data/aotinductor/model"
    machine = {"AOTI_PLATFORM": sys.platform, "AOTI_MACHINE": platform.machine(), "AOTI_CPU_ISA": ""}
    metadata = json.dumps({"AOTI_DEVICE_KEY": "cpu"} | machine).encode()
    records = {f"{folder}/m.wrapper.so": library, f"{folder}/m.wrapper_metadata.json": metadata}
    for name, record in (records | {"archive_format": b"pt2", "archive_version": b"0"}).items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return target.getvalue()
