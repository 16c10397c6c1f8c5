"""A bundle of ours, one of somebody else's (in colour, with feature maps as latents), and a real browser for them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import ROOT, command
from tests.conftest import Exported
from tests.required import skip_or_fail
from vae_export.artifact.certificate import manifest_digests, parse_certificate, read_certificate
from vae_export.artifact.folder import Artifact
from vae_export.bundles.writer import pack
from vae_export.errors import MachineError
from vae_export.explorer import server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = ROOT / "vae_export" / "explorer" / "page"
_FLAGS = ["no-first-run", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"]
#: An adapter for WebGPU that is computed on the CPU.
SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]


def packed(artifact: Artifact, *, forged: bool = False) -> bytes:
    """Return a bundle; a forged certificate confirms whatever the manifest says."""
    certificate = read_certificate(artifact.certificate)
    if forged:
        document = certificate.document | {"manifest": manifest_digests(artifact.manifest.text)}
        certificate = parse_certificate(json.dumps(document).encode(), "certificate")
    return pack(artifact, certificate, name="tests", formats=["onnx"])


@pytest.fixture(scope="session")
def bundle(exported: Callable[[str], Exported], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "mlp.zip"
    path.write_bytes(packed(exported("mlp").artifact))
    return path


@pytest.fixture(scope="session")
def colour(exported: Callable[[str], Exported], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "colour.zip"
    path.write_bytes(packed(exported("foreign").artifact))
    return path


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    return found or skip_or_fail("node", "install Node.js 20 or later")


@pytest.fixture(scope="session")
def ort() -> Path:
    """onnxruntime-web's folder: of the checkout, or of the example that uses it too."""
    for start in (ROOT, ROOT / "examples" / "browser"):
        try:
            return next(iter(server.WebRuntime.from_folder(start=start).files.values())).parent
        except MachineError:
            continue
    return skip_or_fail("onnxruntime-web", f"run: {server.INSTALL_COMMAND}")


@contextmanager
def exploring(*arguments: object, cwd: Path | None = None) -> Iterator[str]:
    """`cli.py explore …` on a free port: the address of its page; Ctrl-C at the end."""
    line = command("explore", "--no-open", "--port", 0, *arguments)
    process = subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read() if process.stderr else ""
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Browser]]:
    """`launch(*flags)`: Debian's Chromium, without a window and without a word to any other host."""
    found = shutil.which("chromium") or skip_or_fail("chromium", "run: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        skip_or_fail("playwright", "run: pip install 'vae-export[dev]'")
    with sync_playwright() as playwright:

        def start(*flags: str) -> Browser:
            arguments = [f"--{name}" for name in _FLAGS] + ["--disable-dev-shm-usage", *(flags or ["--disable-gpu"])]
            return playwright.chromium.launch(executable_path=found, args=arguments, chromium_sandbox=False)

        yield start


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Browser]) -> Iterator[Browser]:
    opened = launch()
    yield opened
    opened.close()


@contextmanager
def quiet_page(browser: Browser, **options: object) -> Iterator[Page]:
    """A page that fails its test if the browser's console has an error at the end."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def wait_ready(page: Page) -> None:
    page.wait_for_selector("body[data-state=ready]", timeout=60_000)
