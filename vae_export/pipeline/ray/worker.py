"""A model as it travels: the files that some parts need, in memory, with the settings to run them.

What runs in an actor of the cluster: one model, and piece after piece through it.
"""

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
from vae_export.pipeline.task import Piece, Task
from vae_export.runtime import Model
from vae_export.runtime.session import CPU


@dataclass(frozen=True)
class Settings:
    """How a network is run: see `vae_export.load`."""

    provider: str = CPU
    threads: int | None = None
    batch_size: int | None = None

    def model(self, package: Package) -> Model:
        return Model(package, provider=self.provider, threads=self.threads, batch_size=self.batch_size)


@dataclass(frozen=True)
class ModelPayload:
    """A `Package` that can be sent to another machine: no path in it is opened there.

    Attributes:
    manifest: of the whole export.
    files: the ONNX files of the parts that were packed, by name.
    settings: for the model.
    version: of this library where it was packed.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    settings: Settings
    version: str = __version__

    @classmethod
    def of(cls, package: Package, parts: Iterable[Part], settings: Settings) -> ModelPayload:
        """Raises `ModelError` for a part that was not exported, `IntegrityError` for an altered file."""
        model = settings.model(package)
        entries = [package.manifest.entry(part, precision=model.running(part).precision) for part in parts]
        return cls(package.manifest, {entry.name: package.read(entry) for entry in entries}, settings)

    def read(self, file: Hashed) -> bytes:
        """As `Package` has it: the hash is compared again where the parcel arrived."""
        data = self.files[file.name]
        check_hash(file, data, file.name)
        return data

    def open(self) -> Model:
        """The model; raises `MachineError` where another version of this library unpacks the parcel."""
        if self.version != __version__:
            raise MachineError(
                "another version of vae-export on a worker",
                expected=self.version,
                got=__version__,
                do="install the same",
            )
        return self.settings.model(self)


#: How often a piece is begun: Ray would give one that kills every actor to the next one, for ever.
MAX_ATTEMPTS = 4


class Actor:
    """What an actor holds. An error is handed over as a row: Ray would wrap it, and forget its class."""

    def __init__(self, order: list[Any], tries: Any) -> None:
        import ray

        self._parcel: ModelPayload
        self._task: Task
        self._parcel, self._task = ray.get(order[0])
        self._tries, self._get = tries, ray.get
        self._model: Model | None = None

    def __call__(self, row: dict[str, Array]) -> dict[str, Array]:
        index, start, stop = (int(row[name][0]) for name in ("piece", "start", "stop"))
        try:
            if self._get(self._tries.begin.remote(index)) > MAX_ATTEMPTS:
                where = f"{self._task.source.place(start)} to {stop - 1}"
                raise MachineError(
                    "workers die of these rows", where=where, got=f"{MAX_ATTEMPTS} dead", do="see Ray's logs"
                )
            if self._model is None:
                self._model = self._parcel.open()
            outputs = self._task.run(self._model, Piece(index, start, stop))
        except (VaeExportError, MemoryError) as failure:
            error = failure if isinstance(failure, VaeExportError) else OutOfMemoryError(str(failure))
            return {"piece": np.array([index]), "error": np.array([error.line()]), "code": np.array([error.exit_code])}
        return {"piece": np.array([index]), **{name: array[None] for name, array in outputs.items()}}


class AttemptCounter:
    """Counts how often each piece was begun, for workers that do not live to tell."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, piece: int) -> int:
        self._counts[piece] = self._counts.get(piece, 0) + 1
        return self._counts[piece]
