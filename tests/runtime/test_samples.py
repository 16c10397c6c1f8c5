"""Samples of a seed, and the way from one image to another."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Exported
from vae_export import Model, load
from vae_export.errors import ModelError, UsageError


def test_samples_of_a_seed_do_not_depend_on_start(model: Model) -> None:
    images = model.sample(5, 7)
    assert images.shape == (5, 1, 28, 28)
    assert model.prior(2, 7, start=3).tobytes() == model.prior(5, 7)[3:].tobytes()
    assert np.array_equal(model.decode(model.prior(5, 7)), images)
    assert not np.array_equal(model.sample(5, 8), images)


@pytest.mark.parametrize("n", [0, -1, 1.0, "1", True, 2**62])
def test_bad_number_of_samples_is_refused(model: Model, n: object) -> None:
    with pytest.raises(UsageError, match="bad number of samples; expected an integer from 1 "):
        model.sample(n)  # type: ignore[arg-type]


def test_interpolation_ends_at_both_reconstructions(model: Model) -> None:
    images = model.sample(2, 0)
    path = model.interpolate(images[0], images[1], 5)
    assert path.shape == (5, 1, 28, 28)
    ends = model.reconstruct(images)
    assert np.abs(path[[0, -1]] - ends).max() < 1e-5
    mean, _ = model.encode(images)
    assert np.abs(path[2] - model.decode(mean.mean(0, keepdims=True))[0]).max() < 1e-5


@pytest.mark.parametrize("steps", [1, 0, 2.0, 2**63])
def test_interpolation_needs_two_ends(model: Model, steps: object) -> None:
    image = model.sample(1)[0]
    with pytest.raises(UsageError, match="bad number of steps; expected an integer from 2 "):
        model.interpolate(image, image, steps)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"wrong shape: image 'b'; expected \(1, 28, 28\), got \(1, 1, 28, 28\)"):
        model.interpolate(image, image[None], 3)
    with pytest.raises(ModelError, match=r"wrong dtype: image 'b'; expected float32, got uint8"):
        model.interpolate(image, image.astype(np.uint8), 3)


def test_numpys_integers_are_integers(mlp: Exported) -> None:
    model = load(mlp.folder, threads=np.int64(1), batch_size=np.uint8(3))  # type: ignore[arg-type]
    images = model.sample(np.int32(4), np.uint64(2**64 - 1), start=np.int64(1))  # type: ignore[arg-type]
    assert np.array_equal(images, model.sample(4, 2**64 - 1, start=1))
    with pytest.raises(UsageError, match="bad number of rows; expected an integer from 0 up, got 1.5"):
        model.prior(1, start=1.5)  # type: ignore[arg-type]
