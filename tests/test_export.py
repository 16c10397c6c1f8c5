"""`export` publishes everything, verified, or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import samples
from tests.commands import command, run_cli, tree
from tests.conftest import Exported
from vae_export import Source, export, load_checkpoint, open_artifact, save_checkpoint, verify
from vae_export.contract import Array, PartSpec
from vae_export.errors import MachineError, OutputExistsError, ParityError, TargetError, UsageError
from vae_export.files import sha256
from vae_export.findings import Finding
from vae_export.formats import FORMATS, Runner, Setting, WriteOptions
from vae_export.graphs import Graph
from vae_export.precision import PrecisionName
from vae_export.storage import PARTIAL


@pytest.fixture(scope="module")
def source() -> Source:
    """Small and quick: a decoder of 4 by 4 pixels."""
    return replace(Source.of(samples.checkpoint("mlp", (1, 4, 4))), encoder=None)


class Toy:
    """A format of this test: raw weights, run by the graph's own module, with `wrong` added to every output."""

    name, suffix, extra, summary = "toy", ".toy", "export", "for this test"
    precisions: tuple[PrecisionName, ...] = ("fp32",)
    beside = ()
    packages = ()
    danger = ""
    may_crash = is_slow = False
    wrong = 0.0
    reason: str | None = None
    runs_on: tuple[str, ...] = ("here",)

    def unavailable(self) -> str | None:
        return self.reason

    def check(self, options: WriteOptions) -> None:
        if options.opset == 99:
            raise UsageError("no such thing")

    def write(self, graph: Graph, options: WriteOptions) -> bytes:
        assert set(options.metadata) == {"vae_export.part", "vae_export.contract", "vae_export.provenance"}
        self.module = graph.module
        self.data = b"".join(parameter.numpy().tobytes() for parameter in graph.module.parameters())
        return self.data

    def machine(self, data: bytes) -> str:  # noqa: ARG002 -- anywhere
        return ""

    def providers(self) -> tuple[str, ...]:
        return self.runs_on

    def lint(self, _data: bytes, _name: str, _opset: int, _precision: PrecisionName) -> list[Finding]:
        return []

    def settings(self, _provider: str) -> tuple[Setting, ...]:
        return (Setting(),)

    def open(self, data: bytes, spec: PartSpec, provider: str, setting: Setting) -> Runner:
        from vae_export.formats.torch_runner import torch_runner

        assert data == self.data
        if provider == "nowhere":
            raise TargetError("toy cannot run", where=provider)
        run = torch_runner(self.module, spec, "cpu", setting)

        def off(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {name: array + np.float32(self.wrong) for name, array in run(inputs).items()}

        return Runner(run.bind, off)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy()
    monkeypatch.setitem(FORMATS, "toy", toy)
    return toy


def test_a_format_is_one_entry_in_the_registry(toy: Toy, source: Source, tmp_path: Path) -> None:
    artifact, certificate = export(source, tmp_path / "out", formats=["toy"])
    golden = ["golden", "golden/decoder.image.f32", "golden/latent.f32"]
    assert sorted(tree(tmp_path / "out")) == sorted(
        ["certificate.html", "certificate.json", "decoder.toy", "manifest.json", *golden]
    )
    assert artifact.entry("decoder", toy.name).size == (tmp_path / "out" / "decoder.toy").stat().st_size
    assert {row.target for row in certificate.rows} == {"toy/here"}


def test_a_file_that_computes_something_else_is_not_published(toy: Toy, source: Source, tmp_path: Path) -> None:
    toy.wrong = 1e-3
    with pytest.raises(ParityError, match=r"30 of 30 comparisons failed: decoder on toy/here, 'image', probe") as e:
        export(source, tmp_path / "out", formats=["toy"])
    assert e.value.exit_code == 5
    assert tree(tmp_path) == {}


def test_a_file_that_computes_something_else_does_not_replace_a_good_one(
    toy: Toy, source: Source, tmp_path: Path
) -> None:
    export(source, tmp_path / "out", formats=["toy"])
    before = tree(tmp_path)
    toy.wrong = 1e-3
    with pytest.raises(ParityError):
        export(source, tmp_path / "out", formats=["toy"], force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("runs_on", [(), ("nowhere",)])
def test_a_file_that_nothing_here_can_run_is_not_published(
    toy: Toy, source: Source, tmp_path: Path, runs_on: tuple[str, ...]
) -> None:
    toy.runs_on = runs_on
    with pytest.raises(TargetError, match=r"file cannot be verified here: decoder\.toy"):
        export(source, tmp_path / "out", formats=["torchscript", "toy"])
    assert tree(tmp_path) == {}


def test_a_target_that_is_listed_and_not_usable_is_written_down(toy: Toy, source: Source, tmp_path: Path) -> None:
    toy.runs_on = ("here", "nowhere")
    artifact, certificate = export(source, tmp_path / "out", formats=["toy"])
    assert certificate.unusable == {"toy/nowhere": "toy cannot run: nowhere"}
    with pytest.raises(TargetError, match="toy cannot run: nowhere"):
        verify(artifact, source, targets=["toy/nowhere"])


def test_a_format_that_cannot_be_written_here_is_refused_with_the_reason(
    toy: Toy, source: Source, tmp_path: Path
) -> None:
    toy.reason = "PyTorch is too old"
    with pytest.raises(MachineError, match="format toy cannot be written here; got PyTorch is too old"):
        export(source, tmp_path / "out", formats=["toy"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"formats": ["zip"]}, r"unknown format; expected onnx \| .*, got zip"),
        ({"formats": []}, "formats must be given, each once"),
        ({"formats": ["pt2", "pt2"]}, "formats must be given, each once"),
        ({"parts": ["encoder"]}, "part cannot be made: encoder; expected decoder"),
        ({"parts": ["head"]}, "part cannot be made: head"),
        ({"parts": []}, "no part was asked for"),
        ({"opset": 5}, "opset cannot be written"),
        ({"out": "."}, "not a name for an output"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    source: Source, tmp_path: Path, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(source, **({"out": tmp_path / "out"} | arguments))  # type: ignore[arg-type]
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder of something else"])
def test_what_is_no_export_is_never_replaced(source: Source, tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not an export folder" if force else "output exists"):
        export(source, out, force=force)
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("toy")
def test_options_that_a_format_cannot_take_are_refused_before_any_is_written(source: Source, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="no such thing"):
        export(source, tmp_path / "out", formats=["torchscript", "toy"], opset=99, report=said.append)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(source: Source, mlp: Exported) -> None:
    said: list[str] = []
    with pytest.raises(OutputExistsError):
        export(source, mlp.folder, report=said.append)
    assert said == []


def test_force_replaces_all_of_an_older_export(source: Source, tmp_path: Path, mlp: Exported) -> None:
    old = mlp.copied(tmp_path / "out")
    assert len(old.manifest.files) == 3 * len(samples.QUICK)
    export(source, tmp_path / "out", formats=["torchscript"], force=True)
    assert sorted(tree(tmp_path / "out")) == [
        "certificate.html",
        "certificate.json",
        "decoder.torchscript.pt",
        "golden",
        "golden/decoder.image.f32",
        "golden/latent.f32",
        "manifest.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_part_alone_has_the_same_bytes(mlp: Exported, tmp_path: Path) -> None:
    artifact, _ = export(mlp.source, tmp_path / "out", formats=["pt2", "onnx"], parts=["decoder"])
    for format in ("onnx", "pt2"):
        assert artifact.entry("decoder", format) == mlp.artifact.entry("decoder", format)


def test_the_manifest_names_the_bytes(mlp: Exported) -> None:
    manifest = json.loads((mlp.folder / "manifest.json").read_text())
    assert manifest["format"] == "vae-export/1"
    golden = {array["file"] for part in manifest["golden"] for array in (*part["inputs"], *part["outputs"])}
    stored = [stored for entry in manifest["files"] for stored in (entry, *entry.get("beside", ()))]
    assert {item["name"] for item in stored} | golden == set(tree(mlp.folder)) - {
        "certificate.html",
        "certificate.json",
        "golden",
        "manifest.json",
    }
    for item in stored:
        data = (mlp.folder / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), sha256(data))
    for entry in manifest["files"]:
        assert entry["inputs"] == mlp.source.contract.spec(entry["part"]).to_json()["inputs"]
    assert manifest["provenance"]["checkpoint_sha256"] == sha256(mlp.checkpoint)


def test_the_certificate_names_the_bytes_and_passed(mlp: Exported) -> None:
    certificate = json.loads((mlp.folder / "certificate.json").read_text())
    assert certificate["verdict"] == "pass"
    assert certificate["files"] == {stored.name: stored.sha256 for stored in mlp.artifact.manifest.stored}
    assert {row["target"].split("/")[0] for row in certificate["rows"]} == set(samples.QUICK)
    assert {row["probe"] for row in certificate["rows"]} >= {"prior", "posterior", "data", "zeros", "six-sigma"}
    assert all(row["passed"] for row in certificate["rows"])


def test_nothing_that_was_written_names_this_machine(mlp: Exported) -> None:
    from tests.test_formats import traces

    for name in ("manifest.json", "certificate.json"):
        assert traces((mlp.folder / name).read_bytes()) == []


def test_a_certificate_without_rows_is_refused() -> None:
    from vae_export import Certificate

    empty = Certificate({}, 0, ())
    assert not empty.passed
    with pytest.raises(ParityError, match="nothing was verified"):
        empty.require()


def test_a_full_disk_leaves_nothing(small_disk: Path, mlp: Exported) -> None:
    (small_disk / "filler").write_bytes(bytes(900_000))
    result = run_cli(
        "export", "--checkpoint", mlp.checkpoint, "--out", small_disk / "out", "--format", "torchscript", cwd=small_disk
    )
    assert result.returncode == 6
    assert "disk full" in result.stderr
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def started(run: Path, out: Path, until: str) -> subprocess.Popen[str]:
    """An export in a process of its own, which has just said a line that begins with `until`."""
    child = subprocess.Popen(
        # Long enough to be stopped in: the one format is slow to write, the other quick to come to its verification.
        command("export", "--run", run, "--out", out, "--format", "onnx" if until == "writing" else "torchscript"),
        cwd=run,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith(until):
            return child
    pytest.fail("ended before it was stopped")


@pytest.mark.parametrize(
    ("signal", "code", "said"),
    [
        (signal.SIGINT, 130, "vae-export: interrupted"),
        (signal.SIGTERM, 143, "vae-export: terminated"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
@pytest.mark.parametrize("until", ["writing", "verifying"])
def test_a_stopped_export_publishes_nothing(
    run_folder: Path, tmp_path: Path, signal: int, code: int, said: str, until: str
) -> None:
    out = tmp_path / "exported" / "here"
    child = started(run_folder, out, until)
    time.sleep(0.05)
    child.send_signal(signal)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == code
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1:] == [said] if said else True
    assert not out.exists()
    left = [path.name for path in out.parent.iterdir()]
    if said:
        assert left == []
    else:  # nothing can tidy up after SIGKILL but the next export
        assert left
        assert all(name.startswith(PARTIAL) for name in left)
        export(replace(Source.of(samples.checkpoint("mlp", (1, 4, 4))), encoder=None), out, formats=["torchscript"])
        assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_checkpoint_from_another_machine_needs_no_run_folder(tmp_path: Path) -> None:
    path = tmp_path / "some where" / os.fsdecode(b"caf\xe9.safetensors")
    save_checkpoint(samples.checkpoint("mlp", (1, 4, 4)), path)
    result = run_cli(
        "export", "--checkpoint", path, "--format", "torchscript", "--part", "decoder", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["verdict"] == "pass"
    artifact = open_artifact(document["folder"])
    assert artifact.folder == path.parent / "export"
    assert document["manifest"] == artifact.manifest.to_json()
    assert verify(artifact, load_checkpoint(path)).passed
