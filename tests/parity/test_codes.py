"""Codes are compared exactly, except where rounding decides which of two entries is nearer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract, Source, export, load, verify
from vae_export.parity import References
from vae_export.parity.compare import compare_codes, unstable_codes, unstable_warnings

CONTRACT = Contract((1, 8, 8), (4, 4), encoding="codes", codebook_size=32)
SPEC = CONTRACT.spec("encoder").outputs[0]


class Encoder(nn.Module):
    """image (N, 1, 8, 8) → codes (N, 4, 4): the nearest of 32 entries at each place of a feature map.

    With `twins`, each entry of the codebook is there twice, so that rounding chooses between them.
    """

    def __init__(self, *, twins: bool = False) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 6, 2, 2)
        entries = torch.randn(16, 6).repeat(2, 1) if twins else torch.randn(32, 6)
        self.entries = nn.Parameter(entries)

    def forward(self, image: Tensor) -> Tensor:
        places = self.down(image).permute(0, 2, 3, 1)
        distances = (places.unsqueeze(-2) - self.entries).square().sum(-1)
        return distances.argmin(-1)


class Decoder(nn.Module):
    """codes (N, 4, 4) → image (N, 1, 8, 8) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.entries, self.up = nn.Embedding(32, 6), nn.ConvTranspose2d(6, 1, 2, 2)

    def forward(self, codes: Tensor) -> Tensor:
        return self.up(self.entries(codes).permute(0, 3, 1, 2)).sigmoid()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.slow
def test_export_of_codes_is_verified_and_tests_itself(tmp_path: Path) -> None:
    artifact, certificate = export(Source(CONTRACT, Encoder(), Decoder()), tmp_path / "export")
    codes = [result for result in certificate.results if result.output == "codes"]
    assert {result.part for result in codes} == {"encoder", "autoencoder"}
    assert all(result.comparison.error == 0 and result.passed for result in codes)
    assert certificate.nats_not_compared == "the encoder gives codes, not mean and logvar"
    assert not any(finding.rule == "unstable-codes" for finding in certificate.findings)
    assert artifact.manifest.golden[0].outputs[0].tolerance == 0
    load(tmp_path / "export").self_test().require()


@pytest.mark.slow
def test_codes_of_a_changed_codebook_fail(tmp_path: Path) -> None:
    encoder = Encoder()
    artifact, _ = export(Source(CONTRACT, encoder), tmp_path / "export")
    with torch.no_grad():
        encoder.entries *= 1.1
    certificate = verify(artifact, Source(CONTRACT, encoder), thorough=False)
    assert not certificate.passed
    failed = [result for result in certificate.results if not result.passed]
    assert all(result.output == "codes" and (result.comparison.error or 0) >= 1 for result in failed)


def test_other_codes_fail() -> None:
    rng = np.random.default_rng(0)
    codes, stable = rng.integers(0, 32, (5, 4, 4)), np.zeros((5, 4, 4), bool)
    assert compare_codes(codes, SPEC, codes, codes, stable).error == 0
    wrong = codes.copy()
    wrong[3, 1, 2] = (wrong[3, 1, 2] + 1) % 32
    found = compare_codes(wrong, SPEC, codes, codes, stable)
    assert (found.error, found.max_abs, found.worst_index, found.mean_error) == (1, 1, (3, 1, 2), 1 / 80)
    explained = compare_codes(wrong, SPEC, codes, codes, wrong != codes)
    assert (explained.error, explained.max_abs, explained.outside) == (0, 1, 0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((5, 4, 4), np.float32), "wrong dtype"),
        (np.zeros((5, 4, 4), np.int32), "wrong dtype"),
        (np.zeros((5, 16), np.int64), "wrong shape"),
        (np.zeros((4, 4, 4), np.int64), "wrong shape"),
        (None, "not an array"),
    ],
)
def test_codes_of_another_dtype_or_shape_are_a_fault(value: object, said: str) -> None:
    codes = np.zeros((5, 4, 4), np.int64)
    fault = compare_codes(value, SPEC, codes, codes, codes > 0).fault
    assert fault is not None
    assert said in fault


def test_codes_outside_the_codebook_are_counted_though_unstable() -> None:
    codes = np.zeros((1, 4, 4), np.int64)
    found = compare_codes(codes + 32, SPEC, codes, codes, np.ones_like(codes, bool))
    assert (found.error, found.outside) == (0, 16)


def test_codes_that_float32_or_moved_weights_change_are_unstable() -> None:
    exact = np.array([[0, 1, 2, 3]])
    mask = unstable_codes(exact, np.array([[0, 1, 2, 9]]), np.array([[7, 1, 2, 3]]))
    assert mask.tolist() == [[True, False, False, True]]


def test_twin_entries_make_codes_unstable_and_others_do_not() -> None:
    shares: dict[bool, float] = {}
    for twins in (False, True):
        references = References(Source(CONTRACT, encoder=Encoder(twins=twins)))
        [case] = [case for case in references.cases("encoder") if (case.probe, case.batch) == ("data", 64)]
        shares[twins] = float(case.unstable["codes"].mean())
    assert shares[False] < 0.01
    assert shares[True] > 0.9
    [finding] = unstable_warnings("encoder on onnx", {"codes": shares[True]})
    assert finding.rule == "unstable-codes"
    assert not list(unstable_warnings("encoder on onnx", {"codes": shares[False]}))
