"""Decoders that output bytes round exactly as an application would."""

from __future__ import annotations

import re
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

from tests import sample_models
from tests.parity.conftest import examples
from tests.parity.small_exports import assert_fails
from vae_export import Artifact, Certificate, Contract, Source, export, load, open_artifact, verify
from vae_export.artifact.certificate import read_certificate
from vae_export.artifact.folder import read_content
from vae_export.artifact.golden import compare_golden_pixels
from vae_export.artifact.manifest import MANIFEST
from vae_export.bundles import open_bundle
from vae_export.bundles.writer import pack
from vae_export.capture import capture
from vae_export.capture.part_modules import PixelsModule
from vae_export.contract import MAX_LEVEL, PIXELS, Array, Part, Pixels
from vae_export.errors import ModelError, UsageError
from vae_export.formats import FORMATS
from vae_export.io.atomic import sha256
from vae_export.likelihood import Likelihood
from vae_export.parity import References
from vae_export.pixels import compare_levels, rounding_miss, to_levels, to_pixels, unrounded
from vae_export.precision import PrecisionName
from vae_export.runtime.self_test import self_test
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow

LAYOUTS: tuple[Pixels, ...] = ("uint8-hwc", "uint8-chw")
HWC, CHW = PIXELS["uint8-hwc"], PIXELS["uint8-chw"]
CPU = "CPUExecutionProvider"
#: Enough for every probe: more rows show nothing more of how a number is rounded.
MINUTES = 0.05
RANGES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 1.5)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Certificate, References]:
    """A square colour decoder in [-1, 1], exported in both layouts to every format that needs no compiler."""
    references = References(sample_models.foreign_source())
    out = tmp_path_factory.mktemp("pixels") / "export"
    artifact, certificate = export(
        references, out, formats=sample_models.QUICK, parts=["decoder"], pixels=LAYOUTS, minutes=MINUTES
    )
    return artifact, certificate, references


def graph(contract: Contract, part: Part, decoder: nn.Module | None = None) -> Callable[[Array], Array]:
    module = PixelsModule(decoder or nn.Identity(), contract.image_range, part)
    return lambda image: module(torch.from_numpy(image)).numpy()


@examples
@given(st.lists(st.floats(-0.5, 1.5, width=32), min_size=6, max_size=6), RANGES, st.sampled_from(LAYOUTS))
def test_pixels_graph_rounds_like_to_bytes(values: list[float], bounds: tuple[float, float], layout: Pixels) -> None:
    contract = Contract((1, 2, 3), (1,), bounds)
    low, high = bounds
    image = (low + np.array(values, np.float32).reshape(1, 1, 2, 3) * np.float32(high - low)).astype(np.float32)
    got = graph(contract, PIXELS[layout])(image)
    assert (got.dtype, got.shape) == (np.uint8, (1, *contract.spec(PIXELS[layout]).outputs[0].item))
    exact = np.clip(unrounded(image, contract, PIXELS[layout]), 0, MAX_LEVEL)
    assert compare_levels(got, exact, low=0, high=MAX_LEVEL, tolerance=1e-4).unexplained == 0
    assert rounding_miss(got, exact).max() <= 1e-4
    assert np.array_equal(to_pixels(image, contract, PIXELS[layout]), to_levels(exact, 0, MAX_LEVEL))


def test_pixels_graph_matches_the_table_in_the_specification() -> None:
    """Values beyond the range become 0 or 255: the graph never wraps round."""
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text("utf-8")
    (pixels, expected) = re.search(r"^\| pixel, range \[0, 1\] \|(.*)\|\n.*\n\| byte \|(.*)\|$", text, re.M).groups()  # type: ignore[union-attr]
    image = np.array([float(pixel) for pixel in pixels.split("|")], np.float32).reshape(1, 1, 1, -1)
    got = graph(Contract((1, 1, image.size), (1,)), CHW)(image)
    assert got.ravel().tolist() == [int(byte) for byte in expected.split("|")]


@examples
@given(st.floats(0, MAX_LEVEL), st.integers(0, MAX_LEVEL))
def test_rounding_miss_measures_the_distance_to_the_rounding_boundary(exact: float, byte: int) -> None:
    truth, got = np.array([exact]), np.array([byte], np.uint8)
    distance = float(rounding_miss(got, truth)[0])
    right = int(to_levels(truth, 0, MAX_LEVEL)[0])
    assert rounding_miss(np.array([right], np.uint8), truth)[0] == 0
    if byte != right:
        assert abs(exact + np.sign(byte - exact) * distance - byte) == pytest.approx(0.5)


def test_every_format_exports_and_verifies_both_layouts(made: tuple[Artifact, Certificate, References]) -> None:
    artifact, certificate, references = made
    source = references.source
    assert certificate.passed
    assert len(artifact.manifest.files) == 3 * len(sample_models.QUICK)
    rows = [row for row in certificate.results if row.part in (HWC, CHW)]
    assert {row.target for row in rows} == {row.target for row in certificate.results}
    assert {row.probe for row in rows} == {row.probe for row in certificate.results}
    assert all(row.comparison.grey is not None and row.comparison.grey.worst <= 1 for row in rows)
    latent = np.random.default_rng(1).standard_normal((3, 4, 4, 4)).astype(np.float32)
    decoder = capture(source, "decoder").module.double()
    with torch.no_grad():
        exact = decoder(torch.from_numpy(latent).double()).numpy()
    for layout in LAYOUTS:
        for format in sample_models.QUICK:
            entry, spec = artifact.entry(PIXELS[layout], format), source.contract.spec(PIXELS[layout])
            runner = FORMATS[format].open(
                read_content(artifact, entry), spec, SessionOptions(FORMATS[format].providers()[0], threads=1)
            )
            got = runner({"latent": latent})["pixels"]
            assert rounding_miss(got, unrounded(exact, source.contract, PIXELS[layout])).max() < 1e-2
            assert got.flags.c_contiguous, "a host copies it as it is"


def test_manifest_describes_the_pixel_outputs(made: tuple[Artifact, Certificate, References]) -> None:
    documents = {entry["name"]: entry for entry in made[0].manifest.to_json()["files"]}
    for layout, shape in (("uint8-hwc", ["N", 32, 32, 3]), ("uint8-chw", ["N", 3, 32, 32])):
        entry = documents[f"decoder-{layout}.onnx"]
        assert entry["inputs"] == documents["decoder.onnx"]["inputs"]
        assert entry["outputs"] == [{"name": "pixels", "dtype": "uint8", "shape": shape, "range": [0, 255]}]


def constant(model: onnx.ModelProto, operator: str, value: float) -> None:
    """Replace the constant operand of an operator."""
    node = next(node for node in reversed(model.graph.node) if node.op_type == operator)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), "another"))
    node.input[1] = "another"


def permuted(model: onnx.ModelProto, axes: list[int]) -> None:
    """Permute the axes of the output."""
    node = next(node for node in model.graph.node if "pixels" in node.output)
    node.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Transpose", ["before"], ["pixels"], perm=axes))


def channels_swapped(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if "pixels" in node.output)
    node.output[0] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], ["pixels"], axis=3))


def logits(model: onnx.ModelProto) -> None:
    """Remove the final activation, so that values leave the range and only the clamp limits them."""
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.op_type = "Identity"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(lambda model: constant(model, "Add", 127.5), None, id="cut off, not rounded"),
        pytest.param(lambda model: constant(model, "Add", 128.5), None, id="rounded up"),
        pytest.param(lambda model: constant(model, "Mul", 128.0), None, id="256 levels in place of 255"),
        pytest.param(lambda model: constant(model, "Mul", -127.5), None, id="a negative"),
        pytest.param(lambda model: constant(model, "Add", 0.5), None, id="[-1, 1] taken for [0, 1]"),
        pytest.param(channels_swapped, None, id="BGR"),
        pytest.param(lambda model: permuted(model, [0, 2, 1, 3]), None, id="rows and columns exchanged"),
        pytest.param(lambda model: permuted(model, [0, 3, 2, 1]), "opened", id="channels first, said to be last"),
        pytest.param(logits, None, id="the decoder without its end"),
    ],
)
def test_wrong_pixel_conversion_is_caught(
    made: tuple[Artifact, Certificate, References],
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    fault: object,
) -> None:
    artifact, _, references = made
    entry = artifact.entry(HWC)
    model = onnx.load_from_string(artifact.read(entry))
    change(model)
    for dim, size in zip(model.graph.output[0].type.tensor_type.shape.dim[1:], (32, 32, 3), strict=True):
        dim.dim_value = size
    data = model.SerializeToString()
    (tmp_path / entry.name).write_bytes(data)
    file = replace(entry, size=len(data), sha256=sha256(data))
    (tmp_path / MANIFEST).write_bytes(replace(artifact.manifest, files=(file,), golden=()).text)
    if fault is not None:  # ONNX Runtime infers another shape
        with pytest.raises(ModelError, match="ONNX file cannot be opened|outputs do not match"):
            verify(open_artifact(tmp_path), references, targets=[f"onnx/{CPU}"], thorough=False, minutes=MINUTES)
        return
    certificate = verify(open_artifact(tmp_path), references, targets=[f"onnx/{CPU}"], thorough=False, minutes=MINUTES)
    assert_fails(certificate)
    assert all(row.output == "pixels" for row in certificate.failures)
    assert all(row.comparison.grey is not None and row.comparison.grey.unexplained > 0 for row in certificate.failures)


def test_pixels_file_leaves_out_the_variance_of_the_likelihood(tmp_path: Path) -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 24), nn.Unflatten(1, (2, 3, 4)))

        def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, logvar = self.body(latent).split(1, dim=1)
            return torch.sigmoid(mean), logvar

    source = Source(Contract((1, 3, 4), (2,), likelihood=Likelihood("gaussian")), decoder=Spread())
    artifact, certificate = export(source, tmp_path / "export", pixels=["uint8-hwc"])
    assert certificate.passed
    assert [tensor.name for tensor in source.contract.spec("decoder").outputs] == ["image", "image_logvar"]
    assert load(artifact.folder).pixels(np.zeros((2, 2), np.float32)).shape == (2, 3, 4, 1)


def test_float_and_pixel_decoders_give_the_same_bytes(
    made: tuple[Artifact, Certificate, References], tmp_path: Path
) -> None:
    artifact, _, references = made
    source = references.source
    certificate = read_certificate(artifact.certificate)
    bundles = {}
    for name, parts in (("both", None), ("bytes", [HWC]), ("floats", ["decoder"])):
        path = tmp_path / f"{name}.zip"
        path.write_bytes(pack(artifact, certificate, name=name, formats=["onnx"], parts=parts))
        bundles[name] = load(path, batch_size=3)
    assert [entry.part for entry in open_bundle(tmp_path / "bytes.zip").manifest.files] == [HWC]
    latent = bundles["floats"].prior(8, 5)
    image = bundles["floats"].decode(latent)
    for model in bundles.values():
        model.self_test().require()
        got = model.pixels(latent)
        assert (got.dtype, got.shape, got.flags.c_contiguous) == (np.uint8, (8, 32, 32, 3), True)
        assert rounding_miss(got, unrounded(image, source.contract, HWC)).max() < 1e-2
    assert np.array_equal(bundles["both"].pixels(latent, "uint8-chw"), to_pixels(image, source.contract, CHW))
    for name in ("both", "floats"):
        with pytest.raises(ModelError, match=r"not finite"):
            bundles[name].pixels(np.full_like(latent, np.nan))
    with pytest.raises(UsageError, match=r"unknown pixels; expected uint8-hwc \| uint8-chw, got hwc"):
        bundles["both"].pixels(latent, "hwc")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [lambda pixels: pixels ^ 1, lambda pixels: pixels[..., ::-1]])
def test_self_test_fails_on_wrong_pixels(made: tuple[Artifact, Certificate, References], wrong: object) -> None:
    artifact = made[0]
    model = load(artifact.folder)
    assert [item.part for item in model.self_test().outputs] == ["decoder", HWC, CHW]

    def run(part: Part, **inputs: Array) -> dict[str, Array]:
        outputs = model.run(part, **inputs)
        return {"pixels": wrong(outputs["pixels"])} if part == HWC else outputs  # type: ignore[operator]

    result = self_test(artifact, run)
    assert [item.part for item in result.outputs if not item.passed] == [HWC]
    with pytest.raises(Exception, match=f"self-test failed: {HWC}, 'pixels'.* pixels of another grey level"):
        result.require()


def test_only_bytes_next_to_a_rounding_boundary_are_explained(
    made: tuple[Artifact, Certificate, References],
) -> None:
    artifact, _, references = made
    source = references.source
    [part] = artifact.manifest.golden
    [image] = part.outputs
    exact = image.array(artifact.read(image)).copy()
    exact[0, 0, 0, 0] = 100.5 / 127.5 - 1  # between 100 and 101
    right = to_pixels(exact, source.contract, HWC)
    for byte, unexplained in ((99, 1), (100, 0), (101, 0), (102, 1)):
        right[0, 0, 0, 0] = byte
        found = compare_golden_pixels(source.contract, HWC, right, image, exact)
        assert found.grey is not None
        assert (found.grey.unexplained, found.passed) == (unexplained, not unexplained)


@pytest.mark.parametrize(
    ("pixels", "precisions", "message"),
    [
        (["uint8"], ["fp32"], r"unknown pixels; expected uint8-hwc \| uint8-chw, got uint8"),
        (["uint8-hwc"], ["int8"], r"pixels are exported in float32 only; expected fp32, got int8"),
        (["uint8-hwc"], ["fp32", "fp16"], r"pixels are exported in float32 only; expected fp32, got fp32, fp16"),
    ],
)
def test_unknown_or_low_precision_pixels_are_refused_before_any_work(
    tmp_path: Path, pixels: list[Pixels], precisions: list[PrecisionName], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(sample_models.foreign_source(), tmp_path / "export", pixels=pixels, precisions=precisions)
    assert not list(tmp_path.iterdir())


def test_pixels_without_a_decoder_are_refused(tmp_path: Path) -> None:
    source = replace(sample_models.foreign_source(), decoder=None)
    with pytest.raises(UsageError, match="pixels need a decoder"):
        export(source, tmp_path / "export", pixels=["uint8-hwc"])
