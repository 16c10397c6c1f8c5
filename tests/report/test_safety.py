"""The page is self-contained and safe against hostile content, also in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.sample_certificates import Reader, certificate, error_map, manifest, read, result
from tests.required import skip_or_fail
from vae_export.formats.base import Finding
from vae_export.parity.certificate import Determinism
from vae_export.parity.compare import Comparison
from vae_export.parity.onnx_debug import NodeMismatch
from vae_export.report import certificate_page

HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"


def test_page_loads_nothing_and_runs_nothing() -> None:
    page = certificate_page(certificate(), manifest())
    for tag, attributes in Reader(page).elements:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert not re.search(r"https?://|url\(|@import|file:/", page)
    assert "default-src 'none'" in page


def test_hostile_names_are_shown_as_text() -> None:
    hostile = certificate(
        (
            result(target=f"onnx/{HOSTILE}", probe=HOSTILE, output=HOSTILE, part=HOSTILE),
            result(comparison=Comparison(fault=HOSTILE)),
        ),
        files={HOSTILE: "0" * 64},
        findings=(Finding(HOSTILE, "error", HOSTILE, HOSTILE),),
        determinism=(Determinism(HOSTILE, HOSTILE, True, True),),
        node_mismatches={HOSTILE: NodeMismatch(HOSTILE, HOSTILE, (0,), 1.0, 2.0, 1.0, 1e-6)},
        unusable={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
        error_maps={HOSTILE: error_map()},
    )
    described = replace(
        manifest(names=(HOSTILE, "decoder.onnx")), provenance={HOSTILE: HOSTILE}, versions={"x": HOSTILE}
    )
    page = read(hostile, described)
    assert "script" not in [tag for tag, _ in page.elements]
    assert page.open == []
    assert page.text.count(HOSTILE) > 15
    assert not {name for _, attributes in page.elements for name in attributes} & {"alert", "'x'"}


@pytest.fixture
def chromium() -> str:
    return shutil.which("chromium") or skip_or_fail("chromium", "run: apt-get install chromium")


def browse(chromium: str, page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    quiet = "gpu quic background-networking component-update sync dev-shm-usage"
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--window-size=1200,2400"]
    flags += [f"--disable-{name}" for name in quiet.split()]
    command = [chromium, *flags, f"--user-data-dir={profile}", "--enable-logging=stderr", *arguments, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result


def console(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_browser_shows_the_page_without_console_messages(chromium: str, tmp_path: Path) -> None:
    from PIL import Image

    page, picture = tmp_path / "certificate.html", tmp_path / "shot.png"
    page.write_text(certificate_page(certificate(), manifest()), "utf-8")
    result = browse(chromium, page, tmp_path / "profile", f"--screenshot={picture}")
    assert console(result) == []
    with Image.open(picture) as shot:
        assert shot.size == (1200, 2400)
        red, green, blue = shot.convert("RGB").getpixel((1100, 60))  # type: ignore[misc]
        assert green > 1.5 * max(red, blue), "the verdict is not green"
        assert len(set(shot.convert("RGB").tobytes()[::7])) > 100, "the page is blank"

    # The empty console is meaningful: a picture from elsewhere makes the browser complain.
    page.write_text(
        page.read_text("utf-8").replace("<main>", '<main><img src="https://example.invalid/x.png">'), "utf-8"
    )
    loud = browse(chromium, page, tmp_path / "other", "--dump-dom")
    assert "Content Security Policy" in "".join(console(loud))
    assert "Pass</h1>" in loud.stdout
