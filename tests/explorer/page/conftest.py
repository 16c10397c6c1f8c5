"""The page of a small bundle, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vae_export
from tests.explorer.conftest import exploring, quiet_page, wait_ready
from vae_export.runtime.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def address(bundle: Path, ort: Path) -> Iterator[str]:
    with exploring("--bundle", bundle, "--ort", ort) as served:
        yield served


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    return vae_export.load(bundle)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with quiet_page(browser, viewport={"width": 1280, "height": 900}) as opened:
        opened.goto(address)
        wait_ready(opened)
        yield opened
