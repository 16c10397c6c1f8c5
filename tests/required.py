"""Components that a test requires: without one it is skipped, and in CI, which can install it, it fails."""

from __future__ import annotations

import importlib.util
import os
from typing import NoReturn

import pytest

from vae_export.system.extras import missing


def skip_or_fail(what: str, do: str) -> NoReturn:
    """Skip the test, or fail it in CI, because a component is missing.

    Args:
        what: the missing component.
        do: how to get it.
    """
    reason = f"not on this machine: {what}; {do}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_extra(extra: str) -> None:
    """Skip the test, or fail it in CI, where an extra of the project is not installed."""
    if (error := missing(extra)) is not None:
        skip_or_fail(error.what, error.do or "")


def require_module(name: str) -> None:
    """Skip the test, or fail it in CI, where a package of the extra `dev` is not installed."""
    if importlib.util.find_spec(name) is None:
        skip_or_fail(name, "run: make install")
