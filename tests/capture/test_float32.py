"""Modules whose code asks for float64 compute in float32, as files do, or are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vae_export.capture import Captured
from vae_export.contract import Contract
from vae_export.errors import ModelError
from vae_export.sources import Source

CONTRACT = Contract((1, 4, 4), (3,))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 6)
        self.register_buffer("scale", torch.tensor([0.1] * 6, dtype=torch.float64))

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.middle(self.body(image.flatten(1))).chunk(2, 1)


class WideLayer(Encoder):
    """Weights are widened in each call."""

    def middle(self, hidden: Tensor) -> Tensor:
        wide = hidden.double() * self.scale + torch.linspace(0, 1, 6, dtype=float)  # type: ignore[call-overload]
        return nn.functional.linear(wide, torch.eye(6).double()).to(torch.float32)


class WideOutput(Encoder):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.double() for output in super().forward(image))


class Differences(Encoder):
    """Float32 has too few digits for it."""

    def middle(self, hidden: Tensor) -> Tensor:
        return ((hidden.double() + 1e9) - 1e9).float()


@pytest.mark.parametrize("kind", [Encoder, WideLayer, WideOutput])
def test_module_with_float64_inside_is_captured_in_float32(kind: type[Encoder]) -> None:
    torch.manual_seed(0)
    module = kind().eval()
    captured = Captured(Source(CONTRACT, module))
    graph = captured.graph("encoder")
    dtypes = {node.meta["val"].dtype for node in graph.program.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    assert dtypes == {torch.float32}
    image = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        for expected, found, exact in zip(
            module(image), graph.module(image), graph.in_float64()(image.double()), strict=True
        ):
            torch.testing.assert_close(found, expected.float())
            assert found.dtype == torch.float32
            assert exact.dtype == torch.float64
    said = [line for line in captured.notes if "computes in float64; the files compute in float32" in line]
    assert len(said) == (kind is not Encoder)  # a buffer alone is converted as weights are


def test_module_that_needs_float64_is_refused() -> None:
    with pytest.raises(ModelError, match=r"module needs float64: encoder, output 0; .*a difference of"):
        Captured(Source(CONTRACT, Differences())).graph("encoder")
