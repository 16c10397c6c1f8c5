"""On an NVIDIA GPU: what is exported runs there, held to the same band as on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch

from tests.conftest import Exported
from vae_export import load, verify
from vae_export.errors import TargetError
from vae_export.models import FAMILIES
from vae_export.runtime.session import try_provider
from vae_export.session_options import CUDA, TENSORRT

pytestmark = pytest.mark.gpu
SOURCES = [*FAMILIES, "foreign"]


def need_provider(provider: str) -> None:
    try:
        try_provider(provider)
    except TargetError as error:
        pytest.skip(str(error))


# TensorRT without TF32 needs NVIDIA_TF32_OVERRIDE=0 in the environment of the whole process.
@pytest.mark.parametrize("target", [CUDA, f"{CUDA}+tf32", f"{TENSORRT}+tf32"])
@pytest.mark.parametrize("name", SOURCES)
def test_onnx_passes_on_the_gpu(exported: Callable[[str], Exported], name: str, target: str) -> None:
    need_provider(target.removesuffix("+tf32"))
    export = exported(name)
    certificate = verify(export.artifact, export.references, targets=[f"onnx/{target}"], trust=True)
    assert certificate.passed, [row.reason for row in certificate.failures[:3]]
    assert {row.target for row in certificate.results} == {f"onnx/{target}"}
    assert not [finding for finding in certificate.findings if finding.rule == "node-on-cpu"]


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("name", SOURCES)
def test_pytorch_formats_pass_on_the_gpu(exported: Callable[[str], Exported], name: str, format: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no NVIDIA GPU")
    export = exported(name)
    certificate = verify(
        export.artifact, export.references, targets=[f"{format}/cuda", f"{format}/cuda+tf32"], trust=True
    )
    assert certificate.passed, [row.reason for row in certificate.failures[:3]]


def test_runtime_uses_the_gpu(mlp: Exported) -> None:
    need_provider(CUDA)
    latent = np.zeros((3, 4), np.float32)
    model = load(mlp.folder, provider=CUDA)
    np.testing.assert_allclose(model.decode(latent), load(mlp.folder).decode(latent), rtol=1e-5)
    assert model._session("decoder")._session.get_providers()[0] == CUDA


def test_missing_gpu_is_an_error_that_names_the_providers(mlp: Exported) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(TargetError, match=f"provider not found: {CUDA}; expected .*; run: pip install onnxruntime-gpu"):
        verify(mlp.artifact, mlp.source, targets=[f"onnx/{CUDA}"])
