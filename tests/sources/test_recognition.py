"""What modules return is recognised by name, shape and randomness, or asked for."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from tests.sample_models import Lambda
from vae_export import Contract, Source
from vae_export.errors import ModelError, UsageError

CONTRACT = Contract((1, 4, 4), (3,))
WEIGHT = torch.linspace(-1, 1, 16 * 3).reshape(16, 3)
Pair = namedtuple("Pair", "log_std mu")


@dataclass
class Posterior:
    z: Tensor
    mu: Tensor
    log_covariance: Tensor
    loss: Tensor | None = None


class OwnDistribution:
    """A distribution as diffusers writes it, with a mean and a logvar."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar


def mean(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT


def logvar(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT.flip(1) - 0.5


def std(x: Tensor) -> Tensor:
    return torch.exp(logvar(x) / 2)


def drawn(x: Tensor) -> Tensor:
    return mean(x) + std(x) * torch.randn_like(std(x))


def encoded(function: object, contract: Contract = CONTRACT, **options: Any) -> tuple[Source, tuple[Tensor, ...]]:
    """A source of an encoder made of `function`, and what its recognised encoder returns for `data`."""
    source = Source(contract, Lambda(function), **options)
    data = torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)
    outputs = source.recognised.encoder(data)
    return source, outputs if isinstance(outputs, tuple) else (outputs,)


GAUSSIAN = {
    "tuple": lambda x: (mean(x), logvar(x)),
    "list": lambda x: [mean(x), logvar(x)],
    "dict": lambda x: {"log_var": logvar(x), "mu": mean(x)},
    "dict with loss": lambda x: {"loss": x.sum(), "z": drawn(x), "z_mean": mean(x), "z_log_var": logvar(x)},
    "named tuple": lambda x: Pair(logvar(x) / 2, mean(x)),
    "dataclass": lambda x: Posterior(drawn(x), mean(x), logvar(x)),
    "pythae": lambda x: {"embedding": mean(x), "log_covariance": logvar(x)},
    "camel case": lambda x: {"zMean": mean(x), "zLogVar": logvar(x)},
    "standard deviation": lambda x: {"mean": mean(x), "sigma": std(x)},
    "variance": lambda x: {"qz_m": mean(x), "qz_v": std(x) ** 2},
    "Normal": lambda x: Normal(mean(x), std(x)),
    "Independent": lambda x: Independent(Normal(mean(x), std(x)), 1),
    "latent_dist": lambda x: {"latent_dist": OwnDistribution(mean(x), logvar(x))},
    "moments": lambda x: torch.cat([mean(x), logvar(x)], 1),
    "moments as pairs": lambda x: torch.stack([mean(x), logvar(x)], -1),
    "mean and logvar beside a random picture": lambda x: (torch.rand_like(x), mean(x), logvar(x)),
    "latent, mean, logvar": lambda x: (drawn(x), mean(x), logvar(x)),
    "logvar, mean, latent": lambda x: (logvar(x), mean(x), drawn(x)),
    "latent, mean, std": lambda x: (drawn(x), mean(x), std(x)),
    "mean in place of the latent": lambda x: (mean(x), mean(x), logvar(x)),
    "of a singleton map": lambda x: (mean(x)[..., None, None], logvar(x)[..., None, None]),
    "flat rows": lambda x: (x @ WEIGHT, x @ WEIGHT.flip(1) - 0.5),
}


@pytest.mark.parametrize("form", GAUSSIAN)
def test_mean_and_logvar_are_found(form: str) -> None:
    data = torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)
    source, outputs = encoded(GAUSSIAN[form])
    assert len(outputs) == 2
    torch.testing.assert_close(outputs[0], mean(data))
    torch.testing.assert_close(outputs[1], logvar(data))
    assert not [note for note in source.recognised.notes if note.startswith("warning")]


def test_moments_may_be_in_the_last_axis() -> None:
    contract = Contract((1, 4, 4), (4, 3))
    _, (first, second) = encoded(lambda x: torch.cat([x[:, 0, :, :3], x[:, 0, :, 1:]], -1), contract)
    data = torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)
    assert torch.equal(first, data[:, 0, :, :3])
    assert torch.equal(second, data[:, 0, :, 1:])


def test_encoder_that_keeps_the_contract_is_not_wrapped() -> None:
    source, _ = encoded(GAUSSIAN["tuple"])
    assert source.recognised.encoder is source.encoder
    assert source.recognised.facts == {}


def test_drawn_latent_is_said_and_recorded() -> None:
    source, _ = encoded(GAUSSIAN["latent, mean, std"])
    assert source.recognised.notes == (
        "encoder: output 0 is drawn, and left out; 1 is its mean and 2 its std, as the spread of 48 draws shows",
    )
    assert source.recognised.facts["encoder_takes"] == {"mean": "1 as mean", "logvar": "2 as std"}


@pytest.mark.parametrize("width", [std, lambda x: torch.exp(logvar(x))], ids=["std", "var"])
def test_deviation_beside_its_logvar_is_left_out(width: object) -> None:
    source, (first, second) = encoded(lambda x: (mean(x), width(x), logvar(x)))
    data = torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)
    assert torch.equal(first, mean(data))
    assert torch.equal(second, logvar(data))
    assert "output 1 is left out" in source.recognised.notes[0]


def test_width_that_is_never_negative_gets_a_warning() -> None:
    source, _ = encoded(lambda x: (mean(x), std(x)))
    (note,) = source.recognised.notes
    assert note.startswith("warning: output 1 of the encoder is taken as logvar, and is never negative on 64 inputs")
    stated, outputs = encoded(lambda x: (mean(x), std(x)), encoder_outputs=["mean", "std"])
    assert stated.recognised.notes == ()
    torch.testing.assert_close(outputs[1], logvar(torch.linspace(0, 1, 80).reshape(5, 1, 4, 4)))


AMBIGUOUS = {
    "three without a random one": lambda x: (mean(x) + 1, mean(x), logvar(x)),
    "two random ones": lambda x: (drawn(x), drawn(x), mean(x)),
    "spread that fits no width": lambda x: (mean(x) + 5 * torch.randn(len(x), 3), mean(x), logvar(x)),
    "unknown names": lambda x: {"a": mean(x), "b": logvar(x)},
    "latent alone": lambda x: mean(x),
    "two means": lambda x: {"mu": mean(x), "loc": mean(x), "logvar": logvar(x)},
}


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_what_is_ambiguous_is_asked_for(form: str) -> None:
    with pytest.raises(ModelError, match=r"not clear; expected mean 3, logvar 3, got .*--encoder-outputs"):
        encoded(AMBIGUOUS[form])


def test_stated_outputs_settle_it() -> None:
    data = torch.linspace(0, 1, 80).reshape(5, 1, 4, 4)
    _, outputs = encoded(lambda x: (mean(x) + 1, mean(x), logvar(x)), encoder_outputs=("latent", "mean", "logvar"))
    torch.testing.assert_close(outputs, (mean(data), logvar(data)))
    _, usual = encoded(lambda x: (mean(x) + 1, mean(x), logvar(x)), encoder_outputs=("z", "z_mean", "log_var"))
    torch.testing.assert_close(usual, outputs)
    _, outputs = encoded(lambda x: [std(x), mean(x)], encoder_outputs=("std", "mean"))
    torch.testing.assert_close(outputs, (mean(data), logvar(data)))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["mean", "width"], UsageError, "unknown output: --encoder-outputs"),
        (["mean"], ModelError, "2 words for 0 (3, 3), 1 (3, 3)"),
        (["mean", "latent"], ModelError, "expected 1 of 'logvar'"),
    ],
)
def test_stated_outputs_that_do_not_fit_are_refused(words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        encoded(GAUSSIAN["tuple"], encoder_outputs=words)
    assert message in str(caught.value)


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(ModelError, match="distribution is not supported; expected Normal"):
        encoded(lambda x: Categorical(logits=mean(x)))


def test_deterministic_encoder_gives_its_latent() -> None:
    contract = Contract((1, 4, 4), (3,), encoding="deterministic")
    for function in (mean, lambda x: {"z": mean(x), "norm": mean(x).norm()}, lambda x: (mean(x), None)):
        _, (latent,) = encoded(function, contract)
        torch.testing.assert_close(latent, mean(torch.linspace(0, 1, 80).reshape(5, 1, 4, 4)))


def test_latent_without_a_distribution_is_opened() -> None:
    class IdentityDistribution:
        def __init__(self, parameters: Tensor) -> None:
            self.parameters = parameters

    contract = Contract((1, 4, 4), (3,), encoding="deterministic")
    _, (latent,) = encoded(lambda x: {"latent_dist": IdentityDistribution(mean(x))}, contract)
    assert torch.equal(latent, mean(torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)))


@pytest.mark.parametrize("options", [{}, {"encoder_outputs": ("mean", "var")}])
def test_width_that_is_negative_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=r"var is negative: encoder, output v; expected .* logvar, got .*--encoder-outputs"
    ):
        encoded(lambda x: {"m": mean(x), "v": logvar(x)}, **options)
    _, (_, width) = encoded(lambda x: {"m": mean(x), "v": logvar(x)}, encoder_outputs=("mean", "logvar"))
    assert width.min() < 0


def test_codes_get_the_dtype_of_the_contract() -> None:
    contract = Contract((1, 4, 4), (3,), encoding="codes", codebook_size=8)
    _, (codes,) = encoded(lambda x: (mean(x), mean(x).abs().int() % 8, mean(x).sum()), contract)
    assert codes.dtype == torch.int64
    assert codes.shape == (5, 3)


def test_latents_of_several_sizes_are_told_apart_by_shape() -> None:
    contract = Contract((1, 4, 4), {"coarse": (2,), "fine": (3,)})
    forms = (
        lambda x: [(mean(x)[:, :2], logvar(x)[:, :2]), (mean(x), logvar(x))],
        lambda x: ([mean(x)[:, :2], mean(x)], [logvar(x)[:, :2], logvar(x)]),
        lambda x: {
            "fine_mean": mean(x),
            "fine_logvar": logvar(x),
            "coarse_mean": mean(x)[:, :2],
            "coarse_logvar": logvar(x)[:, :2],
        },
    )
    data = torch.linspace(0, 1, 80).reshape(5, 1, 4, 4)
    for form in forms:
        _, outputs = encoded(form, contract)
        expected = mean(data)[:, :2], logvar(data)[:, :2], mean(data), logvar(data)
        torch.testing.assert_close(outputs, expected)


DECODERS = {
    "tensor": lambda z: z @ WEIGHT.T,
    "dict": lambda z: {"recon_x": (z @ WEIGHT.T).reshape(-1, 1, 4, 4), "features": z},
    "two images by name": lambda z: {"x_hat": z @ WEIGHT.T, "mask": z @ WEIGHT.T + 1},
    "tuple with a loss": lambda z: ((z @ WEIGHT.T).reshape(-1, 1, 4, 4), z.sum()),
    "Normal": lambda z: Independent(Normal((z @ WEIGHT.T).reshape(-1, 1, 4, 4), 0.1), 3),
}


@pytest.mark.parametrize("form", DECODERS)
def test_reconstruction_is_found(form: str) -> None:
    decoder = Source(CONTRACT, decoder=Lambda(DECODERS[form])).recognised.decoder
    latent = torch.linspace(-1, 1, 15).reshape(5, 3)
    torch.testing.assert_close(decoder(latent), (latent @ WEIGHT.T).reshape(5, 1, 4, 4))


def test_two_images_of_a_decoder_are_asked_for() -> None:
    with pytest.raises(ModelError, match="outputs of the decoder are not clear"):
        Source(CONTRACT, decoder=Lambda(lambda z: [z @ WEIGHT.T, z @ WEIGHT.T])).recognised  # noqa: B018


class Counting(nn.Module):
    """An encoder with a counter and dropout."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.dropout(mean(x)), logvar(x)


def test_module_and_random_state_are_left_as_they_were() -> None:
    module, before = Counting(), torch.random.get_rng_state()
    Source(CONTRACT, module).recognised  # noqa: B018
    assert module.calls == 0
    assert module.training
    assert module.dropout.training
    assert torch.equal(torch.random.get_rng_state(), before)
