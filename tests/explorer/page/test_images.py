"""Images that are drawn, opened, dropped or pasted are encoded as Python encodes them."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.explorer.conftest import quiet_page, wait_ready
from tests.explorer.page.seen import DROP, encoded, eventually, looks_like, picture, pixels, png, shown
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


def test_mouse_drawing_is_encoded_and_reconstructed(page: Page, model: Model) -> None:
    page.click("#clear")
    assert len(np.unique(pixels(page, "#drawing"))) == 1
    page.locator("#drawing").scroll_into_view_if_needed()
    box = page.locator("#drawing").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.2, steps=5)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.8, steps=5)
    page.mouse.up()
    stroke = pixels(page, "#drawing")
    assert 0.02 < (stroke != stroke[0, 0]).mean() < 0.4
    page.mouse.move(box["x"] + 5, box["y"] + 5)  # the pen is up
    assert np.array_equal(pixels(page, "#drawing"), stroke)
    encoded(page, model)
    assert "KL to the prior" in page.inner_text("#posterior")


def test_keyboard_drawing_is_encoded_and_reconstructed(page: Page, model: Model) -> None:
    page.click("#clear")
    page.locator("#clear").focus()
    page.keyboard.press("Shift+Tab")  # past the label of the file input
    page.locator("#drawing").focus()
    empty = pixels(page, "#drawing")
    page.keyboard.press("ArrowUp")
    assert np.array_equal(pixels(page, "#drawing"), empty)  # the pen is up
    for key in ("Space", *["ArrowRight"] * 6, "Space"):
        page.keyboard.press(key)
    line = pixels(page, "#drawing")
    assert (line != empty).any()
    page.keyboard.press("ArrowDown")
    assert np.array_equal(pixels(page, "#drawing"), line)
    encoded(page, model)


@pytest.mark.parametrize("route", ["opened", "dropped", "pasted"])
def test_image_file_is_encoded(page: Page, model: Model, route: str) -> None:
    image = picture(1)
    data = b64encode(png(image)).decode()
    if route == "opened":
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(image)})
        assert page.input_value("#file") == ""  # the same file can be chosen again
    elif route == "dropped":
        page.evaluate(DROP, [".encode", "x.png", "image/png", data])
    else:
        code = (
            DROP.split("const target")[0]
            + "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: files })); }"
        )
        page.evaluate(code, ["", "x.png", "image/png", data])
    eventually(lambda: np.abs(pixels(page, "#drawing")[..., 0].astype(int) - image).max() <= 1)
    encoded(page, model)
    page.click("#invert")
    eventually(lambda: np.abs(255 - pixels(page, "#drawing")[..., 0].astype(int) - image).max() <= 1)
    encoded(page, model)


def test_unreadable_image_file_is_named_until_another_is_opened(browser: Browser, address: str) -> None:
    with quiet_page(browser, viewport={"width": 390, "height": 844}) as page:
        page.goto(address)
        wait_ready(page)
        page.set_input_files("#file", {"name": "torn.png", "mimeType": "image/png", "buffer": b"no picture"})
        eventually(lambda: page.is_visible("#failure"))
        assert "This browser cannot read torn.png as an image." in page.inner_text("#failure")
        assert page.evaluate("document.getElementById('failure').getBoundingClientRect().top >= 0")
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(picture(1))})
        eventually(lambda: not page.is_visible("#failure"))


def test_interpolation_matches_python(page: Page, model: Model) -> None:
    for end, seed in (("a", 1), ("b", 9)):
        page.evaluate(DROP, [f"#image-{end}", "x.png", "image/png", b64encode(png(picture(seed))).decode()])
    eventually(lambda: np.abs(pixels(page, "#image-b")[..., 0].astype(int) - picture(9)).max() <= 1)
    a, b = (pixels(page, f"#image-{end}")[..., :1].transpose(2, 0, 1) / np.float32(255) for end in "ab")
    wanted = model.interpolate(a.astype(np.float32), b.astype(np.float32), 9)
    for index in (0, 4, 8):
        eventually(lambda index=index: looks_like(pixels(page, "#steps canvas", index), wanted[index], model))  # type: ignore[misc]
    page.locator("#steps .cell").nth(4).click()
    eventually(lambda: looks_like(shown(page), wanted[4], model))
    assert page.input_value("#position") == "0.5"
    page.click("#clear")
    page.click("[data-end=a]")
    eventually(lambda: np.array_equal(pixels(page, "#image-a"), pixels(page, "#drawing")))
