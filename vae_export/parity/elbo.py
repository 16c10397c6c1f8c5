"""Compare PyTorch and the exported files in nats per image, the unit in which VAEs are evaluated.

Only VAEs with a Gaussian posterior, a standard normal prior and a decoder that gives data have them. An image may be a
row of any data here. Several latents count as one.

Both take the same images and the same noise. For each image x and K noise samples, with
z = mean + noise · exp(logvar / 2):

    −ELBO = mean over K of  −log p(x|z) + KL(q(z|x) ‖ N(0, I))              (Kingma & Welling, arXiv:1312.6114)
    NLL_K = −log mean over K of  p(x|z) p(z) / q(z|x)                        (Burda et al., arXiv:1509.00519)

p(x|z) is the contract's likelihood. Without one it is a Bernoulli distribution for data in [0, 1], and otherwise a
Gaussian of standard deviation 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from vae_export.artifact.certificate import METRIC
from vae_export.contract import NORMAL, Array, Contract, Part
from vae_export.likelihood import Likelihood
from vae_export.parity.cases import output_limits
from vae_export.parity.compare import CaseResult, Comparison, compare_arrays, describe_fault
from vae_export.parity.oracle import PERTURBATIONS, PartFunction, Sensitivity, perturbation_direction, run_rows
from vae_export.parity.reference import References
from vae_export.parity.tolerance import ErrorLimits, Tolerance, ulp
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions

#: Noise samples for each image, K, unless another number is given.
NOISE_SAMPLES = 8
METRICS = ("negative_elbo", "iwae_nll")
_SEED = 1509_00519  # the arXiv number of Burda et al.; any fixed seed does


def why_not_comparable(contract: Contract) -> str | None:
    """Return why a VAE has no nats as this module defines them, or None if it has.

    Args:
        contract: the contract of the VAE.
    """
    if contract.encoding != "gaussian":
        return f"the encoder gives {'codes' if contract.encoding == 'codes' else 'a latent'}, not mean and logvar"
    if contract.prior != NORMAL:
        return f"the prior is {contract.prior}, not {NORMAL}"
    if not contract.gives_data:
        return "the decoder does not give data as the encoder takes it"
    likelihood = contract.likelihood or Likelihood.usual(contract.data_range)
    if likelihood.name == "bernoulli" and not contract.output.is_bounded:
        return "the decoder's output is not bounded, so that it is no probability"
    return None


class ElboParity:
    """Compares the nats per image of exported files with PyTorch's, on fixed images with fixed noise.

    An image is a row of any data here.

    Args:
        references: what PyTorch computes for the source; it needs an encoder and a decoder, and a contract that has
            nats (see `why_not_comparable`).
        examples: data (M, *item) and the conditions of these rows, by tensor name.
        noise_samples: noise samples for each image.
        user_tolerance: tolerance that replaces the measured one.
        perturbations: number of evaluations that measure the sensitivity.
    """

    def __init__(
        self,
        references: References,
        examples: Mapping[str, Array],
        noise_samples: int = NOISE_SAMPLES,
        user_tolerance: Tolerance | None = None,
        perturbations: int = PERTURBATIONS,
    ) -> None:
        self._references, self._examples, self._user_tolerance = references, examples, user_tolerance
        self._perturbations = perturbations
        self._contract = contract = references.source.contract.at()
        self._images = examples[contract.data.name]
        rng = np.random.default_rng(_SEED)
        self._noise = {
            latent.name: rng.standard_normal((noise_samples, len(self._images), *latent.fixed_item), dtype=np.float32)
            for latent in contract.latents
        }
        self._repeated = {name: np.concatenate([array] * noise_samples) for name, array in examples.items()}
        self._eager = self._in_precision(FULL)
        self._expected = self.nats(references.oracle("encoder").expected, references.oracle("decoder").expected)
        self._limits: dict[PrecisionName, dict[str, ErrorLimits]] = {}

    def nats(self, encoder: PartFunction, decoder: PartFunction) -> dict[str, Array]:
        """Return the nats of each image through an encoder and a decoder.

        Args:
            encoder, decoder: PyTorch's parts, or the files.

        Returns:
            float64 (M,) for each name in `METRICS`.
        """
        mean, logvar = self._statistics(self._run("encoder", encoder, self._examples))
        latents = {
            name: mean[name] + noise.astype(mean[name].dtype) * np.exp(logvar[name] / 2)
            for name, noise in self._noise.items()
        }
        flat = {name: np.ascontiguousarray(array.reshape(-1, *array.shape[2:])) for name, array in latents.items()}
        decoded = self._run("decoder", decoder, self._repeated | flat)
        return self._nats(mean, logvar, decoded, data=self._contract.data.name)

    def nats_of_autoencoder(self, autoencoder: PartFunction) -> dict[str, Array]:
        """Return the nats per image by metric, float64 (M,), through one file that takes the noise as an input."""
        names = [tensor.name for tensor in self._contract.spec("autoencoder").inputs if tensor.role == "noise"]
        noise = {
            name: array.reshape(-1, *array.shape[2:]) for name, array in zip(names, self._noise.values(), strict=True)
        }
        outputs = self._run("autoencoder", autoencoder, self._repeated | noise)
        mean, logvar = self._statistics({name: array[: len(self._images)] for name, array in outputs.items()})
        return self._nats(mean, logvar, outputs, data="reconstruction")

    def _run(self, part: Part, function: PartFunction, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run a part on the arrays that it takes, in batches that it allows."""
        return run_rows(function, self._references.captured.graph(part).spec, arrays)

    def _statistics(self, outputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the means and the log-variances of an encoder or an autoencoder by the name of the latent."""
        names = [tensor.name for tensor in self._contract.spec("encoder").outputs]
        latents = list(self._noise)
        mean, logvar = ([outputs[name] for name in names[start::2]] for start in (0, 1))
        return dict(zip(latents, mean, strict=True)), dict(zip(latents, logvar, strict=True))

    def elbo_difference(self, nats: Mapping[str, Array]) -> Array:
        """Return the −ELBO of each image minus that of PyTorch in float64, as float64 (M,)."""
        difference: Array = nats[METRICS[0]] - self._expected[METRICS[0]]
        return difference

    def limits(self, precision: PrecisionName) -> dict[str, ErrorLimits]:
        """Return the error limits of each metric, by name, for files of a precision."""
        if precision not in self._limits:
            baseline = self._eager if precision == FULL else self._in_precision(precision)
            sensitivities = {name: Sensitivity() for name in METRICS}
            for index in range(self._perturbations):
                for name, moved in self._perturbed(index, precision).items():
                    sensitivities[name].add(np.abs(moved - self._expected[name]), index, [len(moved)])
            self._limits[precision] = {
                name: output_limits(
                    expected, {len(expected): baseline[name]}, sensitivities[name], precision, self._user_tolerance
                )
                for name, expected in self._expected.items()
            }
        return self._limits[precision]

    def results(
        self,
        target: str,
        options: SessionOptions,
        encoder: PartFunction,
        decoder: PartFunction,
        precision: PrecisionName,
    ) -> Iterator[CaseResult]:
        """Yield one result for each metric, computed with the files of one target.

        Args:
            target: the name of the target.
            options: the session options that the files were opened with.
            encoder: function from {"image": (N, C, H, W)} to mean and logvar, each (N, *latent).
            decoder: function from {"latent": (N, *latent)} to the decoder's outputs.
            precision: precision of the files.

        Yields:
            The test case of a metric; an error of the engine, or a result that is not finite, is its fault.
        """
        fault, nats = None, {}
        try:
            nats = self.nats(encoder, decoder)
        except Exception as error:  # whatever the engine raises
            fault = describe_fault(error)
        for name, limits in self.limits(precision).items():
            if fault is not None:
                comparison = Comparison(fault=fault)
            elif not np.isfinite(nats[name]).all():
                comparison = Comparison(fault="not finite")
            else:
                comparison = compare_arrays(nats[name], self._eager[name], self._expected[name], limits.magnitude)
            yield CaseResult(METRIC, target, options, "data", len(self._images), name, comparison, limits)

    def _in_precision(self, precision: PrecisionName) -> dict[str, Array]:
        function = self._references.function
        return self.nats(function("encoder", precision), function("decoder", precision))

    def _perturbed(self, index: int, precision: PrecisionName) -> dict[str, Array]:
        encoder, decoder = self._references.oracle("encoder"), self._references.oracle("decoder")

        def rounded_decoder(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return _with_last_bits_moved(decoder.perturbed(inputs, index, precision), index, precision)

        return self.nats(partial(encoder.perturbed, index=index, precision=precision), rounded_decoder)

    def _nats(
        self, mean: Mapping[str, Array], logvar: Mapping[str, Array], outputs: Mapping[str, Array], data: str
    ) -> dict[str, Array]:
        """Return the nats from the outputs (K · M, *item) of a decoder: its data, and a spread if there is one."""
        likelihood, count = self._contract.likelihood, next(iter(self._noise.values())).shape[0]
        names = [data] if likelihood is None or likelihood.spread is None else [data, f"{data}_{likelihood.spread}"]
        decoded = [outputs[name].reshape(count, *self._images.shape) for name in names]
        encoded = (_joined(arrays.values(), leading) for arrays, leading in ((mean, 1), (logvar, 1), (self._noise, 2)))
        return nats_per_image(self._contract, self._images, *encoded, *decoded)


def _joined(arrays: Iterable[Array], leading: int) -> Array:
    """Return the latents of each row as one vector, after the given number of leading axes."""
    flat = [array.reshape(*array.shape[:leading], -1) for array in arrays]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, leading)


def _with_last_bits_moved(outputs: Mapping[str, Array], index: int, precision: PrecisionName) -> dict[str, Array]:
    """Return the outputs, each value moved at random by up to `TOLERANCE_FACTORS` ULPs of the output's largest value.

    A pixel may be off by that much (see `ErrorLimits.baseline_error`). Perturbed weights do not show the effect on
    nats, because the logarithm magnifies it a million times near 0 and 1.
    """
    seed, factor = perturbation_direction(index, precision)
    rng = np.random.default_rng(seed)
    return {
        name: output + rng.uniform(-1, 1, output.shape) * factor * ulp(float(np.abs(output).max()), precision)
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
    """Return the −ELBO and the importance-weighted NLL of each image, in nats.

    Args:
        contract: the range and the likelihood of the data.
        image: data of any shape, (M, *item), such as (M, C, H, W).
        mean, logvar: (M, *latent), from the encoder.
        noise: (K, M, *latent).
        decoded: (K, M, *item), the decoder's data of mean + noise · exp(logvar / 2).
        spread: (K, M, *item), the decoder's second output, if the likelihood has one.

    Returns:
        float64 (M,) by the names in `METRICS`.
    """
    count, images = noise.shape[:2]
    low, high = contract.data_range or (-math.inf, math.inf)
    likelihood = contract.likelihood or Likelihood.usual(contract.data_range)
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
