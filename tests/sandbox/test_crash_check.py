"""An engine that takes its process down is reported in one line, because a child ran its file first."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import sample_models
from tests.conftest import Exported
from tests.required import skip_or_fail
from vae_export import verify
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.errors import TargetError
from vae_export.sandbox.crash_check import Trial, crash_check

#: What a compiled package does when it is loaded, by the signal or code that its process then ends with.
ENDS = {
    "abort();": "a process that died of SIGABRT",
    "*(volatile int*)nullptr = 1;": "a process that died of SIGSEGV",
    "__builtin_trap();": "a process that died of SIG(ILL|TRAP)",
    "_exit(7);": "a process that ended with exit code 7",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """A package in the form of AOTInductor's, whose library runs one statement as soon as it is loaded."""
    from vae_export.formats.aoti import Aoti

    if (reason := Aoti().unavailable()) is not None:
        skip_or_fail("AOTInductor", reason)

    def make(statement: str) -> bytes:
        folder = tmp_path_factory.mktemp("library")
        source = (
            f"#include <cstdlib>\n#include <unistd.h>\n__attribute__((constructor)) void start() {{ {statement} }}\n"
        )
        (folder / "start.cpp").write_text(source)
        library = folder / "model.wrapper.so"
        command = ["g++", "-shared", "-fPIC", "-o", str(library), str(folder / "start.cpp")]
        subprocess.run(command, check=True, capture_output=True)
        return sample_models.aoti_package(library.read_bytes())

    return make


def trial(mlp: Exported, format: str, provider: str) -> Trial:
    entry = mlp.artifact.entry("decoder", format)
    return Trial(entry.name, "decoder", format, provider, read_content(mlp.artifact, entry))


@pytest.mark.slow
@pytest.mark.parametrize("statement", ENDS)
def test_crash_is_reported_with_its_signal_or_exit_code(
    mlp: Exported, package: Callable[[str], bytes], statement: str
) -> None:
    bad = Trial("decoder.aoti.pt2", "decoder", "aoti", "cpu", FileContent(package(statement)))
    ends = crash_check([bad], mlp.source.contract)
    assert set(ends) == {("decoder.aoti.pt2", "cpu")}
    assert re.fullmatch(ENDS[statement], ends["decoder.aoti.pt2", "cpu"])


@pytest.mark.slow
def test_files_before_and_after_a_crash_are_run(mlp: Exported, package: Callable[[str], bytes]) -> None:
    good = trial(mlp, "openvino", "CPU")
    bad = Trial("decoder.aoti.pt2", "decoder", "aoti", "cpu", FileContent(package("abort();")))
    ends = crash_check([good, bad, replace(good, name="behind"), replace(bad, name="again")], mlp.source.contract)
    assert set(ends) == {("decoder.aoti.pt2", "cpu"), ("again", "cpu")}
    assert set(ends.values()) == {"a process that died of SIGABRT"}


@pytest.mark.slow
def test_exception_is_not_a_crash(mlp: Exported) -> None:
    """The check reports no error: opening the file later raises it."""
    bad = replace(trial(mlp, "openvino", "CPU"), content=FileContent(b"no model"))
    assert crash_check([bad, trial(mlp, "ort", "CPUExecutionProvider")], mlp.source.contract) == {}


def test_no_trials_start_no_child(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a child"))
    assert crash_check([], mlp.source.contract) == {}


@pytest.mark.slow
def test_child_that_hangs_is_reported_after_the_timeout(
    mlp: Exported, package: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae_export.sandbox.crash_check.SECONDS", 8)
    bad = Trial("decoder.aoti.pt2", "decoder", "aoti", "cpu", FileContent(package("pause();")))
    assert crash_check([bad], mlp.source.contract) == {("decoder.aoti.pt2", "cpu"): "no answer within 8 s"}


@pytest.mark.slow
def test_verify_survives_a_crash_and_reports_it(mlp: Exported, package: Callable[[str], bytes], tmp_path: Path) -> None:
    from vae_export import open_artifact
    from vae_export.artifact.manifest import MANIFEST

    data = package("abort();")
    entry = FileEntry.of("decoder.aoti.pt2", "decoder", "aoti", FileContent(data))
    manifest = replace(mlp.artifact.manifest, files=(entry, *mlp.artifact.manifest.files), golden=())
    shutil.copytree(mlp.folder, tmp_path / "export")
    (tmp_path / "export" / entry.name).write_bytes(data)
    (tmp_path / "export" / MANIFEST).write_bytes(manifest.text)
    artifact = open_artifact(tmp_path / "export")
    said = r"engine crashed: decoder.aoti.pt2 on aoti/cpu; expected outputs, got a process that died of SIGABRT"
    for targets in (None, ["aoti/cpu"]):
        with pytest.raises(TargetError, match=said) as caught:
            verify(artifact, mlp.source, targets=targets, thorough=False, trust=True)
        assert caught.value.exit_code == 6
