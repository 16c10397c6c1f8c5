"""A model as it travels: the files that some parts need, in memory, with the settings to run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vae_export import __version__
from vae_export.artifact import Hashed, Package, check_hash
from vae_export.contract import Part
from vae_export.errors import MachineError
from vae_export.manifest import Manifest
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
class Parcel:
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
    def of(cls, package: Package, parts: Iterable[Part], settings: Settings) -> Parcel:
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
