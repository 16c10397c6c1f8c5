"""Parity in the unit that a VAE is judged by: nats per image, once through PyTorch, once through the exported files.

Both take the same images and the same noise. Per image x and k noises, with z = mean + noise · exp(logvar / 2):

    -ELBO = mean over k of  −log p(x|z) + KL(q(z|x) ‖ N(0, I))              (Kingma & Welling, arXiv:1312.6114)
    NLL_k = −log mean over k of  p(x|z) p(z) / q(z|x)                        (Burda et al., arXiv:1509.00519)

with log p(x|z) the Bernoulli's where pixels lie in [0, 1], else a unit Gaussian's without its constant.
"""

from __future__ import annotations

import numpy as np

from vae_export.contract import Array, Contract

#: A float32 sigmoid cannot tell 1 - 2^-24 from 1; the logarithm of what is left must stay finite.
_CLOSEST = 2.0**-24
NAMES = ("negative_elbo", "iwae_nll")


def nats(
    contract: Contract, image: Array, mean: Array, logvar: Array, noise: Array, decoded: Array
) -> dict[str, Array]:
    """Nats per image by name, float64 (M,).

    Args:
        image: (M, C, H, W).
        mean, logvar: (M, *latent), of the encoder.
        noise: (K, M, *latent).
        decoded: (K, M, C, H, W), the decoder's images of mean + noise · exp(logvar / 2).
    """
    count, images = noise.shape[:2]
    x = np.asarray(image, np.float64).reshape(1, images, -1)
    y = np.asarray(decoded, np.float64).reshape(count, images, -1)
    mu, lv, eps = (
        np.asarray(array, np.float64).reshape(*array.shape[: -len(contract.latent_shape)], -1)
        for array in (mean, logvar, noise)
    )
    if contract.image_range == (0.0, 1.0):
        y = np.clip(y, _CLOSEST, 1 - _CLOSEST)
        log_likelihood = (x * np.log(y) + (1 - x) * np.log1p(-y)).sum(-1)
    else:
        log_likelihood = -0.5 * ((x - y) ** 2).sum(-1)
    kl = 0.5 * (mu**2 + np.exp(lv) - lv - 1).sum(-1)
    z = mu + eps * np.exp(lv / 2)
    log_weight = log_likelihood - 0.5 * (z**2).sum(-1) + 0.5 * (eps**2 + lv).sum(-1)
    largest = log_weight.max(0)
    return {
        "negative_elbo": kl - log_likelihood.mean(0),
        "iwae_nll": -(largest + np.log(np.exp(log_weight - largest).mean(0))),
    }
