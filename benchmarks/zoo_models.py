"""The models of `zoo.py`: small ones of diffusers and pythae with random weights, saved as people save them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vae_export.system.torchvision_operators import import_torchvision

_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_CHANNELS: dict[str, Any] = {"block_out_channels": (16, 32), "norm_num_groups": 8, "latent_channels": 4}
_VIDEO = _CHANNELS | {"layers_per_block": 1}
_WAN = {
    "base_dim": 16,
    "z_dim": 4,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}

#: Arguments of diffusers' autoencoders that make them small.
DIFFUSERS: Mapping[str, dict[str, Any]] = {
    "AutoencoderKL": _CHANNELS | _BLOCKS | {"sample_size": 32, "scaling_factor": 0.18215},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (16,) * 4,
        "decoder_block_out_channels": (16,) * 4,
        "num_encoder_blocks": (1,) * 4,
        "num_decoder_blocks": (1,) * 4,
    },
    "VQModel": _CHANNELS | _BLOCKS | {"num_vq_embeddings": 32, "sample_size": 32},
    "AsymmetricAutoencoderKL": _BLOCKS
    | {"down_block_out_channels": (16, 32), "up_block_out_channels": (16, 32), "norm_num_groups": 8},
    "AutoencoderKLTemporalDecoder": {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * 2},
    "AutoencoderKLWan": _WAN,
    "AutoencoderKLQwenImage": _WAN,
    "AutoencoderOobleck": {
        "encoder_hidden_size": 16,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
        "decoder_channels": 16,
        "decoder_input_channels": 8,
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (16, 32),
        "decoder_block_out_channels": (16, 32),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "attention_head_dim": 8,
    },
    "AutoencoderKLFlux2": _CHANNELS | _BLOCKS | {"sample_size": 32},
    "AutoencoderKLCogVideoX": _VIDEO
    | {
        "down_block_types": ("CogVideoXDownBlock3D",) * 2,
        "up_block_types": ("CogVideoXUpBlock3D",) * 2,
        "temporal_compression_ratio": 2,
    },
    "AutoencoderKLHunyuanVideo": _VIDEO
    | {
        # As many blocks as its default ratios of sizes need.
        "block_out_channels": (16,) * 4,
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
    },
    "AutoencoderKLLTXVideo": {
        "block_out_channels": (16, 32),
        "decoder_block_out_channels": (16, 32),
        "layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1),
        "spatio_temporal_scaling": (True, False),
        "decoder_spatio_temporal_scaling": (True, False),
        "latent_channels": 8,
        "patch_size": 2,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
        "add_attention_block": (False, False, False, False, True),
        "latent_channels": 4,
        "latents_mean": (0.0,) * 4,
        "latents_std": (1.0,) * 4,
    },
    "AutoencoderKLMagvit": _VIDEO
    | {
        "down_block_types": ("SpatialDownBlock3D", "SpatialTemporalDownBlock3D"),
        "up_block_types": ("SpatialUpBlock3D", "SpatialTemporalUpBlock3D"),
    },
    "AutoencoderKLAllegro": _VIDEO
    | {
        "down_block_types": ("AllegroDownBlock3D",) * 2,
        "up_block_types": ("AllegroUpBlock3D",) * 2,
        "temporal_downsample_blocks": (True, False),
        "temporal_upsample_blocks": (False, True),
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (16, 32),
        "decode_block_out_channels": (16, 32),
        "num_layers": 1,
        "latent_channels": 4,
        "attention_resolutions": (8,),
        "resolution": 32,
        "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 2,
    },
}

#: The autoencoder of Stable Diffusion 1.x: 83.7 million parameters.
STABLE_DIFFUSION: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}

#: Further arguments of pythae's configurations, by the name of the model.
PYTHAE: Mapping[str, dict[str, Any]] = {
    "AE": {},
    "VAE": {},
    "BetaVAE": {"beta": 2.0},
    "BetaTCVAE": {},
    "CIWAE": {},
    "DisentangledBetaVAE": {},
    "FactorVAE": {},
    "INFOVAE_MMD": {},
    "IWAE": {},
    "MIWAE": {},
    "MSSSIM_VAE": {},
    "PIWAE": {},
    "RAE_GP": {},
    "RAE_L2": {},
    "RHVAE": {},
    "HVAE": {},
    "SVAE": {},
    "PoincareVAE": {},
    "VAEGAN": {},
    "VAE_IAF": {},
    "VAE_LinNF": {},
    "VAMP": {},
    "VQVAE": {},
    "WAE_MMD": {},
    "Adversarial_AE": {},
}


def save_diffusers(name: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
    """Save one of diffusers' autoencoders with random weights.

    Args:
        name: its class.
        folder: the folder to write.
        config: its arguments; None takes those of `DIFFUSERS`.
    """
    import_torchvision()
    from diffusers.models import autoencoders

    torch.manual_seed(0)
    getattr(autoencoders, name)(**(DIFFUSERS[name] if config is None else config)).save_pretrained(folder)


def save_pythae(name: str, folder: Path) -> None:
    """Save one of pythae's models with random weights, for images 1 × 28 × 28 and 8 latents."""
    from pythae import models

    torch.manual_seed(0)
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    getattr(models, name)(config(input_dim=(1, 28, 28), latent_dim=8, **PYTHAE[name])).save(str(folder))


#: Models that are refused with a reason: diffusers encodes and decodes this one in tiles of a fixed size only.
REFUSED = ("AutoencoderKLAllegro",)

#: How models are saved, by the prefix of `--model`.
SAVE: Mapping[str, tuple[Mapping[str, Any], Callable[[str, Path], None]]] = {
    "diffusers": (DIFFUSERS, save_diffusers),
    "pythae": (PYTHAE, save_pythae),
}
