"""Autoencoders that diffusers saved become sources: shapes are measured, weights fit, nothing is downloaded."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vae_export.errors import ModelError, UsageError
from vae_export.sources import load_source
from vae_export.system.torchvision_operators import import_torchvision

BLOCKS = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
ONE_BLOCK = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (16,),
    "mid_block_add_attention": False,
    "norm_num_groups": 8,
}
EFFICIENT = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {
        "block_types": ("ResBlock", "EfficientViTBlock"),
        "block_out_channels": (16, 32),
        "layers_per_block": (1, 1),
        "qkv_multiscales": ((), (5,)),
    }.items()
}
ONE_A_BLOCK = {f"{side}_block_out_channels": (16, 16, 16) for side in ("encoder", "decoder")}
STAGES = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
FIVE = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
#: Class, arguments, data, latent, encoding.
MODELS: dict[str, tuple[str, dict[str, Any], tuple[object, ...], tuple[object, ...], str]] = {
    "kl": (
        "AutoencoderKL",
        {**BLOCKS, "scaling_factor": 0.18215, "shift_factor": 0.1, "sample_size": 32},
        (3, "2*h", "2*w"),
        (4, "h", "w"),
        "gaussian",
    ),
    "kl without quantisers": (
        "AutoencoderKL",
        {**ONE_BLOCK, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
        (3, "h", "w"),
        (16, "h", "w"),
        "gaussian",
    ),
    "tiny": (
        "AutoencoderTiny",
        {**ONE_A_BLOCK, "num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)},
        (3, "4*h", "4*w"),
        (4, "h", "w"),
        "deterministic",
    ),
    "vq": ("VQModel", {**BLOCKS, "num_vq_embeddings": 16}, (3, "2*h", "2*w"), ("h", "w"), "codes"),
    "video frames": (
        "AutoencoderKLTemporalDecoder",
        {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1},
        (2, 3, "2*h", "2*w"),
        (2, 4, "h", "w"),
        "gaussian",
    ),
    "wan": (
        "AutoencoderKLWan",
        {"base_dim": 8, "z_dim": 4, "dim_mult": [1] * 4, "num_res_blocks": 1,
         "temperal_downsample": [False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
        (3, 9, "8*h", "8*w"),
        (4, 3, "h", "w"),
        "gaussian",
    ),
    "oobleck": (
        "AutoencoderOobleck",
        {"encoder_hidden_size": 8, "downsampling_ratios": [2, 4, 4], "channel_multiples": [1, 2, 4],
         "decoder_channels": 8, "decoder_input_channels": 4},
        (2, "32*t"),
        (4, "t"),
        "gaussian",
    ),
    "dc": (
        "AutoencoderDC",
        {**EFFICIENT, "latent_channels": 4, "attention_head_dim": 8, "upsample_block_type": "interpolate"},
        (3, "2*h", "2*w"),
        (4, "h", "w"),
        "deterministic",
    ),
    "ltx": ("AutoencoderKLLTXVideo", {**STAGES, **FIVE, "latent_channels": 8}, (3, 9, "32*h", "32*w"), (8, 2, "h", "w"),
            "gaussian"),
}  # fmt: skip


def saved(name: str, folder: Path, **options: Any) -> nn.Module:
    """Save a small model with random weights, and return it."""
    kind, arguments, *_ = MODELS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchvision()
        from diffusers.models import autoencoders  # which takes two seconds of each worker that collects these tests

        model = getattr(autoencoders, kind)(**arguments).eval()
        model.save_pretrained(folder, **options)
    return model


def encoded(model: nn.Module, name: str, data: Tensor) -> tuple[Tensor, ...]:
    """What diffusers' own encode gives for data, as the contract has it."""
    if name == "vq":
        latent = model.encode(data).latents
        return (model.quantize(latent)[2][2].reshape(len(data), *latent.shape[2:]),)
    if name == "video frames":
        distribution = model.encode(data.flatten(0, 1)).latent_dist
        return distribution.mean.unflatten(0, data.shape[:2]), distribution.logvar.unflatten(0, data.shape[:2])
    found = model.encode(data)
    if hasattr(found, "latent_dist"):
        return found.latent_dist.mean, found.latent_dist.logvar
    return (found[0],)


def decoded(model: nn.Module, name: str, latent: Tensor) -> Tensor:
    if name == "vq":
        quantised = model.quantize.get_codebook_entry(latent.flatten(), (*latent.shape, 3))
        return model.decode(quantised, force_not_quantize=True).sample
    if name == "video frames":
        return model.decode(latent.flatten(0, 1), num_frames=latent.shape[1]).sample.unflatten(0, latent.shape[:2])
    return model.decode(latent).sample


@pytest.mark.parametrize(
    "name", [name if name not in ("wan", "ltx") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_modules_compute_what_the_library_computes(name: str, tmp_path: Path) -> None:
    kind, _, data_shape, latent_shape, encoding = MODELS[name]
    model = saved(name, tmp_path / "vae")
    source = load_source(f"diffusers:{tmp_path / 'vae'}")
    contract = source.contract
    assert (contract.data_shape, contract.latent_shape, contract.encoding) == (data_shape, latent_shape, encoding)
    assert contract.data_range == (-1.0, 1.0)
    assert not contract.output.is_bounded
    assert contract.prior == ("uniform" if encoding == "codes" else "given by the user")
    assert source.provenance["class"] == kind
    small = contract.at(dict.fromkeys(contract.free_symbols, 3))
    torch.manual_seed(1)
    data = torch.rand(2, *small.data.fixed_item) * 2 - 1
    with torch.no_grad():
        outputs = source.recognised.encoder(data)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        expected = encoded(model, name, data)
        for output, value in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, value, atol=1e-5, rtol=1e-5)
        found = source.recognised.decoder(expected[0])
        torch.testing.assert_close(found, decoded(model, name, expected[0]), atol=1e-5, rtol=1e-5)
    assert found.shape == data.shape


def test_factors_and_usual_sizes_come_from_the_config(tmp_path: Path) -> None:
    saved("kl", tmp_path / "vae")
    contract = load_source(f"diffusers:{tmp_path / 'vae'}").contract
    assert (contract.scaling_factor, contract.shift_factor) == (0.18215, 0.1)
    assert contract.symbols["h"].usual == 16  # of images 32 x 32


def test_stated_shape_fixes_the_sizes(tmp_path: Path) -> None:
    saved("kl", tmp_path / "vae")
    text = f"diffusers:{tmp_path / 'vae'}"
    contract = load_source(text, data_shape="3x16x24").contract
    assert (contract.data_shape, contract.latent_shape, contract.symbols) == ((3, 16, 24), (4, 8, 12), {})
    with pytest.raises(
        ModelError, match=r"shape does not fit the model: --data-shape; expected 3 x 2\*h x 2\*w, got 3 x 15 x 24"
    ):
        load_source(text, data_shape="3x15x24")
    with pytest.raises(UsageError, match="--weights does not go with diffusers:FOLDER"):
        load_source(text, weights="x.pt")


def _half(folder: Path, dtype: torch.dtype) -> None:
    """Store the weights in another dtype."""
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file, {"format": "pt"})


def _variant(folder: Path) -> None:
    _half(folder, torch.float16)
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.fp16.safetensors")


def _pipeline(folder: Path) -> None:
    """Move the model into a pipeline's folder."""
    inner = folder.parent / "inner"
    folder.rename(inner)
    folder.mkdir()
    inner.rename(folder / "vae")
    (folder / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}'
    )


FOLDERS: dict[str, Callable[[Path], None]] = {
    "fp16": lambda folder: _half(folder, torch.float16),
    "bf16": lambda folder: _half(folder, torch.bfloat16),
    "variant": _variant,
    "pipeline": _pipeline,
}


@pytest.mark.parametrize("form", FOLDERS)
def test_folders_of_every_kind_are_read(form: str, tmp_path: Path) -> None:
    model = saved("kl", tmp_path / "vae")
    FOLDERS[form](tmp_path / "vae")
    source = load_source(f"diffusers:{tmp_path / 'vae'}")
    weight = source.encoder.module.encoder.conv_in.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.encoder.conv_in.weight, atol=5e-3, rtol=1e-2)
    assert not any(name.startswith("vae.decoder") for name in source.encoder.state_dict())


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    model = saved("kl", tmp_path / "vae", max_shard_size="200KB")
    assert len(list((tmp_path / "vae").glob("*.safetensors"))) > 1
    source = load_source(f"diffusers:{tmp_path / 'vae'}")
    found, expected = source.decoder.module.decoder.conv_in.weight, model.decoder.conv_in.weight
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(source.provenance["weights_sha256"]) > 1


def _without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def _config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _lose_a_weight(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["encoder.conv_in.weight"]
    save_file(weights | {"extra.weight": torch.ones(2)}, file, {"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "empty": (lambda folder: _without(folder, *(file.name for file in folder.iterdir())), "not a model of diffusers"),
    "no weights": (lambda folder: _without(folder, "diffusion_pytorch_model.safetensors"), "no weights"),
    "unknown class": (
        lambda folder: _config(folder, _class_name="AutoencoderFancy"),
        "unknown class: .* got AutoencoderFancy",
    ),
    "other class": (lambda folder: _config(folder, _class_name="UNet2DModel"), "unknown class: .* got UNet2DModel"),
    "draws": (
        lambda folder: _config(folder, _class_name="ConsistencyDecoderVAE"),
        "its decoder is a diffusion process",
    ),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config cannot be read"),
    "foreign config": (lambda folder: (folder / "config.json").write_text("[]"), "not a config of diffusers"),
    "broken weights": (
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"none"),
        "weights cannot be loaded",
    ),
    "lost weight": (
        _lose_a_weight,
        "weights do not fit the model: .*; got missing encoder.conv_in.weight; unexpected extra.weight",
    ),
    "other shapes": (lambda folder: _config(folder, latent_channels=8), "weights"),
}


@pytest.mark.parametrize("form", BAD)
def test_folders_that_are_no_model_are_one_line(form: str, tmp_path: Path) -> None:
    saved("kl", tmp_path / "vae")
    spoil, message = BAD[form]
    spoil(tmp_path / "vae")
    with pytest.raises(ModelError, match=message) as caught:
        load_source(f"diffusers:{tmp_path / 'vae'}")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_model_larger_than_memory_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("kl", tmp_path / "vae")
    monkeypatch.setattr("vae_export.sources.memory.available_memory", lambda: 2**19)
    with pytest.raises(
        ModelError, match=r"model is larger than the available memory: .*; expected 0.0 GiB .*, got 0.0 GiB"
    ):
        load_source(f"diffusers:{tmp_path / 'vae'}")
