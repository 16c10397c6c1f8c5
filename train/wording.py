"""What figures may be called: that depends on what the pixels were and on what the decoder says of them."""

from __future__ import annotations

from train.options import Protocol
from vae_export.likelihood import Likelihood


def is_likelihood(protocol: Protocol, likelihood: Likelihood) -> bool:
    """Whether figures are of a probability, or a density, of the pixels that there are."""
    return not (likelihood.name == "bernoulli" and protocol == "grey")


def reconstruction_heading(protocol: Protocol, likelihood: Likelihood) -> str:
    return "-log p(x|z)" if is_likelihood(protocol, likelihood) else "cross-entropy"


def evidence_name(protocol: Protocol, likelihood: Likelihood) -> str:
    return "NLL" if is_likelihood(protocol, likelihood) else "IWAE bound"


def evidence_heading(protocol: Protocol, likelihood: Likelihood, samples: int) -> str:
    return f"{evidence_name(protocol, likelihood)}, K = {samples:,}"


def meaning(protocol: Protocol, likelihood: Likelihood) -> str:
    """What figures in nats are of, in a few words: below tables, in checkpoints and model cards."""
    if likelihood.name == "discretised-logistic":
        return f"probability of 8-bit pixels, {protocol}"
    if likelihood.name != "bernoulli":
        return f"density of pixels in [0, 1], {protocol}: may be negative, and is no probability of 8-bit pixels"
    if protocol == "grey":
        return "grey pixels under a Bernoulli: no likelihood"
    if protocol == "dynamic":
        return "binary pixels, drawn anew each epoch of training, once for scores"
    return "binary pixels, drawn once with a seed of ours: not Larochelle's"
