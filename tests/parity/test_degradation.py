"""Degradation in nats and pixels is reported and checked against the budget for every part that makes images."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.parity.small_exports import Subject
from vae_export import export
from vae_export.contract import Array, Part
from vae_export.errors import ModelError, ParityError, UsageError
from vae_export.formats import BoundCall, Runner
from vae_export.parity import Budget, Degradation
from vae_export.parity.cases import Case
from vae_export.parity.degradation import (
    COSTLY_LEVELS,
    COSTLY_NATS,
    costly_nats,
    nats_interval,
    nats_of_bits,
    pixel_degradation,
)
from vae_export.tensors import TensorSpec

pytestmark = pytest.mark.slow

TARGET = "onnx+int4-weights/CPUExecutionProvider"


def test_autoencoder_that_misses_the_budget_is_refused(mlp: Subject, tmp_path: Path) -> None:
    out = tmp_path / "export"
    with pytest.raises(
        ParityError, match=rf"budget is missed; got autoencoder on {TARGET.replace('+', '.')}: .* nats, 0 "
    ):
        export(mlp.source, out, parts=["autoencoder"], precisions=["int4-weights"], budget=Budget(max_nats=0))
    with pytest.raises(ParityError, match=r"autoencoder on .*: \d+ grey levels, 0 allowed"):
        export(mlp.source, out, parts=["autoencoder"], precisions=["int4-weights"], budget=Budget(max_grey_levels=0))
    assert not list(tmp_path.iterdir())


def test_autoencoder_costs_as_many_nats_as_encoder_and_decoder(mlp: Subject, tmp_path: Path) -> None:
    _, certificate = export(mlp.source, tmp_path / "export", precisions=["int4-weights"])
    halves, whole = certificate.degradations
    assert (halves.part, whole.part) == ("decoder", "autoencoder")
    assert halves.nats is not None
    assert whole.nats == pytest.approx(halves.nats, rel=1e-4)


def test_part_without_a_decoder_is_listed_as_a_budget_gap(mlp: Subject, tmp_path: Path) -> None:
    parts: list[Part] = ["encoder", "autoencoder"]
    budget = Budget(max_grey_levels=255)
    _, certificate = export(mlp.source, tmp_path / "export", parts=parts, pixels=["uint8-hwc"], budget=budget)
    for part in ("encoder", "decoder-uint8-hwc"):
        assert f"{part} on onnx/CPUExecutionProvider: no decoder to hold it against the budget with" in certificate.gaps


@pytest.mark.parametrize("images", [np.full((2, 1, 4, 4), np.nan, np.float32), np.zeros((1, 1, 4, 4), np.float32)])
def test_images_unlike_the_contract_are_refused(images: Array) -> None:
    """One black image broadcast over two would look exact."""
    exact = np.zeros((2, 1, 4, 4))
    case = Case("data", 2, {}, {"image": exact}, {"image": exact}, {})
    runner = Runner(lambda _: contextlib.nullcontext(BoundCall(lambda: images, lambda given: {"image": given})))
    with pytest.raises(ModelError, match=r"not finite|wrong shape"):
        pixel_degradation(runner, TensorSpec("image", (1, 4, 4), 0, 1), [case])


def test_high_degradation_is_a_warning_not_a_failure(mlp: Subject, tmp_path: Path) -> None:
    told: list[str] = []
    _, certificate = export(mlp.source, tmp_path / "export", precisions=["int4-weights"], report=told.append)
    assert certificate.passed
    found = [finding for finding in certificate.findings if finding.rule == "costly"]
    assert [finding.where for finding in found] == [f"decoder on {TARGET}", f"autoencoder on {TARGET}"]
    assert [line for line in told if line.startswith("warning: costly: ")] == [finding.line() for finding in found]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, None),
        ({"nats": COSTLY_NATS, "mean_levels": COSTLY_LEVELS, "nats_high": 9.0}, None),
        ({"nats": -3.0, "worst_levels": 99}, None),
        ({"nats": 2.196}, "2.2 nats an image on average, above 0.1"),
        ({"mean_levels": 2.021}, "2.02 grey levels a pixel on average, above 1"),
        ({"nats": math.nan}, "nan nats an image on average, above 0.1"),
    ],
)
def test_costly_degradation_is_stated_with_its_limit(figures: dict[str, float], said: str | None) -> None:
    assert Degradation(TARGET, **figures).costly() == said  # type: ignore[arg-type]


def test_large_images_may_lose_as_many_bits_per_dimension_as_small_ones() -> None:
    photo = costly_nats(3 * 64 * 64)
    assert photo == pytest.approx(0.1 * 3 * 64 * 64 / 784)
    assert nats_of_bits(1.0, 784) == pytest.approx(784 * math.log(2))
    lost = Degradation(TARGET, nats=1.0)
    assert lost.costly(costly_nats(28 * 28)) == "1 nats an image on average, above 0.1"
    assert lost.costly(photo) is None


def test_export_that_misses_its_budget_is_not_published(mlp: Subject, tmp_path: Path) -> None:
    out = tmp_path / "export"
    with pytest.raises(ParityError, match=r"budget is missed.*onnx\+int4-weights.* grey levels, 1 allowed"):
        export(mlp.source, out, precisions=["int4-weights"], budget=Budget(max_grey_levels=1))
    with pytest.raises(ParityError, match=r"budget is missed.* nats, 0 allowed"):
        export(mlp.source, out, precisions=["int4-weights"], budget=Budget(max_nats=0))
    assert not list(tmp_path.iterdir())
    _, certificate = export(mlp.source, out, budget=Budget(max_grey_levels=1, max_nats=0.01))
    held = [(degradation.part, degradation.target) for degradation in certificate.degradations]
    assert held == [("decoder", "onnx/CPUExecutionProvider"), ("autoencoder", "onnx/CPUExecutionProvider")]


def test_nats_budget_fails_if_nats_cannot_be_measured(mlp: Subject, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="not measured nats"):
        export(mlp.source, tmp_path / "export", parts=["decoder"], budget=Budget(max_nats=10))


def test_more_images_narrow_the_interval_of_nats(mlp: Subject, tmp_path: Path) -> None:
    """Rows compare the nats of 64 images: too few for the interval of a good file to stay within a tight budget."""
    images = np.random.default_rng(0).uniform(0, 1, (256, *mlp.source.contract.image_shape)).astype(np.float32)
    widths = []
    for count in (64, 256):
        source, out = replace(mlp.source, images=images[:count]), tmp_path / str(count)
        _, certificate = export(source, out, parts=["encoder", "decoder"], precisions=["int8"])
        [degradation] = certificate.degradations
        assert degradation.nats_high is not None
        assert degradation.nats_low is not None
        widths.append(degradation.nats_high - degradation.nats_low)
    assert widths[1] < 0.75 * widths[0]


def test_nats_budget_needs_more_than_one_image(mlp: Subject, tmp_path: Path) -> None:
    """One image, however often it is repeated, says nothing about the spread, and noise says nothing about images."""
    assert mlp.source.images is not None
    one = replace(mlp.source, images=mlp.source.images[:1])
    with pytest.raises(ParityError, match="inf nats, 10 allowed"):
        export(one, tmp_path / "export", budget=Budget(max_nats=10))
    with pytest.raises(ParityError, match="not measured nats"):
        export(replace(mlp.source, images=None), tmp_path / "export", budget=Budget(max_nats=10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_negative_or_infinite_budget_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="bad max-nats"):
        Budget(max_nats=value)


def test_nats_interval_is_the_confidence_interval_of_the_mean() -> None:
    found = nats_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found["nats"] == 2.5
    assert found["nats_high"] - found["nats"] == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)
    assert nats_interval(np.array([1.0]))["nats_high"] == np.inf  # one image says nothing about the spread
