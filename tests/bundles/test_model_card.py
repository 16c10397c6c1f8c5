"""Model cards of contracts of every kind: tensors, priors, conditions, sizes, and what was not measured."""

from __future__ import annotations

import pytest

from tests.report.sample_certificates import ONNX, certificate, error_map, manifest, result
from vae_export.artifact.certificate import StoredCertificate
from vae_export.bundles.model_card import model_card
from vae_export.contract import Condition, Contract
from vae_export.tensors import Symbol

LABEL = Condition("label", (), "int64", 0, 9, ("decoder",))
NOISE = "standard normal noise, since the source has no images"


def card_of(contract: Contract, **environment: str) -> str:
    whole = certificate(
        (result(output=contract.output.name),),
        error_maps={ONNX: error_map(contract)},
        environment={"versions": {}, "images": "real", **environment},
        nats_not_compared="the encoder gives codes, not mean and logvar" if contract.encoding == "codes" else None,
    )
    return model_card("x", manifest(contract), StoredCertificate(b"", whole.to_json()))


@pytest.mark.parametrize(
    ("contract", "lines"),
    [
        (Contract((13,), (4,), None), ["- data: float32 (N, 13)", "- latent: float32 (N, 4), prior N(0, I)"]),
        (
            Contract((1, 8, 8), (4, 4), encoding="codes", codebook_size=32, code_dtype="int32"),
            ["An autoencoder whose latents are codes, exported", "- codes: int32 (N, 4, 4), 0 to 31, prior uniform"],
        ),
        (
            Contract(
                (3, "8*h", "8*w"), (4, "h", "w"), (-1, 1), output_shape=(3, "8*h", "8*w"), prior="given by the user",
                scaling_factor=0.18215, symbols={"h": Symbol(2, None, usual=64), "w": Symbol(2), "N": Symbol(1, 63)},
            ),
            [
                "- image: float32 (N, 3, 8*h, 8*w), values in [-1, 1]",
                "- latent: float32 (N, 4, h, w), prior not known: the application draws them",
                "- sizes: h 2 and up, usually 64, w 2 and up, N 1 to 63",
                "- a diffusion model's latents: (latent - 0) · 0.18215",
            ],
        ),
        (
            Contract(
                (2, 100), {"low": (4,), "high": (2, 3)}, (-1, 1),
                conditions=(LABEL, Condition("size", (2,), low=0, high=5)),
            ),
            [
                "- data: float32 (N, 2, 100), values in [-1, 1]",
                "- low: float32 (N, 4), prior N(0, I)",
                "- high: float32 (N, 2, 3), prior N(0, I)",
                "- label: int64 (N), 0 to 9, for the decoder",
                "- size: float32 (N, 2), values in [0, 5], for the encoder and the decoder",
            ],
        ),
    ],
    ids=["table", "codes", "open-sizes", "conditions"],
)  # fmt: skip
def test_card_states_every_tensor(contract: Contract, lines: list[str]) -> None:
    card = card_of(contract)
    for line in lines:
        assert line in card, card


def test_card_says_what_was_not_measured() -> None:
    codes = Contract((1, 8, 8), (4, 4), encoding="codes", codebook_size=32)
    card = card_of(codes, images=NOISE)
    assert f"The inputs were {NOISE}." in card
    assert "Scores in nats were not compared: the encoder gives codes, not mean and logvar." in card
    assert "image" not in card.partition("## Limits")[2].partition("The hashes")[0]


def test_scores_of_noise_are_not_called_scores_of_images() -> None:
    scored = (result("metric", "negative_elbo"),)
    for images, said in (("real", "scores of real images"), (NOISE, "scores of noise")):
        whole = certificate(scored, environment={"versions": {}, "images": images})
        assert f"| {said} |" in model_card("x", manifest(), StoredCertificate(b"", whole.to_json()))


def test_error_is_that_of_inputs_such_as_an_application_has() -> None:
    rows = (result(ratio=2.0), result(ratio=4.0, probe="largest"))
    card = model_card("x", manifest(), StoredCertificate(b"", certificate(rows).to_json()))
    typical, whole = rows[0].comparison.error, rows[1].tolerance_used
    assert f"| decoder | `{ONNX}` | {typical:.2g} | {whole:.0%} |" in card
