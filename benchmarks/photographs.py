"""Train on crops of photographs for the same time with `--preset photos`, other families and pythae, and compare.

    python benchmarks/photographs.py [--seconds 1200] [--side 64] [--count 4000] [--sides photos mlp conv pythae]
                                     [--threads N] [--pictures FOLDER]

All train on the crops of `crops.py`, whose test crops share no pixel with the others, one after the other, for
`--seconds` each, scores of the epochs included. Bits per dimension of the test crops (-ELBO, with one sample) stand
beside those of PNG and lossless WebP for the same crops, headers included; `train.image_metrics` says what the other
columns are.

    photos, photos-detail  the presets of these names
    photos-no-whiten       `photos` with the latents as they were trained: its samples show what `--whiten` is for
    photos-no-shift        `photos` with images that stay where they are
    mlp      the default network, with the preset's likelihood, since grey levels under a Bernoulli have no likelihood
    conv     family `conv`, likewise
    pythae   pythae's `VAE` with its convolutional networks for CelebA, Adam with rate 1e-3 and batches of 64, on float
             images in memory. Its decoder gives a mean only; it is scored as a Gaussian density (`docs/quality.md`)
             with the one standard deviation that suits its training images best. 64 x 64 pixels only; needs pythae.

`--pictures` also writes reconstructions and samples of all, a row each. Needs scikit-image. Prints Markdown.

Exits 1 if `photos` is not better than `mlp`, `conv` and pythae, or if neither preset needs at most PNG's bits.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from crops import crops
from torch import Tensor

from train.codecs import codec_bits_per_dim
from train.data.datasets import Dataset
from train.fit import fit
from train.image_metrics import ImageMetrics, measure_images
from train.loss import reconstruction_nll_of_outputs, to_unit_range
from train.pictures import Grid, grid_png
from train.results import ScoreKind, read_json_lines
from train.scoring import PyTorchModel, Score, ScoredModel, evaluate_model
from vae_export.likelihood import Likelihood
from vae_export.runs import Run

#: Options of `train.fit` for each of our sides.
OURS: dict[str, dict[str, Any]] = {
    "photos": {"preset": "photos"},
    "photos-no-whiten": {"preset": "photos", "whiten": False},
    "photos-no-shift": {"preset": "photos", "shift": 0},
    "photos-detail": {"preset": "photos-detail"},
    "mlp": {"family": "mlp", "likelihood": "discretised-logistic"},
    "conv": {"family": "conv", "likelihood": "discretised-logistic"},
}
SIDES = (*OURS, "pythae")
#: Scores after an epoch take about so much of its time.
SCORING = 1.1
#: Crops and samples in a row of the pictures.
SHOWN = 10


@dataclass(frozen=True)
class Trained:
    """A trained model and its figures.

    Attributes:
        model: it, for the pictures.
        kind: what its scores are of.
        score: of the test crops.
        metrics: of the test crops.
        epochs: passes over the training crops.
        seconds: of the whole training.
    """

    model: ScoredModel
    kind: ScoreKind
    score: Score
    metrics: ImageMetrics
    epochs: int
    seconds: float

    @property
    def bits(self) -> float:
        found = self.kind.bits_per_dim(self.score.negative_elbo)
        if found is None:
            raise ValueError("colour levels under a Bernoulli have no likelihood")
        return found


def ours(name: str, dataset: Dataset, seconds: float) -> Trained:
    """Train one of our networks for about so many seconds: the schedule must know the number of epochs before."""
    options = OURS[name] | {"threads": torch.get_num_threads(), "precision": "float32", "quiet": True}
    with TemporaryDirectory() as scratch:
        run = Run(Path(scratch) / "run")
        fit(dataset, out=run.folder, epochs=1, **options)
        epoch = float(read_json_lines(run.metrics)[0]["seconds"]) * SCORING
    epochs = max(1, round(seconds / epoch))
    started = time.perf_counter()
    fitted = fit(dataset, epochs=epochs, **options)
    taken = time.perf_counter() - started
    model = PyTorchModel(fitted.checkpoint.model())
    metrics = measure_images(model, dataset.test, dataset.validation)
    return Trained(model, fitted.kind, fitted.test, metrics, epochs, taken)


class Pythae:
    """pythae's VAE, scored as a Gaussian of one standard deviation."""

    def __init__(self, side: int) -> None:
        # pythae ships no types: its classes are `Any` to a type checker.
        from pythae import models as theirs
        from pythae.models.nn.benchmarks.celeba import Decoder_Conv_AE_CELEBA, Encoder_Conv_VAE_CELEBA

        config = theirs.VAEConfig(input_dim=(3, side, side), latent_dim=128)
        networks = {"encoder": Encoder_Conv_VAE_CELEBA(config), "decoder": Decoder_Conv_AE_CELEBA(config)}
        self.network = theirs.VAE(config, **networks)
        self.likelihood = Likelihood("gaussian-fixed", 0.1)

    def train(self, pixels: Tensor, seconds: float, batch_size: int = 64) -> int:
        """Train for so many seconds, until the end of a step; return the number of epochs begun."""
        images = to_unit_range(pixels)
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)
        self.network.train()
        ends, epochs = time.perf_counter() + seconds, 0
        while time.perf_counter() < ends:
            epochs += 1
            for batch in torch.randperm(len(images)).split(batch_size):
                loss = self.network({"data": images[batch]}).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if time.perf_counter() > ends:
                    break
        self.network.eval()
        return epochs

    def fit_deviation(self, pixels: Tensor) -> None:
        """Choose the standard deviation that suits images best."""
        known = to_unit_range(pixels[:500])
        errors = [(self.decode(self.encode(part)[0]) - part).square().mean() for part in known.split(100)]
        self.likelihood = Likelihood("gaussian-fixed", torch.stack(errors).mean().sqrt().item())

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            found = self.network.encoder(image)
        return found.embedding, found.log_covariance

    def decode(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            image: Tensor = self.network.decoder(latent)["reconstruction"]
        return image.clamp(0, 1)

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        return reconstruction_nll_of_outputs(self.likelihood, (self.decode(latent),), image)


def pythae(dataset: Dataset, seconds: float) -> Trained:
    """Train pythae's VAE for so many seconds."""
    torch.manual_seed(0)
    model = Pythae(dataset.image_shape[-1])
    started = time.perf_counter()
    epochs = model.train(dataset.train, seconds)
    taken = time.perf_counter() - started
    model.fit_deviation(dataset.train)
    kind = ScoreKind("grey", model.likelihood, dataset.image_shape)
    metrics = measure_images(model, dataset.test, dataset.validation)
    return Trained(model, kind, evaluate_model(model, dataset.test), metrics, epochs, taken)


def write_pictures(folder: Path, found: dict[str, Trained], dataset: Dataset) -> None:
    """Write reconstructions and samples, a row for each model."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = dataset.test[:SHOWN]
    image = to_unit_range(shown)
    rows = [shown, *(_levels(side.model.decode(side.model.encode(image)[0])) for side in found.values())]
    note = "test crops in the first row"
    grid = Grid(torch.cat(rows), SHOWN, "Reconstructions", note, rows=["crops", *found])
    (folder / "photographs-reconstructions.png").write_bytes(grid_png(grid))
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for side in found.values():
        size = len(side.score.unit_kls)
        drawn.append(_levels(side.model.decode(torch.randn(SHOWN, size, generator=generator))))
    grid = Grid(torch.cat([*drawn, shown]), SHOWN, "Samples", "test crops in the last row", rows=[*found, "crops"])
    (folder / "photographs-samples.png").write_bytes(grid_png(grid))


def _levels(image: Tensor) -> Tensor:
    return (image.float() * 255).round().clamp(0, 255).to(torch.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200.0, help="training time of each side")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of all sides")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]
    dataset = crops(options.side, options.count)
    codecs = codec_bits_per_dim(dataset.test)
    print(
        f"{len(dataset.train):,} crops of {options.side} x {options.side}, {options.seconds:.0f} s each, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores; load {load_before:.1f} before it began\n"
    )
    print("| | bits/dim | PSNR, dB | SSIM | Fréchet distance, of other crops | KL, nats | epochs | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    found: dict[str, Trained] = {}
    for name in options.sides:
        side = pythae(dataset, options.seconds) if name == "pythae" else ours(name, dataset, options.seconds)
        found[name] = side
        metrics = side.metrics
        figures = [f"{side.bits:.3f}", f"{metrics.psnr:.2f}", "" if metrics.ssim is None else f"{metrics.ssim:.3f}"]
        figures += [f"{metrics.frechet_distance:.1f}, {metrics.frechet_distance_of_images:.1f}"]
        figures += [f"{side.score.kl:.0f}", f"{side.epochs}", f"{side.seconds:.0f}"]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)
    for name, bits in codecs.items():
        print(f"| {name} | {bits:.3f} | | | | | | |")
    if options.pictures:
        write_pictures(options.pictures, found, dataset)
    if "photos" not in found:
        return 0
    presets = [side.bits for name, side in found.items() if name.startswith("photos")]
    others = [side.bits for name, side in found.items() if not name.startswith("photos")]
    is_best = all(found["photos"].bits <= bits for bits in others)
    is_below_png = min(presets) <= codecs["PNG"]
    print(f"\n- photos is better than the other families: {'met' if is_best else 'missed'}")
    print(f"- a preset for photographs needs at most PNG's bits: {'met' if is_below_png else 'missed'}")
    return 0 if is_best and is_below_png else 1


if __name__ == "__main__":
    sys.exit(main())
