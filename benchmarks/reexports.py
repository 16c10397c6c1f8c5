"""Export networks with other versions of torch, onnx and onnxruntime, and verify the exports with the versions here.

    python benchmarks/reexports.py OTHER/bin/python ANOTHER/bin/python
    python benchmarks/reexports.py --sets FOLDER --networks 34                  the sets of versions below
    python benchmarks/reexports.py OTHER/bin/python --networks 40 --format onnx --precision int8
    python benchmarks/reexports.py OTHER/bin/python --networks 5 --first 40     networks 40 to 44

With `--sets`, pip installs the sets of versions of `SETS` into the folder, unless they are there, and this interpreter
takes each in place of its own. Each interpreter must be able to import the packages of the extra `export`; it runs the
code of this checkout. Networks are small, have random weights, are of each family in turn, and are the same for every
interpreter. Files are written as `export` writes them, with golden vectors, and verified here alone. Where the files of
two interpreters are equal, they are verified once. The table says how they compare with those that are written here. An
export that does not pass is a false alarm, for which it exits 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vae_export import Artifact, Certificate, Checkpoint, VaeExportError, open_artifact, verify
from vae_export.artifact.manifest import MANIFEST, FileEntry, Manifest
from vae_export.contract import PARTS
from vae_export.exporter import Variant
from vae_export.formats import FORMATS, OPSET, versions
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family
from vae_export.parity import References
from vae_export.parity.golden import golden_vectors
from vae_export.precision import FULL, PRECISIONS, PrecisionName

ROOT = Path(__file__).parent.parent
#: Minutes of the verification of a part, so that it takes fewer rows: the structure decides here.
MINUTES = 0.02
#: Versions of the packages that write files, from the oldest with which this torch exports. Those of torch take
#: gigabytes, so that they need interpreters of their own.
SETS: Mapping[str, Sequence[str]] = {
    "onnx-1.17": ("onnx==1.17.0", "onnxruntime==1.20.1"),
    "onnx-1.18": ("onnx==1.18.0", "onnxruntime==1.22.1"),
    "onnx-1.19": ("onnx==1.19.1", "onnxruntime==1.23.2"),
    "onnx-1.20": ("onnx==1.20.1", "onnxruntime==1.24.4", "onnxscript==0.6.2", "onnx-ir==0.2.0"),
    "onnx-1.21": ("onnx==1.21.0", "onnxruntime==1.26.0", "onnxscript==0.7.0", "onnx-ir==0.2.1"),
    "onnx-1.22": ("onnx==1.22.0", "onnxruntime==1.31.1", "onnxscript==0.7.1", "onnx-ir==1.0.0"),
}
FAMILIES: tuple[Family, ...] = ("mlp", "conv", "blog", "residual", "resnet", "pyramid")


@dataclass
class Tally:
    """What was found in the exports of one interpreter.

    Attributes:
        exports: the number of exports.
        states: files by how they compare with those that are written here.
        differences: differences of files, with the number of exports in which each was seen.
        failures: the exports that did not pass.
    """

    exports: int = 0
    states: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, number: int, found: Certificate | str) -> None:
        """Count an export of a network, with its certificate, or the error that its verification ended in."""
        self.exports += 1
        if isinstance(found, str):
            self.failures.append(f"network {number}: {found}")
            return
        self.states.update(one.state for one in found.reproductions)
        self.differences.update({line for one in found.reproductions for line in one.differences})
        if not found.passed:
            reasons = [f"{one.where}: {one.detail}" for one in found.errors]
            reasons += [row.reason for row in found.failures]
            self.failures.append(f"network {number}: {'; '.join(reasons)[:400]}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify exports that other versions of the packages wrote.")
    parser.add_argument("interpreters", nargs="*", help="Python interpreters with other versions")
    parser.add_argument("--sets", type=Path, metavar="FOLDER", help="install the sets of versions there, and use them")
    parser.add_argument("--networks", type=int, default=50, help="exported by each interpreter (default: 50)")
    parser.add_argument("--first", type=int, default=0, help="number of the first network (default: 0)")
    parser.add_argument("--format", action="append", choices=FORMATS, help="repeat for several (default: onnx)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="repeat for several (default: fp32)")
    parser.add_argument("--write", type=Path, help="export to a folder and verify nothing, as each interpreter does")
    options = parser.parse_args()
    formats, precisions = options.format or ["onnx"], options.precision or [FULL]
    torch.set_num_threads(1)
    if options.write is not None:
        for number in range(options.first, options.first + options.networks):
            _write(References(_network(number)), options.write / str(number), formats, precisions)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        writers = [Writer(interpreter) for interpreter in options.interpreters]
        writers += [] if options.sets is None else list(_installed(options.sets))
        numbers = range(options.first, options.first + options.networks)
        tallies = _measure(writers, Path(folder), numbers, formats, precisions)
    _print(tallies)
    return 1 if any(tally.failures for tally in tallies.values()) else 0


@dataclass(frozen=True)
class Writer:
    """An interpreter that exports, and the folder of packages that it takes in place of its own."""

    interpreter: str
    packages: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables of the process: the packages, and then the code of this checkout."""
        before = [] if self.packages is None else [str(self.packages)]
        paths = [*before, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _installed(folder: Path) -> Iterator[Writer]:
    """Install each set of versions, unless it is there, and yield its writer."""
    for name, wanted in SETS.items():
        if not (folder / name).exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            subprocess.run([*command, "--target", str(folder / name), *wanted], check=True)
        yield Writer(sys.executable, folder / name)


def _network(number: int) -> Checkpoint:
    """Return a network with random weights and images."""
    family = FAMILIES[number % len(FAMILIES)]
    generator = torch.Generator().manual_seed(number)
    torch.manual_seed(number)
    config = VAEConfig(family, (1, 8, 8), 3 + number % 4, 16)
    images = torch.randint(0, 256, (64, *config.image_shape), generator=generator, dtype=torch.uint8)
    return Checkpoint(config, VAE(config).state_dict(), images, {"name": f"{family}-{number}"})


def _write(references: References, folder: Path, formats: list[str], precisions: list[PrecisionName]) -> None:
    """Write the parts of a network, with their manifest."""
    folder.mkdir(parents=True)
    entries = []
    for format, precision, part in itertools.product(formats, precisions, PARTS):
        if precision not in FORMATS[format].precisions:
            continue
        try:
            content = references.writer.write(part, format, precision)
        except VaeExportError as error:  # earlier versions refuse some precisions
            print(f"not written: {format}, {precision}: {error.line()}", file=sys.stderr, flush=True)
            continue
        name = Variant(format, precision).file_name(part)
        needs = FORMATS[format].required_machine(content), FORMATS[format].without_vnni(precision)
        entries.append(FileEntry.of(name, part, format, content, precision, *needs))
        for stored, data in content.by_name(name).items():
            (folder / stored).write_bytes(data)
    source = references.source
    written = list(dict.fromkeys(entry.precision for entry in entries))
    golden, arrays = golden_vectors(references, PARTS, written)
    for name, data in arrays.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    manifest = Manifest(source.contract, tuple(entries), OPSET, versions(formats), source.provenance, golden)
    (folder / MANIFEST).write_bytes(manifest.text)


def _measure(
    writers: list[Writer], folder: Path, numbers: range, formats: list[str], precisions: list[PrecisionName]
) -> dict[str, Tally]:
    """Let each interpreter write its exports, and verify them; return the tallies by the versions that wrote them."""
    arguments = [*(f"--format={name}" for name in formats), *(f"--precision={name}" for name in precisions)]
    for index, one in enumerate(writers):
        command = [one.interpreter, __file__, "--write", str(folder / str(index))]
        networks = ["--first", str(numbers.start), "--networks", str(len(numbers))]
        subprocess.run([*command, *networks, *arguments], env=one.environment(), check=True)
        print(f"{one.packages or one.interpreter}: {len(numbers)} exports", file=sys.stderr, flush=True)
    tallies: dict[str, Tally] = defaultdict(Tally)
    for number in numbers:
        references = References(_network(number))
        known: dict[str, Certificate | str] = {}
        for index in range(len(writers)):
            artifact = open_artifact(folder / str(index) / str(number))
            tally = tallies[_listed(artifact.manifest.versions)]
            key = " ".join(entry.sha256 for entry in artifact.manifest.files)
            if key not in known:
                known[key] = _verified(artifact, references)
            tally.add(number, known[key])
        done = sum(tally.exports for tally in tallies.values())
        wrong = sum(len(tally.failures) for tally in tallies.values())
        print(f"{number + 1 - numbers.start} networks, {done} exports, {wrong} fail", file=sys.stderr, flush=True)
    return tallies


def _verified(artifact: Artifact, references: References) -> Certificate | str:
    """Return the certificate of an export, or the line of the error that ended its verification."""
    try:
        return verify(artifact, references, thorough=False, minutes=MINUTES, trust=True)
    except VaeExportError as error:
        return error.line()


def _listed(written_by: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(written_by.items()))


def _print(tallies: dict[str, Tally]) -> None:
    print(f"verified with {_listed(versions(['onnx']))}\n")
    print("| written by | exports | files | reproduced | same structure | different | not compared | fail |")
    print("|---|---|---|---|---|---|---|---|")
    for written_by, tally in tallies.items():
        states = [tally.states[state] for state in ("reproduced", "same structure", "different", "not compared")]
        counts = [tally.exports, sum(states), *states, len(tally.failures)]
        print(f"| {written_by} | {' | '.join(map(str, counts))} |")
    for written_by, tally in tallies.items():
        for line, times in tally.differences.most_common(20):
            print(f"{written_by}: {times:4} x {line}")
        for line in tally.failures[:20]:
            print(f"{written_by}: fails: {line}")


if __name__ == "__main__":
    sys.exit(main())
