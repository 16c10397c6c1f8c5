"""The page says what its certificate says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from tests.commands import Invoke
from tests.report.sample_certificates import (
    COLOUR,
    GREY,
    ONNX,
    TORCH,
    UNIT,
    certificate,
    error_map,
    manifest,
    read,
    result,
)
from vae_export import export
from vae_export.artifact.manifest import read_manifest
from vae_export.contract import Contract
from vae_export.io.atomic import write_atomic
from vae_export.parity.certificate import EngineVersion
from vae_export.parity.plan import PartPlan, Plan, Sweep
from vae_export.parity.probes import make_probes
from vae_export.parity.reproduction import Reproduction
from vae_export.parity.tolerance import ErrorLimits, Tolerance
from vae_export.report import certificate_page
from vae_export.report.text import PROBES
from vae_export.sources import Source


def test_page_shows_verdict_figures_hashes_and_versions() -> None:
    page = read(certificate())
    assert page.text.startswith("Pass")
    for said in ("5 of 5 planned", "2.62×", "8× is allowed", "six-sigma", "nats", ONNX, TORCH, "onnxruntime 1.99.0"):
        assert said in page.text
    for entry in manifest().files:
        assert entry.sha256 in page.text
    assert "other bits" in page.text
    assert PROBES["six-sigma"] in page.text


def test_drawn_batch_sizes_are_counted_apart_from_the_probes() -> None:
    drawn = tuple(result(probe="batches", batch=batch) for batch in (5, 1024))
    page = read(certificate((result(probe="zeros", batch=2), result(probe="zeros", batch=1), *drawn)))
    assert "in batches of 1 and 2, and 2 batch sizes drawn from the" in page.text
    assert "up to 1,024" in page.text
    assert "drawn from the hash of each file" in page.text


def test_page_names_the_engine_that_ran_each_target() -> None:
    engines = {
        "openvino/CPU": EngineVersion("openvino", "2099.1"),
        "ort/CPUExecutionProvider": EngineVersion("onnxruntime", "1.9"),
    }
    page = read(certificate(tuple(result(target=target) for target in engines), engines=engines, error_maps={}))
    assert "openvino 2099.1" in page.text
    assert "onnxruntime 1.9" in page.text
    assert "torch 2.99.0" not in page.text.partition("Where this ran")[0]


def test_page_shows_reproduction_coverage_and_plan() -> None:
    assert read(certificate()).text.count(" reproduced") >= 2
    unlike = Reproduction("decoder.onnx", "different", ("initialiser 'w': 1 of 2 values differ",), "its bytes differ")
    coverage = {
        "decoder.onnx": {
            "rows": 64,
            **{kind: {"reached": 3, "total": 1024} for kind in ("inputs", "weights", "bounds", "branches")},
            "not_reached": ["hardtanh: 20, nothing above"],
            "reason": "",
        }
    }
    sweep = Sweep(1, 2, (1, 2))
    plan = Plan({"decoder": PartPlan((sweep,), left_out=("13 probes",), reason="it takes too long")}, minutes=1)
    failed = read(certificate(reproductions=(unlike,), coverage=coverage, plan=plan))
    assert failed.text.startswith("Fail")
    allowed = read(certificate(reproductions=(unlike,), coverage=coverage, plan=plan, allows_unreproduced=True))
    assert allowed.text.startswith("Pass")
    for page in (failed, allowed):
        for said in ("initialiser 'w': 1 of 2 values differ", "3 of 1,024", "nothing above", "plan for the decoder: "):
            assert said in page.text
    assert "No file passes that could not be written anew" in failed.text
    assert "judged by their outputs alone" in allowed.text
    assert "decoder.onnx: not reproduced, judged by its outputs alone" in allowed.text


def test_page_is_well_formed_and_accessible() -> None:
    page = read(certificate())
    assert page.open == []
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 2 + 2 + 2 * 2  # two heat maps, two common rows, two rows for each target
    assert all(attributes["alt"] for attributes in images)
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("contract", [GREY, COLOUR], ids=["grey", "colour"])
def test_equal_certificates_give_identical_pages(contract: Contract) -> None:
    pages = {
        certificate_page(certificate(error_maps={ONNX: error_map(contract)}), manifest(contract)) for _ in range(2)
    }
    assert len(pages) == 1


def test_page_is_the_same_after_the_manifest_is_written_and_read(tmp_path: Path) -> None:
    described = replace(
        manifest(), provenance={"z": {"b": 1, "a": 0.1}, "c": "d"}, versions={"torch": "1", "onnx": "2"}
    )
    write_atomic(tmp_path / "manifest.json", described.text)
    assert certificate_page(certificate(), described) == certificate_page(certificate(), read_manifest(tmp_path))


def test_page_without_error_maps_has_no_pictures_and_says_so() -> None:
    page = read(certificate((result("encoder", "mean"),), error_maps={}))
    assert "img" not in [tag for tag, _ in page.elements]
    assert "No pictures" in page.text
    assert page.text.startswith("Pass")


def test_page_shows_the_user_tolerance() -> None:
    own = Tolerance(1e-3, 0.02)
    page = read(certificate((result(limits=ErrorLimits(UNIT, UNIT, 1.0, own)),), tolerance=own))
    assert page.text.count("the user’s own tolerance, atol 0.001 and rtol 0.02") == 3
    assert "atol" not in read(certificate()).text


def test_every_probe_is_explained() -> None:
    source = Source(GREY, None, nn.Identity())
    assert [probe.name for probe in make_probes(source, {}, 2)] == list(PROBES)


class _Decoder(nn.Module):
    """latent (N, 4) → image (N, 1, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 144)

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.linear(latent).sigmoid().reshape(-1, 1, 12, 12)
        return image


def test_export_contains_the_page_of_its_certificate(tmp_path: Path) -> None:
    artifact, whole = export(Source(GREY, None, _Decoder()), tmp_path / "export")
    page = artifact.certificate.with_suffix(".html").read_text("utf-8")
    assert page == certificate_page(whole, artifact.manifest)
    assert str(tmp_path) not in page


def test_verify_overwrites_no_page(tmp_path: Path, invoke: Invoke) -> None:
    page = tmp_path / "report.html"
    assert "beside it" in invoke("verify", "--out", page).err
    page.touch()
    assert "exists" in invoke("verify", "--out", page.with_suffix(".json")).err


def test_page_calls_iwae_a_bound_and_not_a_likelihood() -> None:
    """The certificate does not know the kind of pixels, so the page uses a name that is right for all."""
    page = read(certificate((result("metric", "iwae_nll"),)))
    assert "IWAE bound" in page.text
    assert "NLL" not in page.text
