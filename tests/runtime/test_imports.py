"""The runtime is numpy and ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands import run_python
from tests.conftest import Exported

#: What an application that embeds a file must not have to install.
HEAVY = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "sklearn", "typer", "rich", "train")


def imported_by(code: str) -> set[str]:
    result = run_python(code + "\nimport sys; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", ["import vae_export.runtime", "import vae_export; vae_export.load", "from vae_export import load, Model"]
)
def test_importing_runtime_does_not_import_torch(code: str) -> None:
    assert imported_by(code) & set(HEAVY) == set()


@pytest.mark.slow
def test_import_check_detects_torch() -> None:
    assert "torch" in imported_by("import vae_export; vae_export.verify") & set(HEAVY)


@pytest.mark.slow
def test_runtime_works_without_any_optional_package(mlp: Exported, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        for name in {HEAVY}:
            sys.modules[name] = None
        import numpy as np
        from vae_export import load
        model = load(sys.argv[1])
        mean, logvar = model.encode(model.decode(np.zeros((2, 4), np.float32)))
        np.save(sys.argv[2], model.reconstruct(model.decode(mean)))
    """
    result = run_python(code, mlp.folder, tmp_path / "out.npy", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 1, 28, 28)
