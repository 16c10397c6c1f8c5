"""A certificate is read as it was written, the first versions' too; one that contradicts itself is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Exported
from vae_export import Artifact
from vae_export.artifact.certificate import parse_certificate, read_certificate
from vae_export.artifact.manifest import Manifest
from vae_export.bundles import open_bundle
from vae_export.bundles.writer import pack
from vae_export.errors import InputError, IntegrityError

REFERENCE = Path(__file__).parents[2] / "artifacts" / "reference" / "mnist.zip"


def test_certificate_of_an_early_version_is_read() -> None:
    """It is older than tolerances of the mean error, and than reproduction and the digests of the manifest."""
    document = json.loads(bytes(open_bundle(REFERENCE).files["certificate.json"]))
    for row in document["rows"]:
        del row["mean_error"], row["mean_band"]
    del document["reproduction"], document["manifest"]
    certificate = parse_certificate(json.dumps(document | {"format": "vae-export-certificate/1"}).encode(), "early")
    assert certificate.passed


@pytest.mark.slow
def test_failed_certificate_is_read(mlp: Exported) -> None:
    document = json.loads(read_certificate(mlp.artifact.certificate).data)
    document["rows"][0] |= {"passed": False, "error": None, "fault": "not finite"}
    failed = document | {"verdict": "fail", "failed_rows": 1}
    assert not parse_certificate(json.dumps(failed).encode(), "here").passed
    incomplete = document | {"verdict": "fail", "failed_rows": 0, "rows": document["rows"][1:]}
    assert not parse_certificate(json.dumps(incomplete).encode(), "here").passed


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.update(failed_rows=99, rows=[]), "contradicts itself: here; expected 0 failed rows, got 99"),
        (lambda d: d.update(rows=[]), "expected [0-9]+ rows, as planned, got 0 rows and verdict pass"),
        (lambda d: d.update(planned_rows=0, rows=[]), "expected 1 rows, as planned, got 0 rows"),
        (lambda d: d["rows"][3].update(passed=False), "expected 1 failed rows, got 0"),
        (
            lambda d: (d["rows"][3].update(passed=False), d.update(failed_rows=1)),
            "expected verdict fail, because a row",
        ),
        (lambda d: d["rows"][3].update(error=1e9), "expected row 3 as failed, because of its figures, got passed"),
        (lambda d: d["rows"][3].update(mean_error=None), "expected row 3 as failed"),
        (lambda d: d["rows"][3].update(outside=2), "expected row 3 as failed"),
        (lambda d: d.update(findings=[{"severity": "error"}]), "expected verdict fail, because a finding is an error"),
        (lambda d: d.update(planned_rows="many"), "cannot be read: here; expected numbers of rows"),
        (lambda d: d.update(failed_rows=False), "cannot be read: here; expected numbers of rows"),
        (lambda d: d.pop("rows"), "cannot be read: here; expected rows"),
        (lambda d: d.update(tolerance={"atol": "\x1b[2J"}), "cannot be read: here; expected a tolerance of numbers"),
        (lambda d: d.update(verdict="passed"), "cannot be read: here; expected a verdict"),
        (lambda d: d.update(files={"a": 1}), "cannot be read: here; expected hashes of files"),
        (lambda d: d.update(manifest={"a": 1}), "cannot be read: here; expected hashes of the manifest"),
        (lambda d: d.pop("manifest"), "cannot be read: here; expected hashes of the manifest"),
        (lambda d: d.pop("reproduction"), "cannot be read: here; expected a reproduction of files"),
        (lambda d: d.update(reproduction=[]), "cannot be read: here; expected a reproduction of files"),
        (lambda d: d.update(unreproduced_allowed=1), "cannot be read: here; expected whether unreproduced files"),
        (
            lambda d: d["reproduction"]["decoder.onnx"].update(state="different"),
            "because a file was not reproduced, got pass and different",
        ),
    ],
)
def test_certificate_that_contradicts_itself_is_refused(
    mlp: Exported, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    document = json.loads(read_certificate(mlp.artifact.certificate).data)
    edit(document)
    with pytest.raises(IntegrityError, match=said):
        parse_certificate(json.dumps(document).encode(), "here")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: replace(m, provenance={**m.provenance, "note": "the best"}), "provenance"),
        (lambda m: replace(m, versions={**m.versions, "torch": "99.0"}), "versions"),
        (lambda m: replace(m, opset=21), "opset"),
        (lambda m: replace(m, files=(replace(m.files[0], machine="linux"), *m.files[1:])), r"file encoder\.\w+"),
        (
            lambda m: replace(m, golden=(replace(m.golden[0], outputs=m.golden[0].outputs[:1]), *m.golden[1:])),
            r"golden vectors of encoder",
        ),
    ],
    ids=["provenance", "versions", "opset", "file", "golden vectors"],
)
def test_certificate_of_another_manifest_is_refused(
    mlp: Exported, change: Callable[[Manifest], Manifest], where: str
) -> None:
    """The files are those that were verified; what the manifest says of them is not."""
    artifact = mlp.artifact
    certificate = read_certificate(artifact.certificate)
    certificate.require(artifact.manifest, "here")
    changed = Artifact(artifact.folder, change(artifact.manifest))
    with pytest.raises(IntegrityError, match=f"certificate belongs to another manifest: here, {where}; "):
        certificate.require(changed.manifest, "here")
    with pytest.raises(IntegrityError, match="certificate belongs to another manifest"):
        pack(changed, certificate, name="changed")
    before = json.loads(certificate.data)
    del before["manifest"]
    first = parse_certificate(json.dumps(before | {"format": "vae-export-certificate/1"}).encode(), "here")
    first.require(changed.manifest, "here")


def test_certificate_that_leaves_a_file_out_of_the_reproduction_is_refused(mlp: Exported) -> None:
    document = json.loads(read_certificate(mlp.artifact.certificate).data)
    del document["reproduction"]["decoder.onnx"]
    incomplete = parse_certificate(json.dumps(document).encode(), "here")
    said = "certificate is incomplete: here, decoder.onnx; expected whether export writes this file; run: vae-export"
    with pytest.raises(IntegrityError, match=said):
        incomplete.require(mlp.artifact.manifest, "here")


def test_no_new_bundle_is_made_with_a_certificate_without_reproduction(mlp: Exported) -> None:
    """Such a certificate is read in bundles that were made before, and is a baseline."""
    document = json.loads(read_certificate(mlp.artifact.certificate).data)
    del document["reproduction"], document["manifest"]
    document["format"] = "vae-export-certificate/1"
    first = parse_certificate(json.dumps(document).encode(), "here")
    first.require(mlp.artifact.manifest, "here")
    with pytest.raises(InputError, match="says nothing about reproduction: .*run: vae-export verify"):
        pack(mlp.artifact, first, name="old")
