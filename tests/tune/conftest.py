"""One small export in two precisions, which the tests of this folder share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import sample_models
from tests.conftest import made_once
from vae_export import Artifact, export, open_artifact
from vae_export.artifact.certificate import StoredCertificate, read_certificate
from vae_export.artifact.manifest import Recommendation
from vae_export.contract import Part
from vae_export.precision import PrecisionName
from vae_export.session_options import SessionOptions
from vae_export.system.hardware import identity
from vae_export.tune.plan import TunePlan

#: Short enough for a test; chance decides who wins.
PLAN = TunePlan(batch=2, rounds=1, seconds=0.001)


@dataclass(frozen=True)
class Small:
    """An export and its certificate.

    Attributes:
        artifact: encoder and decoder as `onnx` and `ort`, in float32 and 8 bits. Do not change it: copy it.
        certificate: the certificate.
    """

    artifact: Artifact
    certificate: StoredCertificate

    def copied(self, target: Path) -> Artifact:
        shutil.copytree(self.artifact.folder, target)
        return open_artifact(target)


@pytest.fixture(scope="session")
def tunable(shared: Path) -> Small:

    def make(folder: Path) -> None:
        formats = ["onnx", "ort"]
        parts: list[Part] = ["encoder", "decoder"]
        precisions: list[PrecisionName] = ["fp32", "int8"]
        export(sample_models.checkpoint(), folder / "export", formats=formats, parts=parts, precisions=precisions)

    artifact = open_artifact(made_once(shared / "export-of-two-precisions", make) / "export")
    return Small(artifact, read_certificate(artifact.certificate))


@pytest.fixture
def advice(tunable: Small) -> Recommendation:
    """A recommendation of 8 bits and options that differ from the defaults, as if they had won on this machine."""
    entry = tunable.artifact.manifest.entry("decoder", precision="int8")
    return Recommendation(
        part="decoder",
        file=entry.name,
        sha256=entry.sha256,
        options=SessionOptions("CPUExecutionProvider", 1, "extended", switches=("no-spinning", "no-arena")),
        batch=2,
        p50_seconds=1e-5,
        speedup=1.5,
        budget={"max_grey_levels": None, "max_nats": None},
        machine=identity(),
    )
