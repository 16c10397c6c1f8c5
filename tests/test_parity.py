"""`verify` passes what computes the same and fails all else, each damage by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from tests import samples
from tests.conftest import Exported
from vae_export import Artifact, Certificate, Contract, Source, open_artifact, verify
from vae_export.contract import Part, TensorSpec
from vae_export.errors import IntegrityError, ModelError, ParityError, TargetError, UsageError
from vae_export.files import sha256, write_atomic
from vae_export.formats import Setting
from vae_export.manifest import NAME, FileEntry
from vae_export.models import FAMILIES
from vae_export.parity import Row
from vae_export.parity.measure import FACTOR, Measure, Scale, measure

ONNX = "onnx/CPUExecutionProvider"


@pytest.mark.parametrize("name", [*FAMILIES, "foreign"])
def test_a_good_export_passes_on_every_target(exported: Callable[[str], Exported], name: str) -> None:
    export = exported(name)
    certificate = verify(export.artifact, export.source, trust=name == "foreign")
    assert certificate.passed
    assert set(certificate.files) == {entry.name for entry in export.artifact.manifest.files}
    batches = {row.batch for row in certificate.rows}
    assert 1 in batches
    assert max(batches) >= 64
    certificate.require()


def test_an_untrained_network_passes_too(tmp_path: Path) -> None:
    """PyTorch's own first weights: small, and outputs close to one half."""
    import torch

    from vae_export import Checkpoint, export
    from vae_export.models import VAE, VAEConfig

    torch.manual_seed(0)
    config = VAEConfig("post", (1, 28, 28))
    weights = VAE(config).state_dict()
    untrained = Checkpoint(config, weights, torch.zeros(0, 1, 28, 28, dtype=torch.uint8))
    _, certificate = export(untrained, tmp_path / "out", formats=["torchscript", "onnx"], parts=["autoencoder"])
    assert certificate.passed
    assert certificate.environment["images"].startswith("uniform noise")


def rewritten(export: Exported, folder: Path, part: Part, change: Callable[[onnx.ModelProto], None]) -> Artifact:
    """An export of one ONNX file that was changed, with a manifest that names the changed bytes."""
    old = export.artifact.entry(part)
    model = onnx.load_from_string(export.artifact.read(old))
    before = model.SerializeToString(deterministic=True)
    change(model)
    data = model.SerializeToString(deterministic=True)
    assert data != before, "the change changed something"
    manifest = replace(export.artifact.manifest, files=(FileEntry.of(old.name, part, "onnx", data),))
    write_atomic(folder / old.name, data)
    write_atomic(folder / NAME, manifest.text)
    return open_artifact(folder)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.float32 and array.ndim > 0}


def put(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return
    pytest.fail(f"no weight {name}")


def square(model: onnx.ModelProto) -> tuple[str, np.ndarray]:
    shape = (samples.HIDDEN, samples.HIDDEN)
    return next((name, array) for name, array in weights(model).items() if array.shape == shape)


def nan_weight(model: onnx.ModelProto) -> None:
    name, array = square(model)
    array = array.copy()
    array[3, 5] = np.nan
    put(model, name, array)


def transposed(model: onnx.ModelProto) -> None:
    name, array = square(model)
    put(model, name, array.T)


def swapped_rows(model: onnx.ModelProto) -> None:
    name, array = square(model)
    put(model, name, array[[1, 0, *range(2, len(array))]])


def half_precision(model: onnx.ModelProto) -> None:
    for name, array in weights(model).items():
        put(model, name, array.astype(np.float16).astype(np.float32))


def noise_on_one_layer(model: onnx.ModelProto) -> None:
    name, array = square(model)
    noise = np.random.default_rng(0).standard_normal(array.shape)
    put(model, name, (array * (1 + 1e-4 * noise)).astype(np.float32))


def one_weight_off(model: onnx.ModelProto) -> None:
    """By a thousandth; of a unit that is not switched off by its bias."""
    name, array = square(model)
    row = weights(model)[name.replace("weight", "bias")].argmax()
    array = array.copy()
    array[row, np.abs(array[row]).argmax()] *= 1.001
    put(model, name, array)


def dropped_bias(model: onnx.ModelProto) -> None:
    name, array = next(item for item in weights(model).items() if item[1].shape == (samples.HIDDEN,))
    put(model, name, np.zeros_like(array))


def no_sigmoid(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Identity"


def no_relu(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Identity"


def dropout(model: onnx.ModelProto) -> None:
    """In training mode: what a module that was left in it leaves in the graph."""
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    ratio = numpy_helper.from_array(np.float32(0.2), "ratio")
    training = numpy_helper.from_array(np.bool_(True), "training")
    model.graph.initializer.extend([ratio, training])
    place = list(model.graph.node).index(node)
    model.graph.node.insert(
        place + 1, onnx.helper.make_node("Dropout", ["before_dropout", "ratio", "training"], [node.output[0]])
    )
    node.output[0] = "before_dropout"


def exchanged(model: onnx.ModelProto) -> None:
    """mean is called logvar and logvar mean, while names and shapes of the outputs stay what they were."""
    names = {"mean": "logvar", "logvar": "mean"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def fixed_reshape(model: onnx.ModelProto) -> None:
    """The batch of 2 that the graph was captured with, left inside."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.int64 and array.ndim == 1 and array[0] == -1:
            array = array.copy()
            array[0] = 2
            put(model, tensor.name, array)


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
def test_damage_is_found(mlp: Exported, tmp_path: Path, part: Part, damage: Callable[[onnx.ModelProto], None]) -> None:
    artifact = rewritten(mlp, tmp_path / "export", part, damage)
    certificate = verify(artifact, mlp.source)
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["verdict"] == "fail"
    with pytest.raises(ParityError, match=rf"comparisons failed: ({part}|metric) on {ONNX}, '|dropout") as caught:
        certificate.require()
    assert "\n" not in str(caught.value)


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "picture"


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "z"
    for node in model.graph.node:
        node.input[:] = ["z" if name == "latent" else name for name in node.input]


def baked_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def float64_output(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    model.graph.node[-1].output[0] = "single"
    model.graph.node.append(onnx.helper.make_node("Cast", ["single"], [output.name], to=onnx.TensorProto.DOUBLE))
    output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def no_node(model: onnx.ModelProto) -> None:
    del model.graph.node[0]


@pytest.mark.parametrize("change", [renamed_output, renamed_input, baked_batch, fixed_reshape, float64_output, no_node])
def test_a_graph_unlike_its_contract_is_refused(
    mlp: Exported, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    artifact = rewritten(mlp, tmp_path / "export", "decoder", change)
    with pytest.raises(ModelError, match="are not those of the contract|cannot be opened") as caught:
        verify(artifact, mlp.source)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_other_bytes_are_refused_by_file_and_both_hashes(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    entry = artifact.entry("encoder", "pt2")
    path = artifact.folder / entry.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        verify(artifact, mlp.source)
    for said in (str(path), entry.sha256, sha256(bytes(data))):
        assert said in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "link", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused(mlp: Exported, tmp_path: Path, damage: str) -> None:
    import os

    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    path.rename(tmp_path / "real")
    if damage == "link":
        path.symlink_to(tmp_path / "real")
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match=r"decoder\.onnx"):
        verify(artifact, mlp.source)


def test_an_export_of_another_checkpoint_is_refused(mlp: Exported) -> None:
    other = replace(mlp.source, provenance=dict(mlp.source.provenance) | {"checkpoint_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match=f"export is of another checkpoint: .*; expected SHA-256 {'0' * 64}, got"):
        verify(mlp.artifact, other)


@pytest.mark.parametrize(
    "change", [{"image_range": (-1.0, 1.0)}, {"latent_shape": (2, 2)}, {"image_shape": (1, 14, 56)}]
)
def test_a_manifest_with_another_contract_is_refused(mlp: Exported, tmp_path: Path, change: dict[str, object]) -> None:
    """Hosts believe the manifest: where it says other ranges than the truth, they scale their images wrongly."""
    artifact = mlp.copied(tmp_path / "export")
    contract: Contract = replace(mlp.source.contract, **change)  # type: ignore[arg-type]
    write_atomic(artifact.folder / NAME, replace(artifact.manifest, contract=contract).text)
    with pytest.raises(IntegrityError, match="export has another contract"):
        verify(open_artifact(artifact.folder), mlp.source)


def test_a_part_that_the_source_cannot_make_is_refused(foreign: Exported) -> None:
    with pytest.raises(ModelError, match="nothing to compare with: encoder"):
        verify(foreign.artifact, replace(foreign.source, encoder=None), trust=True)


@pytest.mark.parametrize(
    ("target", "error", "code"),
    [
        ("onnx/CUDAExecutionProvider", TargetError, 6),
        ("onnx/TensorrtExecutionProvider", TargetError, 6),
        ("onnx/CpuExecutionProvider", TargetError, 6),
        ("torchscript/cuda", TargetError, 6),
        ("torchscript/toaster", TargetError, 6),
        ("pt2/cuda", TargetError, 6),
        ("pt2/toaster", TargetError, 6),
        ("onnx", UsageError, 2),
        ("onnx/", UsageError, 2),
        ("/cpu", UsageError, 2),
        ("", UsageError, 2),
        ("zip/cpu", UsageError, 2),
    ],
)
def test_a_target_that_is_not_there_is_an_error_and_no_fallback(
    mlp: Exported, target: str, error: type[Exception], code: int
) -> None:
    if target in available_targets():
        pytest.skip(f"{target} is there")
    with pytest.raises(error) as caught:
        verify(mlp.artifact, mlp.source, targets=[target])
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def available_targets() -> set[str]:
    from vae_export import machine

    return {target for state in machine.examine().formats for target in state.targets}


def test_only_the_targets_that_were_asked_for_are_run(mlp: Exported) -> None:
    certificate = verify(mlp.artifact, mlp.source, targets=["torchscript/cpu"])
    assert certificate.passed
    assert {row.target for row in certificate.rows} == {"torchscript/cpu"}
    assert all("torchscript" in name for name in certificate.files)


def test_an_export_without_files_has_not_passed(mlp: Exported, tmp_path: Path) -> None:
    write_atomic(tmp_path / NAME, replace(mlp.artifact.manifest, files=()).text)
    certificate = verify(open_artifact(tmp_path), mlp.source)
    assert not certificate.passed


def test_numbers_of_pytorch_that_are_not_finite_are_an_error_of_the_module(tmp_path: Path) -> None:
    from torch import nn

    from vae_export import export

    huge = samples.Lambda(lambda z: (z * 60).exp())
    decoder = nn.Sequential(huge, nn.Unflatten(1, (1, 2, 2)))
    source = Source(Contract((1, 2, 2), (4,), (0.0, 1.0)), decoder=decoder)
    with pytest.raises(ModelError, match="module gives numbers that are not finite: decoder, 'image', probe"):
        export(source, tmp_path / "out", formats=["torchscript"])
    assert not list(tmp_path.iterdir())


def test_the_callers_settings_come_back(mlp: Exported) -> None:
    import os

    import torch

    def settings() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
            os.environ.get("NVIDIA_TF32_OVERRIDE"),
        )

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        before = settings()
        verify(mlp.artifact, mlp.source, targets=[ONNX])
        assert settings() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def measured(value: object, spec: TensorSpec, eager: np.ndarray) -> Measure:
    return measure(value, spec, eager, eager.astype(float), band=1e30, magnitude=1.0)


floats = st.floats(allow_nan=True, allow_infinity=True)
positive = st.floats(0, 1e30)


@given(
    st.one_of(st.none(), floats),
    st.one_of(st.none(), st.just("fault")),
    st.builds(Scale, eager_error=positive, sensitivity=positive, magnitude=positive),
)
def test_only_a_finite_error_within_the_band_passes(error: float | None, fault: str | None, scale: Scale) -> None:
    row = Row("decoder", ONNX, Setting(), "prior", 1, "image", Measure(error=error, fault=fault), scale)
    good = fault is None and error is not None and math.isfinite(error) and error <= scale.band()
    assert row.passed == good
    assert Certificate({}, 1, (row,)).passed == good


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_band_is_a_few_roundings_and_never_zero(eager: float, sensitivity: float, magnitude: float) -> None:
    band = Scale(eager, sensitivity, magnitude).band()
    assert 0 < band <= FACTOR * max(eager, sensitivity, 2**-23)


@given(st.integers(0, 11), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_not_finite_never_passes(index: int, bad: float) -> None:
    spec, eager = TensorSpec("image", (1, 2, 2)), np.zeros((3, 1, 2, 2), np.float32)
    value = eager.copy()
    value.flat[index] = bad
    huge = Scale(1e30, 1e30, 1e30)
    bad_row, good_row = (
        Row("decoder", ONNX, Setting(), "zeros", 3, "image", measured(array, spec, eager), huge)
        for array in (value, eager)
    )
    assert not bad_row.passed
    assert good_row.passed


@given(st.integers(0, 11), st.floats(0.125, 1024, width=32))
def test_figures_are_those_of_the_worst_element(index: int, off: float) -> None:
    spec, eager = TensorSpec("image", (1, 2, 2)), np.zeros((3, 1, 2, 2), np.float32)
    value = eager.copy()
    value.flat[index] = -off
    found = measured(value, spec, eager)
    assert (found.max_abs, found.error) == (off, off)
    assert found.mean_abs == pytest.approx(off / 12)
    assert found.worst_index == np.unravel_index(index, eager.shape)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((1, 1, 2, 2), np.float32),  # numpy would broadcast it
        np.zeros((3, 4), np.float32),
        np.zeros((3, 1, 2, 2), np.float64),
        np.zeros((3, 1, 2, 2), ">f4"),
        [0.0],
        None,
    ],
)
def test_shape_and_dtype_come_before_values(value: object) -> None:
    eager = np.zeros((3, 1, 2, 2), np.float32)
    found = measured(value, TensorSpec("image", (1, 2, 2)), eager)
    assert found.fault is not None
    assert found.error is None
