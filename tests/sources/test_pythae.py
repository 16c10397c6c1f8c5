"""Models that pythae saved become sources; its pickles are never run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vae_export.errors import ModelError
from vae_export.sources import load_source
from vae_export.system.torchvision_operators import import_torchvision

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_torchvision()
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseEncoder

SHAPE = {"input_dim": (1, 6, 6), "latent_dim": 4}
NORMAL, GIVEN = "standard normal", "given by the user"
#: Encoding and prior.
KINDS: dict[str, tuple[str, str]] = {
    "VAE": ("gaussian", NORMAL),
    "BetaVAE": ("gaussian", NORMAL),
    "VAMP": ("gaussian", GIVEN),
    "RHVAE": ("gaussian", GIVEN),
    "VAE_IAF": ("gaussian", GIVEN),
    "AE": ("deterministic", GIVEN),
    "WAE_MMD": ("deterministic", NORMAL),
    "SVAE": ("deterministic", GIVEN),
    "VQVAE": ("codes", "uniform"),
}


def saved(name: str, folder: Path, **arguments: Any) -> Any:
    """Save a model with random weights, and return it."""
    settings = getattr(models, f"{name}_Config", None) or getattr(models, f"{name}Config")
    extra = {"num_embeddings": 8} if name == "VQVAE" else {"number_components": 5} if name == "VAMP" else {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(models, name)(settings(**SHAPE, **extra), **arguments)
        model.save(str(folder))
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_encoder_decoder_and_prior_of_each_kind(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    source = load_source(f"pythae:{tmp_path}")
    encoding, prior = KINDS[name]
    assert (source.contract.encoding, source.contract.prior) == (encoding, prior)
    assert source.contract.data_range == (0.0, 1.0)
    assert source.provenance["class"] == name
    assert ("autoencoder" in source.parts) == (name != "VAE_IAF")
    data = torch.rand(3, 1, 6, 6)
    with torch.no_grad():
        found = source.recognised.encoder(data)
        raw = model.encoder(data)
        if encoding == "codes":
            assert found.shape == (3, *source.contract.latents[0].item)
            reconstruction = model({"data": data}).recon_x
            torch.testing.assert_close(source.recognised.decoder(found), reconstruction)
            return
        latent = found[0] if encoding == "gaussian" else found
        expected = raw.embedding / raw.embedding.norm(dim=-1, keepdim=True) if name == "SVAE" else raw.embedding
        torch.testing.assert_close(latent, expected)
        if encoding == "gaussian":
            torch.testing.assert_close(found[1], raw.log_covariance)
        torch.testing.assert_close(source.recognised.decoder(latent), model.decoder(latent).reconstruction)


def test_folder_of_a_training_and_flat_data_shown_as_images(tmp_path: Path) -> None:
    saved("VAE", tmp_path / "VAE_training" / "final_model")
    source = load_source(f"pythae:{tmp_path / 'VAE_training'}")
    assert source.provenance["source"] == "pythae:VAE_training"
    assert source.contract.is_image


class Own(BaseEncoder):
    def __init__(self) -> None:
        BaseEncoder.__init__(self)
        self.mean, self.logvar = nn.Linear(36, 4), nn.Linear(36, 4)

    def forward(self, x: torch.Tensor) -> Any:
        flat = x.flatten(1)
        return ModelOutput(embedding=self.mean(flat), log_covariance=self.logvar(flat))


def test_networks_of_the_users_own_are_refused_with_what_to_do(tmp_path: Path) -> None:
    saved("VAE", tmp_path, encoder=Own())
    (tmp_path / "encoder.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ModelError, match=r"encoder of the user's own, .* never run: .*; name a function .* --weights"):
        load_source(f"pythae:{tmp_path}")


def test_folders_that_are_no_model_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model of pythae: .*; expected model_config.json and model.pt"):
        load_source(f"pythae:{tmp_path}")
    saved("VAE", tmp_path)
    config = json.loads((tmp_path / "model_config.json").read_text())
    for changes, message in (
        ({"name": "FancyConfig"}, "unknown class: .* got FancyConfig"),
        ({"input_dim": None}, "config has no shape of the data"),
        ({"latent_dim": 7}, r"weights do not fit the model: .*of another shape decoder.layers.0.0.weight \(512, 4\)"),
        ({"latent_dim": "many"}, "model cannot be built"),
    ):
        (tmp_path / "model_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ModelError, match=message) as caught:
            load_source(f"pythae:{tmp_path}")
        assert "\n" not in str(caught.value)
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    (tmp_path / "model.pt").unlink()
    with pytest.raises(ModelError, match="no such file of weights"):
        load_source(f"pythae:{tmp_path}")
