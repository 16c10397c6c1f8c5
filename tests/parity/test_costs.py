"""What a file costs in nats and pixels: said aloud, and held against a budget, whichever file makes the images."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest

from tests.parity.subject import Subject
from vae_export import export
from vae_export.contract import Array, TensorSpec
from vae_export.errors import ModelError, ParityError
from vae_export.formats import Bound, Runner
from vae_export.parity import Budget, Drift
from vae_export.parity.drift import COSTLY_LEVELS, COSTLY_NATS, pixels
from vae_export.parity.reference import Reference

TARGET = "onnx+int4-weights/CPUExecutionProvider"


def test_an_autoencoder_is_held_against_the_budget(mlp: Subject, tmp_path: Path) -> None:
    out = tmp_path / "export"
    with pytest.raises(
        ParityError, match=rf"budget is missed; got autoencoder on {TARGET.replace('+', '.')}: .* nats, 0 "
    ):
        export(mlp.source, out, parts=["autoencoder"], precisions=["int4-weights"], budget=Budget(max_nats=0))
    with pytest.raises(ParityError, match=r"autoencoder on .*: \d+ grey levels, 0 allowed"):
        export(mlp.source, out, parts=["autoencoder"], precisions=["int4-weights"], budget=Budget(max_grey_levels=0))
    assert not list(tmp_path.iterdir())


def test_one_file_costs_as_many_nats_as_its_two_halves(mlp: Subject, tmp_path: Path) -> None:
    _, certificate = export(mlp.source, tmp_path / "export", precisions=["int4-weights"])
    halves, whole = certificate.drifts
    assert (halves.part, whole.part) == ("decoder", "autoencoder")
    assert halves.nats is not None
    assert whole.nats == pytest.approx(halves.nats, rel=1e-4)


def test_what_has_no_decoder_beside_it_is_named_where_there_is_a_budget(mlp: Subject, tmp_path: Path) -> None:
    parts, budget = ("encoder", "autoencoder"), Budget(max_grey_levels=255)
    _, certificate = export(mlp.source, tmp_path / "export", parts=parts, pixels=["uint8-hwc"], budget=budget)
    for part in ("encoder", "decoder-uint8-hwc"):
        assert f"{part} on onnx/CPUExecutionProvider: no decoder to hold it against the budget with" in certificate.gaps


@pytest.mark.parametrize("images", [np.full((2, 1, 4, 4), np.nan, np.float32), np.zeros((1, 1, 4, 4), np.float32)])
def test_images_that_do_not_keep_the_contract_cost_no_number(images: Array) -> None:
    """All black, one image broadcast over two would be as good as exact."""
    exact = np.zeros((2, 1, 4, 4))
    case = Reference("data", 2, {}, {"image": exact}, {"image": exact}, {})
    runner = Runner(lambda _: contextlib.nullcontext(Bound(lambda: images, lambda given: {"image": given})))
    with pytest.raises(ModelError, match=r"not finite|wrong shape"):
        pixels(runner, TensorSpec("image", (1, 4, 4), 0, 1), [case])


def test_a_high_cost_is_reported_and_found_and_no_failure(mlp: Subject, tmp_path: Path) -> None:
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
def test_what_is_costly_is_said_with_its_limit(figures: dict[str, float], said: str | None) -> None:
    assert Drift(TARGET, **figures).costly == said  # type: ignore[arg-type]
