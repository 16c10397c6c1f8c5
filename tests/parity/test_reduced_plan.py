"""Faults of single weights are caught at the shortest plan, which networks get that are too costly for more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.parity.small_exports import Subject, tampered, verified
from vae_export import Contract, Source, export
from vae_export.contract import Array, Part
from vae_export.parity import References
from vae_export.sources import load_source
from vae_export.system.torchvision_operators import import_torchvision

pytestmark = pytest.mark.slow

#: So short that every part gets the last step of the ladder.
SHORTEST = 1e-4
#: About how many weights of a file are tried, spread over all of its layers.
_TRIED = 16
#: The faults of the weights of a file, in turn: all values one percent larger, and the largest with the other sign.
FAULTS: tuple[Callable[[Array], Array], ...] = (
    lambda values: values * np.float32(1.01) + np.float32(1e-3),
    lambda values: np.where(np.abs(values) == np.abs(values).max(), -values - np.float32(1e-3), values),
)


def convolutional() -> Source:
    """The decoder of a 3 x 64 x 64 VAE with a quarter of the usual channels, with weights that keep its activations."""
    torch.manual_seed(0)
    channels = (128, 64, 32, 16, 8, 8)
    layers: list[nn.Module] = [nn.Linear(32, 512), nn.Unflatten(1, (128, 2, 2))]
    for before, after in zip(channels, channels[1:], strict=False):  # noqa: RUF007
        layers += [nn.ConvTranspose2d(before, after, 3, 2, 1, 1), nn.BatchNorm2d(after), nn.LeakyReLU()]
    decoder = nn.Sequential(*layers, nn.Conv2d(channels[-1], 3, 3, padding=1), nn.Sigmoid())
    for module in decoder:
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data *= 3
    return Source(Contract((3, 64, 64), (32,)), decoder=decoder)


def autoencoder_kl(folder: Path) -> Source:
    """The decoder of a small AutoencoderKL, with open sizes."""
    import_torchvision()
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    model.save_pretrained(folder)  # type: ignore[attr-defined]  # diffusers states no types
    return load_source(f"diffusers:{folder}")


@pytest.mark.parametrize("network", ["convolutional", "autoencoder-kl"])
def test_faulty_weights_are_caught_at_the_shortest_plan(network: str, tmp_path: Path) -> None:
    source = convolutional() if network == "convolutional" else autoencoder_kl(tmp_path / "model")
    references = References(source)  # once, and not for each fault
    artifact, right = export(references, tmp_path / "export", parts=["decoder"], minutes=SHORTEST)
    references = references.keeping(artifact.manifest.contract)
    assert right.passed
    assert right.plan.parts["decoder"].sweeps[0].probes == 1
    subject, before = Subject(tmp_path, references, artifact), artifact.read(artifact.entry("decoder", "onnx"))
    names = [tensor.name for tensor in onnx.load_from_string(before).graph.initializer]
    names = names[:: max(1, len(names) // _TRIED)]
    unnoticed, tried = [], 0
    for number, name in enumerate(names):
        model = onnx.load_from_string(before)
        [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = numpy_helper.to_array(tensor)
        # Adding one number to every key leaves a softmax as it is. Constants of few numbers are scales and shapes.
        if values.dtype != np.float32 or values.size < 8 or name.endswith("to_k.bias"):
            continue
        tensor.CopyFrom(numpy_helper.from_array(FAULTS[number % 2](values), name))
        files: dict[tuple[Part, str], bytes] = {("decoder", "onnx"): model.SerializeToString()}
        artifact = tampered(subject, tmp_path / str(number), files)
        tried += 1
        if verified(artifact, references, minutes=SHORTEST).passed:
            unnoticed.append(name)
    assert tried >= 10
    assert unnoticed == []
