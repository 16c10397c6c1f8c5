"""Golden vectors: finite tolerances, and bytes that do not depend on the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract, Source, export
from vae_export.errors import ModelError
from vae_export.parity import References, golden_vectors
from vae_export.parity.plan import batches_plan


class Edge(nn.Module):
    """latent (N, 2) → image (N, 1, 2, 2): finite with these weights, and NaN if they are one rounding lower."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        edge = torch.sigmoid(latent + torch.sqrt(self.weight - 0.5))
        return torch.cat([edge, edge], 1).reshape(-1, 1, 2, 2)


def test_network_one_rounding_away_from_nan_has_no_finite_tolerance(tmp_path: Path) -> None:
    source = Source(Contract((1, 2, 2), (2,)), decoder=Edge())
    references = References(source)
    [case] = [case for case in references.cases("decoder", plan=batches_plan((1,))) if case.probe == "prior"]
    assert case.limits["image"].tolerance() == np.inf
    with pytest.raises(ModelError, match="golden vectors have no finite tolerance: decoder, 'image', fp32"):
        export(source, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_golden_vectors_and_calibration_use_one_thread() -> None:
    """The number of threads changes the order of sums, so bytes would depend on the machine's cores."""
    seen: set[int] = set()

    class Watched(nn.Linear):
        def forward(self, latent: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(latent).sigmoid().reshape(-1, 1, 2, 2)

    source = Source(Contract((1, 2, 2), (3,)), decoder=Watched(3, 4))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        references = References(source)
        references.captured.graphs()
        seen.clear()
        golden_vectors(references, source.parts)
        assert references.calibration
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
