"""`verify` passes exports that compute the same and fails each kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tests.conftest import Exported
from tests.damaged_onnx import (
    baked_batch,
    dropout,
    dropped_bias,
    exchanged,
    fixed_reshape,
    float64_output,
    half_precision,
    nan_weight,
    no_node,
    no_relu,
    no_sigmoid,
    noise_on_one_layer,
    one_weight_off,
    renamed_input,
    renamed_output,
    rewritten,
    swapped_rows,
    transposed,
)
from tests.sample_models import QUICK
from vae_export import verify
from vae_export.artifact.certificate import read_certificate
from vae_export.contract import Part
from vae_export.errors import ModelError, ParityError
from vae_export.models import FAMILIES

pytestmark = pytest.mark.slow

ONNX = "onnx/CPUExecutionProvider"


@pytest.fixture(scope="session")
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


def test_correct_export_passes_on_every_target_and_setting(mlp: Exported) -> None:
    """The quickest network alone: those with convolutions would take minutes."""
    certificate = verify(mlp.artifact, mlp.references, thorough=True)
    assert certificate.passed
    assert set(certificate.files) == {stored.name for stored in mlp.artifact.manifest.stored}
    batches = {row.batch for row in certificate.results}
    assert 1 in batches
    assert max(batches) >= 8
    certificate.require()


@pytest.mark.parametrize("name", [*FAMILIES, "foreign"])
def test_export_of_every_family_passes_on_every_target(exported: Callable[[str], Exported], name: str) -> None:
    artifact = exported(name).artifact
    certificate = read_certificate(artifact.certificate)
    certificate.require(artifact.manifest, artifact.folder)
    rows = certificate.document["rows"]
    assert all(row["passed"] for row in rows)
    assert {row["target"].split("/")[0] for row in rows if row["part"] == "decoder"} == set(QUICK)
    assert max(row["batch"] for row in rows) >= 8


def test_attention_and_convolutions_pass_in_every_setting_of_onnx_runtime(foreign: Exported) -> None:
    files = (foreign.artifact.entry("decoder", "onnx"),)
    golden = tuple(one for one in foreign.artifact.manifest.golden if one.part == "decoder")
    manifest = replace(foreign.artifact.manifest, files=files, golden=golden)
    certificate = verify(replace(foreign.artifact, manifest=manifest), foreign.references)
    certificate.require()
    assert max(row.batch for row in certificate.results) > 64


def test_untrained_network_passes(tmp_path: Path) -> None:
    """PyTorch's initial weights are small and give outputs close to one half."""
    import torch

    from vae_export import Checkpoint, export
    from vae_export.models import VAE, VAEConfig

    torch.manual_seed(0)
    config = VAEConfig("blog", (1, 28, 28))
    weights = VAE(config).state_dict()
    untrained = Checkpoint(config, weights, torch.zeros(0, 1, 28, 28, dtype=torch.uint8))
    _, certificate = export(untrained, tmp_path / "out", formats=["torchscript", "onnx"], parts=["autoencoder"])
    assert certificate.passed
    assert certificate.environment["images"].startswith("uniform noise")


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("decoder", nan_weight),
        ("decoder", transposed),
        ("decoder", swapped_rows),
        ("decoder", half_precision),
        ("decoder", noise_on_one_layer),
        ("decoder", one_weight_off),
        ("decoder", dropped_bias),
        ("decoder", no_sigmoid),
        ("decoder", no_relu),
        ("decoder", dropout),
        ("encoder", nan_weight),
        ("encoder", transposed),
        ("encoder", half_precision),
        ("encoder", noise_on_one_layer),
        ("encoder", dropped_bias),
        ("encoder", exchanged),
        ("autoencoder", transposed),
        ("autoencoder", half_precision),
        ("autoencoder", no_sigmoid),
        ("autoencoder", exchanged),
    ],
)
def test_damaged_graph_fails(
    mlp: Exported, tmp_path: Path, part: Part, damage: Callable[[onnx.ModelProto], None]
) -> None:
    artifact = rewritten(mlp, tmp_path / "export", part, damage)
    certificate = verify(artifact, mlp.references, thorough=False)
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["verdict"] == "fail"
    with pytest.raises(ParityError, match=rf"comparisons failed: ({part}|metric) on {ONNX}, '|dropout") as caught:
        certificate.require()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [renamed_output, renamed_input, baked_batch, fixed_reshape, float64_output, no_node])
def test_graph_unlike_its_contract_is_refused(
    mlp: Exported, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    artifact = rewritten(mlp, tmp_path / "export", "decoder", change)
    with pytest.raises(ModelError, match="do not match the contract|cannot be opened") as caught:
        verify(artifact, mlp.references)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
