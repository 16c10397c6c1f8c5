"""Small exports that the parity tests share, and damaged copies of them."""

from __future__ import annotations

import json
import shutil
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
from vae_export.capture import Graph
from vae_export.contract import Part
from vae_export.errors import ParityError
from vae_export.formats import FORMATS, WriteOptions, versions
from vae_export.io.atomic import sha256
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family
from vae_export.parity import References
from vae_export.parity.plan import DEFAULT_MINUTES
from vae_export.precision import CALIBRATED, PrecisionName

LATENT, HIDDEN, IMAGE = 6, 32, (1, 16, 16)
#: Images of the costly families, in which a verification takes a quarter of the time.
SMALL_IMAGES: dict[Family, tuple[int, int, int]] = dict.fromkeys(("residual", "resnet", "pyramid"), (1, 8, 8))
#: Their minutes: enough for every part, file and nats. More rows of the same operators would take 20 s more.
FEW_MINUTES: dict[Family, float] = dict.fromkeys(SMALL_IMAGES, 0.01)
ONNX_CPU = "onnx/CPUExecutionProvider"


@dataclass(frozen=True)
class Subject:
    """A small network and its export.

    Attributes:
        checkpoint: the checkpoint on disk.
        references: what PyTorch computes for it, made once and used to verify many files.
        artifact: an export of every part, which passed. Tests must not change it: `tampered` and `copied` make copies.
    """

    checkpoint: Path
    references: References
    artifact: Artifact

    @property
    def source(self) -> Source:
        return self.references.source

    def graph(self, part: Part) -> Graph:
        return self.references.captured.graph(part)

    def copied(self, folder: Path) -> Artifact:
        shutil.copytree(self.artifact.folder, folder)
        return open_artifact(folder)

    def data(self, part: Part, format: str = "onnx") -> bytes:
        return self.artifact.read(self.artifact.entry(part, format))


def weights(config: VAEConfig, seed: int) -> dict[str, Tensor]:
    """Return weights that keep the size of activations, as in a trained network, so that every weight matters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        * (0.3 if tensor.dim() == 1 else 1.3 / tensor[0].numel() ** 0.5)
        for name, tensor in VAE(config).state_dict().items()
    }


def checkpoint(family: Family, seed: int = 0, shape: tuple[int, int, int] | None = None) -> Checkpoint:
    shape = shape or SMALL_IMAGES.get(family, IMAGE)
    config = VAEConfig(family, shape, LATENT, HIDDEN)
    images = torch.randint(0, 256, (64, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Checkpoint(config, weights(config, seed), images, {"epoch": seed})


def exported(checkpoint: Checkpoint, folder: Path, formats: tuple[str, ...] = ("onnx",)) -> Subject:
    """Export to a folder, unless it has been done there."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        save_checkpoint(checkpoint, path)
    references = References(load_checkpoint(path))
    if not (folder / "export").exists():
        minutes = FEW_MINUTES.get(checkpoint.config.family, DEFAULT_MINUTES)
        export(references, folder / "export", formats=formats, minutes=minutes)
    return Subject(path, references, open_artifact(folder / "export"))


def tampered(
    subject: Subject, folder: Path, files: Mapping[tuple[Part, str], bytes], *, rehash: bool = True
) -> Artifact:
    """Return an export of only these files. Its manifest has their hashes, or without `rehash` the original ones."""
    folder.mkdir(exist_ok=True)
    entries = []
    for (part, format), data in files.items():
        entry = subject.artifact.entry(part, format)
        for stored in entry.stored:
            (folder / stored.name).write_bytes(data if stored == entry else subject.artifact.read(stored))
        entries.append(replace(entry, size=len(data), sha256=sha256(data)) if rehash else entry)
    golden = tuple(one for one in subject.artifact.manifest.golden if one.part in {entry.part for entry in entries})
    for array in (array for one in golden for array in (*one.inputs, *one.outputs)):
        (folder / array.name).parent.mkdir(exist_ok=True)
        (folder / array.name).write_bytes(subject.artifact.read(array))
    manifest = subject.artifact.manifest
    needed = {*versions({entry.format for entry in entries}), "vae-export", "python"}
    kept = {name: version for name, version in manifest.versions.items() if name in needed}
    manifest = replace(manifest, files=tuple(entries), golden=golden, versions=kept)
    (folder / MANIFEST).write_bytes(manifest.text)
    return open_artifact(folder)


def verified(
    artifact: Artifact, source: Source | References, *, thorough: bool = False, **options: object
) -> Certificate:
    """Verify every file on the CPU, by its outputs: a changed file fails here because it computes something else."""
    options = {"allow_unreproduced": True, "trust": True, **options}
    targets = [f"{entry.format}/{FORMATS[entry.format].providers()[0]}" for entry in artifact.manifest.files]
    return verify(artifact, source, targets=targets, thorough=thorough, **options)  # type: ignore[arg-type]


def onnx_data(subject: Subject, part: Part, precision: PrecisionName) -> bytes:
    """Return an ONNX file of a part in a precision."""
    inputs = subject.references.calibration[part] if precision in CALIBRATED else None
    return FORMATS["onnx"].write(subject.graph(part), WriteOptions(precision=precision, calibration=inputs)).data


def verify_as(subject: Subject, folder: Path, data: bytes, precision: PrecisionName) -> Certificate:
    """Verify an ONNX file as the decoder, with this precision stated in the manifest."""
    artifact = tampered(subject, folder, {("decoder", "onnx"): data})
    entry = replace(artifact.manifest.files[0], precision=precision)
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=(entry,)))
    target = f"onnx+{precision}/CPUExecutionProvider"
    return verify(artifact, subject.references, targets=[target], thorough=False, trust=True, allow_unreproduced=True)


def assert_fails(certificate: Certificate) -> None:
    """Assert that a certificate reports failure in every way a caller can ask."""
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["verdict"] == "fail"
    with pytest.raises(ParityError):
        certificate.require()
