"""Silence for libraries that print, warn and log about their own code."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from vae_export.system.streams import silenced


def test_silenced_suppresses_prints_warnings_and_logs_within_the_block_only(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("torch.export")
    with pytest.raises(ZeroDivisionError), silenced():
        sys.stdout.write("printed")
        sys.stderr.write("printed")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logger.error("inside")
        raise ZeroDivisionError
    logger.error("outside")
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["outside"]
