"""The golden vectors find an engine that computes something else, and nothing but that."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Exported
from tests.sample_models import FOREIGN_CONTRACT
from vae_export import load
from vae_export.artifact.golden import DTYPES, GoldenArray, GoldenPart, compare_golden
from vae_export.contract import Array, Part
from vae_export.errors import ModelError, ParityError
from vae_export.rng import sample
from vae_export.runtime.self_test import SelfTest, self_test
from vae_export.tensors import TensorSpec

IMAGE = TensorSpec("image", (1, 2, 2), 0.0, 1.0)
BAND = 1e-6


def golden(exact: Array, band: float | None = BAND) -> GoldenArray:
    return GoldenArray("image", "golden/image.f32", exact.shape, "0" * 64, band)


@pytest.mark.parametrize("name", ["mlp", "blog", "conv", "foreign"])
def test_this_machine_passes(exported: object, name: str) -> None:
    export: Exported = exported(name)  # type: ignore[operator]
    result = load(export.folder).self_test()
    result.require()
    assert result.passed
    assert result.worst_error <= 1
    *rows, verdict = str(result).splitlines()
    assert (len(rows), verdict) == (7, "self-test passed")
    outputs = [(comparison.part, comparison.output) for comparison in result.outputs]
    assert len(outputs) == len(set(outputs)) == 7
    pictures = [comparison for comparison in result.outputs if comparison.grey is not None]
    assert {comparison.output for comparison in pictures} == {"image", "reconstruction"}
    assert sum(comparison.grey.unexplained for comparison in pictures) == 0


def test_golden_rows_are_those_of_the_specification(mlp: Exported) -> None:
    [latent] = next(part for part in mlp.artifact.manifest.golden if part.part == "decoder").inputs
    rows = latent.array(mlp.artifact.read(latent))
    assert rows.shape == (16, 4)
    assert not rows[0].any()
    assert rows[1].tolist() == [6, -6, 6, -6]
    assert rows[2:].tobytes() == sample((14, 4), 0).tobytes()
    autoencoder = next(part for part in mlp.artifact.manifest.golden if part.part == "autoencoder")
    image, noise = (item.array(mlp.artifact.read(item)) for item in autoencoder.inputs)
    assert noise.tobytes() == sample((16, 4), 1).tobytes()
    assert np.array_equal(np.round(image * 255) / np.float32(255), image), "256 levels, as an application has them"


@pytest.mark.slow
def test_golden_images_lie_in_the_contracts_range(exported: object) -> None:
    export: Exported = exported("foreign")  # type: ignore[operator]
    [image] = next(part for part in export.artifact.manifest.golden if part.part == "encoder").inputs
    values = image.array(export.artifact.read(image))
    assert values.shape[1:] == FOREIGN_CONTRACT.image_shape
    assert values.min() < -0.5
    assert values.min() >= -1
    assert values.max() <= 1


@pytest.mark.parametrize("factor", [1 + 1e-3, 1 - 1e-4, -1.0, math.nan, math.inf])
def test_self_test_detects_wrong_engine(mlp: Exported, factor: float) -> None:
    model = load(mlp.folder)

    def wrong(part: Part, **inputs: Array) -> dict[str, Array]:
        outputs = model.run(part, **inputs)
        return outputs | ({"image": outputs["image"] * np.float32(factor)} if part == "decoder" else {})

    result = self_test(mlp.artifact, wrong)
    assert not result.passed
    with pytest.raises(ParityError, match="self-test failed: decoder, 'image'; expected error of") as caught:
        result.require()
    assert caught.value.exit_code == 5
    assert [comparison.part for comparison in result.outputs if not comparison.passed] == ["decoder"]


def test_empty_self_test_does_not_pass() -> None:
    assert not SelfTest(()).passed
    with pytest.raises(ParityError, match="nothing was tested"):
        SelfTest(()).require()


def test_export_without_golden_vectors_is_named(mlp: Exported) -> None:
    bare = replace(mlp.artifact, manifest=replace(mlp.artifact.manifest, golden=()))
    with pytest.raises(ModelError, match="export has no golden vectors"):
        self_test(bare, load(mlp.folder).run)


@given(st.floats(0, 1, width=32), st.floats(-2, 2))
def test_self_test_passes_within_tolerance_only(value: float, share: float) -> None:
    exact = np.full((3, 1, 2, 2), value, np.float32)
    got = exact.astype(np.float64)
    got[1, 0, 1, 0] += share * BAND
    comparison = compare_golden("decoder", IMAGE, got, golden(exact), exact)
    assert comparison.error == pytest.approx(abs(share) * BAND, abs=1e-12)
    if abs(share) < 0.999:
        assert comparison.passed
    if abs(share) > 1.001:
        assert not comparison.passed


def test_only_boundary_pixels_are_explained() -> None:
    boundary = 100.5 / 255
    exact = np.array([[[[boundary - 1e-7, 0.5], [0.5, 0.5]]]])
    got = exact.copy()
    got[0, 0, 0, 0] = boundary + 1e-7
    explained = compare_golden("decoder", IMAGE, got, golden(exact), exact)
    assert (explained.grey.differing, explained.grey.unexplained, explained.passed) == (1, 0, True)  # type: ignore[union-attr]
    strict = compare_golden("decoder", IMAGE, got, golden(exact, 1e-8), exact)
    assert (strict.grey.differing, strict.grey.unexplained, strict.passed) == (1, 1, False)  # type: ignore[union-attr]


def test_grey_levels_are_for_images_only() -> None:
    exact = np.zeros((2, 3), np.float32)
    comparison = compare_golden("encoder", TensorSpec("mean", (3,)), exact, golden(exact), exact)
    assert (comparison.grey, comparison.error, comparison.passed) == (None, 0.0, True)


def test_golden_array_round_trips() -> None:
    array = golden(np.zeros((2, 3), np.float32))
    assert GoldenArray.from_json(array.to_json(), output=True) == array
    part = GoldenPart("decoder", (replace(array, tolerance=None),), (array,))
    assert GoldenPart.from_json(part.to_json()) == part
    assert array.size == 24
    assert array.array(np.arange(6, dtype=DTYPES["float32"]).tobytes()).tolist() == [[0, 1, 2], [3, 4, 5]]
