"""Parity in the unit that a VAE is judged by: nats per image, once through PyTorch, once through the exported files.

Both take the same images and the same noise. Per image x and K noises, with z = mean + noise · exp(logvar / 2):

    -ELBO = mean over K of  −log p(x|z) + KL(q(z|x) ‖ N(0, I))              (Kingma & Welling, arXiv:1312.6114)
    NLL_K = −log mean over K of  p(x|z) p(z) / q(z|x)                        (Burda et al., arXiv:1509.00519)

with log p(x|z) that of the contract's likelihood; where it states none, a Bernoulli's for pixels in [0, 1], else a
Gaussian's of deviation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vae_export.capture import Graph
from vae_export.contract import Array, Contract, Part
from vae_export.formats.base import Runner
from vae_export.likelihood import Likelihood
from vae_export.parity.compare import (
    CaseResult,
    Comparison,
    compare_arrays,
    describe_fault,
    max_distance,
    mean_distance,
)
from vae_export.parity.fake_quant import Evaluate
from vae_export.parity.oracle import PERTURBATIONS, Oracle, Sensitivity, evaluate_graph, perturbation_direction
from vae_export.parity.tolerance import TOLERANCE_FACTORS, ErrorLimits, Tolerance, ulp
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions

#: Noises for each image, where nothing else is said.
NOISE_SAMPLES = 8
#: The name that these rows have in place of a part's.
METRIC = "metric"
METRICS = ("negative_elbo", "iwae_nll")
_SEED = 1509_00519  # the arXiv number of Burda et al.; any fixed seed does

#: One part as a function of its one input; outputs by name.
Stage = Callable[[Array], Mapping[str, Array]]


class ElboParity:
    """Nats per image of fixed images with fixed noise, through PyTorch in both precisions."""

    def __init__(
        self,
        contract: Contract,
        graphs: Mapping[Part, Graph],
        oracles: Mapping[Part, Oracle],
        images: Array,
        tolerance: Tolerance | None,
        noises: int = NOISE_SAMPLES,
    ) -> None:
        self._contract, self._images = contract, images
        rng = np.random.default_rng(_SEED)
        self._noise = rng.standard_normal((noises, len(images), *contract.latent_shape), dtype=np.float32)
        encoder, decoder = graphs["encoder"], graphs["decoder"]
        encoder_oracle, decoder_oracle = oracles["encoder"], oracles["decoder"]
        self._eager = self._through(
            lambda image: evaluate_graph(encoder, {"image": image}),
            lambda latent: evaluate_graph(decoder, {"latent": latent}),
        )
        self._exact = self._through(
            lambda image: encoder_oracle.expected({"image": image}),
            lambda latent: decoder_oracle.expected({"latent": latent}),
        )
        self._encoder_oracle, self._decoder_oracle = encoder_oracle, decoder_oracle
        self._tolerance = tolerance
        self._scales: dict[PrecisionName, dict[str, ErrorLimits]] = {}

    def scales(self, precision: PrecisionName, own: Mapping[Part, Evaluate]) -> dict[str, ErrorLimits]:
        """How much rounding each metric has to live with in a precision; `own` is PyTorch in it."""
        if precision not in self._scales:
            lossy = (
                self._eager
                if precision == FULL
                else self._through(
                    lambda image: own["encoder"]({"image": image}), lambda latent: own["decoder"]({"latent": latent})
                )
            )
            moves = {name: Sensitivity() for name in METRICS}
            for turn in range(PERTURBATIONS):
                for name, moved in self._moved(turn, precision).items():
                    moves[name].add(np.abs(moved - self._exact[name]), turn, [len(moved)])
            self._scales[precision] = {
                name: ErrorLimits(
                    eager_error=max_distance(lossy[name], exact),
                    sensitivity=moves[name].worst / TOLERANCE_FACTORS[precision],
                    magnitude=float(np.abs(exact).max()),
                    user_tolerance=self._tolerance,
                    precision=precision,
                    eager_mean_error=mean_distance(lossy[name], exact),
                    mean_sensitivity=moves[name].mean / TOLERANCE_FACTORS[precision],
                )
                for name, exact in self._exact.items()
            }
        return self._scales[precision]

    def _moved(self, turn: int, precision: PrecisionName) -> dict[str, Array]:
        return self._through(
            lambda image: self._encoder_oracle.perturbed({"image": image}, turn, precision),
            lambda latent: _rounded(
                self._decoder_oracle.perturbed({"latent": latent}, turn, precision), turn, precision
            ),
        )

    def rows(
        self, target: str, setting: SessionOptions, encoder: Runner, decoder: Runner, scales: Mapping[str, ErrorLimits]
    ) -> Iterator[CaseResult]:
        """One row for each metric, through the files of one target."""
        fault, values = None, {}
        try:
            values = self.through(encoder, decoder)
        except Exception as error:
            fault = describe_fault(error)
        for name in METRICS:
            scale = scales[name]
            if fault is not None:
                result = Comparison(fault=fault)
            elif not np.isfinite(values[name]).all():
                result = Comparison(fault="not finite")
            else:
                result = compare_arrays(values[name], self._eager[name], self._exact[name], scale.magnitude)
            yield CaseResult(METRIC, target, setting, "data", len(self._images), name, result, scale)

    def through(self, encoder: Runner, decoder: Runner) -> dict[str, Array]:
        """Nats per image by name, float64 (M,), through two files."""
        return self._through(lambda image: encoder({"image": image}), lambda latent: decoder({"latent": latent}))

    def through_one(self, autoencoder: Runner) -> dict[str, Array]:
        """The same through one file, which takes the noise as an input."""
        count, latent = len(self._images), self._contract.latent_shape
        inputs = {"image": np.concatenate([self._images] * len(self._noise)), "noise": self._noise.reshape(-1, *latent)}
        outputs = autoencoder(inputs)
        # In the order of the contract: reconstruction, mean, logvar, latent, and the likelihood's second output.
        decoded, mean, logvar, _, *rest = outputs.values()
        images = [output.reshape(len(self._noise), *self._images.shape) for output in (decoded, *rest)]
        return nats_per_image(self._contract, self._images, mean[:count], logvar[:count], self._noise, *images)

    def difference(self, found: Mapping[str, Array]) -> Array:
        """Of the -ELBO of each image, float64 (M,): through files less through PyTorch's float64."""
        apart: Array = found[METRICS[0]] - self._exact[METRICS[0]]
        return apart

    def _through(self, encode: Stage, decode: Stage) -> dict[str, Array]:
        """Nats per image by name, float64 (M,)."""
        encoded = encode(self._images)
        mean, logvar = encoded["mean"], encoded["logvar"]
        latent = mean + self._noise.astype(mean.dtype) * np.exp(logvar / 2)
        flat = latent.reshape(-1, *self._contract.latent_shape)
        outputs = decode(np.ascontiguousarray(flat)).values()  # the image, and the likelihood's second output
        decoded, *rest = (output.reshape(len(self._noise), *self._images.shape) for output in outputs)
        return nats_per_image(self._contract, self._images, mean, logvar, self._noise, decoded, *rest)


def _rounded(outputs: Mapping[str, Array], turn: int, precision: PrecisionName) -> dict[str, Array]:
    """The outputs with each value moved at random by up to `TOLERANCE_FACTORS` ULPs of its output's largest.

    That is the last bit that parity asks of a pixel (see `ErrorLimits.baseline_error`). Weights that move do not show
    what it does here: near 0 and 1 the logarithm magnifies it a million times.
    """
    seed, reach = perturbation_direction(turn, precision)
    rng = np.random.default_rng(seed)
    return {
        name: output + rng.uniform(-1, 1, output.shape) * reach * ulp(float(np.abs(output).max()), precision)
        for name, output in outputs.items()
    }


def nats_per_image(
    contract: Contract,
    image: Array,
    mean: Array,
    logvar: Array,
    noise: Array,
    decoded: Array,
    spread: Array | None = None,
) -> dict[str, Array]:
    """Nats per image by name, float64 (M,).

    Args:
        image: (M, C, H, W).
        mean, logvar: (M, *latent), of the encoder.
        noise: (K, M, *latent).
        decoded: (K, M, C, H, W), the decoder's images of mean + noise · exp(logvar / 2).
        spread: the same shape, its second output where the likelihood has one.
    """
    count, images = noise.shape[:2]
    low, high = contract.image_range
    likelihood = contract.likelihood or Likelihood.usual(contract.image_range)
    log_prob = likelihood.log_prob(image, decoded, spread, low=low, high=high)
    log_likelihood = log_prob.reshape(count, images, -1).sum(-1)
    mu, lv = (np.asarray(array, np.float64).reshape(images, -1) for array in (mean, logvar))
    eps = np.asarray(noise, np.float64).reshape(count, images, -1)
    kl = 0.5 * (mu**2 + np.exp(lv) - lv - 1).sum(-1)
    z = mu + eps * np.exp(lv / 2)
    log_weight = log_likelihood - 0.5 * (z**2).sum(-1) + 0.5 * (eps**2 + lv).sum(-1)
    largest = log_weight.max(0)
    return {
        "negative_elbo": kl - log_likelihood.mean(0),
        "iwae_nll": -(largest + np.log(np.exp(log_weight - largest).mean(0))),
    }
