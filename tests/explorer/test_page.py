"""The page in a real browser: what it shows is what the Python runtime computes, however it is used."""

from __future__ import annotations

import io
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import vae_export
from tests.explorer.conftest import SOFTWARE_GPU, absent, exploring, packed, quiet_page, wait_ready
from vae_export.bundle import open_bundle, pack
from vae_export.bundle.archive import write_archive
from vae_export.contract import Array
from vae_export.explorer.engine import CDN, VERSION
from vae_export.files import sha256
from vae_export.grey import compare, levels
from vae_export.record import read_record
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import Exported
    from vae_export.artifact import Artifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(bundle: Path, ort: Path) -> Iterator[str]:
    with exploring("--bundle", bundle, "--ort", ort) as served:
        yield served


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return vae_export.load(bundle)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with quiet_page(browser, viewport={"width": 1280, "height": 900}) as opened:
        opened.goto(address)
        wait_ready(opened)
        yield opened


def pixels(page: Page, selector: str, index: int = 0, place: tuple[int, int, int, int] | None = None) -> Array:
    """What a canvas shows, or a place (left, top, width, height) of it: bytes (H, W, 3)."""
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
    wanted = np.moveaxis(np.broadcast_to(levels(image, low, high), (3, *image.shape[1:])), 0, -1)
    off = np.abs(seen.astype(int) - wanted)
    return bool(off.max() <= 1 and (off > 0).mean() < 0.01)


def test_the_self_test_passes_and_says_how_well(page: Page, bundle: Path) -> None:
    assert page.get_attribute("#check", "data-state") == "passed"
    said = page.inner_text("#check")
    assert said.startswith("Self-test passed. Worst error ")
    assert "0 of 12,544 pixels differ" in said
    assert "noise right to the bit" in said
    assert page.get_attribute("#check", "aria-live") == "polite"
    assert float(page.inner_text("#speed")) > 0
    assert page.evaluate("crossOriginIsolated") is True
    assert "thread" in page.inner_text("#speed-unit")
    assert page.inner_text("#identity") == open_bundle(bundle).identity[:16]
    assert page.inner_text("h1") == "tests"


def test_a_self_test_that_fails_is_said_first(browser: Browser, address: str, bundle: Path) -> None:
    """Somebody's golden image is brighter by half a grey level, and all hashes agree."""
    files = {name: bytes(data) for name, data in open_bundle(bundle).files.items()}
    name = "golden/decoder.image.f32"
    golden = (np.frombuffer(files[name], "<f4") + np.float32(0.5 / 255)).astype("<f4").tobytes()
    files["manifest.json"] = files["manifest.json"].replace(sha256(files[name]).encode(), sha256(golden).encode())
    files[name] = golden
    sums = [f"{sha256(data)}  {other}\n" for other, data in files.items() if other != "SHA256SUMS"]
    forged = write_archive(files | {"SHA256SUMS": "".join(sums).encode()})
    with quiet_page(browser) as page:
        page.route("**/bundle.zip", lambda route: route.fulfill(body=forged, content_type="application/zip"))
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "failed"
        said = page.inner_text("#check")
        assert said.startswith("Self-test failed: do not trust these pixels. Worst error 2.0e−3 of ")
        assert "(decoder, image)" in said
        assert " 0 unexplained" not in said


def test_numbers_are_those_of_the_runtime_within_the_golden_band(page: Page, model: Model) -> None:
    code = """async ([engine, seed]) => {
        const { Model } = await import("/model.js");
        const { sample } = await import("/noise.js");
        const data = await (await fetch("/bundle.zip")).arrayBuffer();
        const model = await Model.open(data, "wasm", new URL(engine, location.href).href);
        const images = await model.decode(sample(7, model.size, BigInt(seed)));
        model.close();
        return images.map((image) => Array.from(image));
    }"""
    made = np.array(page.evaluate(code, ["/ort/", "12345"]), np.float32).reshape(7, *model.contract.image_shape)
    wanted = model.sample(7, seed=12345)
    [band] = [
        array.band
        for golden in model.manifest.golden
        for array in golden.outputs
        if (golden.part, array.tensor) == ("decoder", "image")
    ]
    assert band is not None
    # Each of the two may be as far as the band from the exact number.
    assert np.abs(made.astype(np.float64) - wanted).max() <= 2 * band
    low, high = model.contract.image_range
    assert compare(made, wanted.astype(np.float64), low=low, high=high, band=2 * band).unexplained == 0


def test_a_slider_moves_the_pixels(page: Page, model: Model) -> None:
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


def test_arrow_keys_and_the_mouse_move_on_the_pad(page: Page, model: Model) -> None:
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


def test_the_manifold_has_the_image_of_each_place(page: Page, model: Model) -> None:
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


def test_a_seed_gives_the_images_that_python_gives(page: Page, model: Model) -> None:
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


@pytest.mark.parametrize("seed", ["-1", "18446744073709551616", "1.5", "one", ""])
def test_a_seed_that_is_none_is_refused_with_a_word(page: Page, seed: str) -> None:
    before = pixels(page, "#samples canvas", 3)
    page.fill("#seed", seed)
    page.keyboard.press("Enter")
    page.wait_for_selector("#seed-error:not([hidden])")
    assert "from 0 to 18446744073709551615" in page.inner_text("#seed-error")
    assert page.get_attribute("#seed", "aria-invalid") == "true"
    assert np.array_equal(pixels(page, "#samples canvas", 3), before)


def drawn(page: Page, model: Model) -> Array:
    """What is on the drawing, as the encoder gets it: (1, C, H, W)."""
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


def test_what_is_drawn_is_encoded_and_reconstructed(page: Page, model: Model) -> None:
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


def test_the_keyboard_draws(page: Page, model: Model) -> None:
    page.click("#clear")
    page.locator("#clear").focus()
    page.keyboard.press("Shift+Tab")  # over the picture's button
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


@pytest.mark.parametrize("way", ["opened", "dropped", "pasted"])
def test_a_picture_is_encoded_however_it_comes(page: Page, model: Model, way: str) -> None:
    image = picture(1)
    data = b64encode(png(image)).decode()
    if way == "opened":
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(image)})
        assert page.input_value("#file") == ""  # the same file can be chosen again
    elif way == "dropped":
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


def test_a_picture_that_cannot_be_read_is_named_in_sight_until_another_is_tried(browser: Browser, address: str) -> None:
    with quiet_page(browser, viewport={"width": 390, "height": 844}) as page:
        page.goto(address)
        wait_ready(page)
        page.set_input_files("#file", {"name": "torn.png", "mimeType": "image/png", "buffer": b"no picture"})
        eventually(lambda: page.is_visible("#failure"))
        assert "torn.png is no picture" in page.inner_text("#failure")
        assert page.evaluate("document.getElementById('failure').getBoundingClientRect().top >= 0")
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(picture(1))})
        eventually(lambda: not page.is_visible("#failure"))


def test_the_way_from_one_image_to_another_is_the_runtimes(page: Page, model: Model) -> None:
    for end, seed in (("a", 1), ("b", 9)):
        page.evaluate(DROP, [f"#image-{end}", "x.png", "image/png", b64encode(png(picture(seed))).decode()])
    eventually(lambda: np.abs(pixels(page, "#image-b")[..., 0].astype(int) - picture(9)).max() <= 1)
    a, b = (pixels(page, f"#image-{end}")[..., :1].transpose(2, 0, 1) / np.float32(255) for end in "ab")
    wanted = model.interpolate(a.astype(np.float32), b.astype(np.float32), 9)
    for index in (0, 4, 8):
        eventually(lambda index=index: looks_like(pixels(page, "#steps canvas", index), wanted[index], model))  # type: ignore[misc]
    page.locator("#steps .cell").nth(4).click()
    eventually(lambda: looks_like(shown(page), wanted[4], model))
    assert page.input_value("#way") == "0.5"
    page.click("#clear")
    page.click("[data-end=a]")
    eventually(lambda: np.array_equal(pixels(page, "#image-a"), pixels(page, "#drawing")))


def test_random_zero_and_copy(browser: Browser, address: str, model: Model) -> None:
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


def test_a_bundle_changed_on_its_way_shows_the_error_and_no_picture(
    browser: Browser, address: str, bundle: Path
) -> None:
    with quiet_page(browser) as page:
        page.route("**/bundle.zip", lambda route: route.fulfill(body=tampered(bundle), content_type="application/zip"))
        page.goto(address)
        refused(page)
        # Another bundle, a whole one this time.
        page.set_input_files("#bundle-file", bundle)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert not page.is_visible("#failure")


def test_another_bundle_takes_the_place_of_the_first(page: Page, bundle: Path, colour: Path) -> None:
    page.set_input_files("#bundle-file", colour)
    assert page.input_value("#bundle-file") == ""  # the same file can be chosen again
    eventually(lambda: page.inner_text("#facts").startswith("64 latents (4 × 4 × 4)"))
    wait_ready(page)
    assert len(sliders(page)) == 32
    eventually(lambda: shown(page).shape == (32, 32, 3))
    data = b64encode(tampered(bundle)).decode()
    page.evaluate(DROP, ["main", "bad.zip", "application/zip", data])
    refused(page)


def test_colour_feature_maps_and_other_ranges_work(browser: Browser, colour: Path, ort: Path) -> None:
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


def test_a_decoder_alone_is_enough(
    browser: Browser, exported: Callable[[str], Exported], ort: Path, tmp_path: Path
) -> None:
    artifact = exported("mlp").artifact
    path = tmp_path / "decoder.zip"
    path.write_bytes(pack(artifact, read_record(artifact.certificate), name="d", formats=["onnx"], parts=["decoder"]))
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == "passed"
        assert "a decoder alone" in page.inner_text("#facts")
        assert not page.is_visible("#drawing")
        assert not page.is_visible("#way")
        page.click("#random")
        eventually(lambda: len(np.unique(shown(page))) > 10)


@pytest.mark.parametrize("beyond", [False, True])
def test_eight_bits_alone_are_judged_by_their_own_band(
    browser: Browser, eight_bits: Artifact, ort: Path, tmp_path: Path, beyond: bool
) -> None:
    path = tmp_path / "int8.zip"
    if beyond:
        narrow = replace(eight_bits.manifest.golden[0].outputs[0], bands={"int8": 1e-6})
        first, *others = eight_bits.manifest.golden
        golden = (replace(first, outputs=(narrow, *first.outputs[1:])), *others)
        eight_bits = replace(eight_bits, manifest=replace(eight_bits.manifest, golden=golden))
    path.write_bytes(packed(eight_bits))
    with exploring("--bundle", path, "--ort", ort) as address, quiet_page(browser) as page:
        page.goto(address)
        wait_ready(page)
        assert page.get_attribute("#check", "data-state") == ("failed" if beyond else "passed")
        assert page.inner_text("#facts").endswith("computed in int8")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert isinstance(width, int)
    return width


@pytest.mark.parametrize("width", [360, 600, 800, 1000])
def test_a_small_screen_never_scrolls_sideways(browser: Browser, address: str, width: int) -> None:
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


def test_the_image_stays_in_sight_on_a_phone(browser: Browser, address: str) -> None:
    with quiet_page(browser, viewport={"width": 360, "height": 740}) as page:
        page.goto(address)
        wait_ready(page)
        page.locator("#sliders input").last.scroll_into_view_if_needed()
        box = page.locator("#picture").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 200


def test_every_control_has_a_name_and_can_be_reached_with_the_keyboard(page: Page) -> None:
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
        "invert", "examples", "seed", "count", "next-seed", "samples", "steps", "way", "bundle-file",
    }  # fmt: skip


def test_the_page_can_reach_no_other_host(browser: Browser, address: str) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    wait_ready(page)
    reached = page.evaluate("fetch('https://example.invalid/').then(() => 'reached', (error) => 'refused')")
    assert reached == "refused"
    assert any("Content Security Policy" in line for line in said)
    page.close()


def test_without_webgpu_the_choice_is_not_offered(page: Page) -> None:
    eventually(lambda: page.inner_text("#backend option:last-child") == "WebGPU (no adapter)")
    assert page.evaluate("document.querySelector('#backend option:last-child').disabled")
    assert page.input_value("#backend") == "wasm"


def open_with_webgpu(page: Page, address: str) -> None:
    page.goto(address)
    wait_ready(page)
    eventually(lambda: page.is_enabled("#backend"))
    if page.evaluate("document.querySelector('#backend option:last-child').disabled"):
        absent("a WebGPU adapter", "Debian's chromium brings SwiftShader")


def test_webgpu_is_tested_again_before_it_is_trusted(
    launch: Callable[..., Browser], address: str, model: Model
) -> None:
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


def test_a_bundle_that_is_opened_while_an_engine_starts_is_the_one_that_is_shown(
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


def test_the_engine_can_come_from_the_cdn(browser: Browser, bundle: Path, ort: Path) -> None:
    """No network here: the browser asks the CDN's own address, and this test answers with the package's files."""
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        file = ort / route.request.url.removeprefix(CDN)
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


def test_an_engine_that_cannot_be_loaded_is_said(browser: Browser, bundle: Path) -> None:
    with exploring("--bundle", bundle, "--cdn") as address:
        page = browser.new_page()
        page.route("https://cdn.jsdelivr.net/**", lambda route: route.abort())
        page.goto(address)
        page.wait_for_selector("body[data-state=failed]")
        assert "ort.wasm.min.mjs" in page.inner_text("[role=alert]")
        page.close()
