"""An exported VAE for applications: arrays in, arrays out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_export.artifact import Artifact, open_artifact
from vae_export.contract import Array, Contract, Part
from vae_export.runtime.session import CPU, Session

Float32 = npt.NDArray[np.float32]


class Model:
    """The ONNX files of one export. Each is hashed and opened when it is first needed; safe to use from threads.

    Every method takes float32 arrays with a batch first and raises `ModelError` for any other dtype or shape, and for
    numbers that are not finite.
    """

    def __init__(self, artifact: Artifact, *, provider: str = CPU, threads: int | None = None) -> None:
        self._artifact = artifact
        self._provider = provider
        self._threads = threads
        self._sessions: dict[Part, Session] = {}
        self._opening = threading.Lock()

    @property
    def contract(self) -> Contract:
        """Shapes and ranges of images and latents."""
        return self._artifact.manifest.contract

    def decode(self, latent: Float32) -> Float32:
        """latent (N, Z), prior N(0, I) → image (N, C, H, W) in the contract's range, [0, 1] for ours."""
        return self._run("decoder", latent=latent)["image"]

    def encode(self, image: Float32) -> tuple[Float32, Float32]:
        """image (N, C, H, W) in the contract's range → mean (N, Z), logvar (N, Z)."""
        outputs = self._run("encoder", image=image)
        return outputs["mean"], outputs["logvar"]

    def reconstruct(self, image: Float32) -> Float32:
        """image (N, C, H, W) → its reconstruction (N, C, H, W) from the posterior mean, without noise."""
        mean, _ = self.encode(image)
        return self.decode(mean)

    def _run(self, part: Part, **inputs: Array) -> dict[str, Array]:
        return self._session(part).run(inputs)

    def _session(self, part: Part) -> Session:
        with self._opening:
            if part not in self._sessions:
                data = self._artifact.read(self._artifact.entry(part))
                spec = self.contract.spec(part)
                self._sessions[part] = Session(data, spec, provider=self._provider, threads=self._threads)
            return self._sessions[part]


def load(folder: str | Path, *, provider: str = CPU, threads: int | None = None) -> Model:
    """Open an export folder for running.

    Args:
        folder: of `export`, with its manifest.json.
        provider: an ONNX Runtime provider; used, or refused with `TargetError`, never replaced in silence.
        threads: within an operator; None lets ONNX Runtime choose.
    """
    return Model(open_artifact(folder), provider=provider, threads=threads)
