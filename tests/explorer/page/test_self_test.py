"""The page runs the self-test before it shows an image, and reports the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.explorer.conftest import exploring, packed, quiet_page, wait_ready
from tests.reference_variants import consistent
from vae_export.bundles import open_bundle
from vae_export.io.atomic import sha256
from vae_export.pixels import compare_levels
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from vae_export.artifact.folder import Artifact

pytestmark = pytest.mark.slow


def test_self_test_passes_and_shows_its_figures(page: Page, bundle: Path) -> None:
    assert page.get_attribute("#check", "data-state") == "passed"
    said = page.inner_text("#check")
    assert said.startswith("Self-test passed. Worst error ")
    assert "0 of 12,544 pixels differ" in said
    assert "random latents correct to the bit" in said
    assert page.get_attribute("#check", "aria-live") == "polite"
    assert float(page.inner_text("#speed")) > 0
    assert page.evaluate("crossOriginIsolated") is True
    assert "thread" in page.inner_text("#speed-unit")
    assert page.inner_text("#identity") == open_bundle(bundle).identity[:16]
    assert page.inner_text("h1") == "tests"


def test_failed_self_test_is_shown_first(browser: Browser, address: str, bundle: Path) -> None:
    """The golden image is half a grey level too bright, with hashes that fit."""
    files = {name: bytes(data) for name, data in open_bundle(bundle).files.items()}
    name = "golden/decoder.image.f32"
    golden = (np.frombuffer(files[name], "<f4") + np.float32(0.5 / 255)).astype("<f4").tobytes()
    manifest = files["manifest.json"].replace(sha256(files[name]).encode(), sha256(golden).encode())
    forged = consistent(files | {name: golden}, json.loads(manifest))
    with quiet_page(browser) as page:
        page.route("**/bundle.zip", lambda route: route.fulfill(body=forged, content_type="application/zip"))
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "failed"
        said = page.inner_text("#check")
        assert said.startswith("Self-test failed: do not trust these pixels. Worst error 2.0e−3 of ")
        assert "(decoder, image)" in said
        assert " 0 unexplained" not in said


def test_decoded_images_match_python_within_the_tolerance(page: Page, model: Model) -> None:
    code = """async ([engine, seed]) => {
        const { Model } = await import("/model.js");
        const { sample } = await import("/vae-bundle/index.js");
        const data = await (await fetch("/bundle.zip")).arrayBuffer();
        const model = await Model.open(data, "wasm", new URL(engine, location.href).href);
        const images = await model.decode(sample(7, model.size, BigInt(seed)));
        model.close();
        return images.map((image) => Array.from(image));
    }"""
    made = np.array(page.evaluate(code, ["/ort/", "12345"]), np.float32).reshape(7, *model.contract.image_shape)
    wanted = model.sample(7, seed=12345)
    [tolerance] = [
        array.tolerance
        for golden in model.manifest.golden
        for array in golden.outputs
        if (golden.part, array.tensor) == ("decoder", "image")
    ]
    assert tolerance is not None
    # Each of the two may be one tolerance away from the reference.
    assert np.abs(made.astype(np.float64) - wanted).max() <= 2 * tolerance
    low, high = model.contract.image_range
    assert compare_levels(made, wanted.astype(np.float64), low=low, high=high, tolerance=2 * tolerance).unexplained == 0


@pytest.mark.parametrize("beyond", [False, True])
def test_int8_bundle_is_compared_with_int8_tolerances(
    browser: Browser, eight_bits: Artifact, ort: Path, tmp_path: Path, beyond: bool
) -> None:
    path = tmp_path / "int8.zip"
    if beyond:
        narrow = replace(eight_bits.manifest.golden[0].outputs[0], tolerances={"int8": 1e-6})
        first, *others = eight_bits.manifest.golden
        golden = (replace(first, outputs=(narrow, *first.outputs[1:])), *others)
        eight_bits = replace(eight_bits, manifest=replace(eight_bits.manifest, golden=golden))
    path.write_bytes(packed(eight_bits, forged=beyond))
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == ("failed" if beyond else "passed")
        assert page.inner_text("#facts").endswith("computed in int8")
