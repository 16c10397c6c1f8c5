"""Modules as people write them, one for each kind that exporters stumble over. `zoo.py` exports each.

Each function returns (encoder, decoder), and `CASES` says what must become of it.
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
from zoo_case import Catalogue

CASES = Catalogue()
IMAGE = (1, 16, 16)
#: Shapes of one row, as the command line takes them.
FLAT, FLAT_LATENT = "1x16x16", "6"
MAP, MAP_LATENT = "3x16x16", "4x4x4"
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


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def numpy_noise() -> Any:
    return None, NumpyNoise()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def random_random() -> Any:
    return None, PythonNoise()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def randn_like() -> Any:
    return None, TorchNoise()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def counter_in_a_buffer() -> Any:
    return None, Counter()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def counter_in_an_attribute() -> Any:
    return None, PythonCounter()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def statistics_of_the_batch() -> Any:
    return None, BatchStatistics()


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def row_before() -> Any:
    return None, OtherRows()


@CASES.add(FLAT, FLAT_LATENT)
def pooled_encoder() -> Any:
    return Pooled(), Decoder()


@CASES.add(MAP, MAP_LATENT, options="--latent-shape 4x4x4")
def norm_in_float32() -> Any:
    return None, map_decoder(Float32Norm(4, 8))


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def constants() -> Any:
    return None, Constant()


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def small_constants() -> Any:
    return None, SmallConstants()


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def autocast_off() -> Any:
    return None, NoAutocast()


@CASES.add(MAP, MAP_LATENT, options="--latent-shape 4x4x4")
def branch_on_the_batch() -> Any:
    return None, map_decoder(BatchBranch())


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def old_weight_norm() -> Any:
    decoder = Decoder()
    torch.nn.utils.weight_norm(decoder.body[0])  # its weight is no leaf of the graph
    return None, decoder


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def remembers_activations() -> Any:
    return None, Remembers()


@CASES.add(FLAT, FLAT_LATENT)
def clamp_int_and_float() -> Any:
    return Clamped(), Decoder()


@CASES.add(MAP, MAP_LATENT, options="--latent-shape 4x4x4")
def attention_over_tokens() -> Any:
    return None, map_decoder(FlatAttention())


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def if_on_a_buffer() -> Any:
    return None, Shifted()


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def stable_sort() -> Any:
    return None, Sorted()


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6 --condition label:int64:10")
def label_of_the_decoder() -> Any:
    return None, Label()


@CASES.add(FLAT, "4", "8", options="--latent-shape first=4,second=8")
def two_latents() -> Any:
    return None, TwoLatents()


@CASES.add(MAP, "32:4x4", options="--latent-shape 4x4 --codes 32")
def codes_of_a_map() -> Any:
    return None, Codes()


@CASES.add(FLAT, FLAT_LATENT)
def flat_and_draws() -> Any:
    return Beginner(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def dict_of_names() -> Any:
    return returning(lambda m, v: {"mu": m, "log_var": v})(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def named_tuple() -> Any:
    return returning(Posterior)(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def dataclass_of_names() -> Any:
    return returning(Output)(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def list_of_two() -> Any:
    return returning(lambda m, v: [m, v])(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def moments_in_one_tensor() -> Any:
    return returning(lambda m, v: torch.cat([m, v], 1))(), Decoder()


@CASES.add(FLAT, FLAT_LATENT)
def normal_distribution() -> Any:
    return returning(lambda m, v: torch.distributions.Normal(m, torch.exp(v / 2)))(), Decoder()


@CASES.add("13", FLAT_LATENT, options="--latent-shape 6")
def table() -> Any:
    return None, nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 13))


@CASES.add("3x4*hx4*w", "4x4x4", options="--latent-shape 4xhxw")
def any_size() -> Any:
    return None, map_decoder(nn.GroupNorm(4, 8))


@CASES.add(FLAT, FLAT_LATENT)
def half_weights() -> Any:
    return Encoder().half(), Decoder().half()


@CASES.add(FLAT, FLAT_LATENT, options="--latent-shape 6")
def compiled_module() -> Any:
    return None, torch.compile(Decoder())


@CASES.add(FLAT, FLAT_LATENT, expected="refused", options="--latent-shape 6")
def torchscript_module() -> Any:
    return None, torch.jit.trace(Decoder().eval(), torch.zeros(2, 6))
