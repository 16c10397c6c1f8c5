"""Components that a test requires: without one it is skipped, and in CI, which can install it, it fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


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
