"""The initial weights of a training.

relu  He et al., arXiv:1502.01852, equation 10, which keeps a signal's size. PyTorch's default for linear layers is a
      third of that: with it, the first two of twenty epochs are spent on growing the weights.
tanh  Glorot & Bengio 2010, equation 16, in every layer, as in the code of Burda et al.
silu  PyTorch's default: in family `residual`, three epochs from He's weights ended 1.8 nats above three from these.
      Family `resnet` is deep, so that a signal would vanish: it starts from He's weights with any activation but tanh.
      Family `pyramid` starts from PyTorch's with any activation, and with scales measured on the images.

The decoder's last bias is set so that it starts at the mean image, which then need not be learned. Family `blog` starts
from PyTorch's defaults, as the blog post does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.loss import to_unit_range
from vae_export.likelihood import MAX_LEVEL
from vae_export.models import VAE, VAEConfig
from vae_export.models.pyramid import Bottleneck, PyramidBody, PyramidEncoder
from vae_export.models.residual import Residual

#: Pixels that are always black have no finite logit, so means are clamped to [this, 1 - this].
_DARKEST = 1e-3
#: Most images, and values of pixels, that the mean image is computed from.
_MOST_IMAGES, _MOST_VALUES = 10_000, 1 << 23
#: Standard deviation of the noise of a photograph's pixels, which the posterior of a detail starts with.
_NOISE = 1.5 / MAX_LEVEL
#: The raw output from which the log scale of a pixel starts at about two levels.
_FINE = -2.0


def initial_model(config: VAEConfig, pixels: Tensor, seed: int) -> VAE:
    """Make the network that a training starts from, on the CPU.

    Args:
        config: the network.
        pixels: the training images, uint8 (N, C, H, W).
        seed: the seed of the weights. PyTorch's global random state is left as it was.

    Returns:
        The network in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = VAE(config)
        initialise(model, pixels)
    return model


@torch.no_grad()
def initialise(model: VAE, pixels: Tensor) -> None:
    """Set the weights in place, from PyTorch's global random state and the mean of the pixels, uint8 (N, C, H, W)."""
    if model.config.family == "blog":
        return
    if isinstance(model.encoder, PyramidEncoder):
        _initialise_pyramid(model, model.encoder, pixels)
        return
    relu, tanh = (model.config.activation == name for name in ("relu", "tanh"))
    is_deep = model.config.family == "resnet"
    hidden = [*model.encoder.body.modules(), *model.decoder.body.modules()]
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    *before_activation, last = layers
    heads = [*_linear(model.encoder.mean), *_linear(model.encoder.logvar), last]
    for layer in before_activation + (heads if tanh else []):
        if tanh:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(_bias(layer))
        elif is_deep and isinstance(layer, nn.ConvTranspose2d):
            # Its stride leaves gaps: each output is a sum over a part of the kernel.
            inputs = layer.weight[:, 0].numel() / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
            nn.init.zeros_(_bias(layer))
        elif (relu or is_deep) and not isinstance(layer, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(_bias(layer))
    for block in model.modules():
        if isinstance(block, Residual):
            _set_zero(block.last)  # begins as the identity
    mean = _first_images(pixels).mean(0)
    if isinstance(last, nn.ConvTranspose2d):
        mean = mean.mean((1, 2))  # one bias a channel
    if is_deep:  # else the first images are noise, which takes many steps to unlearn
        nn.init.zeros_(last.weight)
    # A second output, of scales, starts in the middle of its range.
    bias = _bias(last)
    bias.zero_()
    bias[: mean.numel()].copy_(torch.logit(mean.flatten(), eps=_DARKEST))


def _initialise_pyramid(model: VAE, encoder: PyramidEncoder, pixels: Tensor) -> None:
    """Start as a coder of details that predicts nothing: their mean is 0, and each has one scale for all images.

    So the first step sees reconstructions as sharp as their likelihood, and no KL is wasted.
    """
    prior, image = encoder.prior, _first_images(pixels)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            _set_zero(block.last)
    body = model.decoder.body
    if isinstance(body, PyramidBody):
        _set_zero(body.moved)
        if body.spread is not None:
            _set_zero(body.spread)
            nn.init.constant_(_bias(body.spread), _FINE)
    logvars = [head for head in encoder.logvars if isinstance(head, nn.Conv2d)]
    for level in reversed(prior.levels):
        _set_zero(level.mean)
        if level.log_scale is not None:
            logvar = logvars.pop()
            detail = F.conv2d(image, prior.details[: level.units], stride=2)
            log_scale = detail.std((0, 2, 3), correction=0).clamp(min=_NOISE).log()
            _set_zero(level.log_scale)
            _bias(level.log_scale).copy_(log_scale)
            _set_zero(logvar)
            _bias(logvar).copy_(2 * (math.log(_NOISE) - log_scale))
        image = F.avg_pool2d(image, 2)
    prior.mean.copy_(image.mean((0, 2, 3))[:, None, None])
    colours = F.conv2d(image - prior.mean, prior.colours)
    log_scale = colours.std((0, 2, 3), correction=0).clamp(min=_NOISE).log()
    prior.log_scale.copy_(log_scale[:, None, None])
    _set_zero(encoder.smallest_logvar)
    _bias(encoder.smallest_logvar).copy_(2 * (math.log(_NOISE) - log_scale))


def _first_images(pixels: Tensor) -> Tensor:
    """Return as many of the first images as suffice for their mean, in [0, 1]."""
    return to_unit_range(pixels[: min(_MOST_IMAGES, max(1, _MOST_VALUES // pixels[0].numel()))])


def _set_zero(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(_bias(layer))


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    if layer.bias is None:
        raise TypeError("every layer of these families has a bias")
    return layer.bias
