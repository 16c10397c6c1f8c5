"""Numbers read from a module's state are known when it is captured; numbers computed from inputs or sizes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract
from vae_export.capture.known_values import known_values
from vae_export.capture.part_modules import DecoderModule
from vae_export.capture.program import export_program
from vae_export.errors import ModelError

SPEC = Contract((4,), (4,), None).spec("decoder")
LATENT = torch.linspace(-2, 2, 12).reshape(3, 4)


class Stateful(nn.Module):
    """A module with buffers, which computes what `function` says."""

    ready: Tensor
    empty: Tensor
    step: Tensor

    def __init__(self, function: Callable[[Stateful, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("ready", torch.tensor([True]))
        self.register_buffer("empty", torch.zeros(1))
        self.register_buffer("step", torch.tensor(30))

    def forward(self, latent: Tensor) -> Tensor:
        return self.function(self, latent)


def grows(module: Stateful, latent: Tensor) -> Tensor:
    """Branches on a buffer that the module has written its input into."""
    module.empty.copy_(latent.abs().max().reshape(1))
    return latent * 2 if module.empty > 1 else latent


def seeded(_: Stateful, latent: Tensor) -> Tensor:
    return latent + torch.randn(4, generator=torch.Generator().manual_seed(3))


KNOWN = {
    "if a true buffer": lambda m, z: z + 1 if m.ready else z,
    "if a false buffer": lambda m, z: z if m.empty else z - 1,
    "comparison": lambda m, z: z * 2 if m.step > 10 else z,
    "item": lambda m, z: z * min(1.0, m.step.item() / 60),
    "computed from state": lambda m, z: z * 3 if (m.step + m.empty).sum() > 29 else z,
    "draw of a fixed seed": seeded,
}
UNKNOWN = {
    "input": lambda _, z: z if z.sum() > 0 else -z,
    "input and state": lambda m, z: z if (z.sum() + m.step) > 0 else -z,
    "written into the state": grows,
    "size": lambda m, z: z if (torch.arange(z.shape[0]).sum() * m.step) < 1000 else -z,
    "draw of the global generator": lambda _, z: z + torch.randn(4),
}


@pytest.mark.parametrize("function", KNOWN.values(), ids=KNOWN.keys())
def test_known_values_become_part_of_the_graph(function: Callable[[Stateful, Tensor], Tensor]) -> None:
    module = Stateful(function).eval()
    program = export_program(DecoderModule(module), SPEC)
    assert torch.allclose(program.module()(LATENT), module(LATENT))


@pytest.mark.parametrize("function", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_unknown_values_are_refused(function: Callable[[Stateful, Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match="data-dependent|draws random numbers|changes its own state"):
        export_program(DecoderModule(Stateful(function).eval()), SPEC)


def test_reads_of_known_and_unknown_tensors_keep_their_order() -> None:
    module = Stateful(lambda m, z: z if z.sum() > 0 and m.ready else z * m.step.item())
    with known_values(module, [torch.ones(2, 4)]):
        assert torch.equal(module(torch.ones(2, 4)), torch.ones(2, 4))


def test_batch_of_len_is_dynamic() -> None:
    class Rows(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return latent + torch.ones(len(latent), 1)

    program = export_program(DecoderModule(Rows()), SPEC)
    assert program.module()(torch.zeros(7, 4)).shape == (7, 4)
    assert len([1, 2]) == 2
