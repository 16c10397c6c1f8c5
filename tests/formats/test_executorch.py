"""ExecuTorch's programs. Its wheel belongs to one version of PyTorch and is not in `dev`; `.ci/run` runs these tests in
an environment that has it, and the first one in an environment that has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import sample_models
from tests.commands import Invoke
from tests.conftest import SMALL_IMAGES, Exported
from tests.formats.one_format import assert_missing_package_is_reported
from vae_export import Source, export
from vae_export.capture import capture
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.executorch import MAX_BATCH
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing

absent = missing("executorch") is not None
needed = pytest.mark.skipif(absent, reason="executorch is not installed; .ci/run has an environment with it")


@pytest.mark.skipif(not absent, reason="executorch is installed")
def test_missing_executorch_is_reported_with_the_pip_line(mlp: Exported, invoke: Invoke, tmp_path: Path) -> None:
    assert_missing_package_is_reported("executorch", "executorch", mlp, invoke, tmp_path)


@needed
@pytest.mark.slow
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_program_is_certified(family: str, tmp_path: Path) -> None:
    """Latents of 1e30 too, which XNNPACK's own sigmoid turns into NaN."""
    source = Source.of(sample_models.checkpoint(family, SMALL_IMAGES.get(family, (1, 28, 28))))  # type: ignore[arg-type]
    artifact, certificate = export(source, tmp_path / "out", formats=["executorch"], minutes=0.05)
    assert {row.probe for row in certificate.results} >= {"largest", "data"}
    assert {row.target for row in certificate.results} == {"executorch/cpu"}
    assert artifact.manifest.versions["executorch"]


@needed
def test_batch_above_the_maximum_is_split_and_outputs_kept() -> None:
    graph, format = capture(Source.of(sample_models.checkpoint()), "decoder"), FORMATS["executorch"]
    run = format.open(format.write(graph, WriteOptions()), graph.spec, SessionOptions("cpu", threads=1))
    for batch in (1, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH - 1):
        given = {
            "latent": np.random.default_rng(batch).standard_normal((batch, sample_models.LATENT)).astype(np.float32)
        }
        np.testing.assert_allclose(run(given)["image"], evaluate_graph(graph, given)["image"], rtol=1e-4, atol=1e-5)
