"""Hosts take the float32 file of a part, or else the only one, and judge it by the tolerance of its precision."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import headless
import numpy as np
import pytest
from host import HOSTS, PICTURE, Host, Report, browse, run

from tests.reference_variants import consistent
from vae_export.artifact.certificate import read_certificate
from vae_export.artifact.folder import Artifact
from vae_export.bundles.archive import read_archive
from vae_export.bundles.writer import pack
from vae_export.io.atomic import sha256, write_atomic
from vae_export.system.hardware import identity

pytestmark = pytest.mark.slow

#: OpenCV cannot read quantised ONNX files, and TorchScript has no int8.
FLOATS_ONLY = ("cpp-libtorch", "cpp-opencv")
EIGHT_BITS = [name for name in HOSTS if name not in FLOATS_ONLY]


def files_of(artifact: Artifact) -> tuple[dict[str, bytes], Any]:
    """Return the files of a bundle of this artifact, and its manifest."""
    certificate = read_certificate(artifact.certificate)
    data = pack(artifact, certificate, name="small", parts=["encoder", "decoder"])
    files = {name: bytes(content) for name, content in read_archive(data, "small.zip").items()}
    return files, json.loads(files["manifest.json"])


def golden_image(manifest: Any) -> Any:
    return next(part for part in manifest["golden"] if part["part"] == "decoder")["outputs"][0]


def tried(host: Host, folder: Path, data: bytes, place: Path) -> Report:
    """Run the host on a bundle of these bytes and return its report."""
    bundle = Path(f"{sha256(data)[:16]}.zip")
    write_atomic(folder / bundle, data)
    if host.name != "browser":
        return run(host, folder, bundle, picture=place / PICTURE)
    with headless.serving(folder) as served:
        return browse(served, bundle)


def bands(manifest: Any, host: Host, choose: Callable[[Any], float]) -> Mapping[tuple[str, str], float]:
    parts = [part for part in manifest["golden"] if part["part"] in host.parts]
    return {(part["part"], output["tensor"]): choose(output) for part in parts for output in part["outputs"]}


def allowed(report: Report) -> Mapping[tuple[str, str], float]:
    """Return the tolerance that the host applied to each output."""
    return {output: pytest.approx(band, rel=0.01) for output, (_, band) in report.outputs.items()}


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_int8_bundle_passes_within_its_int8_tolerances(
    name: str, host: Callable[[str], Host], folder: Path, eight_bits: Artifact, tmp_path: Path
) -> None:
    found = host(name)
    files, manifest = files_of(eight_bits)
    report = tried(found, folder, consistent(files, manifest), tmp_path)
    assert report.passed, f"{report.text}\n{report.errors}"
    assert bands(manifest, found, lambda output: output["bands"]["int8"]) == allowed(report)
    error, _ = report.outputs["decoder", "image"]
    assert error > golden_image(manifest)["band"]  # the float32 tolerance would have refused it


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_int8_bundle_fails_beyond_or_without_its_int8_tolerance(
    name: str, host: Callable[[str], Host], folder: Path, eight_bits: Artifact, tmp_path: Path
) -> None:
    found = host(name)
    files, manifest = files_of(eight_bits)
    output = golden_image(manifest)
    wide = output["bands"].pop("int8")
    report = tried(found, folder, consistent(files, manifest), tmp_path)
    assert (report.code, report.lines[-1]) == (1, "FAIL"), report.errors
    output["bands"]["int8"] = wide
    image = np.frombuffer(files[output["file"]], "<f4").copy()
    image[5000] += 2.5 * wide
    files[output["file"]] = image.tobytes()
    output["sha256"] = sha256(files[output["file"]])
    report = tried(found, folder, consistent(files, manifest), tmp_path)
    assert (report.code, report.lines[-1]) == (1, "FAIL"), report.errors
    error, band = report.outputs["decoder", "image"]
    assert error > 1.4 * band


@pytest.mark.parametrize("name", ["python", "node", "cpp-onnxruntime"])
def test_host_follows_a_recommendation_for_a_machine_like_this_one(
    name: str, host: Callable[[str], Host], folder: Path, mixed_precisions: Artifact, tmp_path: Path
) -> None:
    found = host(name)
    files, manifest = files_of(mixed_precisions)
    decoder = next(file for file in manifest["files"] if file["name"] == "decoder.int8.onnx")
    advice = {
        "part": "decoder", "file": decoder["name"], "sha256": decoder["sha256"], "provider": "CPUExecutionProvider",
        "threads": 1, "optimisation": "extended", "switches": ["no-spinning", "parallel", "no-arena", "no-pattern"],
        "batch": 2, "p50_seconds": 1e-3, "speedup": 1.5, "budget": {}, "machine": identity(),
    }  # fmt: skip
    output = golden_image(manifest)
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, output["bands"]["int8"]),
        ({"machine": identity() | {"cores": 1000}}, output["band"]),
        ({"switches": ["warp"]}, output["band"]),
        ({"optimisation": ["all"]}, output["band"]),
        ({"sha256": "0" * 64}, output["band"]),
        ({}, output["band"]),
    ]
    for number, (change, tolerance) in enumerate(cases, 1):
        manifest["recommended"] = [advice | change]
        if number == len(cases):
            decoder["machine"] = "linux x86_64 AVX2"  # it was compiled for some machine: the other file is taken
        report = tried(found, folder, consistent(files, manifest), tmp_path)
        assert report.passed, f"{change}\n{report.text}\n{report.errors}"
        assert report.outputs["decoder", "image"][1] == pytest.approx(tolerance, rel=0.01), change


@pytest.mark.parametrize("name", HOSTS)
def test_host_picks_float32_files_and_ignores_unknown_ones(
    name: str, host: Callable[[str], Host], folder: Path, mixed_precisions: Artifact, tmp_path: Path
) -> None:
    found = host(name)
    files, manifest = files_of(mixed_precisions)
    assert manifest["files"][0]["precision"] == "int8"
    nonsense = b"what no engine reads"
    decoder = next(file for file in manifest["files"] if file["part"] == "decoder")
    pixels = {"name": "pixels", "dtype": "uint8", "shape": ["N", 28, 28, 1], "range": [0, 255]}
    to_bytes = {"part": "decoder-uint8-hwc", "outputs": [pixels]}
    unknown = ({"precision": "fp2"}, to_bytes | {"precision": "fp2"}, to_bytes | {"machine": "linux x86_64 AVX2"})
    for number, (entry, format) in enumerate(itertools.product(unknown, ("onnx", "torchscript"))):
        file = f"new{number}.onnx"
        files[file] = nonsense
        stored = {"name": file, "size": len(nonsense), "sha256": sha256(nonsense), "format": format}
        manifest["files"].insert(0, decoder | entry | stored)
    report = tried(found, folder, consistent(files, manifest), tmp_path)
    assert report.passed, f"{report.text}\n{report.errors}"
    assert report.noise == (14, 14)
    assert bands(manifest, found, lambda output: output["band"]) == allowed(report)
