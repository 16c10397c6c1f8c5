"""Modules as people write them, one for each kind that exporters stumble over. `zoo.py` exports each.

`CASES` maps a name to (encoder or None, decoder or None, data shape, latent shape, range, expected); "pass" means a
verified export, and "refuse" one line and no file.
"""

from __future__ import annotations

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE, LATENT, UNIT = (1, 16, 16), (6,), (0.0, 1.0)
MAP_IMAGE, MAP_LATENT = (3, 16, 16), (4, 4, 4)
Posterior = namedtuple("Posterior", "mu log_var")


class Encoder(nn.Module):
    """image (N, 1, 16, 16) → mean, logvar (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.SiLU())
        self.mean, self.logvar = nn.Linear(32, 6), nn.Linear(32, 6)

    def forward(self, image: Tensor) -> Any:
        hidden = self.body(image)
        return self.mean(hidden), self.logvar(hidden)


class Decoder(nn.Module):
    """latent (N, 6) → image (N, 1, 16, 16)."""

    def __init__(self, inputs: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 32), nn.SiLU(), nn.Linear(32, 256), nn.Sigmoid())

    def forward(self, latent: Tensor) -> Any:
        return self.body(latent).view(-1, 1, 16, 16)


def map_decoder(*middle: nn.Module) -> nn.Sequential:
    """latent (N, 4, h, w) → image (N, 3, 4 h, 4 w) with modules in the middle."""
    up = [nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid()]
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), *middle, *up)


# --- no functions of their inputs -----------------------------------------------------------------------------------


class NumpyNoise(Decoder):
    def forward(self, latent: Tensor) -> Any:
        return super().forward(latent + torch.from_numpy(np.random.default_rng().normal(size=6).astype(np.float32)))


class PythonNoise(Decoder):
    def forward(self, latent: Tensor) -> Any:
        return super().forward(latent * random.random())  # noqa: S311


class TorchNoise(Decoder):
    def forward(self, latent: Tensor) -> Any:
        return super().forward(latent + torch.randn_like(latent))


class Counter(Decoder):
    """Counts its calls in a buffer, which has influence."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, latent: Tensor) -> Any:
        self.calls += 1
        return super().forward(latent * torch.exp(-self.calls / 50))


class PythonCounter(Decoder):
    """Counts its calls in an attribute."""

    calls = 0

    def forward(self, latent: Tensor) -> Any:
        self.calls += 1
        return super().forward(latent / (1 + 0.01 * self.calls))


class BatchStatistics(Decoder):
    def forward(self, latent: Tensor) -> Any:
        return super().forward((latent - latent.mean(0)) / (latent.std(0, unbiased=False) + 1))


class OtherRows(Decoder):
    """Each row also sees the row before."""

    def forward(self, latent: Tensor) -> Any:
        return super().forward(latent + latent.roll(1, 0))


# --- ordinary modules -----------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """A node inside is named "mean" by PyTorch, as the output is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.heads = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(8, 12)

    def forward(self, image: Tensor) -> Any:
        mean, logvar = self.heads(F.relu(self.conv(image)).mean((2, 3))).chunk(2, 1)
        return mean, logvar


class Float32Norm(nn.GroupNorm):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.float()).to(values.dtype)


class Constant(Decoder):
    """A tensor that is neither a parameter nor a buffer, and one made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = torch.randn(6, 6)

    def forward(self, latent: Tensor) -> Any:
        return super().forward(latent @ self.basis + torch.linspace(0, 1, 6, dtype=torch.float32))


class SmallConstants(Decoder):
    """Adds 1e-15 to a sum that is zero for the latent 0, as networks of linear attention do."""

    def forward(self, latent: Tensor) -> Any:
        total = latent.abs().sum(1, keepdim=True)
        return super().forward(latent * total / (total + 1e-15))


class NoAutocast(Decoder):
    def forward(self, latent: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            return super().forward(latent.float())


class BatchBranch(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        if values.shape[0] >= 64:
            values = values.contiguous()
        return F.interpolate(values, scale_factor=1.0, mode="nearest")


class Remembers(Decoder):
    """Keeps its last activation, which copy.deepcopy refuses."""

    def forward(self, latent: Tensor) -> Any:
        self.last = self.body[0](latent)
        return super().forward(latent)


class Clamped(Encoder):
    """clamp with an integer and a float."""

    def forward(self, image: Tensor) -> Any:
        mean, logvar = super().forward(image)
        return mean, logvar.clamp(-6, 2.0)


class FlatAttention(nn.Module):
    """Attention over three axes, not four."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 24)

    def forward(self, values: Tensor) -> Any:
        tokens = values.flatten(2).transpose(1, 2)
        query, key, value = self.inner(tokens).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return values + mixed.transpose(1, 2).unflatten(2, values.shape[2:])


class Shifted(Decoder):
    """`if` on a buffer that does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ready", torch.tensor(True))

    def forward(self, latent: Tensor) -> Any:
        if self.ready:
            latent = latent + 1
        return super().forward(latent)


class Sorted(Decoder):
    def forward(self, latent: Tensor) -> Any:
        return super().forward(torch.sort(latent, dim=1, stable=True).values)


class Label(Decoder):
    """latent (N, 6), label (N,) int64 of 10 classes."""

    def __init__(self) -> None:
        super().__init__(16)

    def forward(self, latent: Tensor, label: Tensor) -> Any:  # type: ignore[override]  # it has a condition
        return super().forward(torch.cat([latent, F.one_hot(label, 10).to(latent.dtype)], 1))


class TwoLatents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 32), nn.Linear(8, 32)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(32, 256), nn.Sigmoid(), nn.Unflatten(1, IMAGE))

    def forward(self, first: Tensor, second: Tensor) -> Any:
        return self.out(self.first(first) + self.second(second))


class Codes(nn.Module):
    """codes (N, 4, 4) int64 below 32 → image."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook, self.up = nn.Embedding(32, 4), map_decoder()

    def forward(self, codes: Tensor) -> Any:
        return self.up(self.codebook(codes).permute(0, 3, 1, 2))


class Beginner(nn.Module):
    """Draws inside, and returns the sample, mu and logvar; takes flat images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Dropout(0.2))
        self.mu, self.logvar = nn.Linear(32, 6), nn.Linear(32, 6)

    def forward(self, flat: Tensor) -> Any:
        hidden = self.fc(flat)
        mu, logvar = F.relu(self.mu(hidden)), F.relu(self.logvar(hidden))
        return mu + torch.randn_like(mu) * torch.exp(logvar / 2), mu, logvar


@dataclass
class Output:
    loc: Tensor
    log_covariance: Tensor


def returning(form: Any) -> type[Encoder]:
    """Return an encoder that gives (mean, logvar) in another form."""

    class Formed(Encoder):
        def forward(self, image: Tensor) -> Any:
            return form(*super().forward(image))

    return Formed


def half(module: nn.Module) -> nn.Module:
    return module.half()


def weight_norm() -> nn.Module:
    decoder = Decoder()
    torch.nn.utils.weight_norm(decoder.body[0])  # the old kind, whose weight is no leaf of the graph
    return decoder


def compiled() -> Any:
    return torch.compile(Decoder())


CASES: dict[str, tuple[Any, Any, Any, Any, Any, str]] = {
    "numpy noise": (None, NumpyNoise, IMAGE, LATENT, UNIT, "refuse"),
    "random.random": (None, PythonNoise, IMAGE, LATENT, UNIT, "refuse"),
    "randn_like": (None, TorchNoise, IMAGE, LATENT, UNIT, "refuse"),
    "counter in a buffer": (None, Counter, IMAGE, LATENT, UNIT, "refuse"),
    "counter in an attribute": (None, PythonCounter, IMAGE, LATENT, UNIT, "refuse"),
    "statistics of the batch": (None, BatchStatistics, IMAGE, LATENT, UNIT, "refuse"),
    "row before": (None, OtherRows, IMAGE, LATENT, UNIT, "refuse"),
    "pooled encoder": (Pooled, Decoder, IMAGE, LATENT, UNIT, "pass"),
    "norm in float32": (None, lambda: map_decoder(Float32Norm(4, 8)), MAP_IMAGE, MAP_LATENT, UNIT, "pass"),
    "constants": (None, Constant, IMAGE, LATENT, UNIT, "pass"),
    "autocast off": (None, NoAutocast, IMAGE, LATENT, UNIT, "pass"),
    "branch on the batch": (None, lambda: map_decoder(BatchBranch()), MAP_IMAGE, MAP_LATENT, UNIT, "pass"),
    "weight_norm": (None, weight_norm, IMAGE, LATENT, UNIT, "pass"),
    "remembers activations": (None, Remembers, IMAGE, LATENT, UNIT, "pass"),
    "clamp(int, float)": (Clamped, Decoder, IMAGE, LATENT, UNIT, "pass"),
    "attention over tokens": (None, lambda: map_decoder(FlatAttention()), MAP_IMAGE, MAP_LATENT, UNIT, "pass"),
    "if on a buffer": (None, Shifted, IMAGE, LATENT, UNIT, "pass"),
    "stable sort": (None, Sorted, IMAGE, LATENT, UNIT, "pass"),
    "conditional": (None, Label, IMAGE, LATENT, UNIT, "pass"),
    "hierarchical": (None, TwoLatents, IMAGE, LATENT, UNIT, "pass"),
    "codes": (None, Codes, MAP_IMAGE, (4, 4), UNIT, "pass"),
    "flat, draws inside": (Beginner, Decoder, IMAGE, LATENT, UNIT, "pass"),
    "dict": (returning(lambda m, v: {"mu": m, "log_var": v}), Decoder, IMAGE, LATENT, UNIT, "pass"),
    "named tuple": (returning(Posterior), Decoder, IMAGE, LATENT, UNIT, "pass"),
    "dataclass": (returning(Output), Decoder, IMAGE, LATENT, UNIT, "pass"),
    "list": (returning(lambda m, v: [m, v]), Decoder, IMAGE, LATENT, UNIT, "pass"),
    "moments in one tensor": (returning(lambda m, v: torch.cat([m, v], 1)), Decoder, IMAGE, LATENT, UNIT, "pass"),
    "distribution": (
        returning(lambda m, v: torch.distributions.Normal(m, torch.exp(v / 2))),
        Decoder,
        IMAGE,
        LATENT,
        UNIT,
        "pass",
    ),
    "table": (None, lambda: nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 13)), (13,), LATENT, None, "pass"),
    "any size": (None, lambda: map_decoder(nn.GroupNorm(4, 8)), (3, "4*h", "4*w"), (4, "h", "w"), UNIT, "pass"),
    "half": (lambda: half(Encoder()), lambda: half(Decoder()), IMAGE, LATENT, UNIT, "pass"),
    "compiled": (None, compiled, IMAGE, LATENT, UNIT, "pass"),
    "TorchScript": (None, lambda: torch.jit.trace(Decoder().eval(), torch.zeros(2, 6)), IMAGE, LATENT, UNIT, "refuse"),
}
