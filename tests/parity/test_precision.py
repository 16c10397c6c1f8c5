"""Files of lower precision are compared with PyTorch in that precision, and their degradation is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from tests.parity.small_exports import Subject, assert_fails, checkpoint, onnx_data, tampered, verified, verify_as
from vae_export import Contract, Source, export, load, open_artifact
from vae_export.artifact.certificate import TYPICAL_PROBES
from vae_export.artifact.manifest import FileContent
from vae_export.contract import PARTS, Part
from vae_export.errors import ModelError, UsageError
from vae_export.formats import FORMATS
from vae_export.models.config import Family
from vae_export.parity import Certificate
from vae_export.parity.fake_quant import fake_quantize
from vae_export.parity.plan import batches_plan
from vae_export.parity.tolerance import TOLERANCE_FACTORS, weight_roundoffs
from vae_export.pipeline import ModelPayload
from vae_export.precision import FULL, PRECISIONS, PrecisionName, infix
from vae_export.session_options import CPU, SessionOptions

pytestmark = pytest.mark.slow

KINDS = [(name, precision) for name, format in FORMATS.items() for precision in format.precisions if precision != FULL]
INTEGERS: list[PrecisionName] = ["int8", "int8-static", "int4-weights"]


@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_every_format_passes_in_every_precision_with_degradations(family: Family, tmp_path: Path) -> None:
    fast = [name for name in FORMATS if name in ("onnx", "torchscript", "pt2")]
    small = checkpoint(family, shape=(1, 8, 8))
    # The autoencoder of one family is enough: its layers are those of the other parts.
    parts: tuple[Part, ...] = PARTS if family == "mlp" else ("encoder", "decoder")
    artifact, certificate = export(
        small, tmp_path / "export", formats=fast, precisions=PRECISIONS, parts=parts, minutes=0.05
    )
    have = {(entry.format, entry.precision) for entry in artifact.manifest.files}
    assert have >= {kind for kind in KINDS if kind[0] in fast}
    assert certificate.passed
    assert not [finding for finding in certificate.findings if finding.severity == "error"]
    of_targets = {
        degradation.target: degradation for degradation in certificate.degradations if degradation.part == "decoder"
    }
    assert len(of_targets) == len([kind for kind in have if kind[1] != FULL])
    for degradation in certificate.degradations:
        assert degradation.worst_levels is not None
        assert degradation.nats_low is not None
        assert degradation.nats is not None
        assert degradation.nats_high is not None
        assert degradation.nats_low <= degradation.nats <= degradation.nats_high
        assert (
            (degradation.frechet is not None)
            == (degradation.frechet_of_samples is not None)
            == (degradation.part == "decoder")
        )
    half, eight = (of_targets[f"onnx+{precision}/CPUExecutionProvider"] for precision in ("fp16", "int8"))
    assert half.psnr is not None
    assert eight.psnr is not None
    assert half.psnr > eight.psnr
    model = load(tmp_path / "export", precision="int8")
    model.self_test().require()
    assert model.self_test().worst_error > load(tmp_path / "export", precision="fp16").self_test().worst_error / 100
    assert not np.array_equal(model.sample(2, 0), load(tmp_path / "export").sample(2, 0))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-static", "int4-weights"])
def test_low_precision_files_are_smaller_with_float32_in_and_out(mlp: Subject, precision: PrecisionName) -> None:
    data = onnx_data(mlp, "autoencoder", precision)
    assert data == onnx_data(mlp, "autoencoder", precision)  # the same bytes each time
    assert len(data) < len(mlp.data("autoencoder"))
    model = onnx.load_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize(
    ("inside", "stated"), [("int4-weights", "int8"), ("int8", "fp16"), ("int4-weights", "fp16"), ("fp16", "fp32")]
)
def test_file_of_lower_precision_than_stated_fails(
    mlp: Subject, tmp_path: Path, inside: PrecisionName, stated: PrecisionName
) -> None:
    data = onnx_data(mlp, "decoder", inside)
    if stated == FULL:
        assert_fails(verified(tampered(mlp, tmp_path / "export", {("decoder", "onnx"): data}), mlp.references))
    else:
        assert_fails(verify_as(mlp, tmp_path / "export", data, stated))


@pytest.mark.parametrize("precision", ["fp16", *INTEGERS])
def test_layer_with_doubled_scale_fails(mlp: Subject, tmp_path: Path, precision: PrecisionName) -> None:
    """The scale of one layer's weights is doubled, in whatever form the precision stores it."""
    model = onnx.load_from_string(onnx_data(mlp, "decoder", precision))
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in kinds]
    largest = max(
        (tensor for tensor in weights if precision == "fp16" or "scale" in tensor.name),
        key=lambda tensor: np.prod(tensor.dims),
    )
    array = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array((array * 2).astype(array.dtype), largest.name))
    certificate = verify_as(mlp, tmp_path / "export", model.SerializeToString(), precision)
    assert_fails(certificate)


class Grows(nn.Module):
    """Finite in float32; 1e5 is beyond float16."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        grown = (latent * 0 + 1) * 1e5
        return torch.cat([grown, grown], 1).reshape(-1, 1, 2, 2)


def test_network_that_overflows_in_float16_is_refused(tmp_path: Path) -> None:
    source = Source(Contract((1, 2, 2), (2,), (0.0, 2e5)), decoder=Grows())
    with pytest.raises(ModelError, match=r"not finite in fp16: decoder, 'image'.*choose a --precision"):
        export(source, tmp_path / "export", precisions=["fp16"])
    assert not list(tmp_path.iterdir())


def test_unsupported_precision_is_refused_before_any_work(mlp: Subject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such precision: torchscript; expected fp32 \| bf16 \| fp16, got int8"):
        export(mlp.source, tmp_path / "export", formats=["torchscript"], precisions=["int8"])
    with pytest.raises(UsageError, match="unknown precision"):
        export(mlp.source, tmp_path / "export", precisions=["int7"])  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())


def test_load_takes_the_only_precision_and_refuses_missing_ones(mlp: Subject, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export(mlp.source, folder, precisions=["int8"], parts=["decoder"])
    assert np.array_equal(load(folder).sample(2, 0), load(folder, precision="int8").sample(2, 0))  # the only one
    with pytest.raises(UsageError, match="no ONNX file has this precision; expected int8, got fp16"):
        load(folder, precision="fp16")
    # A worker that receives only the files it needs takes that precision too.
    payload = ModelPayload.of(open_artifact(folder), ("decoder",), SessionOptions())
    assert list(payload.files) == ["decoder.int8.onnx"]
    assert np.array_equal(payload.open().sample(2, 0), load(folder).sample(2, 0))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=96, max_size=96),
    st.sampled_from(["fp16", "bf16", *INTEGERS]),
)
def test_rounding_moves_no_weight_further_than_its_step_allows(weights: list[float], precision: PrecisionName) -> None:
    layer = nn.Linear(48, 2, bias=False).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).reshape(2, 48))
    [(weight, half)] = weight_roundoffs(layer, precision)
    if precision in INTEGERS:
        rounded = fake_quantize(layer, precision).weight
    else:
        rounded = weight.to(torch.float16 if precision == "fp16" else torch.bfloat16).float()
    smallest = 2.0**-25  # half the distance between two subnormal float16 numbers
    # The levels of 4 bits end one step earlier on the side where the largest weight is not.
    steps = half * (2 if precision == "int4-weights" else 1)
    assert bool(((rounded - weight).abs() <= steps * (1 + 1e-5) + smallest).all())


def test_every_precision_has_a_tolerance_factor_and_a_file_name_infix() -> None:
    assert set(TOLERANCE_FACTORS) == set(PRECISIONS)
    assert len({infix(precision) for precision in PRECISIONS}) == len(PRECISIONS)
    assert infix(FULL) == ""


@pytest.mark.parametrize(("precision", "shift"), [("int8", 0.05), ("int4-weights", 0.3)])
def test_shift_of_every_pixel_fails_by_the_mean_error(
    mlp: Subject, tmp_path: Path, precision: PrecisionName, shift: float
) -> None:
    """With a wrong bias every pixel stays within the tolerance of its precision, but the mean error does not."""
    model = onnx.load_from_string(onnx_data(mlp, "decoder", precision))
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name == "decoder.body.4.bias"]
    array = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(array + np.float32(shift), bias.name))
    certificate = verify_as(mlp, tmp_path / "export", model.SerializeToString(), precision)
    assert isinstance(certificate, Certificate)
    rows = [row for row in certificate.failures if row.probe in TYPICAL_PROBES]
    assert rows
    for row in rows:
        assert row.comparison.error is not None
        assert row.comparison.mean_error is not None
        assert row.comparison.error <= row.tolerance
        assert row.comparison.mean_error > row.mean_tolerance
        assert f"mean error {row.comparison.mean_error:.3g}, {row.mean_tolerance:.3g} allowed" in row.reason


def test_fake_quantisation_has_the_weights_of_the_file_in_four_bits(mlp: Subject) -> None:
    """So that the mean of each element can be compared closely."""
    model = onnx.load_from_string(onnx_data(mlp, "decoder", "int4-weights"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    module = fake_quantize(mlp.graph("decoder").module, "int4-weights")
    weights = {name: value.numpy() for name, value in module.named_parameters() if value.ndim > 1}
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == len(weights) > 0
    for node, weight in zip(products, weights.values(), strict=True):
        packed, scales = stored[node.input[1]], stored[node.input[2]].reshape(len(weight), -1, 1)
        levels = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1).astype(np.float32) - 8
        assert np.array_equal((levels * scales).reshape(len(weight), -1)[:, : weight.shape[1]], weight)


@pytest.mark.parametrize(
    ("precision", "factor"), [("fp16", 1.02), ("int8", 1.02), ("int8-static", 1.02), ("int4-weights", 1.02)]
)
def test_one_channel_that_is_a_little_off_fails(mlp: Subject, precision: PrecisionName, factor: float) -> None:
    """The worst error and the mean of all pixels have room for it."""
    model = onnx.load_from_string(onnx_data(mlp, "decoder", precision))
    channel, changed = 100, 0
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if precision == "fp16" and tensor.name == "decoder.body.4.weight":
            array[channel] *= np.float16(factor)
        elif "body.4.weight" in tensor.name and tensor.name.endswith(("_scale", "_scales")):
            array.reshape(256, -1)[channel] *= np.float32(factor)
        else:
            continue
        tensor.raw_data, changed = array.tobytes(), changed + 1
    assert changed == 1
    cases = mlp.references.cases("decoder", precision, batches_plan((64,)))
    options = FORMATS["onnx"].session_options(CPU)[0]
    judged = [case for case in cases if case.elements]
    assert {case.probe for case in judged} >= {"data", "prior"}
    for data, wrong in ((onnx_data(mlp, "decoder", precision), False), (model.SerializeToString(), True)):
        runner = FORMATS["onnx"].open(FileContent(data), mlp.graph("decoder").spec, options)
        found = [case.elements["image"].used(runner(case.inputs)["image"]) for case in judged]
        assert (max(used for used, _ in found) > 1) == wrong
        if wrong:
            assert max(found)[1] == (0, channel // 16, channel % 16)
