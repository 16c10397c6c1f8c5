"""Whiten the latents of a trained network: an exact change of coordinates after which samples of the prior fit better.

A decoder is trained on latents of images, and asked for images of the prior's. A short training leaves a gap between
the two: over all images, the latents have another mean than 0, unequal variances, and they are correlated (Rosca et
al., arXiv:1802.06847). Ghosh et al. (arXiv:1903.12436) fit a density to the latents after training and sample from it.
Here that density is one Gaussian N(m, C), and since it is z = m + B u with u of N(0, I), B can be taken into the
weights: the encoder gives u, the decoder's first layer takes it, and the prior stays what every reader expects.

Of all such B, the one is taken in whose coordinates posteriors have no correlations either, on average, because a
family's q(z|x) cannot have any. So the -ELBO falls by nearly the divergence of N(m, C) from the prior. Units come out
sorted, the one that says most of an image first.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from train.loss import to_unit_range
from vae_export.models import VAE

#: Images that suffice for mean and covariance.
MOST_IMAGES = 2048
#: Images that are encoded at once.
_BATCH = 64
#: The new posteriors are narrower than the old ones' spread along each unit, and so is their aggregate: a second change
#: finds little left to change.
_ROUNDS = 2


@torch.no_grad()
def whitened(model: VAE, pixels: Tensor) -> VAE:
    """Return a copy of a network whose latents have mean 0 and covariance I over images, in aggregate.

    The encoder's mean is decoded to the same image as before, up to rounding. Its variances are those of the nearest
    posterior without correlations: exactly for the average image, to first order in log-variance for others.

    Args:
        model: a network with linear heads, whose decoder begins with a linear layer: of any family but `blog` and
            `pyramid`.
        pixels: training images, uint8 (N, C, H, W).

    Returns:
        The copy, on the same device; an unchanged one if a latent is not finite.
    """
    changed = copy.deepcopy(model).eval()
    device = next(changed.parameters()).device
    heads = [changed.encoder(to_unit_range(part.to(device))) for part in pixels.split(_BATCH)]
    means, logvars = (torch.cat(found).cpu().double() for found in zip(*heads, strict=True))
    if means.isfinite().all() and logvars.isfinite().all():
        for _ in range(_ROUNDS):
            means, logvars = _change_coordinates(changed, means, logvars)
    return changed.train(model.training)


def _change_coordinates(model: VAE, means: Tensor, logvars: Tensor) -> tuple[Tensor, Tensor]:
    """Whiten a network in place, given its posteriors of all images, (N, Z) in float64; return the new ones."""
    images, units = means.shape
    center, typical = means.mean(0), logvars.mean(0)
    deviations = means - center
    covariance = deviations.T @ deviations / images + torch.diag(logvars.exp().mean(0))
    # With few images it is drawn towards the prior's, which counts as much as one image for each unit.
    share = images / (images + units)
    covariance = share * covariance + (1 - share) * torch.eye(units, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    inverse_root = torch.linalg.inv(root)
    variances, rotation = torch.linalg.eigh((inverse_root * typical.exp()) @ inverse_root.T)
    to_latent, to_white = root @ rotation, rotation.T @ inverse_root

    # Of all posteriors without correlations, the nearest has the inverse of the precisions' diagonal as its variances.
    wanted = -torch.log(torch.exp(-logvars) @ to_latent.square())
    shares = (to_latent.square() * torch.exp(-typical)[:, None]).T * variances[:, None]
    offset = (wanted - logvars @ shares.T).mean(0)

    mean_head, logvar_head, first = _linear_layers(model)
    _set(mean_head, to_white @ _weight(mean_head), to_white @ (_bias(mean_head) - center))
    _set(logvar_head, shares @ _weight(logvar_head), shares @ _bias(logvar_head) + offset)
    _set(first, _weight(first) @ to_latent, _bias(first) + _weight(first) @ center)
    return deviations @ to_white.T, logvars @ shares.T + offset


def _linear_layers(model: VAE) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return the heads of mean and of log-variance, and the first layer of the decoder."""
    places = model.encoder.mean, model.encoder.logvar, model.decoder.body
    mean, logvar, first = (
        next(layer for layer in place.modules() if isinstance(layer, nn.Linear))
        for place in places
        if isinstance(place, nn.Module)
    )
    return mean, logvar, first


def _weight(layer: nn.Linear) -> Tensor:
    return layer.weight.cpu().double()


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias.cpu().double()


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
