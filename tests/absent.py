"""What a test needs, and this machine does not have."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(what: str, do: str) -> NoReturn:
    """A reason to skip; in CI, which can install it, a failure.

    Args:
        what: is missing.
        do: how to get it.
    """
    reason = f"not on this machine: {what}; {do}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
