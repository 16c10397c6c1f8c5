"""Bits per dimension of PNG and lossless WebP."""

from __future__ import annotations

import pytest
import torch

from train.codecs import codec_bits_per_dim


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_cannot_be_compressed_and_a_flat_image_can(channels: int) -> None:
    noise = torch.randint(0, 256, (4, channels, 64, 64), dtype=torch.uint8)
    for bits in codec_bits_per_dim(noise).values():
        # WebP has no grey images: it stores three equal channels.
        assert 7.9 < bits < 8.7
    assert max(codec_bits_per_dim(torch.zeros_like(noise)).values()) < 0.3
