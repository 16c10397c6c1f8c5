"""The page shows bundles of every kind and refuses altered ones."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vae_export
from tests.commands import run_cli
from tests.explorer.conftest import exploring, quiet_page, wait_ready
from tests.explorer.page.seen import DROP, drawn, encoded, eventually, looks_like, overflow, pixels, shown, sliders
from tests.reference_variants import REFERENCE, bytes_only, inverted_bytes, one_part
from vae_export.artifact.certificate import read_certificate
from vae_export.bundles import open_bundle
from vae_export.bundles.writer import pack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import Exported

pytestmark = pytest.mark.slow


def tampered(bundle: Path) -> bytes:
    data = bytearray(bundle.read_bytes())
    decoder = bytes(open_bundle(bundle).files["decoder.onnx"])
    data[bytes(data).index(decoder) + len(decoder) // 2] ^= 1
    return bytes(data)


def refused(page: Page) -> None:
    page.wait_for_selector("body[data-state=failed]")
    assert "file was altered: decoder.onnx" in page.inner_text("[role=alert]")
    said = page.inner_text("[role=alert]")
    assert len(set(re.findall(r"[0-9a-f]{64}", said))) == 2, said
    for selector in ("main", "#check", "#checked"):
        assert not page.is_visible(selector)
    assert (page.inner_text("#name"), page.inner_text("#facts"), page.title()) == ("Explorer", "", "Explorer")
    assert page.evaluate("Array.from(document.querySelectorAll('canvas')).every((canvas) => canvas.width === 0)")


def test_altered_bundle_shows_an_error_and_no_image(browser: Browser, address: str, bundle: Path) -> None:
    with quiet_page(browser) as page:
        page.route("**/bundle.zip", lambda route: route.fulfill(body=tampered(bundle), content_type="application/zip"))
        page.goto(address)
        refused(page)
        # Then an intact bundle.
        page.set_input_files("#bundle-file", bundle)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert not page.is_visible("#failure")


def test_second_bundle_replaces_the_first(page: Page, bundle: Path, colour: Path) -> None:
    page.set_input_files("#bundle-file", colour)
    assert page.input_value("#bundle-file") == ""  # the same file can be chosen again
    eventually(lambda: page.inner_text("#facts").startswith("64 latents (4 × 4 × 4)"))
    wait_ready(page)
    assert len(sliders(page)) == 32
    eventually(lambda: shown(page).shape == (32, 32, 3))
    data = b64encode(tampered(bundle)).decode()
    page.evaluate(DROP, ["main", "bad.zip", "application/zip", data])
    refused(page)


def test_colour_bundle_with_feature_map_latents_works(browser: Browser, colour: Path, ort: Path) -> None:
    model = vae_export.load(colour)
    with exploring("--bundle", colour, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert "64 latents (4 × 4 × 4) → 32 × 32 colour, pixels in [-1, 1]" in page.inner_text("#facts")
        assert "first 32 of 64 latents" in page.inner_text("#sliders-note")
        wanted = model.sample(48, seed=0)
        for index in (0, 47):
            eventually(lambda index=index: looks_like(pixels(page, "#samples canvas", index), wanted[index], model))  # type: ignore[misc]
        encoded(page, model)
        assert page.is_visible("#colour")
        assert overflow(page) <= 0


def test_bundle_without_encoder_works(
    browser: Browser, exported: Callable[[str], Exported], ort: Path, tmp_path: Path
) -> None:
    artifact = exported("mlp").artifact
    path = tmp_path / "decoder.zip"
    path.write_bytes(
        pack(artifact, read_certificate(artifact.certificate), name="d", formats=["onnx"], parts=["decoder"])
    )
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert "no encoder" in page.inner_text("#facts")
        assert not page.is_visible("#drawing")
        assert not page.is_visible("#position")
        page.click("#random")
        eventually(lambda: len(np.unique(shown(page))) > 10)


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_decoder_to_bytes_alone_is_shown(browser: Browser, ort: Path, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "bytes.zip"
    path.write_bytes(bytes_only(layout))
    model = vae_export.load(REFERENCE)
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert f"decoder-uint8-{layout}, pixels" in page.inner_text("#check")
        wanted = model.sample(48, seed=0)
        for index in (0, 47):
            eventually(lambda index=index: looks_like(pixels(page, "#samples canvas", index), wanted[index], model))  # type: ignore[misc]


def test_images_that_are_only_shown_come_from_the_decoder_to_bytes(browser: Browser, ort: Path, tmp_path: Path) -> None:
    """It gives inverted images here, so that they tell it from the decoder that gives floats."""
    path = tmp_path / "both.zip"
    path.write_bytes(inverted_bytes("hwc"))
    model = vae_export.load(REFERENCE)
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "failed"
        wanted = 1 - model.sample(48, seed=0)
        for index in (0, 47):
            eventually(lambda index=index: looks_like(pixels(page, "#samples canvas", index), wanted[index], model))  # type: ignore[misc]
        image = drawn(page, model)  # its reconstruction is compared with it in numbers
        eventually(lambda: looks_like(pixels(page, "#reconstruction"), model.reconstruct(image)[0], model))


def test_encoder_alone_is_refused_before_the_page_is_served(ort: Path, tmp_path: Path) -> None:
    path = tmp_path / "encoder.zip"
    path.write_bytes(one_part("encoder"))
    done = run_cli("explore", "--no-open", "--port", "0", "--bundle", path, "--ort", ort, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "export has no such file: decoder, onnx" in done.stderr


def test_file_that_cannot_be_used_is_answered(page: Page, tmp_path: Path) -> None:
    def said() -> str:
        return page.inner_text("#failure-text") if page.is_visible("#failure") else ""

    page.evaluate(DROP, ["main", "notes.txt", "text/plain", ""])
    eventually(lambda: said() == "notes.txt is neither a bundle (.zip) nor an image.")
    page.evaluate(DROP, ["#image-a", "notes.txt", "text/plain", ""])
    eventually(lambda: said() == "notes.txt is neither a bundle (.zip) nor an image.")
    page.evaluate(DROP, ["main", "torn.png", "image/png", ""])
    eventually(lambda: said() == "This browser cannot read torn.png as an image.")
    path = tmp_path / "decoder.zip"
    path.write_bytes(one_part("decoder"))
    page.set_input_files("#bundle-file", path)
    eventually(lambda: "no encoder" in page.inner_text("#facts"))
    wait_ready(page)
    page.evaluate(DROP, ["main", "photo.png", "image/png", ""])
    eventually(lambda: said() == "photo.png cannot be encoded: this bundle has no encoder for images.")
