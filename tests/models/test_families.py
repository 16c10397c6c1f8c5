"""The networks that ship with the project: shapes, ranges, and configs that make no sense."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests import sample_models
from vae_export.errors import InputError, UsageError
from vae_export.likelihood import Likelihood
from vae_export.models import FAMILIES, VAE, VAEConfig, reparameterize
from vae_export.models.config import Family, usual_latent_size
from vae_export.models.mlp import LOGVAR_MAX, LOGVAR_MIN
from vae_export.models.pyramid import Layout


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 8, 12), (4, 4, 4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_keeps_shapes_and_ranges(family: Family, image_shape: tuple[int, int, int]) -> None:
    model = VAE(VAEConfig(family, image_shape, latent_size=5, hidden_size=7)).eval()
    image, noise = torch.rand(3, *image_shape), torch.randn(3, 5)
    with torch.no_grad():
        reconstruction, mean, logvar, latent = model(image, noise)
    assert reconstruction.shape == image.shape
    assert mean.shape == logvar.shape == latent.shape == (3, 5)
    assert ((reconstruction >= 0) & (reconstruction <= 1)).all()
    assert torch.equal(latent, reparameterize(mean, logvar, noise))
    assert torch.equal(reconstruction, torch.sigmoid(model.decoder.raw(latent)))


def test_reparameterize_matches_the_papers_formula() -> None:
    mean, logvar, noise = torch.tensor([[1.0]]), torch.tensor([[2 * math.log(3.0)]]), torch.tensor([[-2.0]])
    assert reparameterize(mean, logvar, noise).item() == pytest.approx(1 - 2 * 3)


def test_blog_heads_are_never_negative() -> None:
    model = sample_models.checkpoint("blog").model()
    with torch.no_grad():
        mean, logvar = model.encoder(torch.rand(64, 1, 28, 28) * 10)
    assert mean.min() >= 0
    assert logvar.min() >= 0
    assert mean.max() > 0


def test_resnet_halves_until_few_pixels_are_left_and_grows_slowly_with_the_image() -> None:
    sizes = {}
    for side in (32, 64, 128, 256):
        model = VAE(VAEConfig("resnet", (3, side, side), latent_size=8, hidden_size=16)).eval()
        with torch.no_grad():
            features = model.encoder.body[:-3](torch.rand(1, 3, side, side))
        assert features.shape == (1, 128, 4, 4)
        sizes[side] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes[256] < 1.1 * sizes[32]


@pytest.mark.parametrize(
    ("image_shape", "units", "smallest", "details"),
    [
        ((3, 8, 8), 192, (3, 1, 1), ((9, 1, 1), (9, 2, 2), (9, 4, 4))),
        ((3, 8, 8), 50, (3, 1, 1), ((9, 1, 1), (9, 2, 2), (1, 4, 4))),
        ((1, 12, 12), 5, (1, 3, 3), ((0, 3, 3), (0, 6, 6))),
    ],
)
def test_units_of_a_pyramid_are_its_smallest_image_and_then_details(
    image_shape: tuple[int, int, int],
    units: int,
    smallest: tuple[int, int, int],
    details: tuple[tuple[int, int, int], ...],
) -> None:
    config = VAEConfig("pyramid", image_shape, latent_size=units, hidden_size=8)
    assert Layout.of(config) == Layout(smallest, details)
    model = VAE(config)
    assert not any(name.startswith("encoder.prior.") for name in model.state_dict()), "shared weights are kept once"
    again = VAE(config)
    again.load_state_dict(model.state_dict())
    image = torch.rand(2, *image_shape)
    with torch.no_grad():
        assert torch.equal(again.encoder(image)[0], model.encoder(image)[0])


@pytest.mark.parametrize(("side", "units"), [(32, 1792), (64, 7168), (128, 28672), (256, 32768)])
def test_usual_size_of_a_pyramid_follows_the_image(side: int, units: int) -> None:
    assert usual_latent_size("pyramid", (3, side, side)) == units
    assert usual_latent_size("mlp", (3, side, side)) == 20


@pytest.mark.parametrize("family", ["mlp", "conv", "residual", "resnet"])
def test_logvar_is_bounded_so_that_exp_cannot_overflow(family: Family) -> None:
    model = sample_models.checkpoint(family).model()
    with torch.no_grad():
        _, logvar = model.encoder(torch.randn(64, 1, 28, 28) * 1e6)
    assert logvar.min() == LOGVAR_MIN
    assert logvar.max() == LOGVAR_MAX
    assert torch.isfinite(torch.exp(logvar)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"family": "gan"}, r"unknown family; expected mlp \| blog \| conv \| residual \| resnet \| pyramid, got gan"),
        ({"latent_size": 0}, "bad latent size; expected 1 or more, got 0"),
        ({"latent_size": -3}, "bad latent size"),
        ({"latent_size": 2.0}, "bad latent size"),
        ({"latent_size": True}, "bad latent size"),
        ({"hidden_size": 0}, "bad hidden size"),
        ({"hidden_size": float("nan")}, "bad hidden size"),
        ({"image_shape": (28, 28)}, "bad image shape"),
        ({"image_shape": (1, 28, -28)}, "bad image shape"),
        ({"image_shape": (1, "28", 28)}, "bad image shape"),
        ({"family": "conv", "image_shape": (1, 30, 28)}, "image size does not fit family conv"),
        ({"family": "residual", "image_shape": (1, 28, 30)}, "image size does not fit family residual"),
        ({"family": "resnet", "image_shape": (1, 28, 31)}, "height and width divisible by 2"),
        ({"family": "pyramid", "image_shape": (1, 28, 31)}, "height and width divisible by 2"),
        (
            {"family": "pyramid", "image_shape": (1, 4, 4), "latent_size": 17},
            "at most the 16 values of an image, got 17",
        ),
        ({"activation": "sine"}, r"unknown activation; expected relu \| tanh \| silu, got sine"),
        ({"family": "blog", "activation": "tanh"}, "family 'blog' supports only relu and bernoulli; use --family mlp"),
    ],
)
def test_invalid_config_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VAEConfig(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_config_survives_json(family: Family) -> None:
    config = VAEConfig(family, (3, 8, 8), 2, 3)
    assert VAEConfig.from_json(config.to_json()) == config


def test_config_with_every_field_survives_json() -> None:
    likelihood = Likelihood("gaussian-fixed", 0.25)
    config = VAEConfig("mlp", (3, 8, 8), 2, 3, activation="tanh", likelihood=likelihood)
    assert VAEConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_config_of_the_first_versions_has_the_defaults() -> None:
    old = {"family": "mlp", "image_shape": [1, 28, 28], "latent_size": 20, "hidden_size": 400}
    assert VAEConfig.from_json(old) == VAEConfig()


def test_config_reads_the_former_name_of_a_family() -> None:
    assert VAEConfig.from_json(VAEConfig("blog").to_json() | {"family": "post"}) == VAEConfig("blog")


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"image_shape": 28},
        {"image_shape": [1, 2]},
        {"family": 3},
        {"hidden_size": None},
        {"likelihood": {"name": "x"}},
        {"likelihood": 3},
    ],
)
def test_foreign_config_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="config does not fit"):
        VAEConfig.from_json(VAEConfig().to_json() | change)
