"""`cli.py evaluate`: score a checkpoint or an export in nats per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from train.cli.options import DeviceOption, ImageFileFlags, ThreadsOption
from train.config import DATASETS, DataProtocol, DatasetName
from train.process import choose_device, memory_errors, prepare_process
from train.recipes import check_range
from train.results import ScoreKind
from vae_export.cli import console
from vae_export.cli.command import grouped
from vae_export.cli.options import CheckpointOption, ExportOption, JsonOption, RunOption, chosen_run
from vae_export.errors import CheckpointError, DataError, InputError, StorageError, UsageError
from vae_export.likelihood import Likelihood
from vae_export.runs import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from train.data.datasets import Dataset
    from train.image_metrics import ImageMetrics
    from train.iwae import NllEstimate
    from train.scoring import Score, ScoredModel

Split = Literal["test", "validation", "train"]
ScoredFormat = Literal["checkpoint", "onnx"]
#: Fewer images say nothing about the variance of features.
_LEAST_IMAGES = 10
#: Units with less KL than this, in nats, are counted and not listed.
_LEAST_KL = 0.01


@grouped
def evaluate(
    *,
    run: RunOption = None,
    format: Annotated[
        ScoredFormat,
        typer.Option(
            "--format", help="Score the checkpoint, or the ONNX files of the export.", rich_help_panel="Model"
        ),
    ] = "checkpoint",
    checkpoint: CheckpointOption = None,
    export: ExportOption = None,
    importance_samples: Annotated[
        int,
        typer.Option(
            "--importance-samples",
            metavar="K",
            help="Samples of the IWAE bound; 0: none. Published figures have 5,000.",
            rich_help_panel="Score",
        ),
    ] = 0,
    split: Annotated[Split, typer.Option("--split", help="Images to score.", rich_help_panel="Data")] = "test",
    first: Annotated[
        int | None, typer.Option("--images", help="Score the first N images only.", rich_help_panel="Data")
    ] = None,
    dataset: Annotated[
        DatasetName | None,
        typer.Option("--dataset", help="Data set. Default: the one of the training.", rich_help_panel="Data"),
    ] = None,
    files: ImageFileFlags,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Score a model in nats per image.

    Scores a checkpoint in PyTorch or an export through its ONNX files: sampled -ELBO with its standard error,
    reconstruction, KL of each unit and the number of active units; with --importance-samples K also the
    importance-weighted bound of Burda et al. PSNR and SSIM judge reconstructions, a Fréchet distance in the features of
    the encoder judges samples. Pixels follow the protocol of the training. The scores of a run are added
    to its evaluations.jsonl, which `runs` reads.
    """
    check_range("number of images", first, 1, 2**31)
    check_range("importance samples", importance_samples, 0, 100_000)
    if run is not None and (checkpoint is not None or export is not None):
        raise UsageError("--run and --checkpoint or --export together", do="pass one of them")
    if (checkpoint is not None and format == "onnx") or (export is not None and format != "onnx"):
        expected = "--checkpoint with --format checkpoint, --export with --format onnx"
        raise UsageError("options do not fit together", expected=expected, got=f"--format {format}")
    prepare_process()
    with memory_errors():
        from train.data.datasets import evaluated_pixels

        chosen = choose_device(device, threads)
        path, home = checkpoint if checkpoint is not None else export, None
        if path is None:
            home = chosen_run(run)
            path = home.export if format == "onnx" else home.checkpoint
        subject = _exported(path, threads) if format == "onnx" else _trained(path, chosen)
        images = _images(subject, dataset, files)
        pixels = evaluated_pixels(images, split, most=first)
        score = _score(subject, pixels)
        metrics = _image_metrics(subject, pixels, images, split)
        nll = _nll(subject, pixels, importance_samples) if importance_samples else None
    figures: dict[str, Any] = {
        "dataset": images.name,
        "protocol": subject.protocol,
        "likelihood": subject.likelihood.to_json(),
        "split": split,
        **score.to_json(),
        "kl_per_unit": list(score.unit_kls),
    }
    if (bits := subject.kind.bits_per_dim(score.negative_elbo)) is not None:
        figures["bits_per_dim"] = bits
    if metrics is not None:
        figures |= metrics.to_json()
    if nll is not None:
        figures["importance_weighted"] = nll.to_json() | {"is_likelihood": subject.kind.is_likelihood}
    if json:
        console.result_json({subject.origin: str(subject.path), "sha256": subject.sha256, **figures})
    else:
        console.result(f"{subject.path} on {images.name}, {subject.kind.size} {subject.kind.pixels}")
        show_scores({split: score}, subject.kind, nll)
        if metrics is not None:
            console.paragraph(_describe_images(metrics))
        console.paragraph(_unit_kls(score))
    if home is not None:
        _record(home, subject, format, figures | {"dataset": {"name": images.name, "sha256": images.sha256}})


def _score(subject: _Subject, pixels: Tensor) -> Score:
    """Score the images, with progress."""
    from train.scoring import evaluate_model

    with console.report_progress("scored", len(pixels)) as report:
        return evaluate_model(subject.model, pixels, report=report)


def _image_metrics(subject: _Subject, pixels: Tensor, images: Dataset, split: Split) -> ImageMetrics | None:
    """Measure reconstructions and samples, with progress; None for too few images."""
    from train.data.datasets import evaluated_pixels
    from train.image_metrics import measure_images
    from vae_export.system.extras import missing

    others = evaluated_pixels(images, "test" if split == "validation" else "validation")
    if min(len(pixels), len(others)) < _LEAST_IMAGES:
        return None
    if (error := missing("train", "skimage")) is not None:
        console.note(f"note: no SSIM: {error}")
    with console.report_progress("compared", len(pixels)) as report:
        return measure_images(subject.model, pixels, others, report=report)


def _describe_images(metrics: ImageMetrics) -> str:
    """Return a line such as "reconstructions: PSNR 21.30 dB, SSIM 0.712; samples: Fréchet distance 3.1, …"."""
    ssim = "" if metrics.ssim is None else f", SSIM {metrics.ssim:.3f}"
    return (
        f"reconstructions: PSNR {metrics.psnr:.2f} dB{ssim}; samples: Fréchet distance {metrics.frechet_distance:.2f} "
        f"in the encoder's features, where other real images have {metrics.frechet_distance_of_images:.2f}"
    )


def _nll(subject: _Subject, pixels: Tensor, samples: int) -> NllEstimate:
    """Estimate the importance-weighted bound, with progress."""
    import torch

    from train.iwae import importance_weighted_nll

    # ONNX Runtime has its own threads, and an accelerator needs none.
    workers = torch.get_num_threads() if subject.is_on_cpu else 1
    with console.report_progress(f"K = {samples:,}: scored", len(pixels)) as report:
        return importance_weighted_nll(subject.model, pixels, samples, workers=workers, report=report)


def show_scores(scores: Mapping[str, Score], kind: ScoreKind, nll: NllEstimate | None = None) -> None:
    """Print the scores as a table with a line for each split, and what the figures are.

    Args:
        scores: by the name of the split.
        kind: the pixels and the likelihood that they are of.
        nll: importance-weighted bound of the only split in `scores`.
    """
    headings = ["images", f"-ELBO, {kind.pixels}"]
    if kind.is_likelihood:
        headings.append("bits/dim")
    headings += [kind.reconstruction_heading, "KL"]
    if nll is not None:
        headings.append(kind.nll_heading(nll.samples))
    table = console.table("split", *headings, "active units", right=(*headings, "active units"))
    for split, score in scores.items():
        figures = [f"{score.negative_elbo:.2f} ± {score.standard_error:.2f}"]
        if (bits := kind.bits_per_dim(score.negative_elbo)) is not None:
            figures.append(f"{bits:.3f}")
        figures += [f"{score.reconstruction:.2f}", f"{score.kl:.2f}"]
        if nll is not None:
            figures.append(f"{nll.nll:.2f} ± {nll.standard_error:.2f}")
        table.add_row(split, f"{score.images:,}", *figures, f"{score.active_units} of {len(score.unit_variances)}")
    console.result(table)
    console.paragraph(f"nats per image, z sampled; {kind.describe()}")


def _unit_kls(score: Score) -> str:
    """Return a line such as "KL of each unit in nats, largest first: 12: 3.41, 4: 3.02; 2 others below 0.01".

    No line is broken between a unit and its figure.
    """
    listed = [unit for unit in score.units_by_kl() if score.unit_kls[unit] >= _LEAST_KL]
    kls = (f"{unit}:{console.NO_BREAK_SPACE}{score.unit_kls[unit]:.2f}" for unit in listed)
    line = f"KL of each unit in nats, largest first: {', '.join(kls)}"
    others = len(score.unit_kls) - len(listed)
    return f"{line}; {others} others below {_LEAST_KL}" if others else line


def _record(run: Run, subject: _Subject, format: ScoredFormat, figures: dict[str, Any]) -> None:
    """Add the figures to the run, for `cli.py runs`. A failure is a note and no error: the figures were shown."""
    from train.results import append_evaluation
    from vae_export.io.atomic import sha256
    from vae_export.models.checkpoint import read_checkpoint_header

    try:
        digest = read_checkpoint_header(run.checkpoint).digest
        if sha256(run.checkpoint) != subject.sha256:
            raise CheckpointError("checkpoint of the run has changed since it was scored", where=run.checkpoint)
        append_evaluation(run, {"checkpoint": digest, "format": format, **figures})
    except (InputError, StorageError, OSError) as error:
        console.note(f"note: not recorded: {error}")


@dataclass(frozen=True)
class _Subject:
    """The model that is scored.

    Attributes:
        origin: "checkpoint" or "export", as the JSON result names it.
        path: of the checkpoint file or the export folder.
        sha256: of the checkpoint.
        model: computes encoder and reconstruction NLL.
        is_on_cpu: whether PyTorch computes it on the CPU.
        image_shape: (C, H, W).
        likelihood: p(x|z).
        trained_on: the data set, as the training recorded it.
    """

    origin: str
    path: Path
    sha256: str
    model: ScoredModel
    is_on_cpu: bool
    image_shape: tuple[int, ...]
    likelihood: Likelihood
    trained_on: dict[str, Any]

    @property
    def protocol(self) -> DataProtocol:
        stated: DataProtocol = self.trained_on.get("protocol", "grey")
        return stated

    @property
    def kind(self) -> ScoreKind:
        """The pixels and the likelihood that its scores are of."""
        return ScoreKind(self.protocol, self.likelihood, self.image_shape)


def _trained(path: Path, device: torch.device) -> _Subject:
    import torch

    from train.scoring import PyTorchModel
    from vae_export.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(path)
    # As in training, and twice as fast in families with convolutions; torch's type hints do not know the argument.
    model = PyTorchModel(loaded.model().to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    config = loaded.config
    return _Subject(
        origin="checkpoint",
        path=path,
        sha256=loaded.sha256,
        model=model,
        is_on_cpu=device.type == "cpu",
        image_shape=config.image_shape,
        likelihood=config.likelihood,
        trained_on=loaded.provenance.get("data", {}),
    )


def _exported(folder: Path, threads: int | None) -> _Subject:
    from train.scoring import ExportedModel
    from vae_export.artifact.folder import open_artifact
    from vae_export.runtime import Model

    artifact = open_artifact(folder)
    contract, provenance = artifact.manifest.contract, artifact.manifest.provenance
    return _Subject(
        origin="export",
        path=folder,
        sha256=str(provenance.get("checkpoint_sha256", "")),
        model=ExportedModel(Model(artifact, threads=threads)),
        is_on_cpu=False,
        image_shape=contract.image_shape,
        likelihood=contract.likelihood or Likelihood.usual(contract.image_range),
        trained_on=provenance.get("training", {}).get("data", {}),
    )


def _images(subject: _Subject, dataset: DatasetName | None, files: ImageFileFlags) -> Dataset:
    """Load the images of the training, or of another data set that fits, under the protocol of the training."""
    from train.progress import load_with_progress
    from train.run_folder import read_data_folder

    name = dataset if dataset is not None else subject.trained_on.get("name")
    if name not in DATASETS:
        raise UsageError(
            f"the {subject.origin} names an unknown data set", where=subject.path, got=name, do="pass --dataset"
        )
    # Digits have no folder, though earlier versions recorded one that was given.
    if files.data_dir is None and dataset is None and name != "digits":
        data_dir = read_data_folder(Run(subject.path.parent), subject.trained_on.get("sha256", ""))
        if data_dir is not None and not data_dir.is_dir():
            do = "say where they are: --data-dir FOLDER"
            raise DataError("images of the training are not where they were", where=data_dir, do=do)
        files = replace(files, data_dir=data_dir)
    if files.image_size is None and name == "folder":
        files = replace(files, image_size=subject.image_shape[-1])
    # A file that could not be read in training cannot be read now.
    if dataset is None and subject.trained_on.get("reading", {}).get("skipped", 0) > 0:
        files = replace(files, skip_unreadable=True)
    images = load_with_progress(files.options(name, subject.protocol))
    if images.image_shape != subject.image_shape:
        got = f"{images.image_shape} of {name}"
        raise DataError("images do not fit", where=subject.path, expected=subject.image_shape, got=got)
    if dataset is None and subject.trained_on.get("sha256") != images.sha256:
        console.note("note: the model was trained on other images")
    return images
