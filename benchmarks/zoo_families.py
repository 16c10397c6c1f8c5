"""Families of VAEs as their public repositories write them, each as small as it can be. `zoo.py` exports each.

Each function returns a VAE or (encoder, decoder), and `CASES` says what must become of it.
"""

# mypy: disable-error-code="override, operator, union-attr"
# VAEs of other people override methods with further arguments, and their buffers have no types.

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    StudentT,
)
from zoo_case import Catalogue

CASES = Catalogue()


def perceptron(inputs: int, outputs: int, width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))


# --- images: vectors and feature maps -------------------------------------------------------------------------------


class Vanilla(nn.Module):
    """Convolutions with batch normalisation, mean and log-variance in a list, and a forward with everything."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.latent = latent
        down = [(3, 16), (16, 32)]
        self.encoder = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.LeakyReLU()) for i, o in down)
        )
        self.fc_mu, self.fc_var = nn.Linear(32 * 16, latent), nn.Linear(32 * 16, latent)
        self.decoder_input = nn.Linear(latent, 32 * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), nn.BatchNorm2d(16), nn.LeakyReLU()
        )
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1), nn.LeakyReLU(), nn.Conv2d(16, 3, 3, 1, 1), nn.Tanh()
        )

    def encode(self, input: Tensor) -> list[Tensor]:
        result = torch.flatten(self.encoder(input), start_dim=1)
        return [self.fc_mu(result), self.fc_var(result)]

    def decode(self, z: Tensor) -> Any:
        return self.final_layer(self.decoder(self.decoder_input(z).view(-1, 32, 4, 4)))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return torch.randn_like(mu) * torch.exp(0.5 * logvar) + mu

    def forward(self, input: Tensor) -> list[Tensor]:
        mu, log_var = self.encode(input)
        return [self.decode(self.reparameterize(mu, log_var)), input, mu, log_var]


@CASES.add("3x16x16", "8")
def vanilla() -> Any:
    return Vanilla()


class ImportanceWeighted(Vanilla):
    """The decoder takes several samples of each row, and folds them into the batch."""

    def decode(self, z: Tensor) -> Any:
        batch, samples, _ = z.size()
        return super().decode(z.contiguous().view(-1, self.latent)).view(batch, samples, 3, 16, 16)


@CASES.add("3x16x16", "5x8", options="--latent-shape 5x8")
def importance_weighted_decoder() -> Any:
    vae = ImportanceWeighted()
    vae.forward = vae.decode  # type: ignore[method-assign, assignment]  # a short way to a decoder
    return None, vae


@CASES.add("3x16x16", "5x8", expected="refused")
def importance_weighted() -> Any:
    return ImportanceWeighted()


class GammaPosterior(Vanilla):
    """Shape and rate of a Gamma in place of mean and log-variance."""

    def encode(self, input: Tensor) -> Any:
        shape, rate = super().encode(input)
        return {"alpha": F.softplus(shape), "beta": F.softplus(rate)}


@CASES.add("3x16x16", "8", expected="refused")
def gamma_by_name() -> Any:
    return GammaPosterior()


class GammaDistribution(Vanilla):
    def encode(self, input: Tensor) -> Any:
        shape, rate = super().encode(input)
        return Gamma(F.softplus(shape), F.softplus(rate))


@CASES.add("3x16x16", "8", expected="refused")
def gamma_distribution() -> Any:
    return GammaDistribution()


class Swapped(Vanilla):
    """Sum of squares is held against a prior, the encoder is deterministic."""

    def encode(self, input: Tensor) -> Any:
        return super().encode(input)[0]


@CASES.add("3x16x16", "8")
def wasserstein() -> Any:
    return Swapped()


class Deviation(Vanilla):
    def encode(self, input: Tensor) -> Any:
        mu, raw = super().encode(input)
        return mu, F.softplus(raw)


@CASES.add("3x16x16", "8", options="--encoder-outputs mean,std")
def deviation_that_is_stated() -> Any:
    return Deviation()


class LogSigma(Vanilla):
    def encode(self, input: Tensor) -> Any:
        mu, log_sigma = super().encode(input)
        return OrderedDict(mu=mu, log_sigma=log_sigma)


@CASES.add("3x16x16", "8")
def log_sigma_by_name() -> Any:
    return LogSigma()


class Both(Vanilla):
    """Mean, deviation and log-variance, as table networks give them."""

    def encode(self, input: Tensor) -> Any:
        mu, logvar = super().encode(input)
        return mu, torch.exp(0.5 * logvar), logvar


@CASES.add("3x16x16", "8")
def deviation_and_logvar() -> Any:
    return Both()


class SampleFirst(Vanilla):
    def encode(self, input: Tensor) -> Any:
        mu, logvar = super().encode(input)
        return self.reparameterize(mu, logvar), mu, logvar


@CASES.add("3x16x16", "8")
def sample_mean_logvar() -> Any:
    return SampleFirst()


class SampleOnly(Vanilla):
    def encode(self, input: Tensor) -> Any:
        return self.reparameterize(*super().encode(input))


@CASES.add("3x16x16", "8", expected="refused")
def sample_alone() -> Any:
    return SampleOnly()


class Posterior:
    """A distribution of one's own, made from moments."""

    def __init__(self, moments: Tensor) -> None:
        self.mean, self.logvar = torch.chunk(moments, 2, dim=1)
        self.logvar = torch.clamp(self.logvar, -30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def mode(self) -> Tensor:
        return self.mean


@dataclass
class Encoded:
    latent_dist: Posterior


class FeatureMaps(nn.Module):
    """A latent of feature maps, for images of any size."""

    def __init__(self, *, nested: bool = False) -> None:
        super().__init__()
        self.nested = nested
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.up = nn.Sequential(nn.Conv2d(4, 12, 3, 1, 1), nn.SiLU(), nn.Conv2d(12, 48, 1), nn.PixelShuffle(4))

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        posterior = Posterior(self.down(x))
        return Encoded(latent_dist=posterior) if self.nested and return_dict else posterior

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        return {"sample": torch.tanh(self.up(z))} if return_dict else (torch.tanh(self.up(z)),)


@CASES.add("3x4*hx4*w", "4x4x4")
def feature_maps() -> Any:
    return FeatureMaps()


@CASES.add("3x4*hx4*w", "4x4x4")
def latent_dist() -> Any:
    return FeatureMaps(nested=True)


class Moments(FeatureMaps):
    def encode(self, x: Tensor) -> Any:
        return self.down(x)


@CASES.add("3x4*hx4*w", "4x4x4")
def moments_of_a_map() -> Any:
    return Moments()


@CASES.add("3x4*sx4*s", "4x4x4")
def square_images_of_any_size() -> Any:
    return FeatureMaps()


class Positions(FeatureMaps):
    """A learned embedding of positions fixes height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 4, 8, 8))

    def decode(self, z: Tensor) -> Any:
        return super().decode(z + self.positions)


@CASES.add("3x4*hx4*w", "4x8x8")
def positions_fix_the_size() -> Any:
    return Positions()


class Attended(FeatureMaps):
    """Multi-head attention over the places of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(2, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def decode(self, z: Tensor) -> Any:
        tokens = self.norm(z).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return super().decode(z + mixed.transpose(1, 2).reshape(z.shape))


@CASES.add("3x4*hx4*w", "4x4x4")
def attention_of_heads() -> Any:
    return Attended()


class Resized(FeatureMaps):
    def decode(self, z: Tensor) -> Any:
        larger = F.interpolate(z, size=(z.shape[2] * 2, z.shape[3] * 2), mode="nearest")
        smaller = F.avg_pool2d(larger, 2)
        return super().decode(F.pad(smaller, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1])


@CASES.add("3x4*hx4*w", "4x4x4")
def resized_and_padded() -> Any:
    return Resized()


class Unpadded(nn.Module):
    """Without padding, sizes have an offset: 2 h + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 4, 2), nn.ConvTranspose2d(2, 1, 4, 2)

    def encode(self, x: Tensor) -> Any:
        return self.down(x).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        return self.up(z).sigmoid()


@CASES.add("1x2*h+2x2*w+2", "2x7x7")
def sizes_with_an_offset() -> Any:
    return Unpadded()


class Flat(nn.Module):
    """Flat pixels, with the activation in the loss."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.body, self.mu, self.logvar = perceptron(256, 32), nn.Linear(32, 6), nn.Linear(32, 6)
        self.out, self.end = perceptron(6, 256), end

    def encode(self, x: Tensor) -> Any:
        h = F.relu(self.body(x.view(-1, 256)))
        return self.mu(h), self.logvar(h)

    def decode(self, z: Tensor) -> Any:
        return self.end(self.out(z))


@CASES.add("1x16x16", "6")
def logits() -> Any:
    return Flat(nn.Identity())


@CASES.add("1x16x16", "6")
def flat_pixels() -> Any:
    return Flat(nn.Sigmoid())


class Parameters(Flat):
    """The decoder gives mean and log-variance of each value as further channels."""

    def __init__(self) -> None:
        super().__init__(nn.Unflatten(1, (2, 16, 16)))
        self.out = perceptron(6, 512)


@CASES.add("1x16x16", "6")
def twice_the_channels() -> Any:
    return Parameters()


class Mixture(Flat):
    """The decoder gives parameters of a mixture, channels last."""

    def __init__(self) -> None:
        super().__init__(nn.Unflatten(1, (16, 16, 5)))
        self.out = perceptron(6, 16 * 16 * 5)


@CASES.add("1x16x16", "6")
def mixture_channels_last() -> Any:
    return Mixture()


class DecoderDistribution(Flat):
    def __init__(self, kind: Any) -> None:
        super().__init__(nn.Identity())
        self.kind = kind

    def decode(self, z: Tensor) -> Any:
        return self.kind(super().decode(z).view(-1, 1, 16, 16))


@CASES.add("1x16x16", "6")
def decoder_gives_bernoulli() -> Any:
    return DecoderDistribution(lambda logits: Independent(Bernoulli(logits=logits), 3))


@CASES.add("1x16x16", "6")
def decoder_gives_normal() -> Any:
    return DecoderDistribution(lambda loc: Normal(loc, torch.ones_like(loc), validate_args=True))


@CASES.add("1x16x16", "6", expected="refused")
def decoder_gives_student_t() -> Any:
    return DecoderDistribution(lambda loc: StudentT(3.0, loc, 1.0))


@CASES.add("1x16x16", "6", options="--decoder-output loc")
def student_t_by_its_location() -> Any:
    return decoder_gives_student_t()


class EncoderDistribution(Flat):
    def __init__(self, kind: Any) -> None:
        super().__init__(nn.Sigmoid())
        self.kind = kind

    def encode(self, x: Tensor) -> Any:
        return self.kind(*super().encode(x))


@CASES.add("1x16x16", "6")
def independent_normal_that_validates() -> Any:
    return EncoderDistribution(lambda m, v: Independent(Normal(m, (v / 2).exp(), validate_args=True), 1))


@CASES.add("1x16x16", "6")
def distribution_and_sample() -> Any:
    def both(mean: Tensor, logvar: Tensor) -> Any:
        posterior = Normal(mean, F.softplus(logvar))
        return posterior, posterior.rsample()

    return EncoderDistribution(both)


@CASES.add("1x16x16", "6", expected="refused")
def laplace() -> Any:
    return EncoderDistribution(lambda m, v: Laplace(m, F.softplus(v)))


@CASES.add("1x16x16", "6", expected="refused")
def full_covariance() -> Any:
    return EncoderDistribution(lambda m, v: MultivariateNormal(m, torch.diag_embed(F.softplus(v))))


@CASES.add("1x16x16", "6", expected="refused")
def categorical() -> Any:
    return EncoderDistribution(lambda m, _: Categorical(logits=m))


class Gumbel(Flat):
    def encode(self, x: Tensor) -> Any:
        return F.gumbel_softmax(super().encode(x)[0], tau=1.0, hard=True)


@CASES.add("1x16x16", "6", expected="refused")
def gumbel_softmax() -> Any:
    return Gumbel(nn.Sigmoid())


class Sphere(Flat):
    """Direction and concentration of a von Mises-Fisher distribution."""

    def encode(self, x: Tensor) -> Any:
        mean, width = super().encode(x)
        return F.normalize(mean, dim=-1), F.softplus(width.mean(1, keepdim=True)) + 1


@CASES.add("1x16x16", "6", options="--encoder-outputs latent,other")
def hypersphere() -> Any:
    return Sphere(nn.Sigmoid())


class DropoutAlways(Flat):
    def decode(self, z: Tensor) -> Any:
        return super().decode(F.dropout(z))


@CASES.add("1x16x16", "6", expected="refused")
def dropout_that_stays() -> Any:
    return DropoutAlways(nn.Sigmoid())


class BatchStatistics(Flat):
    def decode(self, z: Tensor) -> Any:
        return super().decode(F.batch_norm(z, None, None, training=True))


@CASES.add("1x16x16", "6", expected="refused")
def batch_norm_of_the_batch() -> Any:
    return BatchStatistics(nn.Sigmoid())


class Checkpointed(Flat):
    def decode(self, z: Tensor) -> Any:
        hidden: Any = torch.utils.checkpoint.checkpoint(self.out, z, use_reentrant=False)
        return self.end(hidden)


@CASES.add("1x16x16", "6")
def gradient_checkpointing() -> Any:
    return Checkpointed(nn.Sigmoid())


@CASES.add("1x16x16", "6")
def spectral_norms() -> Any:
    model = Flat(nn.Sigmoid())
    nn.utils.spectral_norm(model.mu)
    nn.utils.parametrizations.spectral_norm(model.logvar)
    nn.utils.parametrizations.weight_norm(model.out[0])
    return model


@CASES.add("1x16x16", "6", expected="refused")
def lazy_layer() -> Any:
    model = Flat(nn.Sigmoid())
    model.mu = nn.LazyLinear(6)
    return model


@CASES.add("1x16x16", "6", expected="refused")
def weights_on_meta() -> Any:
    return Flat(nn.Sigmoid()).to("meta")


@CASES.add("1x16x16", "6")
def weights_in_bfloat16() -> Any:
    return Flat(nn.Sigmoid()).to(torch.bfloat16)


class FlagFalse(Flat):
    """Initialises itself at the first training step; `if` on a buffer that is false."""

    initted: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())
        self.register_buffer("initted", torch.zeros(1))
        self.register_buffer("scale", torch.ones(6))

    def decode(self, z: Tensor) -> Any:
        if self.initted:
            z = z / self.scale
        if not self.initted and self.training:
            self.scale.data.copy_(z.std(0))
        return super().decode(z)


@CASES.add("1x16x16", "6")
def if_on_a_false_buffer() -> Any:
    return FlagFalse()


class FlagInteger(Flat):
    """Compares a step counter that does not change with a number, in Python."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())
        self.register_buffer("step", torch.tensor(1000))

    def decode(self, z: Tensor) -> Any:
        warm = min(1.0, self.step.item() / 500)
        return super().decode(z * warm if self.step > 10 else z)


@CASES.add("1x16x16", "6")
def if_on_a_step_counter() -> Any:
    return FlagInteger()


class FixedNoise(Flat):
    """Noise of a fixed seed, which is a constant."""

    def decode(self, z: Tensor) -> Any:
        generator = torch.Generator().manual_seed(7)
        return super().decode(z + 0.1 * torch.randn(6, generator=generator))


@CASES.add("1x16x16", "6")
def noise_of_a_fixed_seed() -> Any:
    return FixedNoise(nn.Sigmoid())


class GeneratorNoise(Flat):
    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())
        self.generator = torch.Generator()

    def decode(self, z: Tensor) -> Any:
        return super().decode(z + torch.randn(z.shape, generator=self.generator))


@CASES.add("1x16x16", "6", expected="refused")
def noise_of_a_generator() -> Any:
    return GeneratorNoise()


class Clamps(Flat):
    def decode(self, z: Tensor) -> Any:
        return super().decode(z.clamp(-3, 2.5)).clamp(min=0, max=1.0)


@CASES.add("1x16x16", "6")
def clamps_of_integers_and_floats() -> Any:
    return Clamps(nn.Identity())


class Loop(Flat):
    """A Python loop over the rows."""

    def decode(self, z: Tensor) -> Any:
        return torch.stack([super(Loop, self).decode(z[row]) for row in range(z.shape[0])])


@CASES.add("1x16x16", "6")
def loop_over_rows() -> Any:
    return Loop(nn.Sigmoid())


class Branch(Flat):
    """A branch on a value."""

    def decode(self, z: Tensor) -> Any:
        return super().decode(z if z.sum() > 0 else -z)


@CASES.add("1x16x16", "6", expected="refused")
def branch_on_a_value() -> Any:
    return Branch(nn.Sigmoid())


class TopUnits(Flat):
    def decode(self, z: Tensor) -> Any:
        kept = torch.zeros_like(z).scatter(1, z.abs().topk(3, dim=1).indices, 1.0)
        return super().decode(z * kept)


@CASES.add("1x16x16", "6", expected="refused")
def top_units() -> Any:
    """Of equal numbers, PyTorch does not say which are the top ones."""
    return TopUnits(nn.Sigmoid())


class Ordered(Flat):
    def decode(self, z: Tensor) -> Any:
        return super().decode(z.gather(1, torch.argsort(z, dim=1, stable=True, descending=True)))


@CASES.add("1x16x16", "6")
def stable_order() -> Any:
    return Ordered(nn.Sigmoid())


# --- several latents ------------------------------------------------------------------------------------------------


class Ladder(nn.Module):
    """Two latents of unlike sizes; pairs of mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = perceptron(256, 16), perceptron(256, 8)
        self.top, self.bottom = nn.Linear(4, 32), nn.Linear(8, 32)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(32, 256), nn.Sigmoid())

    def encode(self, x: Tensor) -> Any:
        flat = x.flatten(1)
        return [tuple(self.first(flat).chunk(2, 1)), tuple(self.second(flat).chunk(2, 1))]

    def decode(self, z1: Tensor, z2: Tensor) -> Any:
        return self.out(self.bottom(z1) + self.top(z2)).view(-1, 1, 16, 16)


@CASES.add("1x16x16", "8", "4")
def ladder() -> Any:
    return Ladder()


class LadderOfLists(Ladder):
    """Lists of means and of log-variances, and a list of latents."""

    def encode(self, x: Tensor) -> Any:
        (mean1, logvar1), (mean2, logvar2) = super().encode(x)
        return [mean1, mean2], [logvar1, logvar2]

    def decode(self, latents: Sequence[Tensor]) -> Any:
        return super().decode(*latents)


@CASES.add("1x16x16", expected="pass", options="--latent-shape z1=8,z2=4")
def ladder_of_lists() -> Any:
    return LadderOfLists()


class LadderOfNames(Ladder):
    def encode(self, x: Tensor) -> Any:
        (mean1, logvar1), (mean2, logvar2) = super().encode(x)
        return {"z1_mean": mean1, "z1_logvar": logvar1, "z2_mean": mean2, "z2_logvar": logvar2}


@CASES.add("1x16x16", "8", "4")
def ladder_of_names() -> Any:
    return LadderOfNames()


class Pyramid(nn.Module):
    """Feature maps of h x w and 2 h x 2 w: axes that are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 4, 2, 2)
        self.up1, self.up2 = nn.ConvTranspose2d(4, 8, 2, 2), nn.ConvTranspose2d(10, 3, 2, 2)

    def encode(self, x: Tensor) -> Any:
        return tuple(self.down1(x).chunk(2, 1)), tuple(self.down2(x).chunk(2, 1))

    def decode(self, coarse: Tensor, fine: Tensor) -> Any:
        return torch.sigmoid(self.up2(torch.cat([self.up1(coarse), fine], 1)))


@CASES.add("3x4*hx4*w", "4x4x4", "2x8x8")
def pyramid() -> Any:
    return Pyramid()


class Hierarchical(Ladder):
    """The decoder draws the lower latent from what the upper one says."""

    def decode(self, z1: Tensor) -> Any:  # one latent is drawn inside
        z2 = torch.randn(z1.shape[0], 4, device=z1.device)
        return super().decode(z1, z2)

    def encode(self, x: Tensor) -> Any:
        return super().encode(x)[0]


@CASES.add("1x16x16", "8", expected="refused")
def decoder_that_draws() -> Any:
    return Hierarchical()


class Nine(nn.Module):
    """Nine groups of latents, as deep hierarchies have them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(256, 2 * (2 + n)) for n in range(9))
        self.tails = nn.ModuleList(nn.Linear(2 + n, 256) for n in range(9))

    def encode(self, x: Tensor) -> Any:
        return [head(x.flatten(1)).chunk(2, 1) for head in self.heads]

    def decode(self, latents: Sequence[Tensor]) -> Any:
        total: Any = sum(tail(z) for tail, z in zip(self.tails, latents, strict=True))
        return total.sigmoid().view(-1, 1, 16, 16)


@CASES.add("1x16x16")
def nine_latents() -> Any:
    return Nine()


# --- conditions -----------------------------------------------------------------------------------------------------


class Conditional(nn.Module):
    """A one-hot label beside the image and the latent."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.body, self.out = perceptron(256 + classes, 12), perceptron(6 + classes, 256)

    def encode(self, x: Tensor, y: Tensor) -> Any:
        return self.body(torch.cat([x.flatten(1), y], 1)).chunk(2, 1)

    def decode(self, z: Tensor, y: Tensor) -> Any:
        return torch.sigmoid(self.out(torch.cat([z, y], 1))).view(-1, 1, 16, 16)


@CASES.add("1x16x16", "6", options="--condition y:float32:10")
def one_hot_label() -> Any:
    return Conditional()


class ConditionalInteger(Conditional):
    def encode(self, x: Tensor, y: Tensor) -> Any:
        return super().encode(x, F.one_hot(y, self.classes).float())

    def decode(self, z: Tensor, y: Tensor) -> Any:
        return super().decode(z, F.one_hot(y, self.classes).float())


@CASES.add("1x16x16", "6", options="--condition y:int64:10")
def integer_label() -> Any:
    return ConditionalInteger()


class ConditionalColumn(Conditional):
    """Labels (N, 1)."""

    def encode(self, x: Tensor, y: Tensor) -> Any:
        return super().encode(x, torch.zeros(len(y), self.classes).scatter_(1, y, 1))

    def decode(self, z: Tensor, y: Tensor) -> Any:
        return super().decode(z, torch.zeros(len(y), self.classes).scatter_(1, y, 1))


@CASES.add("1x16x16", "6", options="--condition y:int64:10:1")
def column_of_labels() -> Any:
    return ConditionalColumn()


class ConditionalDecoder(Conditional):
    def encode(self, x: Tensor) -> Any:  # the label goes to the decoder alone
        return super().encode(x, x.new_zeros(len(x), self.classes))


@CASES.add("1x16x16", "6", options="--condition y:float32:10")
def label_of_the_decoder_alone() -> Any:
    return ConditionalDecoder()


class LabelAsMap(nn.Module):
    """The label becomes a further channel of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.table = nn.Linear(10, 256), nn.Embedding(10, 4)
        self.conv, self.head = nn.Conv2d(4, 8, 4, 4), nn.Linear(128, 12)
        self.out = nn.Sequential(nn.Linear(10, 48), nn.Unflatten(1, (3, 4, 4)), nn.Upsample(scale_factor=4), nn.Tanh())

    def encode(self, x: Tensor, labels: Tensor) -> Any:
        plane = self.embed(F.one_hot(labels, 10).float()).view(-1, 1, 16, 16)
        return self.head(self.conv(torch.cat([x, plane], 1)).flatten(1)).chunk(2, 1)

    def decode(self, z: Tensor, labels: Tensor) -> Any:
        return self.out(torch.cat([z, self.table(labels)], 1))


@CASES.add("3x16x16", "6", options="--condition labels:int64:10")
def label_as_a_map() -> Any:
    return LabelAsMap()


class Field(nn.Module):
    """A neural field: the decoder takes the points at which it shall be evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = perceptron(64, 12), perceptron(6 + 2, 1)

    def encode(self, values: Tensor) -> Any:
        return self.body(values).chunk(2, 1)

    def decode(self, z: Tensor, points: Tensor) -> Any:
        tiled = z[:, None].expand(-1, points.shape[1], -1)
        return self.out(torch.cat([tiled, points], -1)).squeeze(-1)


@CASES.add("64", "6", options="--condition points:float32:64x2")
def neural_field() -> Any:
    return Field()


class Cells(nn.Module):
    """Counts of genes, a batch label and the library size; parameters of a negative binomial."""

    def __init__(self, genes: int = 30, batches: int = 3) -> None:
        super().__init__()
        self.batches = batches
        self.body, self.mean, self.var = perceptron(genes + batches, 32), nn.Linear(32, 5), nn.Linear(32, 5)
        self.out, self.dispersion = perceptron(5 + batches, genes), nn.Parameter(torch.randn(genes))

    def encode(self, x: Tensor, batch_index: Tensor) -> Any:
        label = F.one_hot(batch_index.squeeze(-1), self.batches).float()
        hidden = self.body(torch.cat([torch.log1p(x.clamp(min=0)), label], -1))
        q_m, q_v = self.mean(hidden), torch.exp(self.var(hidden)) + 1e-4
        return q_m, q_v, Normal(q_m, q_v.sqrt()).rsample()

    def decode(self, z: Tensor, batch_index: Tensor, library: Tensor) -> Any:
        label = F.one_hot(batch_index.squeeze(-1), self.batches).float()
        scale = torch.softmax(self.out(torch.cat([z, label], -1)), -1)
        return {"px_scale": scale, "px_r": torch.exp(self.dispersion), "px_rate": torch.exp(library) * scale}


class CellsRate(Cells):
    def decode(self, z: Tensor, batch_index: Tensor, library: Tensor) -> Any:
        return super().decode(z, batch_index, library)["px_rate"]


_CELLS = "--condition batch_index:int64:3:1 --condition library:float32:1 --data-range none"


@CASES.add("30", "5", options=f"{_CELLS} --encoder-outputs mean,var,latent")
def cells() -> Any:
    return CellsRate()


@CASES.add("30", "5", expected="refused", options=f"{_CELLS} --encoder-outputs mean,var,latent")
def cells_with_all_parameters() -> Any:
    return Cells()


@CASES.add("30", "5", options=f"{_CELLS} --encoder-outputs mean,var,latent --decoder-output px_rate")
def cells_by_their_rate() -> Any:
    return Cells()


class MixedTable(nn.Module):
    """Continuous and categorical columns; the decoder also gives a deviation of each column, without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mu, self.logvar = perceptron(13, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.out, self.sigma = perceptron(4, 13), nn.Parameter(torch.ones(13) * 0.1)

    def encode(self, x: Tensor) -> Any:
        hidden = F.relu(self.body(x))
        logvar = self.logvar(hidden)
        return self.mu(hidden), torch.exp(0.5 * logvar), logvar

    def decode(self, z: Tensor) -> Any:
        columns = self.out(z)
        return torch.cat([columns[:, :5].tanh(), columns[:, 5:].softmax(-1)], 1), self.sigma


@CASES.add("13", "4")
def mixed_table() -> Any:
    return MixedTable()


class Imputing(nn.Module):
    """Missing values come with a mask; the decoder gives the parameters of a Student's t."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = perceptron(16, 8), perceptron(4, 24)

    def encode(self, x: Tensor, mask: Tensor) -> Any:
        mean, raw = self.body(torch.cat([x * mask, mask], 1)).chunk(2, 1)
        return Independent(Normal(mean, F.softplus(raw)), 1)

    def decode(self, z: Tensor) -> Any:
        location, scale, freedom = self.out(z).chunk(3, 1)
        return torch.cat([location, F.softplus(scale) + 1e-3, F.softplus(freedom) + 3], 1)


@CASES.add("8", "4", options="--condition mask:float32:8")
def imputing() -> Any:
    return Imputing()


# --- codes ----------------------------------------------------------------------------------------------------------


class Quantised(nn.Module):
    """A codebook of which each place takes the nearest entry; the code is a map of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 4, 4), nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 4), nn.Tanh())
        self.codebook = nn.Embedding(24, 4)

    def codes(self, x: Tensor) -> Tensor:
        latent = self.down(x).permute(0, 2, 3, 1)
        return torch.cdist(latent.flatten(1, 2), self.codebook.weight).argmin(-1).view(latent.shape[:-1])

    def encode(self, x: Tensor) -> Any:
        return self.codes(x)

    def decode(self, codes: Tensor) -> Any:
        return self.up(self.codebook(codes).permute(0, 3, 1, 2))


@CASES.add("3x4*hx4*w", "24:4x4")
def codes_of_maps() -> Any:
    return Quantised()


class QuantisedFlat(Quantised):
    """Codes in one row, as a transformer takes them, int32."""

    def encode(self, x: Tensor) -> Any:
        return self.codes(x).flatten(1).int()

    def decode(self, codes: Tensor) -> Any:
        return super().decode(codes.view(-1, 4, 4))


@CASES.add("3x16x16", "24:16")
def codes_in_a_row() -> Any:
    return QuantisedFlat()


class QuantisedTriple(Quantised):
    """Gives the quantised latent, the codes and a loss; the decoder takes the latent."""

    def encode(self, x: Tensor) -> Any:
        codes = self.codes(x)
        quantised, latent = self.codebook(codes).permute(0, 3, 1, 2), self.down(x)
        return latent + (quantised - latent).detach(), F.mse_loss(quantised, latent), codes

    def decode(self, quantised: Tensor) -> Any:
        return self.up(quantised)


@CASES.add("3x16x16", "4x4x4")
def quantised_latent() -> Any:
    return QuantisedTriple()


class FiniteScalar(Quantised):
    """Finite scalar quantisation: rounding of bounded numbers, with the straight-through estimator."""

    levels = (5, 5, 4, 3)

    def encode(self, x: Tensor) -> Any:
        half = (torch.tensor(self.levels) - 1) / 2
        bounded = torch.tanh(self.down(x)) * half.view(-1, 1, 1)
        return bounded + (bounded.round() - bounded).detach()

    def decode(self, latent: Tensor) -> Any:
        return self.up(latent)


@CASES.add("3x16x16", "4x4x4")
def finite_scalars() -> Any:
    return FiniteScalar()


class Kmeans(Quantised):
    """A codebook as a buffer, which k-means fills at the first step."""

    initted: Tensor
    embed: Tensor

    def __init__(self) -> None:
        super().__init__()
        del self.codebook
        self.register_buffer("initted", torch.tensor([True]))
        self.register_buffer("embed", torch.randn(24, 4))

    def init_embed_(self, data: Tensor) -> None:
        if self.initted:
            return
        self.embed.data.copy_(data[torch.randperm(len(data))[:24]])
        self.initted.data.copy_(torch.tensor([True]))

    def encode(self, x: Tensor) -> Any:
        latent = self.down(x).permute(0, 2, 3, 1).flatten(1, 2)
        self.init_embed_(latent.flatten(0, 1))
        distances = -(latent.pow(2).sum(-1, keepdim=True) - 2 * latent @ self.embed.t() + self.embed.pow(2).sum(-1))
        return {"indices": distances.max(dim=-1).indices}

    def decode(self, indices: Tensor) -> Any:
        return self.up(F.embedding(indices, self.embed).view(-1, 4, 4, 4).permute(0, 3, 1, 2))


@CASES.add("3x16x16", "24:16", options="--codes 24")
def codebook_in_a_buffer() -> Any:
    return Kmeans()


class Residual(nn.Module):
    """A codec of sound: residual codes (N, K, T), each codebook for what the ones before left."""

    def __init__(self, *, first_axis: str = "batch") -> None:
        super().__init__()
        self.first_axis = first_axis
        self.down = nn.Sequential(nn.Conv1d(1, 8, 7, padding=3), nn.ELU(), nn.Conv1d(8, 4, 4, 4))
        self.up = nn.Sequential(nn.ConvTranspose1d(4, 8, 4, 4), nn.ELU(), nn.Conv1d(8, 1, 7, padding=3), nn.Tanh())
        self.codebooks = nn.ModuleList(nn.Embedding(16, 4) for _ in range(2))

    def encode(self, x: Tensor) -> Any:
        rest, found = self.down(x).transpose(1, 2), []
        for book in self.codebooks:
            codes = (rest[..., None, :] - book.weight).pow(2).sum(-1).argmin(-1)
            found.append(codes)
            rest = rest - book(codes)
        return torch.stack(found, 1 if self.first_axis == "batch" else 0)

    def decode(self, codes: Tensor) -> Any:
        codes = codes if self.first_axis == "batch" else codes.transpose(0, 1)
        latent: Any = sum(book(codes[:, n]) for n, book in enumerate(self.codebooks))
        return self.up(latent.transpose(1, 2))


@CASES.add("1x4*t", "16:2x8")
def residual_codes() -> Any:
    return Residual()


@CASES.add("1x64", "16:2x16", expected="refused")
def codebooks_before_the_batch() -> Any:
    return Residual(first_axis="codebooks")


# --- sound, text, graphs, video -------------------------------------------------------------------------------------


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


def wn(module: nn.Module) -> nn.Module:
    return torch.nn.utils.weight_norm(module)  # the old kind, as codecs of sound have it


class Codec(nn.Module):
    """Snake activations, old weight norms and several losses beside the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(wn(nn.Conv1d(1, 8, 7, padding=3)), Snake(8), wn(nn.Conv1d(8, 6, 4, 2, 1)))
        self.decoder = nn.Sequential(wn(nn.ConvTranspose1d(6, 8, 4, 2, 1)), Snake(8), wn(nn.Conv1d(8, 1, 7, padding=3)))

    def encode(self, audio: Tensor) -> Any:
        z = self.encoder(audio)
        return z, z.pow(2).mean(), z.abs().mean()

    def decode(self, z: Tensor) -> Any:
        return torch.tanh(self.decoder(z))


@CASES.add("1x2*t", "6x16")
def codec_of_sound() -> Any:
    return Codec()


class Speech(nn.Module):
    """The posterior encoder of a speech synthesiser: lengths mask the end, and logs is a logarithmic deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.proj = nn.Conv1d(10, 8, 1), nn.Conv1d(8, 8, 1)
        self.dec = nn.Sequential(nn.ConvTranspose1d(4, 8, 4, 4), nn.LeakyReLU(0.1), nn.Conv1d(8, 10, 1))

    def encode(self, x: Tensor, x_lengths: Tensor) -> Any:
        steps = torch.arange(x.shape[2])
        x_mask = (steps[None] < x_lengths[:, None]).unsqueeze(1).to(x.dtype)
        m, logs = torch.split(self.proj(torch.tanh(self.pre(x) * x_mask)) * x_mask, 4, dim=1)
        z = (m + torch.randn_like(m) * torch.exp(logs)) * x_mask
        return z, m, logs, x_mask

    def decode(self, z: Tensor) -> Any:
        return self.dec(z)[:, :, ::4]


@CASES.add("10x16", "4x16", options="--condition x_lengths:int64:17 --encoder-outputs latent,mean,logstd,other")
def speech() -> Any:
    return Speech()


class Loudness(nn.Module):
    """Normalises by the loudest value of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = perceptron(64, 12), perceptron(6, 64)

    def encode(self, x: Tensor) -> Any:
        return self.body(x.flatten(1) / x.abs().max()).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        return self.out(z).tanh().unsqueeze(1)


@CASES.add("1x64", "6", expected="refused")
def loudness_of_the_batch() -> Any:
    return Loudness()


class Spectral(Loudness):
    """A spectrogram inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(9 * 17, 12)

    def encode(self, x: Tensor) -> Any:
        found = torch.stft(x.squeeze(1), 16, 4, window=torch.hann_window(16), return_complex=True)
        return self.body(found.abs().flatten(1)).chunk(2, 1)


@CASES.add("1x64", "6")
def spectrogram_inside() -> Any:
    return Spectral()


class Signal(nn.Module):
    """A heartbeat: one-dimensional convolutions, and a crop to the length."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.head = nn.Conv1d(2, 8, 5, 3, 1), nn.Linear(8 * 33, 8)
        self.tail, self.up = nn.Linear(4, 8 * 34), nn.ConvTranspose1d(8, 2, 5, 3)

    def encode(self, x: Tensor) -> Any:
        return self.head(F.relu(self.down(x)).flatten(1)).chunk(2, dim=-1)

    def decode(self, z: Tensor) -> Any:
        return self.up(self.tail(z).view(-1, 8, 34))[..., :100]


@CASES.add("2x100", "4")
def signal() -> Any:
    return Signal()


class Molecule(nn.Module):
    """One-hot characters; convolutions, then gated recurrent units that repeat the latent."""

    def __init__(self, length: int = 12, alphabet: int = 7) -> None:
        super().__init__()
        self.length = length
        self.conv, self.mean, self.logvar = nn.Conv1d(length, 6, 3), nn.Linear(30, 5), nn.Linear(30, 5)
        self.gru, self.out = nn.GRU(5, 10, num_layers=2, batch_first=True), nn.Linear(10, alphabet)

    def encode(self, x: Tensor) -> Any:
        hidden = F.relu(self.conv(x)).flatten(1)
        return self.mean(hidden), self.logvar(hidden)

    def decode(self, z: Tensor) -> Any:
        hidden, _ = self.gru(z.unsqueeze(1).repeat(1, self.length, 1))
        return F.softmax(self.out(hidden), dim=-1)


@CASES.add("12x7", "5")
def molecule() -> Any:
    return Molecule()


class Series(nn.Module):
    """An LSTM over a series of readings, and one that unrolls the latent step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 8, batch_first=True, bidirectional=True), nn.Linear(16, 8)
        self.cell, self.out = nn.LSTMCell(3, 4), nn.Linear(4, 3)

    def encode(self, x: Tensor) -> Any:
        _, (hidden, _) = self.rnn(x)
        return self.head(hidden.transpose(0, 1).flatten(1)).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        hidden, cell, step, steps = z, torch.zeros_like(z), z.new_zeros(len(z), 3), []
        for _ in range(10):
            hidden, cell = self.cell(step, (hidden, cell))
            step = self.out(hidden)
            steps.append(step)
        return torch.stack(steps, 1)


@CASES.add("10x3", "4")
def series() -> Any:
    return Series()


class TimeFirst(Series):
    """Time comes before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 8, bidirectional=True)


@CASES.add("10x3", "4", expected="refused")
def time_before_the_batch() -> Any:
    return TimeFirst()


class Sentence(nn.Module):
    """Tokens in, logits of tokens out; the data are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 8), nn.GRU(8, 16, batch_first=True)
        self.head, self.out = nn.Linear(16, 8), nn.Linear(4, 9 * 20)

    def encode(self, tokens: Tensor) -> Any:
        _, hidden = self.rnn(self.table(tokens))
        return self.head(hidden[-1]).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        return self.out(z).view(-1, 9, 20)


@CASES.add("9", "4", options="--tokens 20")
def sentence_of_tokens() -> Any:
    return Sentence()


class Graph(nn.Module):
    """Nodes and an adjacency matrix; the decoder gives the probabilities of edges."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.mean, self.logstd = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def encode(self, x: Tensor, adjacency: Tensor) -> Any:
        degree = adjacency.sum(-1).clamp(min=1.0).rsqrt()
        normal = degree[..., None] * adjacency * degree[..., None, :]
        hidden = F.relu(normal @ self.base(x))
        return NamedPosterior(normal @ self.mean(hidden), normal @ self.logstd(hidden))

    def decode(self, z: Tensor) -> Any:
        return torch.sigmoid(z @ z.transpose(-1, -2))


class NamedPosterior(NamedTuple):
    mu: Tensor
    logstd: Tensor


@CASES.add("6x5", "6x3", options="--condition adjacency:float32:6x6")
def graph() -> Any:
    return Graph()


class OneGraph(Graph):
    """One graph a call, without a batch."""

    def encode(self, x: Tensor, adjacency: Tensor) -> Any:
        if x.ndim != 2:
            raise ValueError("one graph a call")
        return super().encode(x, adjacency)


@CASES.add("6x5", "6x3", expected="refused", options="--condition adjacency:float32:6x6")
def graph_without_a_batch() -> Any:
    return OneGraph()


class Video(nn.Module):
    """Convolutions over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.up = nn.Sequential(
            nn.Conv3d(4, 8, 3, padding=1), nn.SiLU(), nn.ConvTranspose3d(8, 3, (1, 2, 2), (1, 2, 2))
        )

    def encode(self, video: Tensor) -> Any:
        return self.down(video).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        return self.up(z)


@CASES.add("3x4x2*hx2*w", "4x4x8x8", options="--data-range -1,1")
def video() -> Any:
    return Video()


class Frames(FeatureMaps):
    """Frames are folded into the batch, and taken apart at the end."""

    def encode(self, x: Tensor) -> Any:
        found = self.down(x.flatten(0, 1))
        return found.unflatten(0, x.shape[:2]).chunk(2, 2)

    def decode(self, z: Tensor) -> Any:
        return torch.tanh(self.up(z.flatten(0, 1))).unflatten(0, z.shape[:2])


@CASES.add("5x3x16x16", "5x4x4x4")
def frames_in_the_batch() -> Any:
    return Frames()


class FramesStay(Frames):
    """Frames stay in the batch."""

    def decode(self, z: Tensor) -> Any:
        return torch.tanh(self.up(z.flatten(0, 1)))


@CASES.add("5x3x16x16", "5x4x4x4", expected="refused")
def frames_stay_in_the_batch() -> Any:
    return FramesStay()


class Transformer(nn.Module):
    """Patches, a class token and a transformer that has a fast path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=False)
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 1, 8))
        self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 12)
        self.out = nn.Sequential(nn.Linear(6, 16 * 8), nn.Unflatten(1, (16, 8)))
        self.decoding = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.pixels = nn.Linear(8, 48)

    def encode(self, x: Tensor) -> Any:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.body(tokens)[:, 0]).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        tokens = self.out(z)
        patches = self.pixels(self.decoding(tokens, tokens))
        image = patches.view(-1, 4, 4, 4, 4, 3).permute(0, 5, 1, 3, 2, 4)
        return image.reshape(-1, 3, 16, 16).sigmoid()


@CASES.add("3x16x16", "6")
def transformer() -> Any:
    return Transformer()


class Fourier(nn.Module):
    """A decoder in the frequencies of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = perceptron(256, 12), perceptron(6, 2 * 16 * 9)

    def encode(self, x: Tensor) -> Any:
        return self.body(x.flatten(1)).chunk(2, 1)

    def decode(self, z: Tensor) -> Any:
        real, imaginary = self.out(z).view(-1, 2, 16, 9).unbind(1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=(16, 16)).unsqueeze(1)


@CASES.add("1x16x16", "6")
def frequencies() -> Any:
    return Fourier()


class Flow(Flat):
    """An affine coupling makes the posterior; the latent comes with the logarithm of a determinant."""

    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())
        self.coupling = perceptron(3, 6)

    def encode(self, x: Tensor) -> Any:
        mean, logvar = super().encode(x)
        one, other = mean.chunk(2, 1)
        shift, scale = self.coupling(one).chunk(2, 1)
        return torch.cat([one, other * torch.exp(scale.tanh()) + shift], 1), logvar.sum(1) + scale.sum(1)


@CASES.add("1x16x16", "6", options="--encoder-outputs latent,other")
def normalizing_flow() -> Any:
    return Flow()


class Pixels(Flat):
    """An autoregressive decoder: it takes the image so far beside the latent."""

    def __init__(self) -> None:
        super().__init__(nn.Sigmoid())
        mask = torch.ones(1, 1, 3, 3)
        mask[..., 1, 1:], mask[..., 2, :] = 0, 0
        self.register_buffer("mask", mask)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def decode(self, z: Tensor, so_far: Tensor) -> Any:
        local = F.conv2d(so_far, self.conv.weight * self.mask, self.conv.bias, padding=1)
        return torch.sigmoid(self.out(z).view(-1, 1, 16, 16) + local)


@CASES.add("1x16x16", "6", options="--condition so_far:float32:1x16x16")
def autoregressive() -> Any:
    return Pixels()


class Equalised(nn.Module):
    """Weights that are scaled at each use, and noise maps that training adds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(256, 6)), nn.Parameter(torch.zeros(256))
        self.strength = nn.Parameter(torch.zeros(1))
        self.encoder = nn.Sequential(nn.Flatten(), perceptron(256, 12))

    def encode(self, x: Tensor) -> Any:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Any:
        z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
        image = F.linear(z, self.weight / math.sqrt(6), self.bias)
        if self.training:
            image = image + self.strength * torch.randn_like(image)
        return image.sigmoid().view(-1, 1, 16, 16)


@CASES.add("1x16x16", "6")
def equalised() -> Any:
    return Equalised()


class HeadsBeside(nn.Module):
    """`encoder` gives features; the heads lie beside it, and `forward` alone uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(16, 5), nn.Linear(16, 5)
        self.decoder = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return {"recon": self.decoder(z), "mu": mu, "logvar": logvar}


@CASES.add("1x8x8")
def heads_beside_the_encoder() -> Any:
    return HeadsBeside()


class Pairs(nn.Module):
    """Mean and log-variance of each unit side by side, as networks of disentanglement have them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = perceptron(64, 10), perceptron(5, 64)

    def encode(self, x: Tensor) -> Any:
        return self.body(x.flatten(1)).view(x.size(0), 5, 2)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.out(z)).view(z.size(0), 1, 8, 8)


@CASES.add("1x8x8", "5")
def pairs_of_mean_and_logvar() -> Any:
    return Pairs()


class NamedVariance(Pairs):
    """A log-variance that is called a variance."""

    def encode(self, x: Tensor) -> Any:
        mean, logvar = super().encode(x).unbind(2)
        return {"m": mean, "v": logvar}


@CASES.add("1x8x8", "5", expected="refused")
def logvar_called_variance() -> Any:
    return NamedVariance()


class TwoMaps(nn.Module):
    """Two quantised maps of unlike sizes, which the decoder takes, beside their codes; codebooks are buffers."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 2, 2)
        self.register_buffer("table", torch.randn(16, 4))
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2)

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.permute(0, 2, 3, 1)
        codes = (flat[..., None, :] - self.table).square().sum(-1).argmin(-1)
        return F.embedding(codes, self.table).permute(0, 3, 1, 2), codes

    def encode(self, x: Tensor) -> Any:
        low = self.low(x)
        (top, top_codes), (bottom, bottom_codes) = self.quantise(self.high(low)), self.quantise(low)
        return top, bottom, (bottom - low).square().mean(), top_codes, bottom_codes

    def decode(self, quant_t: Tensor, quant_b: Tensor) -> Any:
        return self.out(torch.cat([self.up(quant_t), quant_b], 1)).tanh()


@CASES.add("3x16x16", "4x4x4", "4x8x8")
def two_quantised_maps() -> Any:
    return TwoMaps()
