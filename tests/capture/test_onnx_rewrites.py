"""Operators that PyTorch's ONNX exporter refuses are written as equal ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.sample_models import Lambda
from vae_export import Contract
from vae_export.capture.advice import advice_for_operators
from vae_export.capture.onnx_rewrites import rewritten
from vae_export.capture.onnx_translation import translate
from vae_export.capture.part_modules import DecoderModule
from vae_export.capture.program import export_program
from vae_export.errors import ModelError

SHAPE = (2, 3, 4)
MASK = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
WEIGHT = torch.linspace(-1, 1, 20).reshape(5, 4)


def attended(shape: tuple[int, ...], mask: Tensor | None = None, *, causal: bool = False) -> Callable[[Tensor], Tensor]:
    def function(values: Tensor) -> Tensor:
        inner = values.reshape(-1, *shape)
        mixed = F.scaled_dot_product_attention(inner, inner * 2, inner + 1, mask, is_causal=causal)
        return mixed.reshape(-1, *SHAPE)

    return function


def steps(values: Tensor) -> Tensor:
    """Values of which many are equal."""
    return (values * 2).round()


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "clamp": (lambda x: x.clamp(-1, 0.5), lambda x: x.clamp(min=0), lambda x: x.clamp(max=1)),
    "stable sort": (
        lambda x: torch.sort(steps(x), dim=-1, stable=True).values,
        lambda x: torch.sort(steps(x), dim=2, stable=True)[1].to(x.dtype),
        lambda x: torch.sort(steps(x), dim=3, stable=True, descending=True)[1].to(x.dtype),
        lambda x: torch.argsort(steps(x), dim=2, stable=True, descending=True).to(x.dtype),
    ),
    "attention of three axes": (attended((3, 4)), attended((3, 4), MASK), attended((3, 4), causal=True)),
    "attention of five axes": tuple(attended((1, 2, 3, 4), mask) for mask in (None, MASK, MASK * 0.5)),
    "random slopes": (lambda x: F.rrelu(x, training=False), lambda x: F.rrelu(x, 0.1, 0.5)),
    "distances": (lambda x: torch.cdist(x, WEIGHT)[..., :4],),
}


@pytest.mark.slow
@pytest.mark.parametrize("functions", REFUSED.values(), ids=REFUSED.keys())
def test_rewritten_operators_compute_the_same(functions: tuple[Callable[[Tensor], Tensor], ...]) -> None:
    def together(values: Tensor) -> Tensor:
        return torch.cat([function(values) for function in functions], 1)

    channels, *sizes = SHAPE
    spec = Contract((channels * len(functions), *sizes), SHAPE, None).spec("decoder")
    program = export_program(DecoderModule(Lambda(together)).eval(), spec)
    model = translate(program, spec, 20, 1 << 30).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in (1, 3):
        latent = torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(rows))
        (found,) = session.run(None, {"latent": latent.numpy()})
        np.testing.assert_allclose(found, together(latent).numpy(), rtol=1e-5, atol=1e-5)


def test_program_is_left_as_it_was() -> None:
    spec = Contract(SHAPE, SHAPE, None).spec("decoder")
    program = export_program(DecoderModule(Lambda(REFUSED["stable sort"][0])).eval(), spec)
    before = str(program.graph)
    assert rewritten(program) is not program
    assert str(program.graph) == before
    plain = export_program(DecoderModule(Lambda(torch.tanh)).eval(), spec)
    assert rewritten(plain) is plain


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_places_far_outside_of_an_image_are_sampled_as_pytorch_does(padding: str) -> None:
    """ONNX Runtime's GridSample gives zeros in place of the border from about 1e6 on."""
    size = 3.0 if padding == "reflection" else 1e12

    def sampled(values: Tensor) -> Tensor:
        return F.grid_sample(values, values.movedim(1, -1) * size, padding_mode=padding, align_corners=False)

    spec = Contract(SHAPE, SHAPE, None).spec("decoder")
    program = export_program(DecoderModule(Lambda(sampled)).eval(), spec)
    model = translate(program, spec, 20, 1 << 30).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    latent = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {"latent": latent.numpy()})
    np.testing.assert_allclose(found, sampled(latent.double()).numpy(), rtol=1e-4, atol=1e-4)


def pooled_and_resized(values: Tensor) -> Tensor:
    """The exporter fixes windows of means, and ONNX Runtime takes other neighbours between 14 and 32 places."""
    return F.interpolate(F.adaptive_avg_pool2d(values, (14, 3)), size=values.shape[2:], mode="nearest")


def pooled_and_resized_exactly(values: Tensor) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(values, (14, 3)), size=values.shape[2:], mode="nearest-exact")


def with_its_largest(values: Tensor) -> Tensor:
    """The exporter has no largest values of windows whose sizes follow from a free one."""
    return values + F.adaptive_max_pool2d(values, (4, 3)).mean((2, 3), keepdim=True)


def masked_by_frames(values: Tensor) -> Tensor:
    """The exporter repeats by a size along another axis; a causal mask of frames is made so."""
    frames = torch.arange(values.shape[2]).repeat_interleave(values.shape[3])
    repeated = values.repeat_interleave(values.shape[2], dim=1)
    rising = torch.linspace(0, 1, 2)[:, None].expand(2, values.shape[2]).reshape(-1, 1, 1)
    return values * (frames > 1).reshape(values.shape[2:]) + (repeated * rising).mean(1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [pooled_and_resized, pooled_and_resized_exactly, with_its_largest, masked_by_frames]
)
def test_rewritten_operators_have_any_size(function: Callable[[Tensor], Tensor]) -> None:
    shape = (2, "h", "w")
    spec = Contract(shape, shape, None).spec("decoder")
    program = export_program(DecoderModule(Lambda(function)).eval(), spec)
    model = translate(program, spec, 20, 1 << 30).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows, height, width in ((1, 32, 9), (3, 64, 14), (2, 5, 7)):
        latent = torch.randn(rows, 2, height, width, generator=torch.Generator().manual_seed(rows))
        (found,) = session.run(None, {"latent": latent.numpy()})
        np.testing.assert_allclose(found, function(latent).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_jacobian_is_refused_with_what_to_write() -> None:
    spec = Contract(SHAPE, SHAPE, None).spec("decoder")
    jacobian = Lambda(lambda x: torch.func.vmap(torch.func.jacrev(torch.tanh))(x.flatten(1)))
    program = export_program(DecoderModule(jacobian).eval(), spec)
    with pytest.raises(ModelError, match="write a Jacobian out"):
        translate(program, spec, 20, 1 << 30)


def test_operators_of_a_transform_say_what_to_write() -> None:
    said = advice_for_operators(["aten.add.Tensor", "aten.polar.default", "aten._fft_c2r.default"])
    assert said is not None
    assert "matrix of cosines and sines" in said
    assert advice_for_operators(["aten.add.Tensor"]) is None
