"""Conditions, codes, several latents, open sizes and narrow batches compute what PyTorch computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.extended_models import CONTRACTS, extended_source
from vae_export import Model, export, load, open_artifact
from vae_export.artifact.manifest import MANIFEST
from vae_export.contract import Array, Part
from vae_export.errors import ModelError, ParityError, UsageError
from vae_export.io.atomic import write_atomic
from vae_export.rng import sample, sample_codes
from vae_export.runtime.self_test import self_test
from vae_export.tensors import BATCH, Expression


@pytest.fixture
def opened(extended: Callable[[str], Path]) -> Callable[..., Model]:
    """`opened(name)`: the encoder and decoder of an extended model as ONNX files, without a certificate."""
    return lambda name, **options: load(extended(name) / "export", threads=1, **options)


def _data(name: str, rows: int, sizes: dict[str, int] | None = None, seed: int = 0) -> np.ndarray:
    spec = CONTRACTS[name].at(sizes).data
    values = np.random.default_rng(seed).uniform(0, 1, (rows, *spec.fixed_item))
    low, high = (spec.low, spec.high) if spec.is_bounded else (-2, 2)
    return (low + values * (high - low)).astype(spec.dtype)


def _expected(module: torch.nn.Module | None, *inputs: np.ndarray) -> Any:
    assert module is not None
    with torch.no_grad():
        return module.eval()(*map(torch.from_numpy, inputs))


CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_conditions_reach_encoder_and_decoder(opened: Callable[..., Model]) -> None:
    model, source = opened("conditional"), extended_source("conditional")
    image, label = _data("conditional", 3), np.array([0, 9, 4])
    style = np.array([[-1, 0, 1], [0, 0, 0], [0.5, 1, 1]], np.float32)
    mean, logvar = model.encode(image, label=label)
    expected = _expected(source.encoder, image, label)
    np.testing.assert_allclose(mean, expected[0], **CLOSE)  # type: ignore[index]
    np.testing.assert_allclose(logvar, expected[1], **CLOSE)  # type: ignore[index]
    decoded = model.decode(mean, label=label, style=style)
    np.testing.assert_allclose(decoded, _expected(source.decoder, mean, label, style), **CLOSE)  # type: ignore[arg-type]
    assert np.array_equal(model.reconstruct(image, label=label, style=style), decoded)
    assert np.array_equal(
        model.pixels(mean, label=label, style=style), np.floor(decoded * 255 + 0.5).transpose(0, 2, 3, 1)
    )


def test_one_condition_stands_for_all_rows(opened: Callable[..., Model]) -> None:
    model, style = opened("conditional"), np.array([1, 0, -1], np.float32)
    latent = model.prior(3)
    label, styles = np.full(3, 7), np.stack([style] * 3)
    expected = model.decode(latent, label=label, style=styles)
    for number in (7, np.int32(7), np.array(7)):
        assert np.array_equal(model.decode(latent, label=number, style=style), expected)
    assert np.array_equal(model.sample(3, label=7, style=style), expected)
    path = model.interpolate(*_data("conditional", 2), steps=4, label=7, style=style)
    ends = model.reconstruct(_data("conditional", 2), label=7, style=style)
    np.testing.assert_allclose(path[[0, -1]], ends, **CLOSE)


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"label": 10}, r"out of range: tensor 'label' at \(0,\); expected integers in \[0, 9\], got 10"),
        ({"label": -1}, "out of range: tensor 'label'"),
        ({"label": 1.5}, "wrong number: tensor 'label'; expected int64, got 1.5"),
        ({"label": np.array([1, 2], np.int32)}, "wrong dtype: tensor 'label'; expected int64, got int32"),
        ({"label": np.array([1, 2, 3])}, r"wrong shape: tensor 'label'; expected \(2,\), got \(3,\)"),
        ({"label": "1"}, "not an array: tensor 'label'"),
        ({"style": 0.5}, "not an array: tensor 'style'; expected a numpy array, got float"),
        ({"style": np.zeros(4, np.float32)}, r"wrong shape: tensor 'style'; expected \(2, 3\), got \(2, 4\)"),
        ({"style": np.full(3, 1.5, np.float32)}, r"out of range: tensor 'style' .*numbers in \[-1, 1\]"),
        ({"colour": 1}, r"wrong inputs: decoder; expected \['latent', 'label', 'style'\], got .*colour"),
    ],
)
def test_bad_condition_is_named(opened: Callable[..., Model], conditions: dict[str, Any], said: str) -> None:
    model = opened("conditional")
    given: dict[str, Any] = {"label": 1, "style": np.zeros(3, np.float32)} | conditions
    with pytest.raises(ModelError, match=said):
        model.decode(model.prior(2), **given)


def test_missing_condition_is_named(opened: Callable[..., Model]) -> None:
    model = opened("conditional")
    with pytest.raises(ModelError, match=r"wrong inputs: decoder; .*got \['latent'\]"):
        model.sample(1)
    with pytest.raises(ModelError, match=r"wrong inputs: decoder; .*got \['label', 'latent'\]"):
        model.reconstruct(_data("conditional", 1), label=3)
    with pytest.raises(UsageError, match="input is given twice: latent"):
        model.decode(model.prior(1), latent=model.prior(1), label=1)


@pytest.mark.parametrize("sizes", [{"h": 4, "w": 4}, {"h": 1, "w": 1}, {"h": 3, "w": 7}])
def test_codes_of_any_size(opened: Callable[..., Model], sizes: dict[str, int]) -> None:
    model, source = opened("codes"), extended_source("codes")
    image = _data("codes", 3, sizes)
    codes = model.encode(image)
    assert (codes.shape, codes.dtype) == ((3, sizes["h"], sizes["w"]), np.int64)
    assert np.array_equal(codes, _expected(source.encoder, image))
    np.testing.assert_allclose(model.decode(codes), _expected(source.decoder, codes), **CLOSE)  # type: ignore[arg-type]
    assert np.array_equal(model.reconstruct(image), model.decode(codes))
    drawn = model.prior(50, 3, sizes=sizes)
    assert drawn.tobytes() == sample_codes((50, sizes["h"], sizes["w"]), 32, 3).tobytes()
    assert (drawn.dtype, drawn.min() >= 0, drawn.max() <= 31) == (np.int64, True, True)
    assert np.array_equal(model.sample(50, 3, sizes=sizes), model.decode(drawn))


def test_codes_are_held_to_the_codebook(opened: Callable[..., Model]) -> None:
    model = opened("codes")
    codes = model.prior(2)
    codes[1, 2, 3] = 32
    with pytest.raises(ModelError, match=r"tensor 'codes' at \(1, 2, 3\); expected integers in \[0, 31\], got 32"):
        model.decode(codes)
    with pytest.raises(ModelError, match="wrong dtype: tensor 'codes'; expected int64, got float32"):
        model.decode(np.zeros((1, 4, 4), np.float32))
    with pytest.raises(ModelError, match="codes cannot be interpolated"):
        model.interpolate(*_data("codes", 2), steps=3)


def test_sizes_are_checked(opened: Callable[..., Model]) -> None:
    model = opened("maps")
    assert model.prior(2).shape == (2, 2, 3, 2), "usual sizes"
    with pytest.raises(UsageError, match=r"unknown size; expected h \| w, got height"):
        model.prior(1, sizes={"height": 3})
    with pytest.raises(UsageError, match="bad size h; expected an integer from 1 to 64, got 65"):
        model.prior(1, sizes={"h": 65})
    with pytest.raises(ModelError, match=r"size out of bounds: decoder, h; expected 1 to 64, got 65"):
        model.decode(np.zeros((1, 2, 65, 1), np.float32))
    with pytest.raises(ModelError, match=r"wrong shape: tensor 'image'; expected .*4\*h, 4\*w"):
        model.encode(np.zeros((1, 3, 10, 8), np.float32))


@pytest.mark.parametrize("name", ["maps", "two channels", "four channels"])
def test_feature_maps_of_any_size_and_channels(opened: Callable[..., Model], name: str) -> None:
    model, source, sizes = opened(name), extended_source(name), {"h": 5, "w": 1}
    image = _data(name, 2, sizes)
    mean, logvar = model.encode(image)
    expected = _expected(source.encoder, image)
    np.testing.assert_allclose(mean, expected[0], **CLOSE)  # type: ignore[index]
    np.testing.assert_allclose(logvar, expected[1], **CLOSE)  # type: ignore[index]
    decoded = model.decode(mean)
    np.testing.assert_allclose(decoded, _expected(source.decoder, mean), **CLOSE)
    channels = source.contract.data_shape[0]
    assert model.pixels(mean).shape == (2, 20, 4, channels)
    assert model.pixels(mean, "uint8-chw").shape == (2, channels, 20, 4)
    assert model.interpolate(*image, steps=3).shape == (3, channels, 20, 4)
    with pytest.raises(ModelError, match=r"wrong shape: image 'b'; expected \(., 20, 4\), got \(., 20, 3\)"):
        model.interpolate(image[0], image[1][:, :, :3], steps=3)
    np.testing.assert_allclose(model.unscale_latent(model.scale_latent(mean)), mean, **CLOSE)
    np.testing.assert_allclose(model.scale_latent(mean), (mean - 0.25) * 0.5, **CLOSE)


def test_several_latents_go_by_name(opened: Callable[..., Model]) -> None:
    model, source = opened("several"), extended_source("several")
    data = _data("several", 3)
    mean, logvar = model.encode(data)
    expected = _expected(source.encoder, data)
    for number, name in enumerate(("z1", "z2")):
        np.testing.assert_allclose(mean[name], expected[2 * number], **CLOSE)  # type: ignore[index]
        np.testing.assert_allclose(logvar[name], expected[2 * number + 1], **CLOSE)  # type: ignore[index]
    decoded = model.decode(z1=mean["z1"], z2=mean["z2"])
    np.testing.assert_allclose(decoded, _expected(source.decoder, mean["z1"], mean["z2"]), **CLOSE)  # type: ignore[arg-type]
    assert np.array_equal(model.decode(mean), decoded)
    assert np.array_equal(model.reconstruct(data), decoded)
    assert model.interpolate(*data[:2], steps=5).shape == (5, 13)
    with pytest.raises(ModelError, match=r"wrong inputs: decoder; expected \['z1', 'z2'\], got \['z1'\]"):
        model.decode(mean["z1"])
    with pytest.raises(ModelError, match="output cannot be shown; expected images of 1 to 4 channels"):
        model.pixels(mean)


def test_several_latents_share_one_row_of_noise(opened: Callable[..., Model]) -> None:
    model = opened("several")
    rows, drawn = sample((4, 10), 5), model.prior(4, 5)
    assert drawn["z1"].tobytes() == rows[:, :4].tobytes()
    assert drawn["z2"].tobytes() == rows[:, 4:].reshape(4, 2, 3).tobytes()
    later = model.prior(2, 5, start=2)
    assert all(np.array_equal(later[name], drawn[name][2:]) for name in drawn)


def test_unknown_prior_is_not_drawn_from(opened: Callable[..., Model]) -> None:
    for call in (opened("table").prior, opened("table").sample):
        with pytest.raises(ModelError, match=r"prior is not known; .*got given by the user; draw latents"):
            call(1)


@pytest.mark.parametrize("name", ["table", "batch of 3", "batches below 6"])
def test_narrow_batches_give_equal_results(opened: Callable[..., Model], name: str) -> None:
    """Graphs of 3 rows, and of 2 to 5, take any number: pieces are padded, and cut again."""
    assert CONTRACTS[name].spec("decoder").inputs[0].batch == (3 if name == "batch of 3" else BATCH)
    model, source = opened(name), extended_source(name)
    for rows in (1, 2, 3, 4, 5, 6, 7, 11):
        data = _data(name, rows)
        latent = model.encode(data)
        np.testing.assert_allclose(latent, _expected(source.encoder, data), **CLOSE)
        np.testing.assert_allclose(model.decode(latent), _expected(source.decoder, latent), **CLOSE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("name", list(CONTRACTS))
def test_results_do_not_depend_on_the_cut(opened: Callable[..., Model], name: str, batch_size: int) -> None:
    data = _data(name, 7)
    conditions: dict[str, Any] = (
        {"label": np.arange(7), "style": np.zeros((7, 3), np.float32)} if name == "conditional" else {}
    )
    np.testing.assert_allclose(
        opened(name, batch_size=batch_size).reconstruct(data, **conditions),
        opened(name).reconstruct(data, **conditions),
        **CLOSE,
    )


def test_rows_at_a_time_follow_the_size(opened: Callable[..., Model]) -> None:
    model = opened("maps")
    small, large = (model.rows_at_a_time("decoder", {"h": size, "w": size}) for size in (4, 64))
    assert 8 < large < small
    assert opened("batch of 3").rows_at_a_time("decoder") == 3
    assert opened("batches below 6", batch_size=1).rows_at_a_time("decoder") == 2
    assert opened("batches below 6", batch_size=9).rows_at_a_time("decoder") == 5


def test_file_of_other_sizes_is_refused(extended: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(extended("maps") / "export", tmp_path, dirs_exist_ok=True)
    manifest = load(tmp_path).manifest
    other = replace(manifest.contract, data_shape=(3, "8*h", "8*w"))
    write_atomic(tmp_path / MANIFEST, replace(manifest, contract=other, golden=()).text)
    with pytest.raises(ModelError, match=r"outputs .* expected .*8\*h, 8\*w.*, got .*4\*h, 4\*w"):
        load(tmp_path).decode(np.zeros((1, 2, 3, 3), np.float32))


def test_repr_shows_what_callers_must_know(opened: Callable[..., Model]) -> None:
    lines = [repr(opened(name)) for name in ("conditional", "codes", "maps", "batch of 3")]
    assert "label (N) int64 in [0, 9], style (N, 3) in [-1, 1] → image (N, 1, 8, 8) in [0, 1]" in lines[0]
    assert "image (N, 3, 4*h, 4*w) in [0, 1] → codes (N, h, w) int64 in [0, 31]" in lines[1]
    assert "codes encoder; prior uniform; h from 1 to 64, usually 4" in lines[1]
    assert "prior standard normal" in lines[2]
    assert "scaling_factor 0.5, shift_factor 0.25" in lines[2]
    assert "deterministic encoder; prior given by the user; N from 3 to 3" in lines[3]
    assert str(Expression.parse("4 * h")) == "4*h"


@pytest.mark.parametrize("name", list(CONTRACTS))
def test_self_test_runs_the_golden_vectors_of_any_contract(opened: Callable[..., Model], name: str) -> None:
    result = opened(name).self_test()
    result.require()
    assert {comparison.part for comparison in result.outputs} == {"encoder", "decoder"}
    assert result.worst_error < 0.5
    pixels = [comparison for comparison in result.outputs if comparison.grey is not None]
    assert len(pixels) == (CONTRACTS[name].is_image)


def test_tokens_are_encoded_as_integers_of_their_range(opened: Callable[..., Model]) -> None:
    model, source = opened("tokens"), extended_source("tokens")
    tokens = _data("tokens", 7)
    for found, expected in zip(model.encode(tokens), _expected(source.encoder, tokens), strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert model.reconstruct(tokens).shape == model.sample(7).shape == (7, 6, 20)
    assert model.interpolate(tokens[0], tokens[1], steps=3).shape == (3, 6, 20)
    with pytest.raises(ModelError, match=r"wrong dtype: tensor 'data'; expected int64, got int32"):
        model.encode(tokens.astype(np.int32))
    with pytest.raises(ModelError, match=r"out of range: tensor 'data' at \(0, 0\); expected integers in \[0, 19\]"):
        model.encode(tokens + 20)


def test_self_test_counts_wrong_codes(extended: Callable[[str], Path]) -> None:
    folder = extended("codes") / "export"
    model = load(folder)

    def wrong(part: Part, **inputs: Array) -> dict[str, Array]:
        outputs = model.run(part, **inputs)
        if part == "encoder":
            outputs["codes"][1, 2, 3] = (outputs["codes"][1, 2, 3] + 5) % 32
        return outputs

    result = self_test(open_artifact(folder), wrong)
    with pytest.raises(ParityError, match="self-test failed: encoder, 'codes'; expected error of 0 at most, got 1"):
        result.require()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch of 3", "codes"])
def test_verified_export_passes_its_self_test_and_runs_any_batch(name: str, tmp_path: Path) -> None:
    artifact, certificate = export(extended_source(name), tmp_path / "out")
    assert certificate.passed
    model = load(artifact.folder, threads=1)
    model.self_test().require()
    assert len(model.reconstruct(_data(name, 7))) == 7
