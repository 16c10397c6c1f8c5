"""The command line exits with the code of the fault and prints one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity import mutations
from tests.parity.mutations import Mutation
from tests.parity.small_exports import ONNX_CPU, Subject, tampered

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def command_line(mlp: Subject, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vae_export.cli import start; start()", "verify", "--quick"]
    command += ["--checkpoint", str(mlp.checkpoint), "--export", str(folder), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", [3, 4, 5, 6])
def test_verify_command_exits_with_the_code_of_the_fault(mlp: Subject, code: int, tmp_path: Path) -> None:
    noisy = Mutation(
        "noise", mutations.weight("decoder.body.2.weight", mutations.noise(1e-4)), mutations.differs("image")
    )
    right = mlp.data("decoder")
    data = {3: right[:-100], 4: right[:-1] + bytes([right[-1] ^ 1]), 5: noisy.apply(right)}.get(code, right)
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}, rehash=code != 4)
    target = "onnx/CUDAExecutionProvider" if code == 6 else ONNX_CPU
    result = command_line(mlp, artifact.folder, "--target", target)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("vae-export: error: ")]
    assert len(errors) == 1
    if code == 5:
        assert "first differs at node node_linear_1" in result.stdout
    assert artifact.certificate.exists() == (code == 5)
