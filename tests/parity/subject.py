"""What the tests of parity export: one small network of each family, and copies of its files with something wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae_export import (
    Artifact,
    Certificate,
    Checkpoint,
    Source,
    export,
    load_checkpoint,
    open_artifact,
    save_checkpoint,
    verify,
)
from vae_export.artifact.manifest import MANIFEST
from vae_export.capture import Captured
from vae_export.contract import Part
from vae_export.errors import ParityError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.io.atomic import sha256
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family
from vae_export.parity import calibration_inputs
from vae_export.precision import CALIBRATED, PrecisionName

LATENT, HIDDEN, IMAGE = 6, 32, (1, 16, 16)
ONNX_CPU = "onnx/CPUExecutionProvider"


@dataclass(frozen=True)
class Subject:
    """Attributes:
    checkpoint: on disk.
    captured: the source of that checkpoint, captured once: verifying a hundred files takes seconds.
    artifact: every part, passed. Not to be changed: `tampered` makes copies.
    """

    checkpoint: Path
    captured: Captured
    artifact: Artifact

    @property
    def source(self) -> Source:
        return self.captured.source

    def data(self, part: Part, format: str = "onnx") -> bytes:
        return self.artifact.read(self.artifact.entry(part, format))


def weights(config: VAEConfig, seed: int) -> dict[str, Tensor]:
    """Each layer keeps the size of what goes through it, as in a trained network, so that every weight counts."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        * (0.3 if tensor.dim() == 1 else 1.3 / tensor[0].numel() ** 0.5)
        for name, tensor in VAE(config).state_dict().items()
    }


def checkpoint(family: Family, seed: int = 0) -> Checkpoint:
    config = VAEConfig(family, IMAGE, LATENT, HIDDEN)
    images = torch.randint(0, 256, (64, *IMAGE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Checkpoint(config, weights(config, seed), images, {"epoch": seed})


def exported(checkpoint: Checkpoint, folder: Path, formats: tuple[str, ...] = ("onnx",)) -> Subject:
    path = folder / "checkpoint.safetensors"
    save_checkpoint(checkpoint, path)
    source = Source.of(load_checkpoint(path))
    artifact, _ = export(source, folder / "export", formats=formats)
    return Subject(path, Captured(source), artifact)


def tampered(
    subject: Subject, folder: Path, files: Mapping[tuple[Part, str], bytes], *, rehash: bool = True
) -> Artifact:
    """An export of these files alone, by part and format; the manifest names their hashes, or keeps the right ones."""
    folder.mkdir(exist_ok=True)
    entries = []
    for (part, format), data in files.items():
        entry = subject.artifact.entry(part, format)
        for stored in entry.stored:
            (folder / stored.name).write_bytes(data if stored == entry else subject.artifact.read(stored))
        entries.append(replace(entry, size=len(data), sha256=sha256(data)) if rehash else entry)
    (folder / MANIFEST).write_bytes(replace(subject.artifact.manifest, files=tuple(entries), golden=()).text)
    return open_artifact(folder)


def verified(
    artifact: Artifact, source: Source | Captured, *, thorough: bool = False, **options: object
) -> Certificate:
    """A verification of every file on the CPU."""
    targets = [f"{entry.format}/{FORMATS[entry.format].providers()[0]}" for entry in artifact.manifest.files]
    return verify(artifact, source, targets=targets, thorough=thorough, **options)  # type: ignore[arg-type]


def written(subject: Subject, part: Part, precision: PrecisionName) -> bytes:
    """The bytes of an ONNX file in a precision."""
    graphs = subject.captured.graphs()
    inputs = calibration_inputs(subject.source, graphs)[part] if precision in CALIBRATED else None
    return FORMATS["onnx"].write(graphs[part], WriteOptions(precision=precision, calibration=inputs)).data


def passed_off(subject: Subject, folder: Path, data: bytes, precision: PrecisionName) -> Certificate:
    """A verification of a decoder of whatever bytes, which the manifest calls one of this precision."""
    artifact = tampered(subject, folder, {("decoder", "onnx"): data})
    entry = replace(artifact.manifest.files[0], precision=precision)
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=(entry,)))
    target = f"onnx+{precision}/CPUExecutionProvider"
    return verify(artifact, subject.captured, targets=[target], thorough=False, trust=True)


def refused(certificate: Certificate) -> None:
    """It has not passed, in whichever way one asks it."""
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["verdict"] == "fail"
    with pytest.raises(ParityError):
        certificate.require()
