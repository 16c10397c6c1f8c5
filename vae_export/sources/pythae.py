"""Models that pythae trained: a folder of model_config.json and model.pt.

pythae saves networks of the user's own as pickles, which are programs. They are never run: such a model comes in
through a function that returns it. pythae's default networks are built from the config.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_export.contract import Prior
from vae_export.errors import ModelError
from vae_export.io.atomic import sha256
from vae_export.sources.base import Source, described
from vae_export.sources.inference import infer_contract
from vae_export.sources.options import ModelOptions
from vae_export.sources.weights import load_weights
from vae_export.system.extras import require
from vae_export.system.streams import silenced
from vae_export.system.torchvision_operators import import_torchvision

_CONFIG, _WEIGHTS = "model_config.json", "model.pt"
#: Entry of the weights in model.pt.
_ENTRY = "model_state_dict"
#: Models whose latents are not drawn from a standard normal: a learned prior, a manifold, or none.
_OTHER_PRIOR = (
    *("VAMPConfig", "SVAEConfig", "PoincareVAEConfig", "RHVAEConfig", "VAE_IAF_Config", "VAE_LinNF_Config"),
    *("AEConfig", "RAE_GP_Config", "RAE_L2_Config"),
)
#: Models with a normalizing flow between encoder and decoder, so that the two are no autoencoder.
_FLOWS = ("VAE_IAF_Config", "VAE_LinNF_Config")
#: Models whose posterior is no Gaussian in the latent space, so that only its centre is exported.
_MANIFOLDS = ("SVAEConfig", "PoincareVAEConfig")


def open_pythae(folder: Path, options: ModelOptions) -> Source:
    """Return a model that pythae trained as a source.

    Args:
        folder: what `save` of a model wrote, or the folder of a training with final_model/ in it.
        options: a shape of the data replaces the config's input_dim, as 1x28x28 for 784; a range replaces the measured.

    Raises:
        ModelError: the folder is no model of pythae, has networks of the user's own, or its weights do not fit.
        MissingExtraError: pythae is not installed.
    """
    folder = folder if (folder / _CONFIG).is_file() else folder / "final_model"
    if not (folder / _CONFIG).is_file():
        raise ModelError("not a model of pythae", where=folder.parent, expected=f"{_CONFIG} and {_WEIGHTS}")
    config = _read_config(folder)
    model = _build(folder, config)
    with silenced():
        load_weights(model, {"": str(folder / _WEIGHTS)}, _ENTRY)
    model.eval()
    name = str(config["name"])
    encoder, decoder = _modules(model, name)
    shape = options.data_shape or tuple(config["input_dim"])
    codes = config.get("num_embeddings") if name == "VQVAEConfig" else None
    found = infer_contract(encoder, decoder, replace(options, data_shape=shape, codebook_size=codes))
    prior: Prior | None = "given by the user" if name in _OTHER_PRIOR else found.contract.prior
    notes = list(found.notes)
    if name in _FLOWS:
        notes.append("a normalizing flow lies between encoder and decoder, and is not exported: no autoencoder")
    provenance: dict[str, Any] = {
        "source": f"pythae:{folder.parent.name if folder.name == 'final_model' else folder.name}",
        "class": type(model).__name__,
        "config": {key: value for key, value in config.items() if value is not None},
        "weights_sha256": {_WEIGHTS: sha256(folder / _WEIGHTS)},
        "inferred": found.facts,
    }
    if notes:
        provenance["notes"] = notes
    contract = replace(found.contract, prior=prior)
    return described(Source(contract, encoder, decoder, options.images, provenance, composes=name not in _FLOWS))


class VQVAEEncoder(nn.Module):
    """data → codes (N, h, w), int64, of a VQ-VAE."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.codebook = _codebook(model)

    def forward(self, data: Tensor) -> Tensor:
        """Return the number of the nearest entry of the codebook at each place."""
        latent: Tensor = self.encoder(data).embedding
        if latent.ndim == 2:  # pythae then quantises each number by itself
            latent = latent[:, None, None, :]
        latent, table = latent.permute(0, 2, 3, 1), self.codebook.weight
        distances = (latent**2).sum(-1, keepdim=True) + (table**2).sum(-1) - 2 * latent @ table.T
        return distances.argmin(-1)


class VQVAEDecoder(nn.Module):
    """codes (N, h, w) → data, of a VQ-VAE.

    Args:
        model: the VQ-VAE.
        is_flat: whether the decoder takes a latent without axes of place.
    """

    def __init__(self, model: Any, *, is_flat: bool) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.codebook = _codebook(model)
        self.is_flat = is_flat

    def forward(self, codes: Tensor) -> object:
        """Return the data of the entries of the codebook."""
        latent = self.codebook(codes).permute(0, 3, 1, 2)
        return self.decoder(latent.flatten(1) if self.is_flat else latent)


def _codebook(model: Any) -> nn.Embedding:
    """Return the entries of a VQ-VAE's codebook, which pythae keeps in one of two ways."""
    table = model.quantizer.embeddings
    weight: Tensor = table.weight if isinstance(table, nn.Embedding) else table
    return nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight.detach())


class CentreEncoder(nn.Module):
    """data → the centre of a posterior on a sphere or in a ball.

    Args:
        encoder: pythae's encoder.
        is_unit: whether the centre is brought to length 1, as on a sphere.
    """

    def __init__(self, encoder: nn.Module, *, is_unit: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.is_unit = is_unit

    def forward(self, data: Tensor) -> Tensor:
        """Return the latent."""
        centre: Tensor = self.encoder(data).embedding
        return centre / centre.norm(dim=-1, keepdim=True) if self.is_unit else centre


def _modules(model: Any, name: str) -> tuple[nn.Module, nn.Module]:
    if name == "VQVAEConfig":
        with torch.no_grad():
            example = torch.zeros(2, *model.model_config.input_dim)
            is_flat = model.encoder(example).embedding.ndim == 2
        return VQVAEEncoder(model), VQVAEDecoder(model, is_flat=is_flat)
    if name in _MANIFOLDS:
        return CentreEncoder(model.encoder, is_unit=name == "SVAEConfig"), model.decoder
    return model.encoder, model.decoder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("config cannot be read", where=path, got=error) from error
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise ModelError("not a config of pythae", where=path, expected="an object with a name")
    own = [part for part in ("encoder", "decoder") if not config.get(f"uses_default_{part}", True)]
    own = own or [part for part in ("encoder", "decoder") if (folder / f"{part}.pkl").exists()]
    if own:
        raise ModelError(
            f"{' and '.join(own)} of the user's own, saved as code in a pickle, which is never run",
            where=folder,
            do=f"name a function that returns the model: --model file.py:function --weights {folder / _WEIGHTS}",
        )
    shape = config.get("input_dim")
    if not isinstance(shape, list) or not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError("config has no shape of the data", where=path, expected="input_dim", got=shape)
    return config


def _build(folder: Path, config: dict[str, Any]) -> nn.Module:
    """Return pythae's model with its default networks and random weights."""
    require("pythae")
    with silenced():
        import_torchvision()
        from pythae import models

        kinds = {name.replace("_", ""): kind for name, kind in vars(models).items() if isinstance(kind, type)}
        name = str(config["name"]).replace("_", "").removesuffix("Config")
        kind, settings = kinds.get(name), kinds.get(f"{name}Config")
        if kind is None or settings is None or not issubclass(kind, nn.Module):
            raise ModelError("unknown class", where=folder / _CONFIG, expected="a model of pythae", got=config["name"])
        values = {key: value for key, value in config.items() if key not in ("name", "environment")}
        values["input_dim"] = tuple(config["input_dim"])
        try:
            with torch.random.fork_rng(devices=[]):
                model: nn.Module = kind(settings(**values))
        except Exception as error:  # pythae raises whatever its constructors raise
            got = f"{type(error).__name__}: {error}"
            raise ModelError("model cannot be built", where=folder, got=got) from error
    return model
