"""ONNX Runtime is loaded with its telemetry off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Where these are set ONNX Runtime sends nothing anyway.
_QUIET_ANYWAY = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")


def left_by(code: str, folder: Path, **variables: str) -> list[str]:
    """The files that a process leaves in its home and temporary folder."""
    kept = {name: value for name, value in os.environ.items() if name not in _QUIET_ANYWAY}
    places = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], env=kept | places | variables, check=True, timeout=60)
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import vae_export.runtime", "import vae_export.formats, onnxruntime"])
def test_telemetry_leaves_no_identifier_behind(code: str, tmp_path: Path) -> None:
    assert left_by(code, tmp_path) == []


@pytest.mark.slow
def test_who_sets_the_variable_has_the_last_word() -> None:
    code = "import os, vae_export; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"ORT_DISABLE_TELEMETRY": "0"}, check=True, timeout=60
    )
