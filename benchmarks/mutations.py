"""Change exports at random, one change each, and count what `verify` catches.

    python benchmarks/mutations.py                      500 changes of a small network in every format
    python benchmarks/mutations.py --changes 2000 --seed 7 --run artifacts/mnist-mlp
    python benchmarks/mutations.py --first 500 --changes 500 --save b.json      changes 500 to 999 alone, kept in a file
    python benchmarks/mutations.py --merge a.json b.json                        the table of several such files
    python benchmarks/mutations.py --changes 50 --format litert                 changes of the files of one format
    python benchmarks/mutations.py --changes 200 --kind "hidden,"               kinds with this text in their names

Each change is made in one file, its golden vectors or its manifest, and the hashes in the manifest are made to fit. A
change has an effect if outputs differ by more than rounding for any of many inputs in the contract's range, which are
not those of `verify`, if the file cannot be run any more, or if a reader is told something else. Changes are verified
at the depth of `export`. "by numbers" counts those that comparisons and lint find without the file that is written
anew. Exits 1 if a change with an effect is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape
from torch import Tensor, nn

from vae_export import Artifact, Certificate, Checkpoint, export, load_checkpoint, open_artifact, verify
from vae_export.artifact.file_metadata import file_metadata
from vae_export.artifact.golden import GOLDEN_FOLDER, GoldenArray, GoldenPart
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest
from vae_export.capture import capture
from vae_export.contract import Array, Part
from vae_export.errors import TargetError, VaeExportError
from vae_export.formats import FORMATS, WriteOptions, versions
from vae_export.io.atomic import sha256
from vae_export.models import VAE, VAEConfig
from vae_export.parity import References
from vae_export.precision import FULL, PrecisionName
from vae_export.runs import Run

#: Formats of the export. Others can be asked for: aoti compiles once a process, two need environments of their own.
KINDS_OF_FILES = ("onnx", "torchscript", "pt2", "openvino", "ort", "ncnn")
#: Precisions beside float32 in which the formats are exported.
PRECISIONS: Mapping[str, tuple[PrecisionName, ...]] = {
    "onnx": ("fp16", "int8", "int8-static", "int4-weights"),
    "torchscript": ("bf16",),
    "openvino": ("fp16",),
}
#: Rules of findings that come from the source and not from numbers or the file alone.
BY_SOURCE = ("other-structure", "not-reproduced", "other-manifest", "golden-vectors")
#: Outputs that differ by more than this share of their largest value differ by more than rounding.
EFFECT = 1e-5

#: Kinds of changes that are one line of the table, by what their names contain; every other kind is of operators.
_GROUPS = {
    "metadata": "metadata and hidden content",
    "1 size": "wrong at one batch size",
    "50 sizes": "wrong at many batch sizes",
    "callers": "replaceable weights, versions",
    "versions": "replaceable weights, versions",
    "weight": "weights",
    "channel": "weights",
    "exchanged": "weights",
}
#: A change of one file: the new bytes, or None where there is nothing to change.
Change = Callable[[FileContent, np.random.Generator], FileContent | None]


@dataclass(frozen=True)
class Changed:
    """A changed export.

    Attributes:
        kind: what was changed, such as "onnx: one weight".
        artifact: the export.
        tells: whether a reader is told something else, or has other golden vectors.
        refused: whether every reader refuses it when it is opened.
        entry: the changed file; None where no file of the model was changed.
        content: its new bytes.
    """

    kind: str
    artifact: Artifact
    tells: bool
    refused: bool = False
    entry: FileEntry | None = None
    content: FileContent | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the random changes of exports that verification catches.")
    parser.add_argument("--changes", type=int, default=500, help="number of changes (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first change (default: 0)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the counts to a file too, after every change")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="print the table of such files alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes (default: 0)")
    formats = f"repeat for several (default: {', '.join(KINDS_OF_FILES)})"
    parser.add_argument("--format", action="append", choices=FORMATS, help=formats)
    parser.add_argument("--kind", metavar="TEXT", help="only changes with this text in their kind")
    parser.add_argument("--run", type=Path, help="run folder with a trained checkpoint, in place of a small network")
    options = parser.parse_args()
    if options.merge:
        merged = sum(map(Tally.read, options.merge), Tally())
        print(f"{merged.table()}\n\n{merged.grouped().table()}")
        return 0
    warnings.simplefilter("ignore")  # torch.jit is deprecated
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = small_checkpoint() if options.run is None else load_checkpoint(Run(options.run).checkpoint)
        tally = measure(
            checkpoint,
            Path(folder),
            options.changes,
            options.seed,
            report=sys.stderr,
            formats=options.format,
            first=options.first,
            save=options.save,
            kind=options.kind,
        )
    print(f"{tally.table()}\n\n{tally.grouped().table()}")
    return 1 if tally.missed else 0


class Tally:
    """Counts of changes by kind."""

    def __init__(self) -> None:
        self.made, self.effect, self.caught, self.by_numbers = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )
        self.missed: list[str] = []

    def add(self, kind: str, *, effect: bool, caught: bool, by_numbers: bool) -> None:
        self.made[kind] += 1
        if effect:
            self.effect[kind] += 1
            self.caught[kind] += caught
            self.by_numbers[kind] += by_numbers
            if not caught:
                self.missed.append(kind)

    def __add__(self, other: Tally) -> Tally:
        found = Tally()
        for name, counts in vars(found).items():
            counts += getattr(self, name)
            counts += getattr(other, name)
        return found

    def write(self, path: Path) -> None:
        """Write the counts to a file, from which `read` returns them."""
        path.write_text(json.dumps(vars(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Tally:
        """Return the counts of a file that `write` has written."""
        found = cls()
        for name, counts in json.loads(path.read_text("utf-8")).items():
            vars(found)[name] += Counter(counts) if isinstance(counts, dict) else counts
        return found

    def grouped(self) -> Tally:
        """Return the counts by groups of kinds."""
        found = Tally()
        for name, counts in vars(self).items():
            if isinstance(counts, Counter):
                for kind, times in counts.items():
                    vars(found)[name][_group(kind)] += times
        found.missed = list(map(_group, self.missed))
        return found

    def table(self) -> str:
        """Return the table in Markdown, with the sums in its last row."""
        lines = ["| change | made | with effect | caught | by numbers | missed |", "|---|---|---|---|---|---|"]
        for kind in (*sorted(self.made), None):
            counts = [
                sum(counter.values()) if kind is None else counter[kind]
                for counter in (self.made, self.effect, self.caught, self.by_numbers)
            ]
            lines.append(f"| {kind or 'all'} | {' | '.join(map(str, counts))} | {counts[1] - counts[2]} |")
        return "\n".join(lines)


def _group(kind: str) -> str:
    """Return the line of the table that a kind of changes belongs to."""
    what, _, change = kind.partition(": ")
    if change.startswith("hidden, "):
        return f"{what}: keys that export does not write, or leaves out"
    if what in ("golden vectors", "manifest"):
        return what if change != "versions" else kind
    if "inputs of two nodes" in change:
        return f"{what}: operators, attributes, constants"
    group = next((group for text, group in _GROUPS.items() if text in change), "operators, attributes, constants")
    return f"{what}: {group}"


def measure(
    checkpoint: Checkpoint,
    folder: Path,
    changes: int,
    seed: int,
    report: Any = None,
    formats: Sequence[str] | None = None,
    first: int = 0,
    save: Path | None = None,
    kind: str | None = None,
) -> Tally:
    """Export a checkpoint, change the export at random, and verify each change.

    Args:
        checkpoint: the network.
        folder: an empty folder.
        changes: number of changes.
        seed: seed of the changes.
        report: file that a line for each missed change is written to.
        formats: the formats whose files are changed, and nothing else; None for all that can be written here, and the
            golden vectors and the manifest.
        first: number of the first change. Equal seeds and numbers are equal changes.
        save: file that the counts are written to after every change.
        kind: text in the kinds of all changes; None for all kinds.
    """
    references, tally = References(checkpoint), Tally()
    names = formats or [name for name in KINDS_OF_FILES if FORMATS[name].unavailable() is None]
    artifact = _exported(references, folder, names)
    effects = Effects(artifact, references)
    _require_unchanged_passes(artifact, references, folder / "changed")
    for number in range(first, first + changes):
        changed = None
        rng = np.random.default_rng((seed, number))
        while changed is None:
            changed = change_at_random(artifact, references, folder / "changed", rng, formats, kind)
        effect = changed.tells or effects.of(changed)
        certificate = verified(changed, references)
        # Nobody can check which version wrote a file; a warning says that it is not the one that verifies.
        warned = changed.kind == "manifest: versions" and certificate is not None and _names_other_version(certificate)
        caught = certificate is None or not certificate.passed or warned
        by_numbers = (
            certificate is None
            or bool(certificate.failures)
            or any(finding.rule not in BY_SOURCE for finding in certificate.errors)
        )
        tally.add(changed.kind, effect=effect, caught=caught, by_numbers=by_numbers)
        if report is not None and effect and not caught:
            print(f"missed: change {number}, {changed.kind}", file=report, flush=True)
        if save is not None:
            tally.write(save)
    return tally


def _names_other_version(certificate: Certificate) -> bool:
    return any(finding.rule == "other-version" for finding in certificate.findings)


def _exported(references: References, folder: Path, formats: Sequence[str]) -> Artifact:
    """Export ONNX and the other formats in each of their precisions, into one folder."""
    parts: tuple[Part, ...] = ("encoder", "decoder")
    one, _ = export(references, folder / "export", formats=("onnx",), parts=parts)
    others = []
    for name in formats:
        full: tuple[PrecisionName, ...] = () if name == "onnx" else (FULL,)
        precisions = (*full, *PRECISIONS.get(name, ()))
        try:
            others.append(export(references, folder / name, formats=(name,), precisions=precisions, parts=parts)[0])
        except TargetError:  # this processor does not compute in one of them
            if not full:
                raise
            others.append(export(references, folder / name, formats=(name,), precisions=full, parts=parts)[0])
    files, written_by = list(one.manifest.files), dict(one.manifest.versions)
    for other in others:
        for stored in other.manifest.stored:
            (one.folder / stored.name).write_bytes(other.read(stored))
        files += other.manifest.files
        written_by |= other.manifest.versions
    golden = _joined([one.manifest.golden, *(other.manifest.golden for other in others)])
    manifest = replace(one.manifest, files=tuple(files), versions=written_by, golden=golden)
    (one.folder / MANIFEST).write_bytes(manifest.text)
    return open_artifact(one.folder)


def _joined(vectors: Sequence[Sequence[GoldenPart]]) -> tuple[GoldenPart, ...]:
    """Return golden vectors, which are equal, with the tolerances of all precisions."""

    def joined(arrays: tuple[GoldenArray, ...]) -> GoldenArray:
        return replace(arrays[0], tolerances={name: it for one in arrays for name, it in one.tolerances.items()})

    return tuple(
        replace(parts[0], outputs=tuple(map(joined, zip(*(part.outputs for part in parts), strict=True))))
        for parts in zip(*vectors, strict=True)
    )


def _require_unchanged_passes(artifact: Artifact, references: References, folder: Path) -> None:
    """Raise an error if an unchanged export does not pass, because then every change of it would count as caught."""
    full = tuple(entry for entry in artifact.manifest.files if (entry.format, entry.precision) == ("onnx", "fp32"))
    manifests = [
        _narrowed(artifact.manifest, (entry,), _golden_of(entry, artifact.manifest.golden))
        for entry in artifact.manifest.files
    ]
    golden = tuple(part for entry in full for part in _golden_of(entry, artifact.manifest.golden))
    for manifest in (*manifests, _narrowed(artifact.manifest, full, golden)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(artifact.folder, folder)
        (folder / MANIFEST).write_bytes(manifest.text)
        entry = manifest.files[0]
        certificate = verified(Changed(entry.name, open_artifact(folder), tells=False), references)
        if certificate is None:
            raise SystemExit(f"{entry.name}: it is refused before it is changed")
        certificate.require()
        if _names_other_version(certificate):
            raise SystemExit(f"{entry.name}: another version is named before it is changed")


def _narrowed(manifest: Manifest, files: tuple[FileEntry, ...], golden: tuple[GoldenPart, ...]) -> Manifest:
    """Return the manifest of some files, with the packages that write those."""
    needed = versions({entry.format for entry in files})
    stated = {name: version for name, version in manifest.versions.items() if name in needed}
    return replace(manifest, files=files, golden=golden, versions=stated)


def verified(changed: Changed, references: References) -> Certificate | None:
    """Return the certificate of a changed export, or None if it is refused."""
    if changed.refused:
        return None
    kinds = {(entry.format, entry.precision) for entry in changed.artifact.manifest.files}
    targets = [
        f"{format}{'' if precision == 'fp32' else f'+{precision}'}/{FORMATS[format].providers()[0]}"
        for format, precision in kinds
    ]
    try:
        return verify(changed.artifact, references, targets=targets, thorough=False, trust=True)
    except VaeExportError:
        return None


class Effects:
    """Runs files with many inputs in the contract's range, and compares them with the unchanged ones."""

    def __init__(self, artifact: Artifact, references: References) -> None:
        self._artifact, self._references = artifact, references
        rng, contract = np.random.default_rng(99), references.source.contract
        data, latent = contract.data, contract.latents[0]
        real = references.images(64)
        noise = rng.uniform(data.low, data.high, (128, *data.fixed_item)).astype(np.float32)
        corners = np.where(
            rng.uniform(size=(64, *data.fixed_item)) < rng.uniform(size=(64, 1, 1, 1)), data.low, data.high
        )
        normal = rng.standard_normal((192, *latent.fixed_item)).astype(np.float32)
        self._inputs: dict[str, Array] = {
            data.name: np.concatenate([real, noise, corners.astype(np.float32)]),
            latent.name: np.concatenate([normal, 6 * np.sign(normal[:64])]),
        }
        self._expected: dict[str, Mapping[str, Array]] = {}

    def of(self, changed: Changed) -> bool:
        """Whether a changed file computes something else than the unchanged one, or cannot be run."""
        if changed.entry is None or changed.content is None:
            return False
        entry = changed.entry
        if entry.name not in self._expected:
            unchanged = FileContent(
                self._artifact.read(entry), {s.suffix: self._artifact.read(s) for s in entry.beside}
            )
            self._expected[entry.name] = self._run(entry, unchanged)
        try:
            outputs = self._run(entry, changed.content)
        except Exception:  # every engine raises its own
            return True
        batch = re.search(r"batch of (\d+)", changed.kind)
        return bool(batch) or any(
            array.shape != outputs[name].shape
            or not np.abs(outputs[name] - array).max() <= EFFECT * np.abs(array).max()
            for name, array in self._expected[entry.name].items()
        )

    def _run(self, entry: FileEntry, content: FileContent) -> Mapping[str, Array]:
        spec = self._references.captured.graph(entry.part).spec
        format = FORMATS[entry.format]
        runner = format.open(content, spec, format.session_options(format.providers()[0])[0])
        return runner({tensor.name: self._inputs[tensor.name] for tensor in spec.inputs})


def change_at_random(
    artifact: Artifact,
    references: References,
    folder: Path,
    rng: np.random.Generator,
    formats: Sequence[str] | None = None,
    kind: str | None = None,
) -> Changed | None:
    """Make one change, and let the hashes in the manifest fit; return None if there was nothing to change.

    Args:
        artifact: the export that is changed.
        references: the model that was exported.
        folder: where the changed export is written.
        rng: generator of the change.
        formats: the formats whose files are changed; None for all, and the golden vectors and the manifest.
        kind: text in the kind of the change; None for any. Golden vectors have no such kinds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    place = rng.uniform() if formats is None else 1.0
    if place < 0.1 and kind is None:
        return change_golden(artifact, folder, rng)
    if place < 0.2:
        changed = change_manifest(artifact, folder, rng)
        return changed if changed is None or kind is None or kind in changed.kind else None
    files = [entry for entry in artifact.manifest.files if formats is None or entry.format in formats]
    entry = files[rng.integers(len(files))]
    content = FileContent(artifact.read(entry), {sidecar.suffix: artifact.read(sidecar) for sidecar in entry.beside})
    changes = CHANGES[entry.format] if entry.format in CHANGES else program_changes(entry, references)
    names = [name for name in changes if kind is None or kind in name]
    if not names:
        return None
    name = str(rng.choice(names))
    try:
        new = changes[name](content, rng)
    except (LookupError, ValueError, TypeError):  # no such thing in this file
        return None
    if new is None or new == content:
        return None
    folder.mkdir(parents=True)
    written = FileEntry.of(entry.name, entry.part, entry.format, new, entry.precision)
    fitted = replace(entry, size=written.size, sha256=written.sha256, beside=written.beside)
    for file, data in new.by_name(entry.name).items():
        (folder / file).write_bytes(data)
    golden = _golden_of(entry, artifact.manifest.golden)
    shutil.copytree(artifact.folder / GOLDEN_FOLDER, folder / GOLDEN_FOLDER)
    manifest = _narrowed(artifact.manifest, (fitted,), golden)
    (folder / MANIFEST).write_bytes(manifest.text)
    precision = "" if entry.precision == "fp32" else f" {entry.precision}"
    # Callers see which weights they may replace, and readers which versions a file needs. A file that may end the
    # process is not run here, and counts.
    tells = name.startswith("metadata") or name in ("versions", "a weight that callers may replace")
    tells = tells or name.endswith("not run")
    return Changed(f"{entry.format}{precision}: {name}", open_artifact(folder), tells, entry=entry, content=new)


def _golden_of(entry: FileEntry, golden: Sequence[GoldenPart]) -> tuple[GoldenPart, ...]:
    """Return the golden vectors that the export of one file has."""

    def only(array: GoldenArray) -> GoldenArray:
        kept: dict[str, float] = {name: it for name, it in array.tolerances.items() if name == entry.precision}
        return replace(array, tolerances=kept)

    return tuple(replace(one, outputs=tuple(map(only, one.outputs))) for one in golden if one.part == entry.part)


def change_golden(artifact: Artifact, folder: Path, rng: np.random.Generator) -> Changed | None:
    """Change a golden vector, with its hash in the manifest made to fit."""
    document = json.loads(artifact.manifest.text)
    golden = document["golden"][rng.integers(len(document["golden"]))]
    how = str(rng.choice(["inputs", "outputs", "one value", "tolerance", "left out"]))
    side = "inputs" if how == "inputs" else "outputs"
    item = golden[side][rng.integers(len(golden[side]))]
    files: dict[str, bytes] = {}
    if how == "tolerance":
        item["band"] *= float(rng.choice([3, 100]))
    elif how == "left out":
        document["golden"].remove(golden)
    else:
        values = np.fromfile(artifact.folder / item["file"], np.float32)
        index = int(rng.integers(len(values))) if how == "one value" else slice(None)
        values[index] = values[index] * np.float32(rng.choice([0.9, 0.99, 0.0])) + np.float32(1e-3)
        files[item["file"]] = values.tobytes()
        for other in document["golden"]:
            for stated in (*other["inputs"], *other["outputs"]):
                if stated["file"] == item["file"]:
                    stated["sha256"] = sha256(files[item["file"]])
    return _with_document(artifact, folder, document, files, f"golden vectors: {how}")


def change_manifest(artifact: Artifact, folder: Path, rng: np.random.Generator) -> Changed | None:
    """Change a number or a text in what the manifest says of its model and its files."""
    document = json.loads(artifact.manifest.text)
    document["versions"] = _written_by(document, "onnx")
    section = str(
        rng.choice([key for key in ("provenance", "contract", "versions", "prior", "likelihood") if key in document])
    )
    if rng.uniform() < 0.2:
        how = hidden_in_manifest(document, rng)
        return _with_document(artifact, folder, document, {}, f"manifest: hidden, {how}")
    leaves = list(_leaves(document[section])) if isinstance(document[section], dict | list) else []
    if not leaves:
        return None
    container, key = leaves[rng.integers(len(leaves))]
    value = container[key]
    if isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int | float):
        container[key] = value * 1.1 if isinstance(value, float) else value + 1
    elif isinstance(value, str) and value:
        container[key] = value[:-1] + ("0" if value[-1] != "0" else "1")
    else:
        return None
    return _with_document(artifact, folder, document, {}, f"manifest: {section}")


def hidden_in_manifest(document: dict[str, Any], rng: np.random.Generator) -> str:
    """Add a key that export does not write, or leave out what it writes; return which of the two."""
    if rng.uniform() < 0.2:
        document["recommended"] = [{"part": "decoder", "file": "decoder.onnx", "threads": int(rng.integers(99))}]
        return "advice of nobody"
    if rng.uniform() < 0.7:
        objects = [document, document["contract"], document["golden"][0], *document["files"]]
        objects += document["golden"][0]["outputs"]
        rng.choice(np.array(objects, dtype=object))[str(rng.choice(["licence", "score", "symbols"]))] = str(
            rng.choice(["audited", ""])
        )
        return "a key more"
    key = str(rng.choice(["versions", "provenance", "golden"]))
    document[key] = type(document[key])()
    return "left out"


def _written_by(document: Mapping[str, Any], format: str) -> dict[str, str]:
    """Return the versions of a manifest's document that an export in one format has."""
    return {name: document["versions"][name] for name in versions({format}) if name in document["versions"]}


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _leaves(item)
        else:
            yield value, key


def _with_document(
    artifact: Artifact, folder: Path, document: dict[str, Any], files: Mapping[str, bytes], kind: str
) -> Changed | None:
    """Return the export in float32 ONNX with this manifest; None if nothing is changed."""
    unchanged = json.loads(artifact.manifest.text)
    for one in (document, unchanged):
        # A manifest of fewer files names the packages of fewer formats, and has fewer tolerances.
        for array in (array for golden in one["golden"] for array in golden["outputs"]):
            array.pop("bands", None)
        one["versions"] = _written_by(one, "onnx")
        one["files"] = [
            item for item in one["files"] if item["format"] == "onnx" and item.get("precision", "fp32") == "fp32"
        ]
    if document == unchanged and not files:
        return None
    shutil.copytree(artifact.folder, folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(json.dumps(document, indent=1).encode())
    try:
        changed = open_artifact(folder)
    except VaeExportError:  # refused by every reader
        changed = replace(artifact, folder=folder)
        return Changed(kind, changed, tells=True, refused=True)
    return Changed(kind, changed, tells=True)


# --- ONNX ---------------------------------------------------------------------------------------------------------


def _onnx(change: Callable[[onnx.ModelProto, np.random.Generator], None]) -> Change:
    def changed(content: FileContent, rng: np.random.Generator) -> FileContent:
        model = onnx.load_from_string(content.data)
        change(model, rng)
        return replace(content, data=model.SerializeToString())

    return changed


def _initialiser(model: onnx.ModelProto, rng: np.random.Generator, least: int = 2) -> tuple[TensorProto, Array]:
    found = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= least]
    tensor = found[rng.integers(len(found))]
    return tensor, numpy_helper.to_array(tensor).copy()


def _moved(values: Array, rng: np.random.Generator) -> Array:
    if values.dtype.kind in "iu":
        return np.asarray(values + np.asarray(rng.choice([1, 2, 8]), values.dtype))
    return np.asarray(values * rng.choice([1.001, 1.02, 1.5, -1.0, 0.0]), values.dtype)


def one_weight(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor, array = _initialiser(model, rng)
    index = np.unravel_index(rng.integers(array.size), array.shape)
    array[index] = _moved(np.asarray(array[index]), rng)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def one_channel(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor, array = _initialiser(model, rng)
    axis = int(rng.integers(array.ndim))
    index = (slice(None),) * axis + (int(rng.integers(array.shape[axis])),)
    array[index] = _moved(array[index], rng)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def two_exchanged(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor, array = _initialiser(model, rng)
    axis = int(rng.integers(array.ndim))
    one, other = rng.choice(array.shape[axis], 2, replace=False)
    order = np.arange(array.shape[axis])
    order[[one, other]] = order[[other, one]]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.take(array, order, axis)), tensor.name))


def constant(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Change a constant of at most four numbers, such as the bound of a clamp or a shape."""
    small = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) <= 4]
    small += [a.t for node in model.graph.node for a in node.attribute if a.type == a.TENSOR and np.prod(a.t.dims) <= 4]
    tensor = small[rng.integers(len(small))]
    array = numpy_helper.to_array(tensor).copy()
    array = (
        array + np.ones((), array.dtype)
        if array.dtype.kind in "iu"
        else (array * rng.choice([0.25, 1.01, 2])).astype(array.dtype)
    )
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))


def attribute(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    found = [a for node in model.graph.node for a in node.attribute if a.type in (a.INT, a.FLOAT, a.INTS)]
    chosen = found[rng.integers(len(found))]
    if chosen.type == chosen.FLOAT:
        chosen.f *= 1.01
    elif chosen.type == chosen.INT:
        chosen.i = 1 - chosen.i if chosen.i in (0, 1) else chosen.i + 1
    else:
        chosen.ints[0] += 1


def operator(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    others = {
        "Relu": ["LeakyRelu", "Elu", "Softplus", "Abs", "Identity"],
        "Sigmoid": ["HardSigmoid", "Tanh", "Identity"],
        "Add": ["Sub"],
        "Mul": ["Div"],
        "Clip": ["Identity"],
        "Exp": ["Softplus"],
    }
    node = rng.choice([node for node in model.graph.node if node.op_type in others])
    node.op_type = str(rng.choice(others[node.op_type]))
    del node.input[1 if node.op_type == "Identity" else 2 :]


def _insert(model: onnx.ModelProto, rng: np.random.Generator, make: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Put nodes behind a random node that computes floats."""
    places = [
        place
        for place, node in enumerate(model.graph.node)
        if node.op_type in ("Relu", "Gemm", "Sigmoid", "Add", "Mul")
    ]
    place = places[rng.integers(len(places))]
    name = model.graph.node[place].output[0]
    model.graph.node[place].output[0] = f"{name}_before"
    for offset, node in enumerate(make(f"{name}_before", name)):
        model.graph.node.insert(place + 1 + offset, node)


def _number(model: onnx.ModelProto, name: str, value: float) -> str:
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float16 if half else np.float32), name))
    return name


def inserted_factor(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    factor = _number(model, "changed_factor", float(rng.choice([1.0, 1.0001, 1.01, 0.5])))
    _insert(model, rng, lambda before, after: [helper.make_node("Mul", [before, factor], [after])])


def inserted_clamp(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    high = _number(model, "changed_high", float(rng.choice([0.5, 2, 5, 10, 50])))
    _insert(model, rng, lambda before, after: [helper.make_node("Clip", [before, "", high], [after])])


def branch_on_value(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    bound, other = (
        _number(model, "changed_bound", float(rng.choice([0.5, 1, 3, 8]))),
        _number(model, "changed_other", 0.0),
    )

    def make(before: str, after: str) -> list[onnx.NodeProto]:
        greater = helper.make_node("Greater", [before, bound], ["changed_condition"])
        return [greater, helper.make_node("Where", ["changed_condition", other, before], [after])]

    _insert(model, rng, make)


def _wrong_at(model: onnx.ModelProto, rng: np.random.Generator, low: int, high: int) -> None:
    """Make the file wrong for batches from `low` to `high`."""
    half = _number(model, "changed_half", 0.5)
    name = model.graph.input[0].name
    for text, value in (("changed_low", low), ("changed_high", high), ("changed_zero", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), text))

    def make(before: str, after: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Shape", [name], ["changed_shape"]),
            helper.make_node("Gather", ["changed_shape", "changed_zero"], ["changed_batch"]),
            helper.make_node("GreaterOrEqual", ["changed_batch", "changed_low"], ["changed_above"]),
            helper.make_node("LessOrEqual", ["changed_batch", "changed_high"], ["changed_below"]),
            helper.make_node("And", ["changed_above", "changed_below"], ["changed_condition"]),
            helper.make_node("Mul", [before, half], ["changed_value"]),
            helper.make_node("Where", ["changed_condition", "changed_value", before], [after]),
        ]

    _insert(model, rng, make)


def wrong_at_one_batch(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    batch = int(rng.integers(1, 1025))
    _wrong_at(model, rng, batch, batch)


def wrong_at_many_batches(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    low = int(rng.choice([5, 65, 258]))
    _wrong_at(model, rng, low, {5: 63, 65: 256, 258: 1024}[low])


def replaceable_weight(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor, _ = _initialiser(model, rng)
    model.graph.input.append(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, ["changed", *tensor.dims[1:]])
    )


def exchanged_inputs(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    nodes = [node for node in model.graph.node if len(node.input) >= 2]
    one, other = (nodes[index] for index in rng.integers(len(nodes), size=2))
    one.input[1], other.input[1] = other.input[1], one.input[1]


def left_out(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node = model.graph.node[rng.integers(len(model.graph.node))]
    node.op_type = "Identity"
    del node.attribute[:], node.input[1:]


def metadata(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    entry = model.metadata_props[rng.integers(len(model.metadata_props))]
    entry.value = _other_text(entry.value, rng)


def metadata_left_out(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    del model.metadata_props[rng.integers(len(model.metadata_props))]


def metadata_text(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    field = str(rng.choice(["producer_name", "producer_version", "doc_string", "domain"]))
    setattr(model, field, getattr(model, field) + " other")


def hidden_content(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Add what ONNX Runtime passes over, and other readers show or follow."""
    match int(rng.integers(8)):
        case 0:
            model.training_info.add().algorithm.node.append(helper.make_node("Identity", ["a"], ["b"]))
        case 1:
            model.MergeFromString(b"\xfa\x3f\x05hello")  # a field of number 1023
        case 2:
            rng.choice(list(model.graph.node)).doc_string = "audited"
        case 3:
            entry = rng.choice(list(model.graph.node)).metadata_props.add()
            entry.key, entry.value = "score", "1.0"
        case 4:
            rng.choice([*model.graph.input, *model.graph.output]).doc_string = "in [-1, 1]"
        case 5:
            _initialiser(model, rng)[0].doc_string = "audited"
        case 6:
            stated = rng.choice(list(model.metadata_props))
            model.metadata_props.add(key=stated.key, value=_other_text(stated.value, rng))
        case _:
            rng.choice([node for node in model.graph.node if node.attribute]).overload = "other"


def hidden_twice(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Define something twice: readers differ in which of the two counts."""
    graph = model.graph
    match int(rng.integers(6)):
        case 0:
            node = rng.choice([node for node in graph.node if node.attribute])
            node.attribute.insert(0, node.attribute[0])
        case 1:
            model.opset_import.insert(0, helper.make_opsetid("ai.onnx", int(rng.integers(11, 20))))
        case 2:
            tensor, array = _initialiser(model, rng)
            graph.initializer.append(numpy_helper.from_array(np.asarray(_moved(array, rng)), tensor.name))
        case 3:
            graph.output.append(rng.choice(list(graph.output)))
        case 4:
            value = onnx.ValueInfoProto()
            value.CopyFrom(rng.choice(list(graph.value_info)))
            value.type.tensor_type.shape.dim[0].dim_value = int(rng.integers(2, 99))
            graph.value_info.insert(0, value)
        case _:
            tensor, array = _initialiser(model, rng)
            tensor.float_data.extend([9.0] * array.size)


def hidden_statements(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """State something of the model, of a weight or of sizes that ONNX Runtime does not use."""
    graph = model.graph
    name = rng.choice([output for node in graph.node for output in node.output])
    match int(rng.integers(8)):
        case 0:
            rng.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim[0].denotation = "DATA_CHANNEL"
        case 1:
            graph.name += " other"
        case 2:
            model.model_version = int(rng.integers(1, 99))
        case 3:
            graph.quantization_annotation.add().tensor_name = _initialiser(model, rng)[0].name
        case 4:
            _initialiser(model, rng)[0].external_data.add(key="location", value="decoder.data")
        case 5:
            key = rng.choice(["producer", "domain", "doc_string", "operator sets", "IR version"])
            model.metadata_props.add(key=key, value="audited")
        case 6:
            known = {value.name for value in graph.value_info}
            sized = "nothing" if rng.uniform() < 0.5 or name in known else name
            graph.value_info.append(helper.make_tensor_value_info(sized, TensorProto.FLOAT, [int(rng.integers(1, 99))]))
        case _:
            body = [helper.make_node("Tanh", ["A"], ["Y"])]
            other = helper.make_opsetid("", 20)
            model.functions.append(
                helper.make_function("", rng.choice(list(graph.node)).op_type, ["A"], ["Y"], body, [other])
            )


def inner_sizes(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """State the number of rows of an inner value."""
    value = model.graph.value_info[rng.integers(len(model.graph.value_info))]
    value.type.tensor_type.shape.dim[0].dim_value = int(rng.integers(1, 9))


def stated_versions(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    if rng.uniform() < 0.5:
        model.ir_version += 1
    else:
        model.opset_import[0].version += int(rng.choice([-1, 1]))


def _other_text(text: str, rng: np.random.Generator) -> str:
    """Change a digit of a text, or its last letter."""
    digits = [match.start() for match in re.finditer(r"\d", text)]
    place = digits[rng.integers(len(digits))] if digits else len(text) - 1
    letter = str((int(text[place]) + 1) % 10) if digits else "x"
    return text[:place] + letter + text[place + 1 :]


ONNX: dict[str, Change] = {
    name: _onnx(change)
    for name, change in {
        "one weight": one_weight,
        "one channel": one_channel,
        "two rows or columns exchanged": two_exchanged,
        "a constant": constant,
        "an attribute": attribute,
        "another operator": operator,
        "a factor inserted": inserted_factor,
        "a clamp inserted": inserted_clamp,
        "a branch on a value": branch_on_value,
        "wrong at a batch of 1 size": wrong_at_one_batch,
        "wrong at a batch of 50 sizes and more": wrong_at_many_batches,
        "a weight that callers may replace": replaceable_weight,
        "inputs of two nodes exchanged": exchanged_inputs,
        "an operator left out": left_out,
        "metadata changed": metadata,
        "metadata left out": metadata_left_out,
        "metadata of the producer": metadata_text,
        "metadata: hidden content": hidden_content,
        "metadata: sizes of an inner value": inner_sizes,
        "metadata: hidden, defined twice": hidden_twice,
        "metadata: hidden, further statements": hidden_statements,
        "versions": stated_versions,
    }.items()
}


# --- OpenVINO and ORT: bytes --------------------------------------------------------------------------------------


def _bytes_of_weights(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one float in the second half of a file that is mostly weights."""
    start = int(rng.integers(len(data) // 2, len(data) - 64)) // 4 * 4
    value = np.frombuffer(data[start : start + 4], np.float32)[0]
    new = np.float32(value * rng.choice([1.02, -1, 2]) + 0.01)
    return data[:start] + new.tobytes() + data[start + 4 :]


def weight_beside(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change a weight in the sidecar of OpenVINO and ncnn."""
    return replace(content, sidecars={".bin": _bytes_of_weights(content.sidecars[".bin"], rng)})


def openvino_graph(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change a digit of an attribute."""
    text = content.data.decode()
    places = [match.span() for match in re.finditer(r"(?<=<data )[^>]*", text)]
    low, high = places[rng.integers(len(places))]
    return replace(content, data=(text[:low] + _other_text(text[low:high], rng) + text[high:]).encode())


def openvino_operator(content: FileContent, rng: np.random.Generator) -> FileContent:
    text = content.data.decode()
    one, other = [("ReLU", "Sigmoid"), ("ReLU", "Tanh"), ("Sigmoid", "Tanh"), ("Add", "Subtract")][rng.integers(4)]
    return replace(content, data=text.replace(f'type="{one}"', f'type="{other}"', 1).encode())


def openvino_metadata(content: FileContent, rng: np.random.Generator) -> FileContent:
    text = content.data.decode()
    low = text.index("<framework>", text.rindex("<rt_info>"))  # what we wrote; the rest is OpenVINO's
    return replace(content, data=(text[:low] + _other_text(text[low:], rng)).encode())


def openvino_note(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Add a note to an operator or to the model."""
    text = content.data.decode()
    note = f'<rt_info><attribute name="{rng.choice(["layout", "precise", "score"])}" version="0"/></rt_info>'
    places = [match.start() for match in re.finditer("</layer>", text)]
    place = int(rng.choice(places))
    return replace(content, data=f"{text[:place]}{note}{text[place:]}".encode())


def openvino_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Add what OpenVINO passes over: comments, names, attributes, texts, layers, sizes, weights."""
    text, more = content.data.decode(), b""
    layer = (
        '<layer id="999" name="more" type="Const" version="opset1"><data element_type="f32" shape="1" offset="0" '
        'size="4"/><output><port id="0" precision="FP32"><dim>1</dim></port></output></layer></layers>'
    )
    old, new = [
        ("<layers>", "<!-- audited --><layers>"),
        ("<rt_info>", '<rt_info><score value="1.0"/>'),
        ('<net name="', '<net name="other '),
        ("<edges>", "<more/><edges>"),
        (' version="opset1"', ' version="opset8"'),
        ("<net ", '<net license="free" '),
        ("<data ", '<data more="1" '),
        ("<layers>", "free of licence<layers>"),
        ("</layers>", layer),
        ("<dim>", "<dim>1"),
        ("", ""),
    ][int(rng.integers(11))]
    if not old:
        more = rng.bytes(int(rng.integers(1, 64)))
    places = [match.start() for match in re.finditer(re.escape(old), text)] if old else [0]
    place = int(rng.choice(places))
    changed = f"{text[:place]}{new}{text[place + len(old) :]}"
    return replace(content, data=changed.encode(), sidecars={".bin": content.sidecars[".bin"] + more})


def ncnn_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Write the graph in another form, or add a layer that gives nothing."""
    magic, counts, *layers = content.data.decode().splitlines()
    number, blobs = map(int, counts.split())
    match int(rng.integers(3)):
        case 0:
            place = int(rng.integers(len(layers)))
            layers[place] = layers[place].replace(" ", "\u00a0", 1)
        case 1:
            blobs += int(rng.integers(1, 99))
        case _:
            number += 1
            layers.append("Noop free 0 0")
    text = "\n".join([magic, f"{number} {blobs}", *layers, ""])
    return replace(content, data=text.encode())


def ort_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change by which types kernels are chosen, or a size of an inner value."""
    data = content.data
    session = InferenceSession.GetRootAs(data)
    if rng.uniform() < 0.5:
        resolver = session.KernelTypeStrResolver()
        operator = resolver.OpKernelTypeStrArgs(int(rng.integers(resolver.OpKernelTypeStrArgsLength()))).OpId()
        return replace(content, data=data.replace(operator, operator[:-1] + b"0"))
    graph = session.Model().Graph()
    kind, table = TensorTypeAndShape(), graph.NodeArgs(int(rng.integers(graph.NodeArgsLength()))).Type().Value()
    kind.Init(table.Bytes, table.Pos)
    size = kind.Shape().Dim(kind.Shape().DimLength() - 1).Value()
    place = size._tab.Pos + size._tab.Offset(6)
    return replace(content, data=data[:place] + int(rng.integers(300, 400)).to_bytes(8, "little") + data[place + 8 :])


def ort_unread(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Write behind the end of a file, or into the zeros behind a text."""
    data = content.data
    if rng.uniform() < 0.5:
        return replace(content, data=data + rng.integers(1, 256, int(rng.integers(1, 64)), np.uint8).tobytes())
    places = [match.end() - 1 for match in re.finditer(rb"(?:latent|image)\0\0", data)]
    place = int(rng.choice(places))
    return replace(content, data=data[:place] + bytes([int(rng.integers(1, 256))]) + data[place + 1 :])


def litert_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change what a LiteRT model says and its engine passes over, or write behind its end."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content.data, 0)
    graph = model.subgraphs[0]
    match int(rng.integers(7)):
        case 0:
            return replace(content, data=content.data + rng.bytes(int(rng.integers(1, 64))))
        case 1:
            model.description = b"audited"
        case 2:
            model.signatureDefs[0].signatureKey = b"other"
        case 3:
            rng.choice(model.operatorCodes).version += 1
        case 4:
            rng.choice(graph.tensors).quantization.min = [-1.0]
        case 5:
            model.buffers[0].data = list(rng.bytes(16))
        case _:
            graph.tensors.append(rng.choice(graph.tensors))
    builder = flatbuffers.Builder(len(content.data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return replace(content, data=bytes(builder.Output()))


def ort_weight(content: FileContent, rng: np.random.Generator) -> FileContent:
    return replace(content, data=_bytes_of_weights(content.data, rng))


def ort_metadata(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change a letter or digit of what the file says of its model; texts keep their length."""
    data = content.data
    places = [match.span() for match in re.finditer(rb'\{"[ -~]{20,}\}', data)]
    low, high = places[rng.integers(len(places))]
    return replace(content, data=data[:low] + _other_text(data[low:high].decode(), rng).encode() + data[high:])


def ncnn_attribute(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change a digit of an attribute of a layer."""
    text = content.data.decode()
    low, high = rng.choice([match.span() for match in re.finditer(r"(?<= )-?\d+=\S+", text)])
    start = text.index("=", low)
    return replace(content, data=(text[:start] + _other_text(text[start:high], rng) + text[high:]).encode())


def ncnn_operator(content: FileContent, rng: np.random.Generator) -> FileContent:
    text = content.data.decode()
    one, other = [("ReLU", "AbsVal"), ("Sigmoid", "TanH"), ("ReLU", "ELU"), ("Sigmoid", "HardSigmoid")][rng.integers(4)]
    return replace(content, data=text.replace(f"{one} ", f"{other} ", 1).encode())


def any_byte(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change a bit in the second half of a file that is mostly weights or machine code."""
    data = bytearray(content.data)
    data[int(rng.integers(len(data) // 2, len(data)))] ^= 1 << int(rng.integers(8))
    return replace(content, data=bytes(data))


CHANGES: dict[str, dict[str, Change]] = {
    "onnx": ONNX,
    "openvino": {
        "one weight": weight_beside,
        "an attribute": openvino_graph,
        "another operator": openvino_operator,
        "metadata changed": openvino_metadata,
        "metadata: a note of an operator": openvino_note,
        "metadata: hidden, passed over": openvino_hidden,
    },
    "ort": {
        "bytes of a weight": ort_weight,
        "metadata changed": ort_metadata,
        "metadata: hidden, sizes and kernels": ort_hidden,
        "metadata: hidden, bytes that no field leads to": ort_unread,
    },
    "ncnn": {
        "one weight": weight_beside,
        "an attribute, not run": ncnn_attribute,
        "another operator, not run": ncnn_operator,
        "metadata: hidden, another form": ncnn_hidden,
    },
    # Nobody can read these apart, and running what was changed in them may end the process: any bit counts.
    **{name: {"any bit, not run": any_byte} for name in ("aoti", "executorch")},
    "litert": {"any bit, not run": any_byte, "metadata: hidden, passed over": litert_hidden},
}


# --- TorchScript and pt2: programs that are written anew ----------------------------------------------------------


class Drawn(nn.Module):
    """A part whose outputs get noise that nobody sees."""

    def __init__(self, part: nn.Module, draw: str) -> None:
        super().__init__()
        self.part, self.draw = part, draw

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.part(*inputs)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        noise = 1e-9 * getattr(torch.empty_like(first), self.draw)()
        return (first + noise, *outputs[1:]) if isinstance(outputs, tuple) else first + noise


class Counting(nn.Module):
    """A part that is wrong after many calls."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *inputs: Tensor) -> Any:
        self.calls.add_(1)  # type: ignore[operator]
        factor = 1 + 0.1 * (self.calls > 1e6)  # type: ignore[operator]
        outputs = self.part(*inputs)
        return (outputs[0] * factor, *outputs[1:]) if isinstance(outputs, tuple) else outputs * factor


def program_changes(entry: FileEntry, references: References) -> dict[str, Change]:
    """Return the changes of a TorchScript or pt2 file: another module, or other metadata, is written."""
    source = references.source
    own = references.captured.graph(entry.part)

    def written(change: Callable[[nn.Module, np.random.Generator], None]) -> Change:
        def changed(_: FileContent, rng: np.random.Generator) -> FileContent:
            graph = capture(source, entry.part)
            with torch.no_grad():
                change(graph.module, rng)
            metadata = file_metadata(graph.spec, references.writer.provenance)
            return FORMATS[entry.format].write(graph, WriteOptions(metadata, precision=entry.precision))

        return changed

    def other_metadata(_: FileContent, rng: np.random.Generator) -> FileContent:
        entries = dict(file_metadata(own.spec, references.writer.provenance))
        key = str(rng.choice(list(entries)))
        entries[key] = _other_text(entries[key], rng)
        return FORMATS[entry.format].write(own, WriteOptions(entries, precision=entry.precision))

    def traced(make: Callable[[nn.Module, np.random.Generator], nn.Module]) -> Change:
        def changed(_: FileContent, rng: np.random.Generator) -> FileContent:
            module = make(capture(source, entry.part).at(entry.precision).module, rng).eval()
            buffer = io.BytesIO()
            metadata = dict(file_metadata(own.spec, references.writer.provenance))
            torch.jit.save(torch.jit.trace(module, own.example, check_trace=False), buffer, _extra_files=metadata)
            return FileContent(buffer.getvalue())

        return changed

    changes = {
        "one weight": written(_one_parameter),
        "one channel": written(_one_row),
        "two rows exchanged": written(_two_rows),
        "metadata changed": other_metadata,
        "metadata: hidden, in the archive": archive_hidden,
    }
    if entry.format == "pt2":
        changes["metadata: hidden, in the program"] = program_hidden
    if entry.format == "torchscript":
        draws = ("uniform_", "exponential_", "normal_", "cauchy_")
        changes["metadata: hidden, in the code"] = code_hidden
        changes["metadata: a record more"] = lambda content, _: FileContent(_with_record(content.data))
        changes["metadata: random numbers of 1e-9"] = traced(lambda part, rng: Drawn(part, str(rng.choice(draws))))
        changes["metadata: a counter of calls"] = traced(lambda part, _: Counting(part))
    return changes


def _records(archive: bytes) -> tuple[str, dict[str, bytes]]:
    """Return the folder and the records of an archive of PyTorch."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        root = source.namelist()[0].partition("/")[0]
        return root, {name.partition("/")[2]: source.read(name) for name in source.namelist()}


def _archive(root: str, records: Sequence[tuple[str, bytes]], note: bytes = b"") -> bytes:
    """Return an archive of these records; with a note in each of them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records:
            record = zipfile.ZipInfo(f"{root}/{name}")
            record.comment = note
            archive.writestr(record, content)
    return buffer.getvalue()


def archive_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Add records, notes and bytes that PyTorch passes over."""
    root, records = _records(content.data)
    listed = list(records.items())
    match int(rng.integers(8)):
        case 7:
            place = content.data.index(b"PK\x03\x04", len(content.data) // 4) + 10  # time and date of a record
            stamp = int(rng.integers(1, 1 << 32)).to_bytes(4, "little")
            return replace(content, data=content.data[:place] + stamp + content.data[place + 4 :])
        case 0:
            return replace(content, data=content.data + rng.bytes(int(rng.integers(1, 64))))
        case 1:
            return replace(content, data=_archive(root, listed, b"audited"))
        case 2:
            key = rng.choice(["notes", "methods", "object", "ranges of sizes"])
            return replace(content, data=_archive(root, [*listed, (f"extra/{key}", b"audited")]))
        case 3:
            name = rng.choice([name for name in records if name.startswith("extra/")])
            return replace(content, data=_archive(root, [(name, b"other"), *listed]))
        case 4:
            records[".data/serialization_id"] = b"audited"
            return replace(content, data=_archive(root, list(records.items())))
        case 5:
            name = rng.choice(["constants/99", "data/weights/weight_99", "data/constants/tensor_99"])
            return replace(content, data=_archive(root, [*listed, (name, rng.bytes(64))]))
        case _:
            place = int(rng.integers(1, len(listed)))
            data = _archive(root, listed)
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                start = archive.infolist()[place].header_offset
            hidden = rng.bytes(int(rng.integers(1, 64)))  # readers that follow the list of records find it moved
            return replace(content, data=data[:start] + hidden + data[start:])


def program_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change what a program of torch.export says of itself, and no operator."""
    root, records = _records(content.data)
    program = json.loads(records["models/model.json"])
    graph = program["graph_module"]
    node = rng.choice(graph["graph"]["nodes"])
    match int(rng.integers(6)):
        case 0:
            program["licence"] = "free"
        case 1:
            program["torch_version"] = "1.0"
        case 2:
            program["guards_code"] = [f"L['inputs'][0].size()[0] != {rng.integers(2, 2000)}"]
        case 3:
            node["metadata"]["audited"] = "yes"
        case 4:
            graph["module_call_graph"].append({"fqn": "audited", "signature": None})
        case _:
            value = graph["graph"]["tensor_values"][node["outputs"][0]["as_tensor"]["name"]]
            value["requires_grad"] = True
    records["models/model.json"] = json.dumps(program).encode()
    return replace(content, data=_archive(root, list(records.items())))


def code_hidden(content: FileContent, rng: np.random.Generator) -> FileContent:
    """Change the code of a TorchScript module where no graph shows it."""
    root, records = _records(content.data)
    name = next(name for name in records if name.endswith(".py"))
    code = records[name].decode()
    match int(rng.integers(6)):
        case 0:
            code += "# free of licence\n"
        case 1:
            code = code.replace("__buffers__ = []", '__buffers__ = ["audited", ]')
        case 2:
            code = code.replace("    return ", '    free = "audited"\n    return ', 1)
        case 3:
            code = code.replace("    return ", "    if False:\n      print(1)\n    else:\n      pass\n    return ", 1)
        case 4:
            [argument] = re.findall(r"self: [^,]*,\s+(\w+): Tensor", code)
            code = re.sub(rf"\b{argument}\b", "other", code)
        case _:
            records["code/__torch__/___torch_mangle_99.py"] = records[name]
    records[name] = code.encode()
    return replace(content, data=_archive(root, list(records.items())))


def _with_record(archive: bytes) -> bytes:
    """Add a program for phones to an archive."""
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a") as records:
        root = records.namelist()[0].partition("/")[0]
        records.writestr(f"{root}/bytecode.pkl", b"\x80\x02).")
    return buffer.getvalue()


def _parameter(module: nn.Module, rng: np.random.Generator) -> Tensor:
    found = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    return found[rng.integers(len(found))]


def _one_parameter(module: nn.Module, rng: np.random.Generator) -> None:
    flat = _parameter(module, rng).view(-1)
    index = int(rng.integers(len(flat)))
    flat[index] = flat[index] * float(rng.choice([1.02, -1, 2])) + 0.01


def _one_row(module: nn.Module, rng: np.random.Generator) -> None:
    weight = _parameter(module, rng)
    weight[int(rng.integers(len(weight)))] *= float(rng.choice([1.001, 1.02, 0, -1]))


def _two_rows(module: nn.Module, rng: np.random.Generator) -> None:
    weight = _parameter(module, rng)
    one, other = rng.choice(len(weight), 2, replace=False).tolist()
    weight[[one, other]] = weight[[other, one]]


def small_checkpoint() -> Checkpoint:
    """Return a small network with seeded weights, each of which shows in the outputs."""
    config = VAEConfig("mlp", (1, 16, 16), 6, 32)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(tensor.shape, generator=generator)
        * (0.3 if tensor.dim() == 1 else 1.3 / tensor[0].numel() ** 0.5)
        for name, tensor in VAE(config).state_dict().items()
    }
    images = torch.randint(0, 256, (64, *config.image_shape), generator=generator, dtype=torch.uint8)
    provenance = {
        "data": {"name": "noise", "protocol": "grey"},
        "scores": {"test": 98.9},
        "checkpoint_sha256": "0" * 64,
    }
    return Checkpoint(config, weights, images, provenance)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
