"""`--compile` changes rounding alone, resumes to the same bytes, and fails in one line without a compiler."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome
from tests.train.conftest import CLI, ROOT, TINY, one_line
from train.config import ObjectiveOptions
from train.progress import TrainingProgress
from train.recipes import Recipe
from train.trainer import Trainer, check_compiler
from vae_export.models import VAE, VAEConfig
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow

USUAL = (*TINY, "--epochs", "2", "--seed", "7", "--precision", "float32", "--kl-warmup", "1")


# Torch's own compiler imports what torch deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_training_resumes_and_scores_as_a_plain_one(
    invoke: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)
    plain, whole, stopped = (Run(tmp_path / name) for name in ("plain", "whole", "stopped"))
    for run, options in ((plain, []), (whole, ["--compile"])):
        assert invoke("train", *USUAL, *options, "--out", run.folder).code == 0
    real = TrainingProgress.step

    def step(report: TrainingProgress, epoch: int, step: int, total: torch.Tensor) -> None:
        real(report, epoch, step, total)
        if (epoch, step) == (1, 9):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "step", step)
        assert invoke("train", *USUAL, "--compile", "--out", stopped.folder).code == 143
    torch._dynamo.reset()  # as in another process
    assert invoke("train", "--resume", "--out", stopped.folder).code == 0
    assert stopped.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    ours, theirs = load_checkpoint(whole.checkpoint), load_checkpoint(plain.checkpoint)
    assert ours.provenance["training"]["compiled"] is True
    key = "negative_elbo_nats_per_image"
    expected = theirs.provenance["scores"]["test"][key]
    assert ours.provenance["scores"]["test"][key] == pytest.approx(expected, rel=1e-4)


def test_missing_compiler_is_refused_before_any_write(tmp_path: Path) -> None:
    lacking = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [*CLI, "train", *USUAL, "--compile", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=lacking, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 6, done.stderr
    assert "cannot compile: --compile" in one_line(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("compiling", [False, True], ids=["plain", "CUDA graphs"])
def test_no_step_on_cuda_waits_for_the_host(compiling: bool) -> None:
    device = torch.device("cuda")
    if compiling:
        check_compiler(device)
    recipe = Recipe(epochs=3, batch_size=64, learning_rate=1e-3, schedule="one-cycle", bfloat16=True)
    pixels = torch.randint(0, 256, (640, 1, 28, 28), dtype=torch.uint8)
    model = VAE(VAEConfig(hidden_size=16, latent_size=3)).to(device)
    trainer = Trainer(model, pixels, recipe, ObjectiveOptions(kl_warmup=1), bfloat16=True, compiling=compiling)
    epochs = trainer.train_epochs(_strict_within_an_epoch)
    try:
        losses = [epoch.loss for epoch in epochs]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses[2] < losses[0]


def _strict_within_an_epoch(epoch: int, step: int, _: torch.Tensor) -> None:
    """Make torch raise where a step waits for the device, but not while it compiles or between epochs."""
    torch.cuda.set_sync_debug_mode("error" if epoch > 1 and 1 <= step < 10 else "default")
