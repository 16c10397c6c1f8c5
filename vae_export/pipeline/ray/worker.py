"""The actor that computes chunks on a Ray cluster, and the model in the form in which it is sent there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vae_export._version import __version__
from vae_export.artifact.folder import Hashed, Package, check_hash
from vae_export.artifact.manifest import Manifest
from vae_export.contract import Array, Part
from vae_export.errors import MachineError, OutOfMemoryError, VaeExportError
from vae_export.pipeline.task import Chunk, Task
from vae_export.precision import PrecisionName
from vae_export.runtime import Model
from vae_export.session_options import SessionOptions

#: How often a chunk is started. Ray would give a chunk that kills every actor to the next one, forever.
MAX_ATTEMPTS = 4


@dataclass(frozen=True)
class ModelPayload:
    """A `Package` in memory that can be sent to another machine.

    Attributes:
        manifest: the manifest of the whole export.
        files: the bytes of the ONNX files that the parts need, and of their sidecars, by name.
        options: provider and threads of the model.
        batch_size: rows that go through a network at a time; None chooses by their size.
        precision: precision of the files; None takes float32, or the only precision that there is.
        version: the version of this library that packed it.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    options: SessionOptions
    batch_size: int | None = None
    precision: PrecisionName | None = None
    version: str = __version__

    @classmethod
    def of(
        cls,
        package: Package,
        parts: Iterable[Part],
        options: SessionOptions,
        batch_size: int | None = None,
        precision: PrecisionName | None = None,
    ) -> ModelPayload:
        """Read the files that the parts need.

        Args:
            package: an export or a bundle.
            parts: the parts to take.
            options: provider and threads of the model.
            batch_size: rows that go through a network at a time; None chooses by their size.
            precision: precision of the files; None takes float32, or the only precision that there is.

        Returns:
            The payload with the ONNX files that `Model` would choose.

        Raises:
            ModelError: a part was not exported.
            IntegrityError: a file was altered.
        """
        model = Model(package, precision=precision, provider=options.provider, threads=options.threads)
        entries = [package.manifest.entry(part, precision=model.running(part).precision) for part in parts]
        files = {stored.name: package.read(stored) for entry in entries for stored in entry.stored}
        return cls(package.manifest, files, options, batch_size, precision)

    def read(self, file: Hashed) -> bytes:
        """Return the bytes of a file, whose hash is checked again here, on the machine that received it."""
        data = self.files[file.name]
        check_hash(file, data, file.name)
        return data

    def open(self) -> Model:
        """Return the model. Raises `MachineError` if this machine has another version of the library."""
        if self.version != __version__:
            raise MachineError(
                "worker has another version of vae-export",
                expected=self.version,
                got=__version__,
                do="install the same version on all machines",
            )
        return Model(
            self,
            precision=self.precision,
            provider=self.options.provider,
            threads=self.options.threads,
            batch_size=self.batch_size,
        )


class Actor:
    """Holds one model and computes chunks. It returns an error as a row: Ray would wrap it and lose its class."""

    def __init__(self, job: list[Any], attempts: Any) -> None:
        import ray

        self._payload: ModelPayload
        self._task: Task
        self._payload, self._task = ray.get(job[0])
        self._attempts, self._get = attempts, ray.get
        self._model: Model | None = None

    def __call__(self, row: dict[str, Array]) -> dict[str, Array]:
        index, start, stop = (int(row[name][0]) for name in ("chunk", "start", "stop"))
        try:
            if self._get(self._attempts.start.remote(index)) > MAX_ATTEMPTS:
                raise MachineError(
                    "workers die while they compute these rows",
                    where=f"{self._task.reader.locate(start)} to {stop - 1}",
                    got=f"{MAX_ATTEMPTS} dead",
                    do="see Ray's logs",
                )
            if self._model is None:
                self._model = self._payload.open()
            outputs = self._task.run(self._model, Chunk(index, start, stop))
        except (VaeExportError, MemoryError) as failure:
            error = failure if isinstance(failure, VaeExportError) else OutOfMemoryError(str(failure))
            return {"chunk": np.array([index]), "error": np.array([error.line()]), "code": np.array([error.exit_code])}
        return {"chunk": np.array([index]), **{name: array[None] for name, array in outputs.items()}}


class AttemptCounter:
    """An actor that counts how often each chunk was started; it outlives the actors that die of a chunk."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def start(self, chunk: int) -> int:
        """Count one more attempt, and return how many there were."""
        self._counts[chunk] = self._counts.get(chunk, 0) + 1
        return self._counts[chunk]
