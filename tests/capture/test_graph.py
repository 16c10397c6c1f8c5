"""Capturing copies the modules of a source, and refuses those that do not keep the contract."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import sample_models
from vae_export import Contract, Source
from vae_export.capture import Captured, capture
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.models import VAE, VAEConfig

CONTRACT = Contract((1, 2, 2), (3,))


def decoder(function: Callable[[Tensor], object]) -> Source:
    return Source(CONTRACT, decoder=sample_models.Lambda(function))


def encoder(function: Callable[[Tensor], object]) -> Source:
    return Source(CONTRACT, encoder=sample_models.Lambda(function))


def image(latent: Tensor) -> Tensor:
    return latent.new_zeros(latent.shape[0], 1, 2, 2)


def heads(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.new_zeros(image.shape[0], 3), image.new_zeros(image.shape[0], 3)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (decoder(lambda _z: None), "not a tensor: decoder, output 'image'; got NoneType"),
        (decoder(lambda z: (image(z), image(z))), "outputs of the decoder are not clear; expected image 1 x 2 x 2"),
        (decoder(lambda _z: ()), "wrong number of outputs"),
        (
            decoder(lambda z: z),
            r"does not keep the contract: .*; expected float32 \(2, 1, 2, 2\), got float32 \(2, 3\)",
        ),
        (decoder(lambda z: image(z)[:1]), r"got float32 \(1, 1, 2, 2\)"),
        (decoder(lambda z: image(z).half()), r"got float16 \(2, 1, 2, 2\)"),
        (decoder(lambda z: z @ torch.zeros(7, 7)), "module cannot be run: decoder; got RuntimeError"),
        (decoder(lambda _z: 1 / 0), "module cannot be run: decoder; got ZeroDivisionError"),
        (encoder(lambda _x: None), "encoder gives no tensor; expected mean 3, logvar 3, got NoneType"),
        (encoder(lambda x: heads(x)[0]), r"outputs of the encoder are not clear; .*got tensor \(3, 3\)"),
        (encoder(lambda x: {"a": heads(x)[0], "b": heads(x)[1]}), "outputs of the encoder are not clear"),
        (encoder(lambda x: (heads(x)[0], None)), "outputs of the encoder are not clear"),
    ],
)
def test_outputs_unlike_the_contract_are_refused(source: Source, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        capture(source, source.parts[0])
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_capture_keeps_mode_and_gradients_of_the_modules() -> None:
    model = VAE(VAEConfig("blog", (1, 2, 2), 3, 4)).train()
    source = Source(CONTRACT, model.encoder, model.decoder)
    for part in source.parts:
        graph = capture(source, part)
        assert not any(module.training for module in graph.module.modules())
        assert not any(parameter.requires_grad for parameter in graph.module.parameters())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_capture_keeps_dtype_of_the_modules() -> None:
    linear = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2))).double()
    graph = capture(Source(CONTRACT, decoder=linear), "decoder")
    assert {parameter.dtype for parameter in graph.module.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in linear.parameters()} == {torch.float64}


class AlwaysTraining(nn.Module):
    """Stays in training mode whatever it is told."""

    def train(self, mode: bool = True) -> AlwaysTraining:
        del mode
        self.training = True
        return self

    def forward(self, latent: Tensor) -> Tensor:
        return image(latent)


def test_module_that_stays_in_training_mode_is_refused() -> None:
    inner = AlwaysTraining()
    inner.train()
    with pytest.raises(ModelError, match=r"module is in training mode: decoder; got decoder\.0"):
        capture(Source(CONTRACT, decoder=nn.Sequential(inner)), "decoder")


def test_module_that_cannot_be_captured_is_refused() -> None:
    def by_value(latent: Tensor) -> Tensor:
        return image(latent) + 1 if latent.sum() > 0 else image(latent)

    with pytest.raises(
        ModelError, match=r"module cannot be captured: decoder, test_graph\.py, line .*torch\.where"
    ) as caught:
        _ = capture(decoder(by_value), "decoder").program
    assert "\n" not in str(caught.value)


def test_module_with_a_fixed_batch_is_refused() -> None:
    with pytest.raises(ModelError, match="module cannot be captured: decoder"):
        _ = capture(decoder(lambda z: z.new_zeros(2, 1, 2, 2) + z.sum(1)[:, None, None, None]), "decoder").program


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"encoder": nn.Identity()}, ("encoder",)),
        ({"decoder": nn.Identity()}, ("decoder",)),
        ({"encoder": nn.Identity(), "decoder": nn.Identity()}, ("encoder", "decoder", "autoencoder")),
    ],
)
def test_parts_follow_from_the_modules(given: dict[str, nn.Module], parts: tuple[str, ...]) -> None:
    source = Source(CONTRACT, **given)  # type: ignore[arg-type]
    assert source.parts == parts
    for part in {"encoder", "decoder", "autoencoder"} - set(parts):
        with pytest.raises(ModelError, match=f"part cannot be made: {part}; expected"):
            capture(source, part)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nothing to export"),
        ({"images": np.zeros((2, 1, 3, 3), np.float32)}, "wrong shape: tensor 'image'"),
        ({"images": np.zeros((2, 1, 2, 2), np.uint8)}, "wrong dtype: tensor 'image'"),
        ({"images": np.full((2, 1, 2, 2), np.nan, np.float32)}, "not finite"),
        ({"images": np.zeros((0, 1, 2, 2), np.float32)}, "empty batch"),
        ({"provenance": {"loss": float("nan")}}, "provenance is not JSON"),
        ({"provenance": {"path": object()}}, "provenance is not JSON"),
        ({"provenance": {"a": 1, 2: "b"}}, "provenance is not JSON"),
    ],
)
def test_invalid_source_is_refused(arguments: dict[str, object], said: str) -> None:
    modules = {} if not arguments else {"decoder": nn.Identity()}
    with pytest.raises(ModelError, match=said):
        Source(CONTRACT, **modules, **arguments)  # type: ignore[arg-type]


def test_module_that_onnx_cannot_express_is_refused() -> None:
    """The ONNX exporter says so on a page of its own."""
    triangle = sample_models.Lambda(lambda z: torch.linalg.qr(z).R.reshape(-1, 1, 2, 2))
    graph = capture(Source(Contract((1, 2, 2), (2, 2)), decoder=triangle), "decoder")
    with pytest.raises(
        ModelError, match="module cannot be written as ONNX: decoder; got DispatchError: No ONNX function"
    ) as caught:
        FORMATS["onnx"].write(graph, WriteOptions())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_capture_that_takes_too_long_is_refused() -> None:
    def slow(z: torch.Tensor) -> torch.Tensor:
        time.sleep(10)
        return image(z)

    captured = Captured(decoder(slow))
    captured.seconds = 0.2
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"capturing takes too long: decoder; expected 0\.2 s at most; pass a longer"):
        _ = captured.contract
    assert time.monotonic() - started < 5
