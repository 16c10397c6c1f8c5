"""Wrong TorchScript and `.pt2` files are caught, as wrong ONNX files are."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.parity.small_exports import Subject, assert_fails, checkpoint, tampered, verified
from vae_export import Source
from vae_export.capture import capture
from vae_export.formats import FORMATS, WriteOptions

pytestmark = pytest.mark.slow

PROGRAMS = ("torchscript", "pt2")
programs = pytest.mark.parametrize("format", PROGRAMS)


def fresh(mlp: Subject) -> Source:
    """Return a source of modules of its own: a graph has the weights of its source, and is changed here."""
    return Source(mlp.source.contract, *copy.deepcopy((mlp.source.encoder, mlp.source.decoder)))


def onnx_data(mlp: Subject, format: str, change: Callable[[torch.nn.Module], object]) -> bytes:
    """Return the decoder in a format, changed before it is written."""
    graph = capture(fresh(mlp), "decoder")
    with torch.no_grad():
        change(graph.module)
    return FORMATS[format].write(graph, WriteOptions()).data


def nudge(module: torch.nn.Module) -> None:
    weight = module.get_parameter("decoder.body.2.weight")
    weight.mul_(1 + 1e-5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


CHANGES: dict[str, Callable[[torch.nn.Module], object]] = {
    "noise of 1e-5 on a layer": nudge,
    "a bias is zeros": lambda module: module.get_parameter("decoder.body.0.bias").zero_(),
    "weights are float16": lambda module: module.half().float(),
    "another model's weights": lambda module: module.decoder.load_state_dict(
        {
            name.removeprefix("decoder."): weight
            for name, weight in checkpoint("mlp", 1).weights.items()
            if name.startswith("decoder.")
        }
    ),
}


@programs
@pytest.mark.parametrize("change", CHANGES)
def test_program_with_wrong_weights_fails(mlp: Subject, format: str, change: str, tmp_path: Path) -> None:
    data = onnx_data(mlp, format, CHANGES[change])
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): data}), mlp.references)
    assert_fails(certificate)
    assert not certificate.errors
    assert {(row.output, row.comparison.fault) for row in certificate.failures} == {("image", None)}


@programs
def test_program_with_nan_weights_fails(mlp: Subject, format: str, tmp_path: Path) -> None:
    data = onnx_data(mlp, format, lambda module: module.get_parameter("decoder.body.2.weight").fill_(torch.nan))
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): data}), mlp.references)
    assert_fails(certificate)
    assert all("not finite" in (row.comparison.fault or "") for row in certificate.results)


@programs
def test_program_with_dropout_in_training_mode_fails(mlp: Subject, format: str, tmp_path: Path) -> None:
    decoder = torch.nn.Sequential(capture(mlp.source, "decoder").module, torch.nn.Dropout(0.2)).train()
    example = capture(mlp.source, "decoder").example
    buffer = io.BytesIO()
    if format == "pt2":
        torch.export.save(torch.export.export(decoder, example, dynamic_shapes=({0: torch.export.Dim("N")},)), buffer)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.save(torch.jit.trace(decoder, example, check_trace=False), buffer)
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): buffer.getvalue()}), mlp.references)
    assert_fails(certificate)
    assert "random-operator" in {finding.rule for finding in certificate.errors}


@programs
def test_encoder_program_in_place_of_the_decoder_fails(mlp: Subject, format: str, tmp_path: Path) -> None:
    certificate = verified(
        tampered(mlp, tmp_path / "e", {("decoder", format): mlp.data("encoder", format)}), mlp.source
    )
    assert_fails(certificate)
    assert all((row.comparison.fault or "").startswith("cannot run") for row in certificate.results)


def test_program_that_counts_its_calls_fails(mlp: Subject, tmp_path: Path) -> None:
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = capture(mlp.source, "decoder").module
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return self.decoder(latent) * (1 + 1e-9 * self.calls)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.trace(Counts(), capture(mlp.source, "decoder").example, check_trace=False), buffer)
    certificate = verified(
        tampered(mlp, tmp_path / "e", {("decoder", "torchscript"): buffer.getvalue()}), mlp.references
    )
    assert_fails(certificate)
    assert "hidden-state" in {finding.rule for finding in certificate.errors}
