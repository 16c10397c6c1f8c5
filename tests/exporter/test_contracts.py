"""Contracts of every kind are exported, verified, and tested again by the runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extended_models import extended_source
from vae_export import export, load


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conditional", "codes", "maps", "several", "table", "tokens", "batches below 6"])
def test_every_kind_of_contract_is_exported_and_tests_itself(name: str, tmp_path: Path) -> None:
    source = extended_source(name)
    artifact, certificate = export(source, tmp_path / "export")
    assert artifact.manifest.contract == source.contract
    assert {result.part for result in certificate.results} >= {"encoder", "decoder", "autoencoder"}
    assert all(result.passed for result in certificate.results)
    page = artifact.certificate.with_suffix(".html")
    assert source.contract.latents[0].name in page.read_text("utf-8")
    load(tmp_path / "export").self_test().require()
