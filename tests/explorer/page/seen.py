"""Read the pixels and the numbers that the page shows."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import Array
from vae_export.pixels import to_levels
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Page


def pixels(page: Page, selector: str, index: int = 0, place: tuple[int, int, int, int] | None = None) -> Array:
    """Return the pixels of a canvas, or of its rectangle (left, top, width, height): bytes (H, W, 3)."""
    code = """([selector, index, place]) => {
        const canvas = document.querySelectorAll(selector)[index];
        if (canvas.width === 0) return [0, 0, ""];
        const area = place ?? [0, 0, canvas.width, canvas.height];
        const { data, width, height } = canvas.getContext("2d").getImageData(...area);
        return [height, width, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))];
    }"""
    height, width, data = page.evaluate(code, [selector, index, place])
    return np.frombuffer(b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]


def shown(page: Page) -> Array:
    return pixels(page, "#picture")


def sliders(page: Page) -> list[float]:
    values = page.evaluate("Array.from(document.querySelectorAll('#sliders input'), (input) => Number(input.value))")
    assert isinstance(values, list)
    return values


def eventually(condition: Callable[[], bool]) -> None:
    """The page answers when its engine has: wait for it."""
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.03)


def looks_like(seen: Array, image: Array, model: Model) -> bool:
    """Whether bytes (H, W, 3) are an image (C, H, W) of the runtime's; a pixel between two levels may differ."""
    low, high = model.contract.image_range
    wanted = np.moveaxis(np.broadcast_to(to_levels(image, low, high), (3, *image.shape[1:])), 0, -1)
    off = np.abs(seen.astype(int) - wanted)
    return bool(off.max() <= 1 and (off > 0).mean() < 0.01)


def drawn(page: Page, model: Model) -> Array:
    """Return the drawing as the encoder's input: (1, C, H, W)."""
    low, high = model.contract.image_range
    seen = np.moveaxis(pixels(page, "#drawing"), -1, 0)[: model.contract.image_shape[0]]
    return (low + seen.astype(np.float64) / 255 * (high - low)).astype(np.float32)[None]


def encoded(page: Page, model: Model) -> None:
    """The page's reconstruction of what is drawn is the runtime's, and its latents are the posterior's mean."""
    image = drawn(page, model)
    eventually(lambda: looks_like(pixels(page, "#reconstruction"), model.reconstruct(image)[0], model))
    page.click("#to-latents")
    mean = model.encode(image)[0].reshape(-1)
    eventually(lambda: np.allclose(sliders(page), np.clip(mean, -4, 4)[: len(sliders(page))], atol=1e-4))


def png(array: Array) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


DROP = """([selector, name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, { type }));
    const target = document.querySelector(selector);
    for (const kind of ["dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
    }
}"""


def picture(seed: int) -> Array:
    smooth = np.add.outer(np.arange(28) * 5, np.arange(28) * 4) + 8 * seed
    return smooth.astype(np.uint8)


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert isinstance(width, int)
    return width
