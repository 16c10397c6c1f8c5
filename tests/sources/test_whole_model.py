"""What the `forward` of a VAE says about its encoder, and what a model remembers between its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vae_export.errors import ModelError
from vae_export.sources import load_source

CODE = """
import torch
import torch.nn.functional as F
from torch import nn

class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out, self.drop = nn.Linear(36, 8), nn.Linear(4, 36), nn.Dropout(0.5)

    def encode(self, x):
        return self.body(self.drop(x.flatten(1))).chunk(2, 1)

    def decode(self, z):
        return torch.sigmoid(self.out(z)).view(-1, 1, 6, 6)

class LogVariance(VAE):
    def forward(self, x):
        mean, logvar = self.encode(F.dropout(x, 0.3, self.training))
        deviation = torch.exp(0.5 * logvar)
        return self.decode(mean + torch.randn_like(deviation) * deviation), mean, logvar

class LogDeviation(VAE):
    # Draws in training only, as many do.
    def sample(self, mean, logvar):
        return torch.exp(logvar).mul(torch.randn_like(mean)).add_(mean) if self.training else mean

    def forward(self, x):
        mean, logvar = self.encode(x)
        return self.decode(self.sample(mean, logvar)), mean, logvar

class Variance(VAE):
    def encode(self, x):
        mean, variance = super().encode(x)
        return mean, F.softplus(variance), mean.sum(1)

    def forward(self, x):
        mean, variance, _ = self.encode(x)
        return self.decode(torch.normal(mean, variance.sqrt()))

class LogVarianceFirst(VAE):
    def forward(self, x):
        logvar, mean = self.encode(x)
        return self.decode(torch.distributions.Normal(mean, torch.exp(logvar / 2)).rsample())

class Laplace(VAE):
    def forward(self, x):
        mean, scale = self.encode(x)
        return self.decode(mean + scale.exp() * torch.randn_like(mean).tanh())

class Gamma(VAE):
    def encode(self, x):
        return [F.softplus(half) for half in super().encode(x)]

    def forward(self, x):
        return self.decode(torch.distributions.Gamma(*self.encode(x)).rsample())

class WithPrior(VAE):
    # The prior depends on the label, and is returned before the posterior.
    def __init__(self):
        super().__init__()
        self.prior = nn.Embedding(3, 8)

    def encode(self, x, label):
        return *self.prior(label).chunk(2, 1), *super().encode(x)

    def forward(self, x, label):
        _, _, mean, logvar = self.encode(x, label)
        return self.decode(torch.distributions.Normal(mean, torch.exp(logvar / 2)).rsample())

class PriorOfMaps(nn.Module):
    # A prior that is learned comes before the posterior, which has a standard deviation; any size.
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Conv2d(1, 8, 2, 2), nn.ConvTranspose2d(2, 1, 2, 2)

    def encode(self, x):
        return self.body(x).chunk(4, 1)

    def decode(self, z):
        return torch.sigmoid(self.out(z))

    def forward(self, x):
        _, _, mean, logstd = self.encode(x)
        return self.decode(mean + torch.exp(logstd) * torch.randn_like(mean))

class Logits(VAE):
    # The decoder takes a flat sample of the categories that the encoder gives logits of.
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 36)

    def encode(self, x):
        return [self.body(x.flatten(1)).view(-1, 2, 4)]

class Direction(VAE):
    # A direction and its concentration, as those of a von Mises-Fisher distribution.
    def encode(self, x):
        mean, other = super().encode(x)
        return F.normalize(mean, dim=-1), F.softplus(other[:, :1])

class Remembers(VAE):
    def encode(self, x):
        self.level = x.mean()
        return super().encode(x)

    def decode(self, z):
        return super().decode(z) * getattr(self, "level", 1.0)

class RemembersEachRow(VAE):
    def encode(self, x):
        self.mean = x.mean((1, 2, 3), keepdim=True)
        return super().encode(x)

    def decode(self, z):
        return super().decode(z) - self.mean

class CachesAMask(VAE):
    mask = None

    def decode(self, z):
        if self.mask is None or self.mask.shape[-1] != z.shape[-1]:
            self.mask = torch.ones(1, z.shape[-1])
        return super().decode(z * self.mask)

class InitialisesItself(VAE):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4))
        self.register_buffer("initialised", torch.tensor(False))

    def decode(self, z):
        if not self.initialised:
            self.shift.data.copy_(-z.mean(0))
            self.initialised.fill_(True)
        return super().decode(z + self.shift)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LogVariance", None),
        ("LogDeviation", ("mean", "logstd")),
        ("Variance", ("mean", "var", "other")),
        ("LogVarianceFirst", ("logvar", "mean")),
    ],
)
def test_outputs_are_what_forward_makes_its_latent_of(file: Path, name: str, words: tuple[str, ...] | None) -> None:
    torch.manual_seed(0)
    source = load_source(f"{file}:{name}", data_shape="1x6x6")
    assert source.encoder_outputs == words
    notes = "\n".join(source.provenance.get("notes", ()))
    assert ("as the latent that forward() makes of them shows" in notes) == (words is not None)
    assert "warning: forward()" not in notes


def test_latent_of_another_distribution_is_warned_about(file: Path) -> None:
    torch.manual_seed(0)
    source = load_source(f"{file}:Laplace", data_shape="1x6x6")
    assert any("forward() does not make its latent as mean" in note for note in source.provenance["notes"])
    source = load_source(f"{file}:Laplace", data_shape="1x6x6", encoder_outputs="mean,logstd")
    assert not any("forward()" in note for note in source.provenance.get("notes", ()))


def test_parameters_of_a_gamma_are_no_mean_and_log_variance(file: Path) -> None:
    with pytest.raises(ModelError, match=r"latent is not drawn from a normal .*operator aten\._standard_gamma"):
        load_source(f"{file}:Gamma", data_shape="1x6x6")
    source = load_source(f"{file}:Gamma", data_shape="1x6x6", encoder_outputs="latent,other")
    assert source.contract.encoding == "deterministic"


def test_posterior_is_told_from_a_prior_by_forward(file: Path) -> None:
    source = load_source(f"{file}:WithPrior", data_shape="1x6x6", conditions=["label:int64:3"])
    assert source.encoder_outputs == ("other", "other", "mean", "logvar")
    assert "output 2 is the mean and 3 the logvar" in source.provenance["notes"][0]


def test_forward_is_asked_about_free_sizes_too(file: Path) -> None:
    source = load_source(f"{file}:PriorOfMaps", data_shape="1x2*hx2*w")
    assert source.encoder_outputs == ("other", "other", "mean", "logstd")
    assert source.contract.latents[0].item == (2, "h", "w")


def test_decoder_of_another_latent_is_said_to_be_a_function_of_its_own(file: Path) -> None:
    with pytest.raises(ModelError, match=r"decoder cannot be run.*returns \(model\.encode, None\)"):
        load_source(f"{file}:Logits", data_shape="1x6x6")


def test_outputs_beside_a_latent_are_said_to_be_left_out(file: Path) -> None:
    source = load_source(f"{file}:Direction", data_shape="1x6x6")
    assert source.contract.encoding == "deterministic"
    assert any("0 is taken as the latent, and 1 (3, 1) left out" in note for note in source.recognised.notes)


@pytest.mark.parametrize("name", ["Remembers", "RemembersEachRow"])
def test_decoder_that_takes_what_the_encoder_left_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ModelError, match="decoder depends on what the encoder saw last"):
        load_source(f"{file}:{name}", data_shape="1x6x6")


def test_cache_of_a_mask_is_no_memory(file: Path) -> None:
    source = load_source(f"{file}:CachesAMask", data_shape="1x6x6")
    assert source.decoder is not None
    assert all("mask" not in vars(module) for module in source.decoder.modules())


def test_weights_that_the_first_batch_sets_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="module changes its weights when it runs: mine.py:InitialisesItself, 'shift'"):
        load_source(f"{file}:InitialisesItself", data_shape="1x6x6")
