"""The page shows what makes sense for each contract: conditions, codes, feature maps, opacity, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vae_export
from tests.explorer.conftest import exploring, quiet_page, wait_ready
from tests.explorer.page.seen import eventually, looks_like, overflow, pixels, shown
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

Opened = Callable[..., AbstractContextManager[tuple["Page", Model]]]


@pytest.fixture
def opened(browser: Browser, ort: Path, extended: Callable[[str], Path]) -> Opened:
    """`opened(name, width)`: the page of a bundle of this contract, and the bundle in the runtime."""

    @contextmanager
    def open_page(name: str, width: int = 1280) -> Iterator[tuple[Page, Model]]:
        path = extended(name) / "bundle.zip"
        with (
            exploring("--bundle", path, "--ort", ort) as address,
            quiet_page(browser, viewport={"width": width, "height": 900}) as page,
        ):
            page.goto(address)
            wait_ready(page)
            assert page.locator("#verdict").inner_text() == "Self-test passed."
            assert overflow(page) <= 0
            yield page, vae_export.load(path, threads=1)

    return open_page


def visible(page: Page) -> set[str]:
    """The names of the cards that are visible."""
    return {text for text in page.locator("main .card:visible h2").all_inner_texts() if text}


def test_conditions_change_what_is_decoded_and_encoded(opened: Opened) -> None:
    with opened("conditional") as (page, model):
        assert "Conditions" in visible(page)
        style = np.array([1, -1, 0.5], np.float32)
        page.get_by_label("style").fill("1, -1, 0.5")
        page.get_by_label("style").press("Enter")
        latent = model.prior(1, 0, start=6)
        for label in (3, 9):
            page.get_by_label("label").select_option(str(label))
            image = model.decode(latent, label=label, style=style)[0]
            eventually(lambda image=image: looks_like(shown(page), image, model))  # type: ignore[misc]
            samples = model.sample(48, label=label, style=style)
            eventually(lambda samples=samples: looks_like(pixels(page, "#samples canvas", 47), samples[47], model))  # type: ignore[misc]
        assert (
            page.locator("#python").inner_text() == "model.sample(48, seed=0, label=9, style=np.float32([1, -1, 0.5]))"
        )
        page.get_by_label("style").fill("1, -1, 2")
        page.get_by_label("style").press("Enter")
        said = "style is 3 numbers, with commas between them from -1 to 1."
        eventually(lambda: page.locator("#condition-error").inner_text() == said)


def test_codes_have_samples_and_reconstructions_only(opened: Opened) -> None:
    with opened("codes") as (page, model):
        assert visible(page) == {"Image", "Encode an image", "Random samples"}
        assert "Left out: sliders and interpolation, because there is nothing between codes" in page.inner_text(
            "#left-out"
        )
        images = model.sample(48, 0)
        eventually(lambda: looks_like(pixels(page, "#samples canvas", 47), images[47], model))
        page.locator("#samples button").nth(20).click()
        eventually(lambda: looks_like(shown(page), images[20], model))


@pytest.mark.parametrize("name", ["maps", "four channels", "two channels"])
def test_feature_maps_have_every_view(opened: Opened, name: str) -> None:
    with opened(name) as (page, model):
        assert len(visible(page)) == 6
        assert "other sizes than h = 3, w = 2" in page.inner_text("#left-out")
        images = model.sample(48, 0)
        if name == "maps":  # a canvas multiplies colours by their opacity, which rounds them
            eventually(lambda: looks_like(pixels(page, "#samples canvas", 30), images[30], model))
        assert pixels(page, "#samples canvas").shape == (12, 8, 3)
        eventually(lambda: "RMS error" in page.inner_text("#posterior"))
        eventually(lambda: bool(pixels(page, "#steps canvas", 8).std() > 0))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["several", "table"])
def test_data_that_is_no_image_is_listed(opened: Opened, name: str, width: int) -> None:
    with opened(name, width) as (page, model):
        assert visible(page) == {"Data", "Latents"}
        assert "it is listed as numbers" in page.inner_text("#left-out")
        assert ("the prior of the latents is not in the bundle" in page.inner_text("#left-out")) == (name == "table")
        latent = np.zeros((1, 4), np.float32) if name == "table" else model.prior(1, 0, start=6)

        def listed() -> list[float]:
            return [float(text.replace("−", "-")) for text in page.locator("#numbers span").all_inner_texts()]

        expected = model.decode(latent)[0]
        eventually(lambda: np.allclose(listed(), expected, rtol=1e-3, atol=1e-3))
        page.locator("#sliders input").first.fill("3")
        eventually(lambda: not np.allclose(listed(), expected, rtol=1e-3, atol=1e-3))
