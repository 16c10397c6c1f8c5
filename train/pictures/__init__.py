"""Pictures of a trained model: what it rebuilds, what it dreams up, what its latent units mean, how it learned."""

from __future__ import annotations

import json

from train.data.datasets import Dataset
from train.pictures import grids
from train.pictures.charts import draw_curves, draw_units
from train.pictures.sheet import grid_png
from train.scoring import PyTorchModel, evaluate_model
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import staged_folder
from vae_export.models import VAE
from vae_export.runs import Run


def draw_pictures(model: VAE, dataset: Dataset, run: Run) -> None:
    """Write the pictures of `model` to `run.pictures`, and those of `run.metrics`, which has a line or more.

    All of them or none: whoever finds the folder need not ask whether it is whole.

    Images are test images; which units carry most is asked of the validation images.
    """
    scored, score = PyTorchModel(model), evaluate_model(PyTorchModel(model), dataset.validation)
    drawn = {
        "reconstructions": grids.reconstructions(scored, dataset.test[:50]),
        "samples": grids.samples(scored, score),
        "manifold": grids.manifold(scored, score),
        "traversal": grids.traversal(scored, score, dataset.test[0]),
        "interpolation": grids.interpolation(scored, dataset.test[:16]),
    }
    files = {name: grid_png(grid) for name, grid in drawn.items()}
    lines = [json.loads(line) for line in run.metrics.read_text("utf-8").splitlines()]
    files |= {"curves": draw_curves(lines, model.config.likelihood), "units": draw_units(score)}
    with staged_folder(run.pictures, force=True) as staging:
        for name, data in files.items():
            write_atomic(staging / f"{name}.png", data)
