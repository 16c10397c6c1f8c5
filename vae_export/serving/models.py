"""The models of a server: a name, versions, and for each the part of a bundle that it runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vae_export.contract import Part, PartSpec
from vae_export.errors import UsageError
from vae_export.runs import Run
from vae_export.serving.refusals import UnknownModelError
from vae_export.tensors import TensorSpec

#: The protocol's names of the contract's dtypes.
DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"}
#: What the protocol calls an ONNX file: <project>_<format>.
PLATFORM = "onnx_onnxv1"
#: A name can stand in a URL and in the name of a folder of any system.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAMED = re.compile(rf"(?P<name>{_NAME})(?::(?P<version>[^=/]*))?=(?P<path>.+)", re.DOTALL)
#: Versions are numbers, as Triton has them, which names folders after them.
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class ServedBundle:
    """A bundle that is to be served: FILE, NAME=FILE or NAME:VERSION=FILE on the command line.

    Attributes:
        name: the name before the part: `mnist` of `mnist-decoder`.
        version: 1 and up.
        path: the bundle, or the folder of an export.
    """

    name: str
    version: int
    path: Path

    @classmethod
    def parse(cls, text: str) -> ServedBundle:
        """Parse an argument; without a name, that of the file without its ending is taken.

        Raises:
            UsageError: the name or the version is not valid.
        """
        found = _NAMED.fullmatch(text)
        if found is None:
            return cls.of_file(Path(text))
        version = found["version"]
        if version is not None and _VERSION.fullmatch(version) is None:
            raise UsageError("bad version", where=text, expected="a number from 1", got=version or "nothing")
        return cls(found["name"], int(version or 1), Path(found["path"]))

    @classmethod
    def of_file(cls, path: Path) -> ServedBundle:
        """Return version 1 of a bundle, by the name of its file, or of a run's export, by the name of the run.

        Raises:
            UsageError: that is no name of a model.
        """
        name = path.stem if path.suffix == ".zip" else path.name
        if path.is_dir():
            folder = path.resolve()
            name = folder.parent.name if folder == Run(folder.parent).export else folder.name
        if re.fullmatch(_NAME, name) is None:
            do = "name the file otherwise, or for `serve` write NAME=FILE"
            raise UsageError("file name is no model name", where=path, expected="letters, digits, . _ -", do=do)
        return cls(name, 1, path)


@dataclass(frozen=True)
class ServedModel:
    """One part of a bundle, as clients see it.

    Attributes:
        name: such as "mnist-decoder".
        version: 1 and up.
        bundle: the position of the bundle among those of the server.
        part: the part that it runs.
        spec: its inputs and outputs.
    """

    name: str
    version: int
    bundle: int
    part: Part
    spec: PartSpec

    def metadata(self, versions: Iterable[int]) -> dict[str, Any]:
        """Return the protocol's description of a model: names, datatypes, and shapes with -1 for free sizes."""
        return {
            "name": self.name,
            "versions": list(map(str, versions)),
            "platform": PLATFORM,
            "inputs": list(map(_described, self.spec.inputs)),
            "outputs": list(map(_described, self.spec.outputs)),
        }

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, tensors)) for tensors in (self.spec.inputs, self.spec.outputs))
        return f"{self.name}, version {self.version}: {inputs} → {outputs}"


def _described(tensor: TensorSpec) -> dict[str, Any]:
    """Return the metadata of a tensor. The server takes any number of rows, also where the graph has a fixed batch."""
    item = [size if isinstance(size, int) else -1 for size in tensor.item]
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": [-1, *item]}


@dataclass(frozen=True)
class Catalogue:
    """All models of a server by name and version."""

    models: Mapping[str, Mapping[int, ServedModel]] = field(default_factory=dict)

    @classmethod
    def of(cls, models: Iterable[ServedModel]) -> Catalogue:
        """Order models by name and version.

        Raises:
            UsageError: two have the same name and version.
        """
        found: dict[str, dict[int, ServedModel]] = {}
        for model in models:
            versions = found.setdefault(model.name, {})
            if model.version in versions:
                where, do = f"{model.name}, version {model.version}", "give one another name or version: NAME:2=FILE"
                raise UsageError("model is named twice", where=where, do=do)
            versions[model.version] = model
        return cls({name: dict(sorted(found[name].items())) for name in sorted(found)})

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self.models.values():
            yield from versions.values()

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return a model; without a version, its newest.

        Raises:
            UnknownModelError: there is no such model or version.
        """
        versions = self.models.get(name)
        if versions is None:
            raise UnknownModelError("unknown model", expected=" | ".join(self.models), got=name[:100])
        if not version:
            return versions[max(versions)]
        for number, model in versions.items():
            if str(number) == version:
                return model
        expected = " | ".join(map(str, versions))
        raise UnknownModelError("unknown version", where=name, expected=expected, got=version[:100])

    def versions(self, name: str) -> list[int]:
        """Return the versions of a known model."""
        return list(self.models[name])
