"""Small models whose contracts need version 2 of the format: conditions, codes, open sizes, several latents."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vae_export import Source
from vae_export.contract import Condition, Contract
from vae_export.tensors import BATCH, Symbol


class ConditionalEncoder(nn.Module):
    """image (N, 1, 8, 8), label (N,) of 10 classes → mean, logvar (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(64 + 10, 8)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(torch.cat([image.flatten(1), nn.functional.one_hot(label, 10).float()], 1))
        return hidden[:, :4], hidden[:, 4:]


class ConditionalDecoder(nn.Module):
    """latent (N, 4), label (N,) of 10 classes, style (N, 3) → image (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4 + 10 + 3, 64), nn.Sigmoid())

    def forward(self, latent: Tensor, label: Tensor, style: Tensor) -> Tensor:
        given = torch.cat([latent, nn.functional.one_hot(label, 10).float(), style], 1)
        return self.layers(given).unflatten(1, (1, 8, 8))


class CodesEncoder(nn.Module):
    """image (N, 3, 4h, 4w) → codes (N, h, w) below 32."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 32, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return self.down(image).argmax(1)


class CodesDecoder(nn.Module):
    """codes (N, h, w) below 32 → image (N, 3, 4h, 4w)."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook, self.up = nn.Embedding(32, 8), nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, codes: Tensor) -> Tensor:
        return self.up(self.codebook(codes).permute(0, 3, 1, 2)).sigmoid()


class MapEncoder(nn.Module):
    """image (N, C, 4h, 4w) → mean, logvar (N, 2, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 4, 4, stride=4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.down(image).chunk(2, dim=1)
        return mean, logvar


class MapDecoder(nn.Module):
    """latent (N, 2, h, w) → image (N, C, 4h, 4w) in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, channels, 4, stride=4)

    def forward(self, latent: Tensor) -> Tensor:
        return self.up(latent).tanh()


class SeveralEncoder(nn.Module):
    """data (N, 13) → z1_mean, z1_logvar (N, 4), z2_mean, z2_logvar (N, 2, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(13, 20)

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        a, b, c, d = self.layers(data).split([4, 4, 6, 6], 1)
        return a, b, c.unflatten(1, (2, 3)), d.unflatten(1, (2, 3))


class SeveralDecoder(nn.Module):
    """z1 (N, 4), z2 (N, 2, 3) → data (N, 13), unbounded."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(10, 13)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.layers(torch.cat([z1, z2.flatten(1)], 1))


class TableEncoder(nn.Module):
    """data (N, 13) → latent (N, 4), without a distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(13, 4)

    def forward(self, data: Tensor) -> Tensor:
        return self.layers(data).tanh()


class TableDecoder(nn.Module):
    """latent (N, 4) → data (N, 13), unbounded."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 13)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent)


class TokensEncoder(nn.Module):
    """data (N, 6) of 20 tokens → mean, logvar (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(20, 5), nn.Linear(6 * 5, 8)

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.layers(self.embedding(data).flatten(1)).chunk(2, 1)
        return mean, logvar


class TokensDecoder(nn.Module):
    """latent (N, 4) → logits (N, 6, 20), unbounded."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 6 * 20)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent).unflatten(1, (6, 20))


_LABEL = Condition("label", dtype="int64", low=0, high=9)
_STYLE = Condition("style", (3,), low=-1, high=1, parts=("decoder",))
_TABLE = Contract((13,), (4,), None, encoding="deterministic", prior="given by the user")
_MAPS = Contract(
    (3, "4*h", "4*w"),
    (2, "h", "w"),
    (-1, 1),
    symbols={"h": Symbol(1, 64, 3), "w": Symbol(1, 64, 2)},
    scaling_factor=0.5,
    shift_factor=0.25,
)

CONTRACTS = {
    "conditional": Contract((1, 8, 8), (4,), conditions=(_LABEL, _STYLE)),
    "codes": Contract(
        (3, "4*h", "4*w"),
        ("h", "w"),
        encoding="codes",
        codebook_size=32,
        symbols={"h": Symbol(1, 64, 4), "w": Symbol(1, 64, 4)},
    ),
    "maps": _MAPS,
    "two channels": replace(_MAPS, data_shape=(2, "4*h", "4*w")),
    "four channels": replace(_MAPS, data_shape=(4, "4*h", "4*w")),
    "several": Contract((13,), {"z1": (4,), "z2": (2, 3)}, None),
    "table": _TABLE,
    "tokens": Contract((6,), (4,), (0, 19), data_dtype="int64", output_shape=(6, 20)),
    "batch of 3": replace(_TABLE, symbols={BATCH: Symbol(3, 3)}),
    "batches below 6": replace(_TABLE, symbols={BATCH: Symbol(2, 5)}),
}


def extended_source(name: str) -> Source:
    """Return the model of one of `CONTRACTS`, always with the same weights."""
    torch.manual_seed(0)
    contract = CONTRACTS[name]
    channels = contract.data_shape[0]
    modules: dict[str, tuple[nn.Module, nn.Module]] = {
        "conditional": (ConditionalEncoder(), ConditionalDecoder()),
        "codes": (CodesEncoder(), CodesDecoder()),
        "several": (SeveralEncoder(), SeveralDecoder()),
        "tokens": (TokensEncoder(), TokensDecoder()),
    }
    default: tuple[nn.Module, nn.Module] = (TableEncoder(), TableDecoder())
    if contract.is_image and name not in modules:
        default = (MapEncoder(int(channels)), MapDecoder(int(channels)))
    encoder, decoder = modules.get(name, default)
    return Source(contract, encoder, decoder)
