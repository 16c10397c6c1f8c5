"""A TorchScript program that gives other outputs in another call is found by reading it."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import Tensor, nn

from vae_export.formats.torchscript_lint import lint_program

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.kept = torch.zeros(1)
        self.calls = 0
        self.history: list[int] = [0]


class Uniform(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-9 * torch.empty_like(x).uniform_()


class Exponential(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-9 * torch.empty_like(x).exponential_()


class Poisson(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.poisson(x)


class Dropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x, 0.5, train=True)


class DropoutOff(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x, 0.5, train=False)


class Attention(Base):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x @ self.weight)


class CountsCalls(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * float(self.calls > 100)


class CountsInTensor(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.kept.view(1)[0] = 1.0
        return x + self.kept


class CountsInList(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.history.append(1)
        return x * len(self.history)


class CountsInBranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept if x.shape[0] > 3 else x
        return x + kept.add_(1)


class AsksForGradients(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x + float(torch.is_grad_enabled())


class BranchesOnValue(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 3) else -x


class Divides(Base):
    """Freezing decomposes the division into branches on dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.exp() / 2).exp()


class WritesToItsOwnTensor(Base):
    def forward(self, x: Tensor) -> Tensor:
        fresh = torch.zeros(2)
        fresh[0] = 1.0
        x = x.clone().add_(1)
        return x + fresh.sum()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("network", "rules"),
    [
        (Uniform, {"random-operator"}),
        (Exponential, {"random-operator"}),
        (Poisson, {"random-operator"}),
        (Dropout, {"random-operator"}),
        (DropoutOff, set()),
        (Attention, set()),
        (CountsCalls, {"hidden-state"}),
        (CountsInTensor, {"hidden-state"}),
        (CountsInList, {"hidden-state"}),
        (CountsInBranch, {"hidden-state", "branch"}),
        (AsksForGradients, {"mode-branch"}),
        (BranchesOnValue, {"branch"}),
        (Divides, set()),
        (WritesToItsOwnTensor, set()),
    ],
)
def test_program_that_changes_between_calls_is_found(network: type[Base], rules: set[str], frozen: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = torch.jit.script(network().eval())
        module = torch.jit.freeze(module) if frozen else module
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        buffer.seek(0)
        module = torch.jit.load(buffer)
    assert {finding.rule for finding in lint_program(module, "file")} == rules
