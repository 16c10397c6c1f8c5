"""A seed gives the images that Python draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.explorer.page.seen import eventually, looks_like, pixels, shown
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def test_samples_match_python(page: Page, model: Model) -> None:
    page.fill("#seed", "18446744073709551615")
    page.select_option("#count", "16")
    page.click("#samples-form button[type=submit]")
    wanted = model.sample(16, seed=18446744073709551615)
    eventually(lambda: page.locator("#samples .cell").count() == 16)
    for index in range(16):
        eventually(lambda index=index: looks_like(pixels(page, "#samples canvas", index), wanted[index], model))  # type: ignore[misc]
    assert page.inner_text("#python") == "model.sample(16, seed=18446744073709551615)"
    page.click("#next-seed")
    assert page.input_value("#seed") == "0"  # after the last one comes the first
    eventually(lambda: looks_like(pixels(page, "#samples canvas", 15), model.sample(16, seed=0)[15], model))

    page.locator("#samples .cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    eventually(lambda: looks_like(shown(page), model.sample(2, seed=0)[1], model))


def test_invalid_seed_is_refused_with_a_message(page: Page) -> None:
    before = pixels(page, "#samples canvas", 3)
    for seed in ("-1", "18446744073709551616", "1.5", "one", ""):
        page.fill("#seed", seed)
        page.keyboard.press("Enter")
        page.wait_for_selector("#seed-error:not([hidden])")
        assert "from 0 to 18446744073709551615" in page.inner_text("#seed-error"), seed
        assert page.get_attribute("#seed", "aria-invalid") == "true", seed
        assert np.array_equal(pixels(page, "#samples canvas", 3), before), seed
        page.fill("#seed", "0")
        page.keyboard.press("Enter")
        page.wait_for_selector("#seed-error", state="hidden")
