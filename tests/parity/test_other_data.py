"""Nats, degradation and the certificate of VAEs of tables, several latents, conditions and other priors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.extended_models import CONTRACTS, extended_source
from vae_export import Source, export
from vae_export.contract import Array, Contract
from vae_export.likelihood import Likelihood
from vae_export.parity import Budget, References
from vae_export.parity.degradation import DegradationMeter, FrechetBaseline
from vae_export.parity.elbo import ElboParity, nats_per_image, why_not_comparable
from vae_export.parity.oracle import evaluate_graph
from vae_export.parity.plan import NatsPlan
from vae_export.parity.probes import origin_of_probes
from vae_export.tensors import BATCH, Symbol

pytestmark = pytest.mark.slow


def table(rows: int) -> Array:
    return np.random.default_rng(0).standard_normal((rows, 13)).astype(np.float32)


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        (CONTRACTS["several"], None),
        (CONTRACTS["conditional"], None),
        (CONTRACTS["maps"], None),
        (CONTRACTS["codes"], "the encoder gives codes, not mean and logvar"),
        (CONTRACTS["tokens"], "the decoder does not give data as the encoder takes it"),
        (CONTRACTS["table"], "the encoder gives a latent, not mean and logvar"),
        (Contract((4,), (2,), None, prior="given by the user"), "the prior is given by the user, not standard normal"),
        (
            Contract((4,), (2,), output_shape=(8,)),
            "the decoder does not give data as the encoder takes it",
        ),
        (
            Contract((4,), (2,), output_shape=(4,)),
            "the decoder's output is not bounded, so that it is no probability",
        ),
        (Contract((4,), (2,), (-1, 1), output_shape=(4,)), None),
        (Contract((4,), (2,), output_shape=(4,), likelihood=Likelihood("gaussian-fixed", 0.1)), None),
    ],
)  # fmt: skip
def test_nats_are_compared_where_they_are_defined(contract: Contract, reason: str | None) -> None:
    assert why_not_comparable(contract) == reason


def test_nats_of_several_latents_are_those_of_one_that_holds_them_all() -> None:
    source, rows = extended_source("several"), table(5)
    references = References(source)
    parity = ElboParity(references, {"data": rows}, noise_samples=3)
    graphs = references.captured.graphs()
    found = parity.nats(
        *(lambda given, graph=graphs[part]: evaluate_graph(graph, given) for part in ("encoder", "decoder"))
    )
    with torch.no_grad():
        mean1, logvar1, mean2, logvar2 = source.encoder(torch.from_numpy(rows))  # type: ignore[misc]
        noise = [torch.from_numpy(array) for array in parity._noise.values()]
        latents = mean1 + noise[0] * torch.exp(logvar1 / 2), mean2 + noise[1] * torch.exp(logvar2 / 2)
        flat = (latent.reshape(-1, *latent.shape[2:]) for latent in latents)
        decoded = source.decoder(*flat).reshape(3, 5, 13)  # type: ignore[misc]
        kl = sum(
            torch.distributions.kl_divergence(
                torch.distributions.Normal(mean, torch.exp(logvar / 2)), torch.distributions.Normal(0.0, 1.0)
            ).flatten(1).sum(1)
            for mean, logvar in ((mean1, logvar1), (mean2, logvar2))
        )  # fmt: skip
        log_prob = torch.distributions.Normal(decoded, 1.0).log_prob(torch.from_numpy(rows)).sum(-1).mean(0)
    assert found["negative_elbo"] == pytest.approx((kl - log_prob).numpy(), rel=1e-5)


def test_unbounded_data_has_a_gaussian_of_deviation_one() -> None:
    contract = Contract((2,), (1,), None)
    x, zeros = np.array([[3.0, -4.0]]), np.zeros((1, 1))
    found = nats_per_image(contract, x, zeros, zeros, np.zeros((1, 1, 1)), np.zeros((1, 1, 2)))
    assert found["negative_elbo"] == pytest.approx(12.5 + np.log(2 * np.pi))


def test_bounded_batches_give_the_same_nats() -> None:
    source = extended_source("several")
    narrow = replace(source, contract=replace(source.contract, symbols={BATCH: Symbol(2, 5)}))
    wide, cut = (ElboParity(References(one), {"data": table(7)}, noise_samples=2) for one in (source, narrow))
    for name, nats in wide._expected.items():
        assert cut._expected[name] == pytest.approx(nats, rel=1e-12)


def test_conditions_of_the_examples_reach_the_score() -> None:
    source = extended_source("conditional")
    image = np.random.default_rng(0).uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)
    references = References(source)
    given = {"image": image, "style": np.zeros((4, 3), np.float32)}
    scores = [
        ElboParity(references, {**given, "label": np.full(4, label)}, noise_samples=2)._expected["negative_elbo"]
        for label in (0, 9)
    ]
    assert np.abs(scores[0] - scores[1]).min() > 1e-3


def test_frechet_distance_needs_a_prior_an_encoder_and_few_units() -> None:
    source = extended_source("several")
    baseline = FrechetBaseline.of(References(source))
    assert baseline is not None
    references = References(source)
    assert baseline.distance(references.oracle("decoder").expected) == pytest.approx(0, abs=1e-6)
    assert baseline.of_samples > 1e-4
    for without in (replace(source, encoder=None), extended_source("table"), extended_source("codes")):
        assert FrechetBaseline.of(References(without)) is None
    wide = Contract((3, "4*h", "4*w"), (2, "h", "w"), (-1, 1), symbols={"h": Symbol(usual=32), "w": Symbol(usual=32)})
    assert FrechetBaseline.of(References(replace(extended_source("maps"), contract=wide))) is None


@pytest.mark.parametrize(
    ("plan", "measured"), [(NatsPlan(), True), (NatsPlan(8, 2, 2), False), (NatsPlan(0, 0, 0), False)]
)
def test_slow_networks_are_not_sampled_two_thousand_times(plan: NatsPlan, measured: bool) -> None:
    meter = DegradationMeter(References(extended_source("several")), None, None, lambda _line: None, plan)
    assert (meter._frechet is not None) == measured


def test_lower_precision_of_a_table_has_nats_and_no_grey_levels(tmp_path: Path) -> None:
    source = replace(extended_source("several"), images=table(64))
    _, certificate = export(source, tmp_path / "export", precisions=["int8"], budget=Budget(max_nats=100))
    [decoder, autoencoder] = certificate.degradations
    for found in (decoder, autoencoder):
        assert (found.worst_levels, found.mean_levels, found.psnr) == (None, None, None)
        assert found.nats is not None
        assert np.isfinite(found.nats)
    assert decoder.frechet is not None
    assert certificate.environment["images"] == "real"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (extended_source("conditional"), {"images": "uniform noise, since the source has no images"}),
        (replace(extended_source("several"), images=table(3)), {"images": "real"}),
        (extended_source("codes"), {"images": "uniform noise, since the source has no images"}),
        (
            extended_source("table"),
            {
                "images": "standard normal noise, since the source has no images",
                "latents": (
                    "normal, with the mean and the deviation of the encoder's latents, "
                    "since the prior is given by the user"
                ),
            },
        ),
        (
            replace(extended_source("table"), encoder=None),
            {
                "images": "standard normal noise, since the source has no images",
                "latents": "standard normal, since the prior is given by the user",
            },
        ),
    ],
    ids=["conditional", "several", "codes", "table", "decoder"],
)
def test_certificate_says_where_probes_come_from(source: Source, said: dict[str, str]) -> None:
    assert origin_of_probes(source) == said
