"""Sliders, the pad and the buttons change the latents, and the image follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.explorer.conftest import quiet_page, wait_ready
from tests.explorer.page.seen import eventually, looks_like, pixels, shown, sliders
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


def test_slider_changes_the_image(page: Page, model: Model) -> None:
    before = shown(page)
    latent = np.array([sliders(page)], np.float32)
    assert looks_like(before, model.decode(latent)[0], model)
    slider = page.locator("#sliders input").nth(1)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    eventually(lambda: not np.array_equal(shown(page), before))
    moved = np.array([sliders(page)], np.float32)
    assert moved[0, 1] > latent[0, 1]
    assert (moved[0, [0, 2, 3]] == latent[0, [0, 2, 3]]).all()
    eventually(lambda: looks_like(shown(page), model.decode(moved)[0], model))
    assert page.locator("#sliders output").nth(1).inner_text() == f"{moved[0, 1]:.2f}".replace("-", "−")


def test_pad_follows_arrow_keys_and_mouse(page: Page, model: Model) -> None:
    across, up = int(page.input_value("#across")), int(page.input_value("#up"))
    assert across != up
    pad = page.locator("#pad")
    pad.focus()
    page.keyboard.press("Home")
    eventually(lambda: (sliders(page)[across], sliders(page)[up]) == (0, 0))
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert sliders(page)[across] == pytest.approx(0.7, abs=1e-6)
    assert sliders(page)[up] == pytest.approx(-0.1, abs=1e-6)
    assert pad.get_attribute("aria-valuetext") == f"z{across} 0.70, z{up} -0.10"
    eventually(lambda: looks_like(shown(page), model.decode(np.array([sliders(page)], np.float32))[0], model))

    box = pad.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.841345, box["y"] + box["height"] * 0.5)  # one sigma to the right
    assert sliders(page)[across] == pytest.approx(1, abs=0.02)
    assert sliders(page)[up] == pytest.approx(0, abs=0.02)


def test_manifold_shows_the_image_of_each_position(page: Page, model: Model) -> None:
    from statistics import NormalDist

    _, height, width = model.contract.image_shape
    across, up = int(page.input_value("#across")), int(page.input_value("#up"))
    page.click("#zero")
    eventually(lambda: pixels(page, "#manifold").shape[0] > 0)
    side = pixels(page, "#manifold").shape[0] // height
    assert side >= 3
    row, column = 1, side - 1
    latent = np.zeros((1, 4), np.float32)
    latent[0, across] = NormalDist().inv_cdf((column + 0.5) / side)
    latent[0, up] = NormalDist().inv_cdf(1 - (row + 0.5) / side)
    place = (column * width, row * height, width, height)
    eventually(lambda: looks_like(pixels(page, "#manifold", 0, place), model.decode(latent)[0], model))


def test_random_zero_copy_and_save_buttons(browser: Browser, address: str, model: Model) -> None:
    with quiet_page(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(address)
        wait_ready(page)
        page.click("#random")
        eventually(lambda: len(set(sliders(page))) == 4)
        page.click("#copy")
        eventually(lambda: page.inner_text("#copy") == "Copied")
        copied = page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
        assert np.allclose(copied, sliders(page), atol=1e-6)
        with page.expect_download() as download:
            page.click("#save")
        from PIL import Image

        with Image.open(download.value.path()) as saved:
            assert np.array_equal(np.asarray(saved.convert("RGB")), shown(page))
        page.click("#zero")
        eventually(lambda: sliders(page) == [0, 0, 0, 0])
        eventually(lambda: looks_like(shown(page), model.decode(np.zeros((1, 4), np.float32))[0], model))
