"""Files of lower precision: held against what PyTorch loses with the same numbers, and what they cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.parity.subject import Subject, refused, tampered, verified
from vae_export import Contract, Source, export, load, open_artifact, verify
from vae_export.contract import Part
from vae_export.engines import Parcel, Settings
from vae_export.errors import ModelError, ParityError, UsageError
from vae_export.formats import FORMATS, Setting, WriteOptions
from vae_export.parity import Budget, calibration
from vae_export.parity.drift import frechet_distance, nats
from vae_export.parity.grid import REACHES, half_steps
from vae_export.parity.lowered import lowered
from vae_export.precision import CALIBRATED, FULL, PRECISIONS, PrecisionName, infix
from vae_export.recommended import LEVELS

KINDS = [(name, precision) for name, format in FORMATS.items() for precision in format.precisions if precision != FULL]
INTEGERS: list[PrecisionName] = ["int8", "int8-static", "int4-weights"]


def written(subject: Subject, part: Part, precision: PrecisionName) -> bytes:
    graphs = {part: subject.source.graph(part) for part in subject.source.parts}
    inputs = calibration(subject.source, graphs)[part] if precision in CALIBRATED else None
    return FORMATS["onnx"].write(graphs[part], WriteOptions(precision=precision, calibration=inputs))


def passed_off(subject: Subject, folder: Path, data: bytes, precision: PrecisionName) -> object:
    """A decoder of whatever bytes, which the manifest calls one of this precision."""
    artifact = tampered(subject, folder, {("decoder", "onnx"): data})
    entry = replace(artifact.manifest.files[0], precision=precision)
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=(entry,)))
    return verify(
        artifact, subject.source, targets=[f"onnx+{precision}/CPUExecutionProvider"], thorough=False, trust=True
    )


@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_every_format_in_every_precision_is_verified_and_says_what_it_costs(
    subject: Callable[..., Subject], family: str, tmp_path: Path
) -> None:
    of = subject(family)
    fast = [name for name in FORMATS if name in ("onnx", "torchscript", "pt2")]
    artifact, certificate = export(of.source, tmp_path / "export", formats=fast, precisions=PRECISIONS)
    have = {(entry.format, entry.precision) for entry in artifact.manifest.files}
    assert have >= {kind for kind in KINDS if kind[0] in fast}
    assert certificate.passed
    assert not [finding for finding in certificate.findings if finding.severity == "error"]
    of_targets = {drift.target: drift for drift in certificate.drifts if drift.part == "decoder"}
    assert len(of_targets) == len([kind for kind in have if kind[1] != FULL])
    for drift in certificate.drifts:
        assert drift.worst_levels is not None
        assert drift.nats_low is not None
        assert drift.nats is not None
        assert drift.nats_high is not None
        assert drift.nats_low <= drift.nats <= drift.nats_high
        assert (drift.frechet is not None) == (drift.frechet_of_samples is not None) == (drift.part == "decoder")
    half, eight = (of_targets[f"onnx+{precision}/CPUExecutionProvider"] for precision in ("fp16", "int8"))
    assert half.psnr is not None
    assert eight.psnr is not None
    assert half.psnr > eight.psnr
    model = load(tmp_path / "export", precision="int8")
    model.self_test().require()
    assert model.self_test().worst_error > load(tmp_path / "export", precision="fp16").self_test().worst_error / 100
    assert not np.array_equal(model.sample(2, 0), load(tmp_path / "export").sample(2, 0))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-static", "int4-weights"])
def test_files_get_smaller_and_keep_float32_outside(mlp: Subject, precision: PrecisionName) -> None:
    data = written(mlp, "autoencoder", precision)
    assert data == written(mlp, "autoencoder", precision)  # the same bytes each time
    assert len(data) < len(mlp.data("autoencoder"))
    model = onnx.load_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_eight_bits_are_pytorchs_own_eight_bits(mlp: Subject) -> None:
    """Two programs that share no line round to the same levels: all but values on the border of two."""
    graph = mlp.source.graph("decoder")
    latent = np.random.default_rng(0).standard_normal((64, *mlp.source.contract.latent_shape)).astype(np.float32)
    runner = FORMATS["onnx"].open(
        written(mlp, "decoder", "int8"), graph.spec, "CPUExecutionProvider", Setting(1, "all")
    )
    ours, theirs = lowered(graph, "int8")({"latent": latent})["image"], runner({"latent": latent})["image"]
    assert np.median(np.abs(ours - theirs)) < 1e-6
    assert np.abs(ours - theirs).max() < np.abs(ours - lowered(graph, FULL)({"latent": latent})["image"]).max()


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_weights_of_eight_bits_are_unsigned_for_processors_where_signed_ones_saturate(
    subject: Callable[..., Subject], family: str, precision: PrecisionName
) -> None:
    model = onnx.load_from_string(written(subject(family), "autoencoder", precision))
    eights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8]
    assert max(np.prod(tensor.dims) for tensor in eights) > 1000
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]


class LooksUp(nn.Module):
    """A decoder with integers of its own, in 8 signed bits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(-2, 2, dtype=torch.int8))
        self.layer = nn.Linear(4, 16)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        steps = self.table[latent.argmax(1)].float().unsqueeze(1)
        return torch.sigmoid(self.layer(latent) + steps).view(-1, 1, 4, 4)


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_integers_of_the_network_itself_are_left_alone(tmp_path: Path, precision: PrecisionName) -> None:
    torch.manual_seed(0)
    source = Source(Contract((1, 4, 4), (4,)), decoder=LooksUp())
    _, certificate = export(source, tmp_path / "export", precisions=[precision])
    assert certificate.passed


@pytest.mark.parametrize("level", LEVELS)
def test_eight_bits_are_right_where_every_level_is_the_highest(mlp: Subject, level: str) -> None:
    """Two products of 255 and 127 do not fit into the 16 bits in which some processors add them up."""
    graph = mlp.source.graph("decoder")
    means = copy.deepcopy(graph.module)
    with torch.no_grad():
        for parameter in means.parameters():
            parameter.fill_(1 / parameter.shape[-1] if parameter.dim() > 1 else 0)
    graph = replace(graph, module=means)
    data = FORMATS["onnx"].write(graph, WriteOptions(precision="int8"))
    latent = np.ones((1, *mlp.source.contract.latent_shape), dtype=np.float32)
    image = FORMATS["onnx"].open(data, graph.spec, "CPUExecutionProvider", Setting(1, level))({"latent": latent})[
        "image"
    ]
    np.testing.assert_allclose(image, 1 / (1 + np.exp(-1)), atol=1e-3)


@pytest.mark.parametrize(
    ("inside", "stated"), [("int4-weights", "int8"), ("int8", "fp16"), ("int4-weights", "fp16"), ("fp16", "fp32")]
)
def test_a_coarser_file_is_not_passed_off_as_a_finer_one(
    mlp: Subject, tmp_path: Path, inside: PrecisionName, stated: PrecisionName
) -> None:
    data = written(mlp, "decoder", inside)
    if stated == FULL:
        refused(verified(tampered(mlp, tmp_path / "export", {("decoder", "onnx"): data}), mlp.source))
    else:
        refused(passed_off(mlp, tmp_path / "export", data, stated))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", *INTEGERS])
def test_a_layer_of_another_scale_is_found(mlp: Subject, tmp_path: Path, precision: PrecisionName) -> None:
    """The scale of one layer's weights, twice what it should be: in whatever form the precision keeps it."""
    model = onnx.load_from_string(written(mlp, "decoder", precision))
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in kinds]
    largest = max(
        (tensor for tensor in weights if precision == "fp16" or "scale" in tensor.name),
        key=lambda tensor: np.prod(tensor.dims),
    )
    array = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array((array * 2).astype(array.dtype), largest.name))
    certificate = passed_off(mlp, tmp_path / "export", model.SerializeToString(), precision)
    refused(certificate)  # type: ignore[arg-type]


def test_a_budget_that_is_missed_publishes_nothing(mlp: Subject, tmp_path: Path) -> None:
    out = tmp_path / "export"
    with pytest.raises(ParityError, match=r"budget is missed.*onnx\+int4-weights.* grey levels, 1 allowed"):
        export(mlp.source, out, precisions=["int4-weights"], budget=Budget(max_grey_levels=1))
    with pytest.raises(ParityError, match=r"budget is missed.* nats, 0 allowed"):
        export(mlp.source, out, precisions=["int4-weights"], budget=Budget(max_nats=0))
    assert not list(tmp_path.iterdir())
    _, certificate = export(mlp.source, out, budget=Budget(max_grey_levels=1, max_nats=0.01))
    held = [(drift.part, drift.target) for drift in certificate.drifts]
    assert held == [("decoder", "onnx/CPUExecutionProvider"), ("autoencoder", "onnx/CPUExecutionProvider")]


def test_nats_cannot_be_kept_to_where_they_cannot_be_measured(mlp: Subject, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="not measured nats"):
        export(mlp.source, tmp_path / "export", parts=["decoder"], budget=Budget(max_nats=10))


class Grows(nn.Module):
    """Finite in float32; 1e5 is beyond float16."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        grown = (latent * 0 + 1) * 1e5
        return torch.cat([grown, grown], 1).reshape(-1, 1, 2, 2)


def test_a_network_that_overflows_in_half_precision_is_told_so(tmp_path: Path) -> None:
    source = Source(Contract((1, 2, 2), (2,), (0.0, 2e5)), decoder=Grows())
    with pytest.raises(ModelError, match=r"not finite in fp16: decoder, 'image'.*choose a --precision"):
        export(source, tmp_path / "export", precisions=["fp16"])
    assert not list(tmp_path.iterdir())


def test_more_images_than_the_rows_take_narrow_the_interval_of_nats(mlp: Subject, tmp_path: Path) -> None:
    """Rows compare the nats of 64 images; with no more, the interval of a good file reaches past a budget."""
    images = np.random.default_rng(0).uniform(0, 1, (256, *mlp.source.contract.image_shape)).astype(np.float32)
    widths = []
    for count in (64, 256):
        source, out = replace(mlp.source, images=images[:count]), tmp_path / str(count)
        _, certificate = export(source, out, parts=["encoder", "decoder"], precisions=["int8"])
        [drift] = certificate.drifts
        assert drift.nats_high is not None
        assert drift.nats_low is not None
        widths.append(drift.nats_high - drift.nats_low)
    assert widths[1] < 0.75 * widths[0]


def test_an_image_that_is_repeated_does_not_narrow_the_interval_of_nats(mlp: Subject, tmp_path: Path) -> None:
    """One image says nothing of the spread, however often the metric takes it; noise says nothing of images."""
    assert mlp.source.images is not None
    one = replace(mlp.source, images=mlp.source.images[:1])
    with pytest.raises(ParityError, match="inf nats, 10 allowed"):
        export(one, tmp_path / "export", budget=Budget(max_nats=10))
    with pytest.raises(ParityError, match="not measured nats"):
        export(replace(mlp.source, images=None), tmp_path / "export", budget=Budget(max_nats=10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_budget_is_an_amount(value: float) -> None:
    with pytest.raises(UsageError, match="bad max-nats"):
        Budget(max_nats=value)


def test_a_format_without_the_precision_is_refused_before_any_work(mlp: Subject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such precision: torchscript; expected fp32 \| bf16 \| fp16, got int8"):
        export(mlp.source, tmp_path / "export", formats=["torchscript"], precisions=["int8"])
    with pytest.raises(UsageError, match="unknown precision"):
        export(mlp.source, tmp_path / "export", precisions=["int7"])  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [None, 15])
def test_calibration_needs_images(mlp: Subject, tmp_path: Path, images: int | None) -> None:
    assert mlp.source.images is not None
    few = replace(mlp.source, images=None if images is None else mlp.source.images[:images])
    with pytest.raises(ModelError, match="too few images to calibrate with"):
        export(few, tmp_path / "export", precisions=["int8-static"])
    assert not list(tmp_path.iterdir())


def test_the_runtime_takes_a_precision_that_is_there(mlp: Subject, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export(mlp.source, folder, precisions=["int8"], parts=["decoder"])
    assert np.array_equal(load(folder).sample(2, 0), load(folder, precision="int8").sample(2, 0))  # the only one
    with pytest.raises(UsageError, match="no ONNX file has this precision; expected int8, got fp16"):
        load(folder, precision="fp16")
    # And so do machines that get nothing but the files that they need.
    parcel = Parcel.of(open_artifact(folder), ("decoder",), Settings())
    assert list(parcel.files) == ["decoder.int8.onnx"]
    assert np.array_equal(parcel.open().sample(2, 0), load(folder).sample(2, 0))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=96, max_size=96),
    st.sampled_from(["fp16", "bf16", *INTEGERS]),
)
def test_rounding_moves_no_weight_by_more_than_half_a_step(weights: list[float], precision: PrecisionName) -> None:
    layer = nn.Linear(48, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).reshape(2, 48))
    [(weight, half)] = half_steps(layer, precision)
    if precision in INTEGERS:
        step = 2 * half
        rounded = torch.where(step > 0, torch.round(weight / step) * step, weight)
    else:
        rounded = weight.to(torch.float16 if precision == "fp16" else torch.bfloat16).float()
    smallest = 2.0**-25  # half the distance of two subnormal float16s
    assert bool(((rounded - weight).abs() <= half * (1 + 1e-5) + smallest).all())


def test_every_precision_has_a_summary_a_reach_and_a_name_for_its_files() -> None:
    assert set(REACHES) == set(PRECISIONS)
    assert len({infix(precision) for precision in PRECISIONS}) == len(PRECISIONS)
    assert infix(FULL) == ""


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_the_frechet_distance_is_that_of_normal_distributions(shift: float, scale: float) -> None:
    """Of one set and the same moved and stretched: |shift|² F + (scale - 1)² tr(covariance)."""
    features = np.random.default_rng(0).standard_normal((200, 4))
    centred = features - features.mean(0)
    spread = np.trace(np.cov(centred, rowvar=False))
    found = frechet_distance(centred, centred * scale + shift)
    assert found == pytest.approx(4 * shift**2 + (scale - 1) ** 2 * spread, rel=1e-6, abs=1e-9)


def test_the_interval_of_nats_is_that_of_a_mean() -> None:
    found = nats(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found["nats"] == 2.5
    assert found["nats_high"] - found["nats"] == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)
    assert nats(np.array([1.0]))["nats_high"] == np.inf  # one image says nothing of its spread
