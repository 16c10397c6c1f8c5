"""`cli.py train` and `cli.py evaluate`: parse, one call, print. Torch is imported inside, so that `--help` is quick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.options import DATASETS, DataOptions, DatasetName, Precision, TrainOptions
from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption, RunOption, chosen_run
from vae_export.errors import DataError, TargetError, UsageError
from vae_export.extras import require
from vae_export.models.config import Family
from vae_export.runs import ARTIFACTS, Run

if TYPE_CHECKING:
    import torch

    from train.evaluate import Score

DatasetOption = Annotated[DatasetName, typer.Option("--dataset", help="What to train on.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where its files lie; for 'folder', the images. Default: data/.", show_default=False
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option("--image-size", help="For 'folder': side in pixels. Default: 28.", show_default=False),
]
DownloadOption = Annotated[bool, typer.Option("--download/--no-download", help="Fetch what is not there.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Of products in training. auto: bfloat16 for mlp, if there."),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads. Default: torch's, 4 at most.", show_default=False)
]


def train(
    dataset: DatasetOption = "mnist",
    family: Annotated[Family, typer.Option("--family", help="Which network; see above.")] = "mlp",
    latent_size: Annotated[int, typer.Option("--latent-size", help="Number of latent units.")] = 20,
    hidden_size: Annotated[int, typer.Option("--hidden-size", help="Width of fully connected layers.")] = 400,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Default: mlp 20, post 10, conv 10.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Default: 256, post 128.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Default: 3e-3, post 1e-3.")] = None,
    beta: Annotated[float, typer.Option("--beta", help="Weight of the KL term in the loss, not in the scores.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, order and noise; not of the splits.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    download: DownloadOption = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder. Default: artifacts/<dataset>-<family>.", show_default=False),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train a VAE. Writes the best checkpoint, metrics and pictures to a run folder.

    \b
    Families, and the -ELBO of their defaults in nats per MNIST test image:
      mlp    two hidden layers, linear heads                  98.8
      post   a blog post's: ReLU heads, dropout, its loss    155.9
      conv   two strided convolutions each way                99.5
    """
    data = DataOptions(dataset, data_dir, image_size, download)
    options = TrainOptions(
        data,
        family,
        latent_size,
        hidden_size,
        epochs,
        batch_size,
        learning_rate,
        beta,
        seed,
        device,
        precision,
        threads,
    )
    _prepare()
    run = Run(out if out is not None else ARTIFACTS / f"{dataset}-{family}")
    with _memory_errors():
        from train.data import load
        from train.loop import steps_per_epoch
        from train.pictures import draw_pictures
        from train.report import reporting
        from train.session import Session, check_out, claimed
        from vae_export.checkpoint import load_checkpoint

        check_out(run, force=force)
        chosen = _device(device, threads)
        images = load(data)
        options.config(images.image_shape)  # before the folder is touched: this family may refuse this size
        recipe = options.recipe(len(images.train))
        steps = steps_per_epoch(len(images.train), recipe.batch_size)
        with claimed(run, force=force):
            session = Session(options, run, images, chosen)
            console.message(f"{run.folder}: {family} on {len(images.train):,} images of {dataset}, {chosen.type}")
            with reporting(epochs=recipe.epochs, steps=steps, batch_size=recipe.batch_size) as report:
                saved = session.train(report)
            draw_pictures(load_checkpoint(run.checkpoint).model(), images, run)
    if json:
        console.result_json({"run": str(run.folder), "checkpoint": str(run.checkpoint), **saved.to_json()})
        return
    console.result(_table({"validation": saved.validation, "test": saved.test}, f"{run.folder}, epoch {saved.epoch}"))
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def evaluate(
    run: RunOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint, instead of a run's.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test, validation or train.")] = "test",
    dataset: Annotated[
        DatasetName | None,
        typer.Option("--dataset", help="Default: what it was trained on.", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    download: DownloadOption = True,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Score a checkpoint in nats per image.

    Sampled -ELBO with its standard error, reconstruction, KL, and how many latent units are active.
    """
    if split not in ("test", "validation", "train"):
        raise UsageError("unknown split", expected="test | validation | train", got=split)
    if run is not None and checkpoint is not None:
        raise UsageError("--run and --checkpoint together", do="pass one of them")
    _prepare()
    path = checkpoint if checkpoint is not None else chosen_run(run).checkpoint
    with _memory_errors():
        from train.data import load
        from train.evaluate import evaluate as score_of
        from vae_export.checkpoint import load_checkpoint

        loaded = load_checkpoint(path)
        chosen = _device(device, threads)
        trained_on: dict[str, Any] = loaded.provenance.get("data", {})
        name = dataset if dataset is not None else trained_on.get("name")
        if name not in DATASETS:
            raise UsageError("the checkpoint names no data set of ours", where=path, got=name, do="pass --dataset")
        shape = loaded.config.image_shape
        size = image_size if image_size is not None or name != "folder" else shape[-1]
        images = load(DataOptions(name, data_dir, size, download))
        if images.image_shape != shape:
            raise DataError("images do not fit", where=path, expected=shape, got=f"{images.image_shape} of {name}")
        if dataset is None and trained_on.get("sha256") != images.to_json()["sha256"]:
            console.message("note: these are not the images that the checkpoint was trained on")
        score = score_of(loaded.model().to(chosen), images.split(split))
    if json:
        figures = {"checkpoint": str(path), "sha256": loaded.sha256, "dataset": name, "split": split, **score.to_json()}
        console.result_json(figures)
        return
    console.result(_table({split: score}, f"{path} on {name}"))


def _prepare() -> None:
    """Before torch is imported: raises `MissingExtraError`, and lets its waiting threads give way.

    Threads of OpenMP that wait for each other spin for milliseconds. On cores that others use too, steps as small as
    ours then take six times as long with two threads as with one; with this bound they do not, and lose nothing on
    idle ones.
    """
    require("train")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _table(scores: dict[str, Score], title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("split", "images", "-ELBO", "± s.e.", "reconstruction", "KL", "active units"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, score in scores.items():
        figures = (score.negative_elbo, score.standard_error, score.reconstruction, score.kl)
        units = f"{score.active_units} of {len(score.unit_variances)}"
        table.add_row(split, f"{score.images:,}", *(f"{figure:.2f}" for figure in figures), units)
    table.caption = "nats per image, z sampled; grey pixels: no likelihood"
    return table


def _device(name: str, threads: int | None) -> torch.device:
    """The device that was asked for, never another. Raises `TargetError`, `UsageError`."""
    import torch

    from train.options import MAX_DEFAULT_THREADS

    torch.set_num_threads(threads or min(torch.get_num_threads(), MAX_DEFAULT_THREADS))
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if name not in there:
        raise UsageError("unknown device", expected="auto | cpu | cuda | mps", got=name)
    if not there[name]:
        usable = ", ".join(device for device, usable in there.items() if usable)
        raise TargetError("no such device here", where=f"--device {name}", expected=usable, do="or pass --device auto")
    return torch.device(name)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Torch says that memory is out in a `RuntimeError`; the command line knows what to say about a `MemoryError`."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise
