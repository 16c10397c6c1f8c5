"""An answer only to what the contract allows, and then that of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Exported
from tests.runtime.conftest import latents
from vae_export import Model, load
from vae_export.errors import ModelError
from vae_export.runtime.session import Session


@pytest.mark.parametrize("name", ["mlp", "blog", "conv", "foreign"])
def test_runtime_matches_pytorch(exported: Callable[[str], Exported], name: str) -> None:
    export = exported(name)
    model, contract = load(export.folder), export.source.contract
    assert model.contract == contract
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((5, *contract.latent_shape), dtype=np.float32)
    image = rng.uniform(*contract.image_range, (5, *contract.image_shape)).astype(np.float32)
    encoder, decoder = export.graph("encoder").module, export.graph("decoder").module
    with torch.no_grad():
        mean, logvar = encoder(torch.from_numpy(image))
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(model.decode(latent), decoder(torch.from_numpy(latent)), **close)
        np.testing.assert_allclose(model.encode(image)[0], mean, **close)
        np.testing.assert_allclose(model.encode(image)[1], logvar, **close)
        np.testing.assert_allclose(model.reconstruct(image), decoder(mean), **close)
    low, high = contract.image_range
    assert low <= model.decode(latent).min() < model.decode(latent).max() <= high


@pytest.mark.parametrize(
    ("latent", "said"),
    [
        (
            np.zeros((2, 4)),
            r"wrong dtype: tensor 'latent'; expected float32, got float64; pass value.astype\(numpy.float32\)",
        ),
        (
            np.zeros((2, 4), ">f4"),
            r"wrong dtype: tensor 'latent'; expected float32, got >f4; pass value.astype\(numpy.float32\)",
        ),
        (np.zeros((2, 4), np.int64), "got int64"),
        (np.ma.zeros((2, 4), np.float32), r"masked array: tensor 'latent'; .*; pass value.filled\(number\)"),
        (
            np.zeros(4, np.float32),
            r"wrong shape: tensor 'latent'; expected \(N, 4\), got \(4,\); add the axes before: value\[None\]",
        ),
        (np.zeros((2, 5), np.float32), r"got \(2, 5\)"),
        (np.zeros((2, 2, 2), np.float32), r"got \(2, 2, 2\)"),
        (np.zeros((), np.float32), r"got \(\)"),
        (np.zeros((0, 4), np.float32), "empty batch: tensor 'latent'; expected N of 1 and up"),
        (np.array([[0, 0, np.nan, 0]], np.float32), r"not finite: tensor 'latent' at \(0, 2\); .*got nan"),
        (np.array([[0] * 4, [0, 0, 0, np.inf]], np.float32), r"not finite: tensor 'latent' at \(1, 3\); .*got inf"),
        ([[0.0] * 4], r"expected a numpy array, got list; pass numpy.asarray\(value, numpy.float32\)$"),
        (torch.zeros(2, 4), r"not an array: .*got Tensor; pass numpy.asarray\(value, numpy.float32\)$"),
        (None, "not an array: .*got NoneType$"),
    ],
)
def test_inputs_that_break_the_contract_are_named(model: Model, latent: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        model.decode(latent)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "said", "followed"),
    [
        (np.zeros((2, 1, 28, 28)), r"; pass value.astype\(numpy.float32\)$", lambda value: value.astype(np.float32)),
        (
            np.full((2, 1, 28, 28), 255, np.uint8),
            r"got uint8; scale its levels: value.astype\(numpy.float32\) / 255$",
            lambda value: value.astype(np.float32) / 255,
        ),
        (
            np.zeros((28, 28), np.float32),
            r"; add the axes before: value\[None, None\]$",
            lambda value: value[None, None],
        ),
        (
            np.zeros((2, 28, 28, 1), np.float32),
            r"channels first: .*3, 1, 2\)$",
            lambda value: value.transpose(0, 3, 1, 2),
        ),
        (torch.zeros(2, 1, 28, 28), r"; pass numpy.asarray\(.*\)$", lambda value: np.asarray(value, np.float32)),
        (np.zeros((3, 28, 27), np.float32), r"expected \(N, 1, 28, 28\), got \(3, 28, 27\)$", None),
        (np.zeros((1, 1, 28, 28), complex), "expected float32, got complex128$", None),
    ],
)
def test_image_that_does_not_fit_is_refused_with_what_makes_it_fit(
    model: Model, image: Any, said: str, followed: Callable[[Any], Any] | None
) -> None:
    with pytest.raises(ModelError, match=said):
        model.encode(image)
    if followed is not None:
        assert np.isfinite(model.encode(followed(image))[0]).all()


def test_masked_image_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="masked array: tensor 'image'; expected an array without a mask"):
        model.encode(np.ma.masked_all((1, 1, 28, 28), np.float32))


def test_images_are_held_to_the_contract_too(model: Model) -> None:
    for image in (np.zeros((1, 28, 28), np.float32), np.zeros((1, 1, 28, 28), np.uint8)):
        with pytest.raises(ModelError, match="tensor 'image'"):
            model.encode(image)
        with pytest.raises(ModelError, match="tensor 'image'"):
            model.reconstruct(image)


def test_out_of_range_pixels_are_refused_rounding_allowed(model: Model) -> None:
    """Levels from 0 to 255 as floats are what an application gets wrong first; the network would take them."""
    image = np.zeros((2, 1, 28, 28), np.float32)
    image[1, 0, 2, 3] = 255
    said = r"out of range: tensor 'image' at \(1, 0, 2, 3\); expected pixels in \[0, 1\], got 255.0; scale .* 1/255"
    for call in (model.encode, model.reconstruct, lambda images: model.interpolate(*images, steps=2)):
        with pytest.raises(ModelError, match=said):
            call(image)
    image[1, 0, 2, 3] = np.nextafter(np.float32(1), np.float32(2))
    model.encode(image)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, r"wrong inputs: autoencoder; expected \['image', 'noise'\], got \[\]"),
        ({"image": 1}, "wrong inputs"),
        ({"image": 1, "latent": 2}, "wrong inputs"),
    ],
)
def test_unknown_input_name_is_refused_with_the_known_ones(mlp: Exported, inputs: dict[str, int], said: str) -> None:
    entry = mlp.artifact.entry("autoencoder")
    opened = Session(mlp.artifact.read(entry), mlp.source.contract.spec("autoencoder"))
    with pytest.raises(ModelError, match=said):
        opened.run(dict.fromkeys(inputs, np.zeros((1, 4), np.float32)))
    with pytest.raises(ModelError, match=r"wrong shape: tensor 'noise'; expected \(2, 4\), got \(3, 4\)"):
        opened.run({"image": np.zeros((2, 1, 28, 28), np.float32), "noise": latents(3)})


def test_array_memory_layout_does_not_matter(model: Model) -> None:
    wide = np.random.default_rng(0).standard_normal((6, 8), dtype=np.float32)
    expected = model.decode(np.ascontiguousarray(wide[:, ::2]))
    read_only = wide[:, ::2].copy()
    read_only.flags.writeable = False
    for latent in (wide[:, ::2], np.asfortranarray(wide[:, ::2]), read_only):
        assert np.array_equal(model.decode(latent), expected)
    np.testing.assert_allclose(model.decode(wide[::-1, ::2]), expected[::-1], rtol=1e-5)
