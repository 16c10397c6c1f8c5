"""`cli.py evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from train.cli.options import DataDirOption, DeviceOption, DownloadOption, ImageSizeOption, ThreadsOption
from train.cli.process import device as chosen_device
from train.cli.process import memory_errors, prepare
from train.cli.tables import score_table
from train.config import DATASETS, DataOptions, DataProtocol, DatasetName
from train.recipes import check_range
from train.results import is_likelihood
from vae_export.cli import console
from vae_export.cli.options import JsonOption, RunOption, chosen_run
from vae_export.errors import CheckpointError, DataError, InputError, StorageError, UsageError
from vae_export.likelihood import Likelihood
from vae_export.runs import Run

if TYPE_CHECKING:
    import torch

    from train.data.datasets import Dataset
    from train.iwae import NllEstimate
    from train.scoring import Score, ScoredModel

Split = Literal["test", "validation", "train"]
ScoredFormat = Literal["checkpoint", "onnx"]


def evaluate(
    run: RunOption = None,
    format: Annotated[
        ScoredFormat, typer.Option("--format", help="What is scored: the checkpoint, or the run's exported files.")
    ] = "checkpoint",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint, instead of a run's.", show_default=False)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="For onnx: an export folder, instead of a run's.", show_default=False),
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="Which images.")] = "test",
    first: Annotated[
        int | None, typer.Option("--images", help="Only so many of them, the first.", show_default=False)
    ] = None,
    importance_samples: Annotated[
        int,
        typer.Option(
            "--importance-samples", help="K of the IWAE bound, up to 5,000 as published figures have it; 0 for none."
        ),
    ] = 0,
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
    """Score a model in nats per image, in PyTorch or through its exported ONNX files.

    Sampled -ELBO with its standard error, reconstruction, KL of each unit, how many units are active; with
    --importance-samples K the importance-weighted bound of Burda et al. Pixels are those of the training's protocol.
    Figures of a run are kept in its evaluations.jsonl, for `runs`.
    """
    if split not in get_args(Split):
        raise UsageError("unknown split", expected=" | ".join(get_args(Split)), got=split)
    check_range("number of images", first, 1, 2**31)
    check_range("importance samples", importance_samples, 0, 100_000)
    if run is not None and (checkpoint is not None or export is not None):
        raise UsageError("--run and --checkpoint or --export together", do="pass one of them")
    if (checkpoint is not None and format == "onnx") or (export is not None and format != "onnx"):
        raise UsageError(
            "--checkpoint is for --format checkpoint, --export for --format onnx", got=f"--format {format}"
        )
    prepare()
    with memory_errors():
        import torch

        from train.data.datasets import evaluated_pixels
        from train.iwae import importance_weighted_nll
        from train.scoring import evaluate_model as score_of

        chosen = chosen_device(device, threads)
        path, home = checkpoint if checkpoint is not None else export, None
        if path is None:
            home = chosen_run(run)
            path = home.export if format == "onnx" else home.checkpoint
        subject = _exported(path, threads) if format == "onnx" else _trained(path, chosen)
        images = _images(subject, dataset, data_dir, image_size, download)
        pixels = evaluated_pixels(images, split, most=first)
        score, evidence = score_of(subject.model, pixels), None
        if importance_samples:
            # ONNX Runtime has threads of its own, and an accelerator needs none.
            workers = torch.get_num_threads() if format == "checkpoint" and chosen.type == "cpu" else 1
            with console.progress() as bar:
                task = bar.add_task(f"K = {importance_samples:,}", total=len(pixels), note="images")
                evidence = importance_weighted_nll(
                    subject.model,
                    pixels,
                    importance_samples,
                    workers=workers,
                    report=lambda done: bar.update(task, completed=done),
                )
    figures: dict[str, Any] = {
        "dataset": images.name,
        "protocol": subject.protocol,
        "likelihood": subject.likelihood.to_json(),
        "split": split,
        **score.to_json(),
        "kl_per_unit": list(score.unit_kls),
    }
    if evidence is not None:
        is_one = is_likelihood(subject.protocol, subject.likelihood)
        figures["importance_weighted"] = evidence.to_json() | {"is_likelihood": is_one}
    if json:
        console.result_json({subject.kind: str(subject.path), "sha256": subject.sha256, **figures})
    else:
        _show(subject, split, score, evidence, images.name)
    if home is not None:
        _record(home, subject, format, figures | {"dataset": {"name": images.name, "sha256": images.sha256}})


def _show(subject: _Subject, split: Split, score: Score, evidence: NllEstimate | None, dataset: str) -> None:
    title = f"{subject.path} on {dataset}"
    console.result(score_table({split: score}, title, subject.protocol, subject.likelihood, evidence))
    units = ", ".join(f"{score.unit_kls[unit]:.2f}" for unit in score.units_by_activity())
    console.result(f"KL of each unit, the most active first: {units}")


def _record(run: Run, subject: _Subject, format: ScoredFormat, figures: dict[str, Any]) -> None:
    """Keep the figures with the run, for `cli.py runs`; where that cannot be, a note says so: they were shown."""
    from train.results import append_evaluation
    from vae_export.io.atomic import sha256
    from vae_export.models.checkpoint import read_checkpoint_header

    try:
        digest = read_checkpoint_header(run.checkpoint).digest
        if sha256(run.checkpoint) != subject.sha256:
            raise CheckpointError("the run has another checkpoint than was scored", where=run.checkpoint)
        append_evaluation(run, {"checkpoint": digest, "format": format, **figures})
    except (InputError, StorageError, OSError) as error:
        console.message(f"note: not recorded: {error}")


@dataclass(frozen=True)
class _Subject:
    """What is scored, and what it says of itself."""

    kind: str
    path: Path
    sha256: str
    model: ScoredModel
    image_shape: tuple[int, ...]
    likelihood: Likelihood
    trained_on: dict[str, Any]

    @property
    def protocol(self) -> DataProtocol:
        stated: DataProtocol = self.trained_on.get("protocol", "grey")
        return stated


def _trained(path: Path, device: torch.device) -> _Subject:
    import torch

    from train.scoring import PyTorchModel
    from vae_export.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(path)
    # As in training, and twice as fast in families with convolutions; torch's type hints do not know the argument.
    model = PyTorchModel(loaded.model().to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    data, config = loaded.provenance.get("data", {}), loaded.config
    return _Subject("checkpoint", path, loaded.sha256, model, config.image_shape, config.likelihood, data)


def _exported(folder: Path, threads: int | None) -> _Subject:
    from train.scoring import ExportedModel
    from vae_export.artifact.folder import open_artifact
    from vae_export.runtime import Model

    artifact = open_artifact(folder)
    contract, provenance = artifact.manifest.contract, artifact.manifest.provenance
    likelihood = contract.likelihood or Likelihood.usual(contract.image_range)
    data = provenance.get("training", {}).get("data", {})
    sha256 = str(provenance.get("checkpoint_sha256", ""))
    return _Subject(
        "export",
        folder,
        sha256,
        ExportedModel(Model(artifact, threads=threads)),
        contract.image_shape,
        likelihood,
        data,
    )


def _images(
    subject: _Subject, dataset: DatasetName | None, data_dir: Path | None, image_size: int | None, download: bool
) -> Dataset:
    """The images that it was trained on, or others that fit, under its protocol."""
    from train.progress import load_with_progress

    name = dataset if dataset is not None else subject.trained_on.get("name")
    if name not in DATASETS:
        raise UsageError(
            f"the {subject.kind} names no data set of ours", where=subject.path, got=name, do="pass --dataset"
        )
    size = image_size if image_size is not None or name != "folder" else subject.image_shape[-1]
    images = load_with_progress(DataOptions(name, data_dir, size, download, subject.protocol))
    if images.image_shape != subject.image_shape:
        got = f"{images.image_shape} of {name}"
        raise DataError("images do not fit", where=subject.path, expected=subject.image_shape, got=got)
    if dataset is None and subject.trained_on.get("sha256") != images.sha256:
        console.message("note: these are not the images that it was trained on")
    return images
