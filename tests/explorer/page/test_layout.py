"""The page works on small screens and without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.explorer.conftest import quiet_page, wait_ready
from tests.explorer.page.seen import overflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [360, 600, 800, 1000])
def test_small_screen_never_scrolls_sideways(browser: Browser, address: str, width: int) -> None:
    with quiet_page(browser, viewport={"width": width, "height": 740}, has_touch=True, color_scheme="dark") as page:
        page.goto(address)
        wait_ready(page)
        page.click("summary")
        assert overflow(page) <= 0
        page.locator("#pad").tap()
        # Touch targets are large enough for a thumb.
        small = page.evaluate(
            "Array.from(document.querySelectorAll('button:not(.cell), select, #sliders input'))"
            ".filter((element) => element.offsetHeight > 0 && element.getBoundingClientRect().height < 32).length"
        )
        assert small == 0


def test_image_stays_visible_on_a_phone(browser: Browser, address: str) -> None:
    with quiet_page(browser, viewport={"width": 360, "height": 740}) as page:
        page.goto(address)
        wait_ready(page)
        page.locator("#sliders input").last.scroll_into_view_if_needed()
        box = page.locator("#picture").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 200


def test_every_control_has_a_name_and_keyboard_focus(page: Page) -> None:
    nameless = page.evaluate("""Array.from(document.querySelectorAll("button, input, select, [tabindex], canvas[role]"))
        .filter((element) => !element.labels?.length && !element.getAttribute("aria-label"))
        .filter((element) => element.textContent.trim() === "")
        .map((element) => element.outerHTML)""")
    assert nameless == []
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    assert reached >= {
        "backend", "random", "zero", "copy", "save", "pad", "across", "up", "drawing", "to-latents", "file", "clear",
        "invert", "examples", "seed", "count", "next-seed", "samples", "steps", "position", "bundle-file",
    }  # fmt: skip
