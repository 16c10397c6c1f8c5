"""Configs, weights and examples that do not fit together are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests import sample_models
from tests.models.conftest import SMALL
from vae_export import Checkpoint, load_checkpoint
from vae_export.errors import CheckpointError, InputError
from vae_export.io.hashed_safetensors import canonical_json, content_digest
from vae_export.models import VAEConfig
from vae_export.models.checkpoint import FORMAT


def written(path: Path, checkpoint: Checkpoint, **changes: Any) -> Path:
    """A file with the right hash over content that `save_checkpoint` would never write."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.weights.items()}
    tensors["examples"] = checkpoint.examples
    tensors = {name: tensor for name, tensor in (tensors | changes.pop("tensors", {})).items() if tensor is not None}
    header: dict[str, Any] = {"format": FORMAT, "config": checkpoint.config.to_json(), "provenance": {}} | changes
    header = {key: value for key, value in header.items() if value is not None}
    header["sha256"] = content_digest(header, {name: t for name, t in tensors.items() if t.dtype != torch.bfloat16})
    path.write_bytes(save(tensors, metadata={"vae_export": canonical_json(header)}))
    return path


def test_config_that_claims_gigabytes_allocates_none(tmp_path: Path, small: Checkpoint) -> None:
    for size in (10**6, 10**9, 10**12, 10**30):
        config = small.config.to_json() | {"hidden_size": size}
        with pytest.raises(
            CheckpointError, match="weights do not match the config|network cannot be built from the config"
        ):
            load_checkpoint(written(tmp_path / "file", small, config=config))


NAME = "decoder.body.0.weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "vae-export-checkpoint/2"}, f"another version: .*; expected {FORMAT}, got vae-export-checkpoint/2"),
        ({"format": None}, "another version"),
        ({"config": None}, "checkpoint is incomplete"),
        ({"config": [1]}, "checkpoint is incomplete"),
        ({"provenance": None}, "checkpoint is incomplete"),
        ({"provenance": "mine"}, "checkpoint is incomplete"),
        ({"config": {"family": "mlp"}}, "config does not fit; expected .*'latent_size'.*, got"),
        ({"config": VAEConfig("mlp", SMALL, 9, sample_models.HIDDEN).to_json()}, "has shape .*, not"),
        (
            {"config": VAEConfig("conv", SMALL, sample_models.LATENT, sample_models.HIDDEN).to_json()},
            "missing .*, unknown ",
        ),
        ({"tensors": {"examples": None}}, "checkpoint is incomplete"),
        ({"tensors": {f"model.{NAME}": None}}, f"missing {NAME}"),
        ({"tensors": {"model.more": torch.zeros(1)}}, "unknown more"),
        ({"tensors": {"more": torch.zeros(1)}}, "unknown more"),
        ({"tensors": {f"model.{NAME}": torch.zeros(3)}}, rf"{NAME} has shape \(3,\), not \(16, 4\)"),
        ({"tensors": {f"model.{NAME}": torch.zeros(16, 4, dtype=torch.float64)}}, "float64, not torch.float32 or"),
        ({"tensors": {f"model.{NAME}": torch.zeros(16, 4, dtype=torch.bfloat16)}}, "bfloat16, not torch.float32 or"),
        ({"tensors": {f"model.{NAME}": torch.full((16, 4), torch.nan)}}, f"{NAME} holds numbers that are not finite"),
        ({"tensors": {f"model.{NAME}": torch.full((16, 4), torch.inf)}}, "not finite"),
        ({"tensors": {"examples": torch.zeros(2, 1, 5, 4, dtype=torch.uint8)}}, "examples do not fit"),
        ({"tensors": {"examples": torch.zeros(2, *SMALL)}}, "examples do not fit"),
        ({"tensors": {"examples": torch.zeros((), dtype=torch.uint8)}}, "examples do not fit"),
    ],
)
def test_misfit_is_named(tmp_path: Path, small: Checkpoint, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_checkpoint(written(tmp_path / "file", small, **changes))
    assert caught.value.exit_code == 3


def test_every_key_that_does_not_fit_is_listed(small: Checkpoint) -> None:
    weights = dict(small.weights)
    del weights["decoder.body.0.bias"], weights["encoder.mean.bias"]
    weights |= {"extra": torch.zeros(1), NAME: torch.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(small.config, weights, small.examples)
    for problem in ("missing decoder.body.0.bias", "missing encoder.mean.bias", "unknown extra", f"{NAME} has shape"):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda plain: plain.to_sparse(),
        lambda plain: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        lambda plain: plain.half(),
        lambda plain: plain.to(torch.complex64),
    ],
    ids=["sparse", "quantised", "half", "complex"],
)
@pytest.mark.filterwarnings("ignore:.*quantized tensor:UserWarning")  # deprecated, and so met in old files alone
def test_weights_that_are_not_dense_float32_are_not_written(
    small: Checkpoint, make: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with pytest.raises(CheckpointError, match=f"{NAME} is .*, not dense float32"):
        Checkpoint(small.config, {**small.weights, NAME: make(torch.zeros(16, 4))}, small.examples)
