"""Notes on options, images and collapsed units appear where they should and nowhere else."""

from __future__ import annotations

import pytest
import torch

from train.config import DataProtocol
from train.data.datasets import Dataset, apply_protocol
from train.progress import CollapseMonitor, notes_before_training, show_progress
from train.results import ScoreKind
from train.scoring import Score
from vae_export.likelihood import LIKELIHOODS, Likelihood, LikelihoodName
from vae_export.models import VAEConfig
from vae_export.models.config import Family

GREY = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def said(
    likelihood: LikelihoodName, protocol: DataProtocol, pixels: torch.Tensor = GREY, family: Family = "mlp"
) -> str:
    dataset = apply_protocol(Dataset("noise", pixels, pixels, pixels), protocol)
    return "\n".join(notes_before_training(VAEConfig(family, (1, 8, 8), likelihood=Likelihood(likelihood)), dataset))


@pytest.mark.parametrize("protocol", ["grey", "dynamic", "static"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pixels_that_do_not_fit_the_likelihood_are_noted(likelihood: LikelihoodName, protocol: DataProtocol) -> None:
    fits = (likelihood == "bernoulli") == (protocol != "grey")
    assert (said(likelihood, protocol) == "") == fits


def test_binary_images_fit_a_bernoulli() -> None:
    binary = (GREY > 127).to(torch.uint8) * 255
    assert said("bernoulli", "grey", binary) == ""
    assert "binary pixels under gaussian" in said("gaussian", "grey", binary)


def test_relu_heads_are_noted() -> None:
    assert "ReLU heads" in said("bernoulli", "dynamic", family="blog")


def score(active: int, units: int = 8) -> Score:
    variances = (1.0,) * active + (0.0,) * (units - active)
    return Score(10, 100.0, 1.0, 99.0, 1.0, variances, variances)


def test_collapsed_units_are_noted_once_after_five_epochs() -> None:
    monitor = CollapseMonitor()
    lines = [monitor.note_after(epoch, score(active=1)) for epoch in range(1, 9)]
    assert [epoch for epoch, line in enumerate(lines, 1) if line] == [5]
    assert "7 of 8 latent units are inactive" in str(lines[4])


def test_quarter_of_active_units_is_not_noted() -> None:
    monitor = CollapseMonitor()
    assert not any(monitor.note_after(epoch, score(active=2)) for epoch in range(1, 9))


def test_bar_shows_the_last_speed_where_an_epoch_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(9))  # seconds
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    notes = []
    kind = ScoreKind("grey", Likelihood(), (1, 8, 8))
    with show_progress(epochs=2, steps=2, batch_size=64, kind=kind) as report:
        for epoch, step in ((1, 1), (1, 2), (2, 1)):
            report.step(epoch, step, torch.tensor(100.0 * step))
            notes += [task.fields["note"] for task in report._bar.tasks]
    assert notes == ["100.0 nats", "100.0 nats  64 images/s", "100.0 nats  64 images/s"]
