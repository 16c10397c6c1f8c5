"""The fast path of ordinary calls gives the bits of the general path, and leaves every fault to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import Exported
from tests.runtime.conftest import latents
from vae_export import Model, load
from vae_export.errors import ModelError


@pytest.mark.parametrize("rows", [1, 2, 32, 33, 100])
def test_fast_path_gives_the_bits_of_the_general_path(model: Model, rows: int) -> None:
    latent = latents(rows)
    assert np.array_equal(model.decode(latent), model.run("decoder", latent=latent)["image"])
    image = model.decode(latent)
    mean, logvar = model.encode(image)
    general = model.run("encoder", image=image)
    assert np.array_equal(mean, general["mean"])
    assert np.array_equal(logvar, general["logvar"])


def test_ordinary_calls_take_the_fast_path(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(mlp.folder)
    expected = model.decode(latents(3))
    monkeypatch.setattr(Model, "run", lambda *_, **__: pytest.fail("took the general path"))
    monkeypatch.setattr(Model, "_compute", lambda *_: pytest.fail("took the general path"))
    assert np.array_equal(model.decode(latents(3)), expected)


def test_result_belongs_to_the_caller(model: Model) -> None:
    first = model.decode(latents(2))
    kept = first.copy()
    first[...] = 7.0
    assert np.array_equal(model.decode(latents(2)), kept)
    model.decode(latents(2) + 1)
    assert np.array_equal(model.decode(latents(2)), kept)


def test_latents_of_any_memory_order_are_decoded(model: Model) -> None:
    wide = latents(8)
    spread = np.repeat(wide, 2, axis=0)[::2]
    assert not spread.flags.c_contiguous
    assert np.array_equal(model.decode(spread), model.decode(wide))
    assert np.array_equal(model.decode(np.asfortranarray(wide)), model.decode(wide))
    assert np.array_equal(model.decode(np.broadcast_to(wide[:1], (3, 4)))[2:], model.decode(wide[[0] * 3])[2:])


def test_threads_do_not_mix_their_rows(mlp: Exported) -> None:
    model = load(mlp.folder, threads=1)
    given = [latents(1) + index for index in range(200)]
    expected = [model.decode(latent) for latent in given]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.decode, given))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 64])
def test_faults_are_named_after_ordinary_calls(model: Model, rows: int, value: float) -> None:
    latent = latents(rows)
    model.decode(latent)
    latent[rows - 1, 1] = value
    with pytest.raises(ModelError, match="not finite"):
        model.decode(latent)


@pytest.mark.parametrize("rows", [1, 64])
def test_pixels_out_of_range_are_named_after_ordinary_calls(model: Model, rows: int) -> None:
    image = model.decode(latents(rows))
    model.encode(image)
    image[0, 0, 0, 0] = 1.5
    with pytest.raises(ModelError, match=r"out of range: tensor 'image' at \(0, 0, 0, 0\)"):
        model.encode(image)


@pytest.mark.parametrize("rows", [1, 5, 10])
def test_results_are_written_into_the_given_array(mlp: Exported, rows: int) -> None:
    model, latent = load(mlp.folder, batch_size=4), latents(rows)
    expected, out = model.decode(latent), np.full((rows, 1, 28, 28), 9, np.float32)
    assert model.decode(latent, out=out) is out
    assert np.array_equal(out, expected)
    assert model.sample(rows, seed=3, out=out) is out
    assert np.array_equal(out, model.sample(rows, seed=3))
    image = out.copy()
    assert model.reconstruct(image, out=out) is out
    assert np.array_equal(out, model.reconstruct(image))


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (np.empty((2, 1, 28, 28), np.float32), r"float32 \(2, 1, 28, 28\)"),
        (np.empty((3, 1, 28, 28)), "float64"),
        (np.empty((3, 1, 28, 28), ">f4"), ">f4"),
        (np.empty((3, 1, 28, 56), np.float32)[..., ::2], "float32"),
        (np.broadcast_to(np.float32(0), (3, 1, 28, 28)), "float32"),
        ([0.0], "list"),
    ],
)
def test_array_that_cannot_take_the_result_is_refused(model: Model, out: object, got: str) -> None:
    with pytest.raises(ModelError, match=rf"wrong array: out; expected writable, contiguous float32 .*, got {got}"):
        model.decode(latents(3), out=out)  # type: ignore[arg-type]
