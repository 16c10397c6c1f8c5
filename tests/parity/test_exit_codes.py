"""The command line exits with the code of the fault and prints one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Invoke
from tests.parity import mutations
from tests.parity.mutations import Mutation
from tests.parity.small_exports import ONNX_CPU, Subject, tampered

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("code", [3, 4, 5, 6])
def test_verify_command_exits_with_the_code_of_the_fault(
    invoke: Invoke, mlp: Subject, code: int, tmp_path: Path
) -> None:
    noisy = Mutation(
        "noise", mutations.weight("decoder.body.2.weight", mutations.noise(1e-4)), mutations.differs("image")
    )
    right = mlp.data("decoder")
    data = {3: right[:-100], 4: right[:-1] + bytes([right[-1] ^ 1]), 5: noisy.apply(right)}.get(code, right)
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}, rehash=code != 4)
    target = "onnx/CUDAExecutionProvider" if code == 6 else ONNX_CPU
    given = ("--checkpoint", mlp.checkpoint, "--export", artifact.folder, "--target", target)
    result = invoke("verify", "--quick", *given)
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    errors = [line for line in result.err.splitlines() if line.startswith("vae-export: error: ")]
    assert len(errors) == 1
    if code == 5:
        assert "first differs at node node_linear_1" in result.out
    assert artifact.certificate.exists() == (code == 5)
