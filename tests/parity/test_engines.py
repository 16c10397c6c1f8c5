"""Engines that compute something else, return arrays that cannot be compared, or are unavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.small_exports import Subject, assert_fails, tampered, verified
from vae_export import Certificate, verify
from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.errors import TargetError, UsageError
from vae_export.formats import FORMATS, Runner
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow

Subjects = Callable[..., Subject]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """ONNX Runtime with a fault: `change` gets the outputs and session options of each run."""

    change: Callable[[Outputs, SessionOptions], Outputs]

    def __getattr__(self, name: str) -> Any:
        return getattr(_ONNX, name)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        run = _ONNX.open(content, spec, options)
        return Runner(run.bind, lambda inputs: self.change(run(inputs), options))


_ONNX = FORMATS["onnx"]


def through(
    mlp: Subject,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: Callable[..., Outputs],
    thorough: bool = False,
) -> Certificate:
    """Verify the unchanged decoder with a wrong engine."""
    monkeypatch.setitem(FORMATS, "onnx", Engine(change))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    return verified(artifact, mlp.references, thorough=thorough)


def shifted(outputs: Mapping[str, Any]) -> Outputs:
    return {name: array + np.float32(1e-4) for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("where", "thorough"),
    [
        (SessionOptions(threads=1, optimisation="all"), False),
        (SessionOptions(threads=1, optimisation="disabled"), False),
        (SessionOptions(threads=1, optimisation="basic"), True),
        (SessionOptions(threads=2, optimisation="all"), True),
        (SessionOptions(threads=2, optimisation="extended"), True),
    ],
    ids=str,
)
def test_engine_wrong_with_one_setting_fails_those_rows_only(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: SessionOptions, thorough: bool
) -> None:
    def change(outputs: Outputs, options: SessionOptions) -> Outputs:
        return shifted(outputs) if options == where else outputs

    certificate = through(mlp, monkeypatch, tmp_path, change, thorough=thorough)
    assert_fails(certificate)
    assert {row.options for row in certificate.failures} == {where}


ENGINES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "float64 is given": (lambda image: image.astype(np.float64), "wrong dtype"),
    "float16 is given": (lambda image: image.astype(np.float16), "wrong dtype"),
    "big-endian is given": (lambda image: image.astype(">f4"), "wrong dtype"),
    "pixels are flat": (lambda image: image.reshape(len(image), -1), "wrong shape"),
    "channels are last": (lambda image: np.moveaxis(image, 1, -1), "wrong shape"),
    "an axis is missing": (lambda image: image[:, 0], "wrong shape"),
    "one row broadcasts": (lambda image: image[:1], "wrong shape"),
    "a row is missing": (lambda image: image[:-1], "wrong shape"),
    "a row too many": (lambda image: np.concatenate([image, image[:1]]), "wrong shape"),
    "a list is given": (lambda image: image.tolist(), "not an array"),
    "nothing is given": (lambda _: None, "not an array"),
    "one pixel is NaN": (lambda image: np.where(np.arange(16) == 3, np.float32(np.nan), image), "not finite"),
    "one pixel is infinite": (lambda image: np.where(np.arange(16) == 3, np.float32(np.inf), image), "not finite"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_engine_output_that_cannot_be_compared_fails(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    change, fault = ENGINES[name]
    certificate = through(mlp, monkeypatch, tmp_path, lambda outputs, _: {"image": change(outputs["image"])})
    assert_fails(certificate)
    assert any(fault in (row.comparison.fault or "") for row in certificate.failures)
    certificate.write(tmp_path / "certificate.json")


@pytest.mark.parametrize("outputs", [{}, {"images": 0}, {"image": 0, "more": 0}], ids=str)
def test_engine_with_other_outputs_fails_every_row(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outputs: Outputs
) -> None:
    certificate = through(mlp, monkeypatch, tmp_path, lambda *_: outputs)
    assert_fails(certificate)
    assert all((row.comparison.fault or "").startswith("wrong outputs") for row in certificate.results)


def test_engine_error_in_one_batch_size_fails_those_rows_only(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change(outputs: Outputs, _: SessionOptions) -> Outputs:
        if len(outputs["image"]) == 7:
            raise RuntimeError("no memory\nfor seven")
        return outputs

    certificate = through(mlp, monkeypatch, tmp_path, change)
    assert_fails(certificate)
    assert {row.batch for row in certificate.failures} == {7}
    assert certificate.failures[0].reason == "cannot run: RuntimeError: no memory for seven"


def test_other_bits_in_a_second_run_fail_within_the_tolerance_too(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def jitter(scale: float) -> Callable[[Outputs, SessionOptions], Outputs]:
        def change(outputs: Outputs, _: SessionOptions) -> Outputs:
            image = outputs["image"]
            return {"image": (image * (1 + scale * rng.uniform(-1, 1, image.shape))).astype(np.float32)}

        return change

    certificate = through(mlp, monkeypatch, tmp_path, jitter(1e-7))
    assert_fails(certificate)
    assert not certificate.failures
    assert [finding.rule for finding in certificate.errors] == ["not-deterministic"]
    assert [(item.same_session, item.fresh_session) for item in certificate.determinism] == [(False, False)]
    assert_fails(through(mlp, monkeypatch, tmp_path, jitter(1e-4)))


def test_unavailable_target_is_refused(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    for provider, error in (("CUDAExecutionProvider", TargetError), ("NoSuchProvider", TargetError)):
        with pytest.raises(error, match=f"provider (not found|is not usable): {provider}"):
            verify(artifact, mlp.references, targets=[f"onnx/{provider}"])
    with pytest.raises(UsageError, match="no file for this target"):
        verify(artifact, mlp.references, targets=["pt2/cpu"])
