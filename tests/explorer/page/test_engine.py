"""The page loads its engine from this server or the CDN, and reaches no other host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import vae_export
from tests.explorer.conftest import SOFTWARE_GPU, exploring, quiet_page, wait_ready
from tests.explorer.page.seen import eventually, looks_like, shown, sliders
from tests.required import skip_or_fail
from vae_export.explorer.server import CDN_URL, VERSION
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


def test_page_reaches_no_other_host(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    wait_ready(page)
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        reached = page.evaluate("fetch('https://example.invalid/').then(() => 'reached', (error) => 'refused')")
    assert reached == "refused"
    page.close()


def test_webgpu_is_disabled_without_an_adapter(page: Page) -> None:
    eventually(lambda: page.inner_text("#backend option:last-child") == "WebGPU (no adapter)")
    assert page.evaluate("document.querySelector('#backend option:last-child').disabled")
    assert page.input_value("#backend") == "wasm"


def open_with_webgpu(page: Page, address: str) -> None:
    page.goto(address)
    wait_ready(page)
    eventually(lambda: page.is_enabled("#backend"))
    if page.evaluate("document.querySelector('#backend option:last-child').disabled"):
        skip_or_fail("a WebGPU adapter", "Debian's chromium brings SwiftShader")


def test_switch_to_webgpu_runs_the_self_test_again(launch: Callable[..., Browser], address: str, model: Model) -> None:
    with closing(launch(*SOFTWARE_GPU)) as browser, quiet_page(browser) as page:
        open_with_webgpu(page, address)
        page.click("#zero")
        page.select_option("#backend", "webgpu")
        eventually(lambda: "on WebGPU" in page.inner_text("#verdict"))
        assert page.get_attribute("#check", "data-state") == "passed", page.inner_text("#check")
        assert page.inner_text("#speed-unit") == "ms per decode"
        page.locator("#sliders input").first.focus()
        page.keyboard.press("ArrowRight")
        latent = np.array([sliders(page)], np.float32)
        assert latent[0, 0] > 0
        eventually(lambda: looks_like(shown(page), model.decode(latent)[0], model))
        page.select_option("#backend", "wasm")
        eventually(lambda: page.inner_text("#verdict") == "Self-test passed.")
        assert page.get_attribute("#check", "data-state") == "passed"
        eventually(lambda: "thread" in page.inner_text("#speed-unit"))


def test_bundle_opened_while_an_engine_starts_is_shown(
    launch: Callable[..., Browser], address: str, colour: Path
) -> None:
    with closing(launch(*SOFTWARE_GPU)) as browser, quiet_page(browser) as page:
        open_with_webgpu(page, address)
        page.select_option("#backend", "webgpu")
        page.set_input_files("#bundle-file", colour)
        eventually(lambda: page.inner_text("#facts").startswith("64 latents"))
        wait_ready(page)
        assert "on WebGPU" in page.inner_text("#verdict")
        page.click("#zero")
        eventually(lambda: shown(page).shape == (32, 32, 3))
        zero = np.zeros((1, 4, 4, 4), np.float32)
        model = vae_export.load(colour)
        eventually(lambda: looks_like(shown(page), model.decode(zero)[0], model))


def test_engine_loads_from_the_cdn(browser: Browser, bundle: Path, ort: Path) -> None:
    """The test answers for the CDN with the files of the npm package, since the suite has no network."""
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        file = ort / route.request.url.removeprefix(CDN_URL)
        type = "application/wasm" if file.suffix == ".wasm" else "application/javascript"
        headers = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
        route.fulfill(body=file.read_bytes(), content_type=type, headers=headers)

    with exploring("--bundle", bundle, "--cdn") as address, quiet_page(browser) as page:
        page.context.route("https://cdn.jsdelivr.net/**", answer)
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
    assert len(asked) >= 3
    assert all(url.startswith(f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/") for url in asked)


def test_engine_that_fails_to_load_is_reported(browser: Browser, bundle: Path) -> None:
    with exploring("--bundle", bundle, "--cdn") as address:
        page = browser.new_page()
        page.route("https://cdn.jsdelivr.net/**", lambda route: route.abort())
        page.goto(address)
        page.wait_for_selector("body[data-state=failed]")
        assert "ort.wasm.min.mjs" in page.inner_text("[role=alert]")
        page.close()
