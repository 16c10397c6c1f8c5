"""Write the files of an export anew from the source, and compare them with the files that are there.

Equal bytes prove that nothing in a file was changed, whatever the probes touch. Where other versions wrote the file, or
where a format is not reproducible, the structures are compared: operators, attributes, constants, inputs, outputs and
metadata.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np

from vae_export._version import __version__
from vae_export.artifact.certificate import PROOFS
from vae_export.artifact.file_metadata import METADATA_PREFIX, file_metadata
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest
from vae_export.capture import Captured
from vae_export.contract import Array, Part
from vae_export.errors import VaeExportError
from vae_export.formats import FORMATS, OPSET, WriteOptions, versions
from vae_export.formats.base import Finding, Severity
from vae_export.formats.structure import Place, Structure, differences, plain_version
from vae_export.io.atomic import sha256
from vae_export.parity.probes import CalibrationInputs
from vae_export.precision import CALIBRATED, PrecisionName, infix
from vae_export.sources import Source

#: The rules of the findings below, and what to do about them.
UNREPRODUCED_RULES = ("other-structure", "not-reproduced", "other-manifest", "golden-vectors")
UNREPRODUCED_ADVICE = "export again, or pass --allow-unreproduced to judge the file by its outputs alone"
#: How far a file was reproduced, from the strongest.
ReproductionState = Literal["reproduced", "same structure", "different", "not compared"]
#: Differences of one file that are named, and those among them that become findings.
_MOST_DIFFERENCES, _MOST_FINDINGS = 100, 10
#: Files that were written are kept for later comparisons while they take fewer bytes in all.
_KEPT_BYTES = 64 << 20
#: Ranges of activations depend on the last bits of PyTorch's float32, and so on the processor.
_CALIBRATION_ERROR = 1e-5


@dataclass(frozen=True)
class Reproduction:
    """The comparison of a file with the file that this version writes from the source.

    Attributes:
        file: the name of the file.
        state: "reproduced" for equal bytes, "same structure" for equal operators, constants and metadata, "different",
            or "not compared".
        differences: a line for each difference.
        reason: why the bytes differ, or why nothing was compared; None for equal bytes.
    """

    file: str
    state: ReproductionState
    differences: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def is_proof(self) -> bool:
        """Whether nothing in the file can have been changed."""
        return self.state in PROOFS

    def findings(self, *, allowed: bool) -> Iterator[Finding]:
        """Yield a finding for each difference, or for a file that was not compared.

        Args:
            allowed: whether a file may differ, so that these are warnings.
        """
        severity: Severity = "warning" if allowed else "error"
        for line in self.differences[:_MOST_FINDINGS]:
            yield Finding("other-structure", severity, self.file, line)
        if (more := len(self.differences) - _MOST_FINDINGS) > 0:
            yield Finding("other-structure", severity, self.file, f"{more} more differences")
        if self.state == "not compared":
            yield Finding("not-reproduced", severity, self.file, str(self.reason))

    def to_json(self) -> dict[str, Any]:
        """Return the entry of certificate.json, without the name of the file."""
        found = asdict(self)
        del found["file"]
        return found | {"differences": list(self.differences)}


#: What determines the bytes of a file, with the source: part, format, precision and operator set.
_Key = tuple[Part, str, PrecisionName, int]


class FileWriter:
    """Writes the files of a source, and remembers their hashes, so that a file is written once in a process.

    Args:
        captured: the source with its graphs.
        calibration: function that returns the inputs with which precisions are calibrated.
        provenance: the origin that the files state; None for the source's.
    """

    def __init__(
        self,
        captured: Captured,
        calibration: Callable[[], CalibrationInputs],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self._captured, self._calibration = captured, calibration
        self._provenance = provenance
        self._hashes: dict[_Key, dict[str, str]] = {}
        self._kept: dict[_Key, FileContent] = {}
        self._structures: dict[_Key, Structure | None] = {}

    def stating(self, provenance: Mapping[str, Any]) -> FileWriter:
        """Return a writer of files that state this origin; itself if they do."""
        if provenance == self.provenance:
            return self
        return FileWriter(self._captured, self._calibration, provenance)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """The origin that the files state."""
        return self._captured.source.provenance if self._provenance is None else self._provenance

    def write(self, part: Part, format: str, precision: PrecisionName, opset: int = OPSET) -> FileContent:
        """Write a file, or return it if it was written before and is small.

        Args:
            part: the part.
            format: the format.
            precision: precision of the numbers inside.
            opset: ONNX operator set.

        Returns:
            The file with its sidecars.

        Raises:
            VaeExportError: the format cannot be written here, or not from this source.
        """
        key = part, format, precision, opset
        if key not in self._kept:
            graph = self._captured.graph(part)
            metadata = file_metadata(graph.spec, self.provenance)
            inputs = self._calibration()[part] if precision in CALIBRATED else None
            content = FORMATS[format].write(graph, WriteOptions(metadata, opset, precision, inputs))
            self._hashes[key] = {
                suffix: sha256(data) for suffix, data in (("", content.data), *content.sidecars.items())
            }
            if sum(map(_size, (content, *self._kept.values()))) > _KEPT_BYTES:
                return content
            self._kept[key] = content
        return self._kept[key]

    def hashes(self, part: Part, format: str, precision: PrecisionName, opset: int) -> Mapping[str, str]:
        """Return the SHA-256 of a file as it is written here, under "", and of its sidecars by suffix."""
        key = part, format, precision, opset
        if key not in self._hashes:
            self.write(*key)
        return self._hashes[key]

    def structure(self, part: Part, format: str, precision: PrecisionName, opset: int) -> Structure | None:
        """Return the structure of a file as it is written here, or None where the format has none."""
        key = part, format, precision, opset
        if key not in self._structures:
            self._structures[key] = FORMATS[format].structure(self.write(*key))
        return self._structures[key]


def _size(content: FileContent) -> int:
    return len(content.data) + sum(map(len, content.sidecars.values()))


def reproduce(
    entry: FileEntry, manifest: Manifest, writer: FileWriter, read: Callable[[], FileContent]
) -> Reproduction:
    """Compare a file with the one that this version writes from the source.

    Args:
        entry: the file. Its hashes must be those of the bytes that `read` returns.
        manifest: the manifest that names it.
        writer: writes the files of the source.
        read: returns the bytes of the file, which are read only where the hashes differ.

    Returns:
        What was found.
    """
    format, opset = FORMATS[entry.format], manifest.opset or OPSET
    if (reason := format.unavailable()) is not None:
        return Reproduction(entry.name, "not compared", reason=reason)
    if manifest.opset is None and entry.format == "onnx":
        opset = _stated_opset(read().data) or OPSET
    try:
        expected = writer.hashes(entry.part, entry.format, entry.precision, opset)
        if expected == {"": entry.sha256} | {sidecar.suffix: sidecar.sha256 for sidecar in entry.beside}:
            return Reproduction(entry.name, "reproduced")
        structure = writer.structure(entry.part, entry.format, entry.precision, opset)
        found = format.structure(read())
        lines = _differences(entry, manifest, found, structure)
        if lines is not None:
            beside = {sidecar.suffix for sidecar in entry.beside}
            lines = (*(f"sidecar {suffix}; export writes none" for suffix in sorted(beside - expected.keys())), *lines)
    except VaeExportError as error:
        return Reproduction(entry.name, "not compared", reason=f"it cannot be written here: {error.line()}")
    except Exception as error:  # every reader raises its own
        return Reproduction(entry.name, "not compared", reason=f"it cannot be read: {type(error).__name__}: {error}")
    bytes_differ = f"its bytes differ, {_why_bytes_differ(manifest, entry.format)}"
    if lines is None:
        return Reproduction(entry.name, "not compared", reason=f"{bytes_differ}, and its content cannot be read")
    return Reproduction(entry.name, "different" if lines else "same structure", lines, bytes_differ)


def _differences(
    entry: FileEntry, manifest: Manifest, found: Structure | None, expected: Structure | None
) -> tuple[str, ...] | None:
    """Return a line for each difference of two structures, or None where the format has none."""
    if found is None or expected is None:
        return None
    if manifest.is_of_single_file and not any(key.startswith(METADATA_PREFIX) for key in found.metadata):
        # A file of another exporter says nothing about its model that could be wrong.
        others = {key: text for key, text in expected.metadata.items() if not key.startswith(METADATA_PREFIX)}
        expected = replace(expected, metadata=others)
    close = _alike_after_calibration if entry.precision in CALIBRATED else None
    lines = [
        f"{name} {version} wrote it, as it says; the manifest says {manifest.versions[name]}"
        for name, version in found.written_by.items()
        if plain_version(manifest.versions.get(name, version)) != version
    ]
    # A constant that two operators read is named once.
    return tuple(dict.fromkeys((*lines, *islice(differences(found, expected, close), _MOST_DIFFERENCES))))


#: What a model and its folder are called: whoever renames the folder has not changed the model.
_LABELS = ("name", "source")


def stated_provenance(manifest: Manifest, source: Source) -> Mapping[str, Any]:
    """Return the origin that the files of an export must state: the source's, with the manifest's name of the model.

    A source that says nothing about its origin, or a file without a manifest, leaves it to the other.

    Args:
        manifest: the manifest of the export.
        source: the source that it is compared with.
    """
    stated, known = manifest.provenance, source.provenance
    if not stated or not known:
        return stated or known
    return {**known, **{label: stated[label] for label in _LABELS if label in known and label in stated}}


def manifest_findings(manifest: Manifest, source: Source) -> Iterator[Finding]:
    """Yield a finding for each thing that a manifest says of its model and its files, and the source says otherwise.

    Args:
        manifest: the manifest of the export; one that was made for a single file says nothing.
        source: the source that it is compared with.
    """
    if manifest.is_of_single_file:
        return
    for where in manifest.unknown[:_MOST_FINDINGS]:
        if where.startswith("recommended."):
            detail = "tune gives no such advice here, and other readers may follow it"
        else:
            detail = "export writes no such key, and other readers may read it"
        yield Finding("other-manifest", "error", f"{MANIFEST}, {where[:200]}", detail)
    if manifest.provenance and not source.provenance:
        detail = "the source says nothing about its origin"
        yield Finding("unknown-origin", "warning", f"{MANIFEST}, provenance", detail)
    elif source.provenance:
        known = json.loads(json.dumps(dict(source.provenance)))
        for where, detail, label in _unlike(dict(manifest.provenance), known, "provenance"):
            severity: Severity = "warning" if label else "error"
            yield Finding("other-manifest", severity, f"{MANIFEST}, {where}", detail)
    here = versions({entry.format for entry in manifest.known})
    for name in sorted(here.keys() - manifest.versions.keys()):
        yield Finding("other-manifest", "error", f"{MANIFEST}, versions.{name}", "is missing; export writes it")
    here |= {"vae-export": __version__, "python": platform.python_version()}
    for name, version in manifest.versions.items():
        if here.get(name, version) != version:
            detail = f"{version} wrote the files, as nobody can check; verified with {here[name]}"
            yield Finding("other-version", "warning", f"{MANIFEST}, versions.{name}", detail)
        elif name not in here:
            detail = f"{version[:80]} wrote the files, as nobody can check; none of these formats needs it here"
            yield Finding("other-version", "warning", f"{MANIFEST}, versions.{name}", detail)
    for entry in manifest.known:
        needed = FORMATS[entry.format].without_vnni(entry.precision)
        if entry.without_vnni != dict(needed):
            detail = f"{dict(entry.without_vnni)}; expected {dict(needed)}"
            yield Finding("other-manifest", "error", f"{MANIFEST}, {entry.name}, without_vnni", detail)
        usual = f"{entry.part}{infix(entry.precision)}{FORMATS[entry.format].suffix}"
        if entry.name != usual:
            yield Finding("other-manifest", "error", f"{MANIFEST}, {entry.name}", f"export calls this file {usual}")


def _unlike(stated: Any, known: Any, where: str) -> Iterator[tuple[str, str, bool]]:
    """Yield where two JSON values differ, how, and whether it is only a label."""
    if isinstance(stated, dict) and isinstance(known, dict):
        for key in sorted({*stated, *known}):
            if key not in stated or key not in known:
                side = "is missing; the source has" if key not in stated else "is stated; the source has none of"
                yield f"{where}.{key}", f"{side} {str(known.get(key, stated.get(key)))[:80]}", False
            else:
                yield from _unlike(stated[key], known[key], f"{where}.{key}")
    elif json.dumps(stated, sort_keys=True) != json.dumps(known, sort_keys=True):  # 1, 1.0 and true are equal in Python
        is_label = where in {f"provenance.{label}" for label in _LABELS}
        yield where, f"is {str(stated)[:80]}; the source says {str(known)[:80]}", is_label


def _stated_opset(data: bytes) -> int | None:
    """Return the operator set of an ONNX file without a manifest, or None if it cannot be read."""
    import onnx

    try:
        sets = onnx.load_model_from_string(data).opset_import
    except Exception:  # the linter raises it
        return None
    return next((entry.version for entry in sets if entry.domain in ("", "ai.onnx")), None)


def _why_bytes_differ(manifest: Manifest, format: str) -> str:
    """Return what may have changed the bytes of a file without changing what it computes."""
    here = versions([format])
    others = [
        f"{name} {manifest.versions[name]} (here {version})"
        for name, version in here.items()
        if manifest.versions.get(name, version) != version
    ]
    if others:
        return f"written by {', '.join(others)}"
    if not FORMATS[format].is_reproducible:
        return f"as those of format {format} do each time"
    return "with the same versions" if manifest.versions else "from an unknown exporter"


def _alike_after_calibration(found: Array, expected: Array, place: Place) -> bool:
    """Whether two constants differ as little as two calibrations do: scales, zero points, and biases in their units.

    Weights are rounded without a calibration, so that their scales are equal in every bit. Zero points and biases are
    counted in scales, so that none differs where its scale does not.
    """
    if place.reader.kind not in ("QuantizeLinear", "DequantizeLinear"):
        return False
    of = place.reader.inputs[0]
    is_bias = of.value is not None and of.facts["type"] == "int32"
    if of.value is not None and not is_bias:
        return False
    distance = np.abs(found.astype(np.float64) - expected)
    if place.index == 1:
        return bool((distance <= _CALIBRATION_ERROR * np.abs(expected)).all())
    if place.beside and is_bias and place.index == 0:
        return bool((distance <= 1 + _CALIBRATION_ERROR * np.abs(expected.astype(np.float64))).all())
    return place.beside and not is_bias and place.index == 2 and bool((distance <= 1).all())
