"""Draw latents from the prior of a contract, with equal bits in every language (docs/bundle-format.md, section 6)."""

from __future__ import annotations

import math

import numpy as np

from vae_export import rng
from vae_export.contract import Array, Contract
from vae_export.errors import ModelError


def draw_prior(contract: Contract, n: int, seed: int, *, start: int = 0) -> dict[str, Array]:
    """Draw latents: normal numbers, or codes of which each is equally likely.

    Several latents share one sequence: a row holds the values of each latent in turn.

    Args:
        contract: the contract, with its sizes in numbers.
        n: number of rows.
        seed: 0 to 2^64 - 1.
        start: index of the first row in the sequence of this seed.

    Returns:
        Latents by name, each (n, …) of the contract's dtype.

    Raises:
        ModelError: the prior is "given by the user", or a size is not known.
        UsageError: the seed or a number is out of range.
    """
    if contract.prior == "given by the user":
        do = "draw latents from the model's own prior, and decode them"
        raise ModelError("prior is not known", expected="standard normal | uniform", got=contract.prior, do=do)
    items = [tensor.fixed_item for tensor in contract.latents]
    ends = np.cumsum([math.prod(item) for item in items])
    shape = (n, int(ends[-1]))
    rows: Array
    if contract.codebook_size is not None:
        rows = rng.sample_codes(shape, contract.codebook_size, seed, start=start)
    else:
        rows = rng.sample(shape, seed, start=start)
    parts = np.split(rows, ends[:-1], axis=1)
    return {
        tensor.name: np.ascontiguousarray(part, tensor.dtype).reshape(n, *item)
        for tensor, part, item in zip(contract.latents, parts, items, strict=True)
    }
