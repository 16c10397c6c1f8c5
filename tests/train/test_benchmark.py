"""The loops of `benchmarks/training.py` train what they say, and the benchmarks run."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.train.conftest import write_mnist
from train.loss import loss, to_unit_range
from vae_export.models import VAE, VAEConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import training  # noqa: E402 - benchmarks/ is no package
from loops import LOOPS, Setting, limit, post_step  # noqa: E402

pytestmark = pytest.mark.slow

PIXELS = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in LOOPS if name.startswith(("ours", "loader", "memory"))])
def test_every_loop_trains_its_network(name: str) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(hidden_size=8))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    LOOPS[name](model, PIXELS, 16)(0)
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))


def test_post_step_minimises_the_same_loss() -> None:
    torch.manual_seed(0)
    model, image = VAE(VAEConfig(hidden_size=8)), to_unit_range(PIXELS)
    noise = torch.randn(len(image), 20, generator=torch.Generator().manual_seed(1))
    ours = loss(model, image, noise).item() * len(image)  # the post sums over images
    torch.manual_seed(1)
    assert post_step(model, torch.optim.SGD(model.parameters(), lr=0.0), image) == pytest.approx(ours, rel=1e-6)


def test_limit_does_the_matrix_products_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[tuple[int, ...]] = []
    real = torch.mm

    def counted(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        multiplied.append((left.shape[0], left.shape[1], right.shape[1]))
        return real(left, right, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    model = VAE(VAEConfig(hidden_size=8))
    limit(model, PIXELS[:16], 16, bfloat16=False)(0)
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    # Forward, the weights' gradients, the inputs' gradients: of all layers, but that nobody needs an image's gradient.
    wanted = 16 * (3 * sum(weight.numel() for weight in weights) - weights[0].numel())
    assert sum(a * b * c for a, b, c in multiplied) == wanted


def test_setting_survives_its_line() -> None:
    assert Setting.parse(Setting(2, 4).line()) == Setting(2, 4)


#: Its loops run in processes of their own; the comparison runs in this one.
TRAINING = ["training.py", "--dataset", "digits", "--images", "64", "--batch-sizes", "32"]


def test_benchmark_prints_a_table_and_the_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [*TRAINING, "--rounds", "2", "--sides", "ours", "memory", "pythae"])
    code = training.main()
    output = capsys.readouterr().out
    assert code in (0, 1)  # so few images say nothing about speed
    assert "| batch 32 |" in output
    assert ("missed" in output) == (code == 1)
    assert "pythae's trainer is left out" in output


@pytest.mark.skipif(find_spec("pythae") is not None, reason="pythae is installed here")
def test_loop_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--rounds", "1", "--sides", "pythae", "--pythae-python", sys.executable]
    monkeypatch.setattr("sys.argv", [*TRAINING, *options])
    with pytest.raises(SystemExit, match="loop pythae ended with exit code 1(.|\n)*No module named 'pythae'"):
        training.main()


def test_time_to_score_compares_both_sides(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    command = [sys.executable, str(BENCHMARKS / "time_to_score.py"), "--data-dir", str(tmp_path), "--setting", "1", "0"]
    command += ["--nats", "1e6", "--epochs", "1", "--sides", "preset", "blog", "--rates", "1e-3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 1, ended.stderr  # plain grey images end above 100 nats
    assert ended.stdout.count("not reached") == 0
    assert "the preset, 60 s and 100 nats at most: missed" in ended.stdout
    assert ended.stdout.count("times the preset's time, asked 5: ") == 1
