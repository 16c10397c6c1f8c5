"""An export of a module that supports less than its contract states what it supports, and is verified with that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.capture.test_modules import LargeBatches, any_size
from vae_export import Contract, Source, export, load, open_artifact, verify
from vae_export.capture import Captured, Graph
from vae_export.errors import IntegrityError, ModelError
from vae_export.parity.verifier import bounds_findings
from vae_export.tensors import Symbol


def source(middle: nn.Module, latent: tuple[int | str, ...], data: tuple[int | str, ...]) -> Source:
    torch.manual_seed(0)
    return Source(Contract(data, latent), decoder=any_size(middle))


@pytest.mark.slow
def test_export_states_and_keeps_the_largest_batch(tmp_path: Path) -> None:
    lines: list[str] = []
    given = source(LargeBatches(), (4, 2, 2), (1, 8, 8))
    _, certificate = export(given, tmp_path / "export", report=lines.append)
    assert certificate.passed
    assert any("batch is limited to 1 to 63" in line for line in lines)
    written = open_artifact(tmp_path / "export")
    assert written.manifest.contract.symbols == {"N": Symbol(1, 63)}
    assert verify(written, given, thorough=False).passed
    for bounds, said in ((Symbol(1, 32), "N 1 to 32"), (Symbol(2, 63), "N 2 to 63"), (Symbol(7, 7), "N 7 to 7")):
        contract = written.manifest.contract.narrowed({"N": bounds})
        narrower = replace(written, manifest=replace(written.manifest, contract=contract))
        found = [finding.detail for finding in bounds_findings(narrower, Captured.of(given, contract))]
        assert found == [f"{said}; export writes N 1 to 63"]
    unbounded = replace(written, manifest=replace(written.manifest, contract=given.contract))
    with pytest.raises(ModelError, match="module cannot be captured"):
        verify(unbounded, given, thorough=False)
    latent = np.zeros((70, 4, 2, 2), np.float32)
    assert load(tmp_path / "export").decode(latent).shape == (70, 1, 8, 8)
    other = Source(Contract((1, 8, 8), (4, 2, 2), (-1.0, 1.0)), decoder=given.decoder)
    with pytest.raises(IntegrityError, match="another contract"):
        verify(written, other)


class Remembers(nn.Module):
    """Keeps positions of the first size, and takes a slice of them for smaller ones."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.positions is None or self.positions.shape[0] < values.shape[-1]:
            self.positions = torch.arange(values.shape[-1]).float()
        return values + self.positions[: values.shape[-1]]


class Table(nn.Module):
    """Adds a part of a table of 16 x 16 to the scores of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, 256).reshape(16, 16))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        table: torch.Tensor = self.table  # type: ignore[assignment]  # a buffer
        size = values.shape[-1]
        return torch.softmax(values.mT @ values + table[:size, :size], -1) @ values.mT


@pytest.mark.parametrize(("module", "high"), [(Remembers(), None), (Table(), 15)])
def test_sizes_stay_free_beside_tables_and_caches(module: nn.Module, high: int | None) -> None:
    data = (3, "t") if high is None else ("t", 3)
    given = Source(Contract(data, (3, "t"), None), decoder=module)
    captured = Captured.of(given)
    symbol = captured.contract.symbols.get("t", Symbol())
    assert "t" in captured.contract.free_symbols
    assert symbol.high == high
    assert module.eval() is given.decoder
    assert getattr(module, "positions", None) is None


class RowsAsGroups(nn.Module):
    """Convolves each row with weights of its own, as StyleGAN does: the number of rows is that of groups."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        rows, channels, *sizes = values.shape
        weight = torch.sin(values).mean((2, 3)).repeat_interleave(channels, 1).reshape(rows * channels, channels, 1, 1)
        mixed = F.conv2d(values.reshape(1, rows * channels, *sizes), weight, groups=rows)
        return mixed.reshape(rows, channels, *sizes)


@pytest.mark.slow
def test_batch_is_fixed_where_onnx_has_the_operator_for_a_number_of_rows_only(tmp_path: Path) -> None:
    lines: list[str] = []
    given = Source(Contract((3, 4, 4), (3, 4, 4), None), decoder=RowsAsGroups())
    _, certificate = export(given, tmp_path / "export", minutes=0.01, report=lines.append)
    assert certificate.passed
    assert any("batch cannot be dynamic in this module; it is fixed to 1" in line for line in lines)
    latent = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    found = load(tmp_path / "export").decode(latent)
    np.testing.assert_allclose(found, RowsAsGroups()(torch.from_numpy(latent)).numpy(), rtol=1e-5, atol=1e-5)


def test_first_error_is_raised_where_fixed_sizes_do_not_help() -> None:
    def refused(graph: Graph) -> None:
        raise ModelError("no such operator", where=str(graph.spec.symbols.get("N")))

    captured = Captured.of(Source(Contract((3, "t"), (3, "t"), None), decoder=nn.Tanh()))
    with pytest.raises(ModelError, match="no such operator: None"):
        captured.narrow(("decoder",), check=refused)
