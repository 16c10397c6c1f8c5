"""A command needs only the packages that its options need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("block", "typed", "extra"),
    [
        ("PIL", ["sample", "--out", "a.png"], "pictures"),
        ("PIL", ["sample", "--out", "a"], "pictures"),
        ("PIL", ["encode", "a.gif"], "pictures"),
        ("pyarrow", ["sample", "--out", "a", "--shards", "parquet"], "parquet"),
        ("pyarrow", ["decode", "a.parquet"], "parquet"),
        ("ray", ["sample", "--out", "a.npy", "--engine", "ray"], "ray"),
    ],
)
def test_missing_package_is_named_with_its_pip_command(
    bundle: Path, tmp_path: Path, block: str, typed: list[str], extra: str
) -> None:
    code = f"""if True:
        import sys
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == {block!r} else find(name)
        sys.modules[{block!r}] = sys.modules["torch"] = None
        sys.argv = ["cli.py", *{typed!r}, "--bundle", {str(bundle)!r}]
        from vae_export.cli.app import run
        sys.exit(run())
    """
    (tmp_path / "here").mkdir()
    for name in ("a.gif", "a.parquet"):
        (tmp_path / "here" / name).write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 6, done.stderr
    assert done.stderr.endswith(f"{block} is not installed; run: pip install 'vae-export[{extra}]'\n")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a.gif", "a.parquet"]


def test_array_commands_need_no_optional_package(bundle: Path, latents: Path, tmp_path: Path) -> None:
    heavy = ("torch", "PIL", "pyarrow", "ray", "onnx", "safetensors", "train")
    code = f"""if True:
        import sys
        for name in {heavy}:
            sys.modules[name] = None
        sys.argv = ["cli.py", "decode", {str(latents)!r}, "--bundle", {str(bundle)!r}, "--out", "a.npy"]
        from vae_export.cli.app import run
        sys.exit(run())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "a.npy")) == 53
