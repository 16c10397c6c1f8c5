"""Fixtures that several test files share. Exports take seconds: each is made once in a session, by the first to ask."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vae_export.precision import PrecisionName

#: Two workers on two cores: one thread each, in their child processes too. PyTorch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from tests import sample_models
from tests.required import skip_or_fail
from vae_export import Artifact, Checkpoint, Source, open_artifact
from vae_export.contract import Part
from vae_export.errors import StorageError
from vae_export.io.atomic import locked
from vae_export.io.staging import staged_folder
from vae_export.models import FAMILIES
from vae_export.precision import FULL

if TYPE_CHECKING:
    from vae_export.capture import Graph
    from vae_export.parity import References

# The same examples each time, and no clock: these machines are shared.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("project")


OTHER_FAMILIES = {*FAMILIES, "foreign"} - {"mlp"}
#: Images of the families with convolutions, in which every kind of layer is met and no feature map has one pixel
#: alone. Verifying 28 by 28 pixels takes up to five times as long and runs the same operators.
SMALL_IMAGES: dict[str, tuple[int, int, int]] = dict.fromkeys(("conv", "residual", "resnet", "pyramid"), (1, 12, 12))
#: Fixtures that run commands in child processes, or take several seconds to make files that few tests need.
SLOW_FIXTURES = {
    *("after_commands", "cli", "trained", "stopped_once", "timings", "extended", "foreign", "server", "tunable"),
}
#: A fixture that takes a minute: the tests that use it begin first, so that no worker waits for it at the end.
LONGEST_FIXTURE = "after_commands"
#: One of each kind: plain, a program, a file with another beside it.
PACKED = ("onnx", "torchscript", "openvino")


@dataclass(frozen=True)
class Exported:
    """Attributes:
    source: what was exported.
    artifact: every part in every format that can be written here. Not to be changed: copy it (`copied`).
    checkpoint: the file on disk; None for a source that is no checkpoint of ours.
    """

    source: Source
    artifact: Artifact
    checkpoint: Path | None = None

    @property
    def folder(self) -> Path:
        return self.artifact.folder

    def data(self, part: Part, format: str = "onnx") -> bytes:
        return self.artifact.read(self.artifact.entry(part, format))

    @cached_property
    def references(self) -> References:
        """The outputs that PyTorch computes for the source, made once for every verification."""
        from vae_export.parity import References

        return References(self.source)

    def graph(self, part: Part) -> Graph:
        """The captured graph of a part. Not to be changed: capture the source again."""
        return self.references.captured.graph(part)

    def copied(self, target: Path) -> Artifact:
        shutil.copytree(self.folder, target)
        return open_artifact(target)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow that use a slow fixture, or that export another family than the default one, and order them.

    Capturing the graphs of a family takes seconds. The slow tests begin, and the quick ones fill what is left of the
    workers' time.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        exports = {"exported", "subject"} & fixtures and any(value in OTHER_FAMILIES for value in map(str, parameters))
        if exports or SLOW_FIXTURES & fixtures:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    items.sort(key=lambda item: LONGEST_FIXTURE not in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what collecting the tests has imported, and run less often.

    Looking through all modules of PyTorch again and again takes a tenth of the suite.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two workers on two cores: one thread each."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, which `make` filled for the first worker that asked. Not to be written to: copy it."""
    with locked_waiting(folder.with_name(f"lock-{folder.name}")):
        if not folder.exists():
            with staged_folder(folder, force=False) as staging:
                make(staging)
    return folder


@pytest.fixture(scope="session")
def exported(shared: Path) -> Callable[[str], Exported]:
    """`exported(name)`: the export of a family, or of "foreign", in every format that takes no compiler."""
    from vae_export import export, load_checkpoint, save_checkpoint
    from vae_export.parity import References
    from vae_export.parity.plan import DEFAULT_MINUTES

    opened: dict[str, Exported] = {}
    made: dict[str, References] = {}

    def get(name: str) -> Exported:
        if name in opened:
            return opened[name]

        def make(staging: Path) -> None:
            if name in FAMILIES:
                shape = SMALL_IMAGES.get(name, (1, 28, 28))
                save_checkpoint(sample_models.checkpoint(name, shape), staging / "checkpoint.safetensors")
                source: Source | Checkpoint = load_checkpoint(staging / "checkpoint.safetensors")
            else:
                source = sample_models.foreign_source()
            # Tests of verification verify these files again, with all the time that they need.
            minutes = DEFAULT_MINUTES if name == "mlp" else 0.02
            made[name] = References(source)
            export(made[name], staging / "export", formats=sample_models.QUICK, minutes=minutes)

        folder = made_once(shared / f"export-{name}", make)
        path = folder / "checkpoint.safetensors"
        source = Source.of(load_checkpoint(path)) if name in FAMILIES else sample_models.foreign_source()
        opened[name] = Exported(source, open_artifact(folder / "export"), path if name in FAMILIES else None)
        if name in made:  # this worker made the export, and has its graphs
            vars(opened[name])["references"] = made[name]
        return opened[name]

    return get


@pytest.fixture(scope="session")
def extended(shared: Path) -> Callable[[str], Path]:
    """`extended(name)`: a folder with export/ and bundle.zip of one of `CONTRACTS` of `tests.extended_models`."""
    from tests.extended_exports import write_extended

    return lambda name: made_once(shared / f"extended-{name}", lambda folder: write_extended(name, folder))


@pytest.fixture(scope="session")
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


@pytest.fixture(scope="session")
def foreign(exported: Callable[[str], Exported]) -> Exported:
    return exported("foreign")


@pytest.fixture(scope="session")
def mixed_precisions(shared: Path) -> Artifact:
    """The small `mlp` as ONNX in int8, followed by ONNX and TorchScript in float32, so that float32 is not first."""
    from vae_export import export

    def make(staging: Path) -> None:
        precisions: list[PrecisionName] = ["fp32", "int8"]
        formats = ["onnx", "torchscript"]
        export(sample_models.checkpoint(), staging / "export", formats=formats, precisions=precisions)

    artifact = open_artifact(made_once(shared / "export-mixed-precisions", make) / "export")
    files = sorted(artifact.manifest.files, key=lambda entry: entry.precision == FULL)
    return replace(artifact, manifest=replace(artifact.manifest, files=tuple(files)))


@pytest.fixture(scope="session")
def eight_bits(mixed_precisions: Artifact) -> Artifact:
    """Only the int8 files of `mixed_precisions`."""
    files = tuple(entry for entry in mixed_precisions.manifest.files if entry.precision == "int8")
    return replace(mixed_precisions, manifest=replace(mixed_precisions.manifest, files=files))


@pytest.fixture(scope="session")
def packed(mlp: Exported) -> bytes:
    """A bundle of the small `mlp` export: every part in the formats `PACKED`."""
    from vae_export.artifact.certificate import read_certificate
    from vae_export.bundles.writer import pack

    return pack(mlp.artifact, read_certificate(mlp.artifact.certificate), name="small", formats=PACKED)


@pytest.fixture(scope="session")
def cpp_reader(shared: Path) -> Path:
    """The program `cpp/tests/reader.cpp`, built with the address and undefined-behaviour sanitizers."""
    from tests.cpp.programs import compile_reader

    return made_once(shared / "cpp-reader", compile_reader) / "reader"


@pytest.fixture
def run_folder(mlp: Exported, tmp_path: Path) -> Path:
    """A run folder with a checkpoint and an export, to be changed at will."""
    folder = tmp_path / "run"
    shutil.copytree(mlp.folder.parent, folder)
    return folder


# A shell that runs the suite in the background has SIGINT ignored, and our children would inherit that: a test that
# presses Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def invoke(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Outcome]]:
    """`invoke("export", "--run", …)`: the command line in this process, from an empty working folder."""
    from train.cli import evaluate, runs, train
    from vae_export.cli.app import run

    before = signal.getsignal(signal.SIGTERM)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("VAE_EXPORT_DEBUG", raising=False)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["cli.py", *map(str, arguments)])
        capsys.readouterr()
        code = run(train, evaluate, runs)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    yield call
    signal.signal(signal.SIGTERM, before)
    assert not list(here.iterdir()), "a command wrote to the working folder"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    yield from mounted(tmp_path / "small-disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that cannot be written: as root, a folder without write permission can."""
    yield from mounted(tmp_path / "read-only", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs")


def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0:
        skip_or_fail("root, to mount a small file system", "run: sudo make test")
    result = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        skip_or_fail("a file system of its own", f"mount says: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def locked_waiting(folder: Path) -> Iterator[None]:
    """The lock of `vae_export.io.atomic`, waited for: several workers want the same export."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except StorageError:
                time.sleep(0.1)
        yield
