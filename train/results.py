"""Results of trainings: read from their run folders without torch, and named for what they are (a likelihood or not).

`evaluations.jsonl` of a run has a line for each evaluation, so that slow ones are computed once:

    checkpoint      digest of the checkpoint that was scored, as its header has it
    format          "checkpoint", or "onnx" for the files exported from it
    dataset         name and SHA-256 of the images
    …               protocol, likelihood, split and scores, as `cli.py evaluate --json` prints them

Lines about an earlier checkpoint of the run stay in the file and are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config import DataProtocol
from vae_export.errors import InputError
from vae_export.io.atomic import append_line
from vae_export.likelihood import MAX_LEVEL, Likelihood
from vae_export.models.checkpoint import read_checkpoint_header
from vae_export.models.config import VAEConfig
from vae_export.runs import Run

#: The distance of two grey levels of pixels in [0, 1] is 1 / 255.
_BITS_OF_LEVELS = math.log2(MAX_LEVEL)


@dataclass(frozen=True)
class ScoreKind:
    """The pixels and the likelihood that scores are of, which decide what their nats mean.

    Attributes:
        protocol: the data protocol, see `train.data.datasets`.
        likelihood: p(x|z).
        image_shape: (C, H, W).
    """

    protocol: DataProtocol
    likelihood: Likelihood
    image_shape: tuple[int, ...]

    @property
    def is_likelihood(self) -> bool:
        """Whether scores are of a probability, or a density, of the pixels."""
        return not (self.likelihood.name == "bernoulli" and self.protocol == "grey")

    @property
    def has_levels(self) -> bool:
        """Whether scores are of a probability, or a density, of pixels with grey levels or colours."""
        return self.is_likelihood and self.protocol == "grey"

    @property
    def pixels(self) -> str:
        """The pixels in a word: grey, colour, dynamic or static."""
        return pixels_name(self.protocol, self.image_shape)

    @property
    def size(self) -> str:
        """Height and width, such as "28 x 28"."""
        return " x ".join(map(str, self.image_shape[1:]))

    @property
    def reconstruction_heading(self) -> str:
        """The name of the reconstruction term: -log p(x|z) if scores are of a likelihood, else cross-entropy."""
        return "-log p(x|z)" if self.is_likelihood else "cross-entropy"

    @property
    def nll_name(self) -> str:
        """The name of an importance-weighted estimate: NLL if scores are of a likelihood, else IWAE bound."""
        return "NLL" if self.is_likelihood else "IWAE bound"

    def nll_heading(self, samples: int) -> str:
        """Return the heading of a column of importance-weighted estimates with K samples."""
        return f"{self.nll_name}, K = {samples:,}"

    def bits_per_dim(self, nats: float) -> float | None:
        """Return nats per image as bits for each value of each pixel, or None if they are no likelihood.

        A density of pixels in [0, 1] is multiplied by the distance of two levels, 1 / 255. It then approximates the
        probability of 8-bit pixels.
        """
        if not self.is_likelihood:
            return None
        bits = nats / math.log(2) / math.prod(self.image_shape)
        is_density = self.likelihood.name in ("gaussian", "gaussian-fixed")
        return bits + _BITS_OF_LEVELS if is_density else bits

    def describe(self) -> str:
        """Describe in a few words what scores mean: for tables, checkpoints and model cards."""
        if self.likelihood.is_of_levels:
            return f"probability of 8-bit pixels, {self.pixels}"
        if self.likelihood.name != "bernoulli":
            return f"density of pixels in [0, 1], {self.pixels}: may be negative, and is no probability of 8-bit pixels"
        if self.protocol == "grey":
            return f"{self.pixels} pixels under a Bernoulli: no likelihood"
        if self.protocol == "dynamic":
            return "binary pixels, drawn anew each epoch of training, once for scores"
        return "binary pixels, drawn once with a seed of ours: not Larochelle's"


def pixels_name(protocol: DataProtocol, image_shape: Sequence[int]) -> str:
    """Return the name of the pixels of a data protocol: its own, but "colour" for levels of three channels."""
    return "colour" if protocol == "grey" and image_shape[0] > 1 else protocol


def append_evaluation(run: Run, figures: Mapping[str, Any]) -> None:
    """Append the scores of one evaluation. Raises `StorageError`."""
    append_line(run.evaluations, json.dumps(figures, allow_nan=False))  # in one write: two processes may score one run


def read_evaluations(run: Run, digest: str) -> list[dict[str, Any]]:
    """Return the lines about one checkpoint, the oldest first. Raises `InputError` if the file is not valid."""
    return [line for line in read_json_lines(run.evaluations) if line.get("checkpoint") == digest]


def read_json_lines(path: Any) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file, none if there is no file. Raises `InputError`."""
    if not path.exists():
        return []
    lines = []
    try:
        for number, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError(f"line {number} is not an object")
            lines.append(line)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("lines cannot be read", where=path, got=str(error)) from error
    return lines


@dataclass(frozen=True)
class RunSummary:
    """A training as its run folder records it.

    Attributes:
        run: the run folder.
        config: the network.
        dataset: name of the data set.
        dataset_sha256: digest of its images.
        protocol: data protocol that it was trained under.
        test: scores of the test images (`Score.to_json`).
        nll: the recorded estimate of -log p(x) on the test images with most samples (`NllEstimate.to_json`), or None.
        images: the figures of reconstructions and samples that were recorded last (`ImageMetrics.to_json`), or None.
        parameters: number of weights.
        epochs: number of epochs so far.
        best_epoch: the epoch of the checkpoint.
        planned_epochs: number of epochs that were asked for; None in old checkpoints.
        seconds: time of the training steps; None if there are no metrics.
        training: the training's settings in the checkpoint's provenance.
        preset: name of the preset, or None.
    """

    run: Run
    config: VAEConfig
    dataset: str
    dataset_sha256: str
    protocol: DataProtocol
    test: Mapping[str, Any]
    nll: Mapping[str, Any] | None
    images: Mapping[str, float] | None
    parameters: int
    epochs: int
    best_epoch: int
    planned_epochs: int | None
    seconds: float | None
    training: Mapping[str, Any]
    preset: str | None

    @property
    def comparison_key(self) -> tuple[str, str, DataProtocol, Likelihood]:
        """Return what must be equal for two runs to be comparable: images, protocol and likelihood."""
        return self.dataset, self.dataset_sha256, self.protocol, self.config.likelihood

    @property
    def negative_elbo(self) -> float:
        """The -ELBO of the test images, in nats per image."""
        return float(self.test["negative_elbo_nats_per_image"])

    @property
    def kind(self) -> ScoreKind:
        """The pixels and the likelihood that the scores are of."""
        return ScoreKind(self.protocol, self.config.likelihood, self.config.image_shape)

    def to_json(self) -> dict[str, Any]:
        """Return the run as an object of `runs --json`."""
        return {
            "run": str(self.run.folder),
            "config": self.config.to_json(),
            "preset": self.preset,
            "test": dict(self.test) | _in_bits(self.kind, self.negative_elbo),
            "importance_weighted": None if self.nll is None else dict(self.nll),
            "image_metrics": None if self.images is None else dict(self.images),
            "parameters": self.parameters,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "planned_epochs": self.planned_epochs,
            "seconds": self.seconds,
            "training": dict(self.training),
        }


def _in_bits(kind: ScoreKind, nats: float) -> dict[str, float]:
    bits = kind.bits_per_dim(nats)
    return {} if bits is None else {"bits_per_dim": bits}


def read_run_settings(run: Run) -> dict[str, Any]:
    """Return the settings and scores of a run, flat, by names such as "training.learning_rate".

    Raises:
        InputError: its checkpoint cannot be read.
    """
    header = read_checkpoint_header(run.checkpoint)
    provenance = {key: value for key, value in header.provenance.items() if key != "likelihood"}  # config has it
    return dict(_flat({"config": header.config.to_json(), "parameters": header.parameters, **provenance}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_run_summary(run: Run) -> RunSummary:
    """Read a run. Raises `InputError` if its checkpoint, metrics or evaluations cannot be read."""
    header, metrics = read_checkpoint_header(run.checkpoint), read_json_lines(run.metrics)
    provenance = header.provenance
    try:
        data, training, test = provenance["data"], provenance["training"], provenance["scores"]["test"]
        lines = list(_of_all_test_images(read_evaluations(run, header.digest), data["sha256"], test["images"]))
        return RunSummary(
            run=run,
            config=header.config,
            dataset=str(data["name"]),
            dataset_sha256=str(data["sha256"]),
            protocol=data.get("protocol", "grey"),
            test={key: test[key] + 0 for key in test},  # numbers, or a TypeError
            nll=_most_precise_nll(lines),
            images=_image_metrics(lines),
            parameters=header.parameters,
            epochs=max((int(line["epoch"]) for line in metrics), default=int(provenance["epoch"])),
            best_epoch=int(provenance["epoch"]),
            planned_epochs=training.get("epochs"),
            seconds=sum(float(line["seconds"]) for line in metrics) if metrics else None,
            training=training,
            preset=provenance.get("preset"),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(
            "run cannot be read", where=run.folder, expected="files that train writes", got=what
        ) from error


def read_run_summaries(root: Path) -> tuple[list[RunSummary], list[InputError]]:
    """Read all runs below a folder, by their names. Returns them and the errors of those that cannot be read."""
    summaries, unreadable = [], []
    for folder in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        run = Run(folder)
        if not any(path.exists() for path in (run.checkpoint, run.metrics, run.state)):
            continue  # not a run, perhaps a bundle
        try:
            summaries.append(read_run_summary(run))
        except InputError as error:
            unreadable.append(error)
    return summaries, unreadable


def _of_all_test_images(
    lines: Iterable[Mapping[str, Any]], images_sha256: str, images: int
) -> Iterator[Mapping[str, Any]]:
    """Yield the evaluations on the whole test split of the training's data set."""
    for line in lines:
        if "dataset" in line and (line["split"], line["images"], line["dataset"]["sha256"]) == (
            "test",
            images,
            images_sha256,
        ):
            yield line


def _most_precise_nll(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the estimate of most samples, the last one of several, or None."""
    found = [
        {"format": line["format"], **line["importance_weighted"]} for line in lines if "importance_weighted" in line
    ]
    return max(reversed(found), key=lambda nll: nll["importance_samples"], default=None)


#: The figures of `train.image_metrics`, which evaluations of earlier versions lack.
_IMAGE_METRICS = (
    "reconstruction_psnr_db",
    "reconstruction_ssim",
    "frechet_distance",
    "frechet_distance_of_images",
)


def _image_metrics(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, float] | None:
    """Return the figures of reconstructions and samples that were recorded last, or None."""
    for line in reversed(lines):
        if "frechet_distance" in line:
            return {name: float(line[name]) for name in _IMAGE_METRICS if name in line}
    return None
