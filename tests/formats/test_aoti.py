"""AOTInductor packages. One is compiled for all tests of this file, because it takes many seconds."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import Invoke
from tests.conftest import Exported
from tests.formats.test_formats import inputs, options_of, traces
from tests.required import skip_or_fail
from vae_export import Artifact, Certificate, export
from vae_export.artifact.file_metadata import file_metadata
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileEntry
from vae_export.capture import capture
from vae_export.errors import MachineError, TargetError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.aoti import check_machine
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _without_precompiled_headers() -> Iterator[None]:
    """Precompiled headers give the same packages, and pay off from the fifth part on."""
    import torch._inductor.config as inductor

    with inductor.patch({"aot_inductor.precompile_headers": False}):
        yield


@pytest.fixture(scope="module")
def compiled(mlp: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Certificate]:
    """The decoder, beside its ONNX file and its pt2 file, which share a capture with it."""
    if (reason := FORMATS["aoti"].unavailable()) is not None:
        skip_or_fail("AOTInductor", reason)
    folder = tmp_path_factory.mktemp("compiled") / "export"
    return export(mlp.references, folder, formats=["pt2", "aoti", "onnx"], parts=["decoder"])


def test_package_is_certified_and_names_its_machine(compiled: tuple[Artifact, Certificate]) -> None:
    artifact, certificate = compiled
    assert {row.target for row in certificate.results} == {"pt2/cpu", "aoti/cpu", "onnx/CPUExecutionProvider"}
    entry = artifact.entry("decoder", "aoti")
    assert entry.machine.startswith("linux ")
    assert entry.name in certificate.files
    assert b'"machine"' in artifact.manifest.text
    assert artifact.entry("decoder", "pt2").machine == ""


def test_package_does_not_depend_on_the_number_of_threads(
    compiled: tuple[Artifact, Certificate], mlp: Exported
) -> None:
    """`export` and `verify` may compile with different numbers, and `verify` compares the bytes."""
    artifact, _ = compiled
    graph, threads = capture(mlp.source, "decoder"), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        content = FORMATS["aoti"].write(graph, WriteOptions(file_metadata(graph.spec, mlp.source.provenance)))
    finally:
        torch.set_num_threads(threads)
    assert content == read_content(artifact, artifact.entry("decoder", "aoti"))


def test_package_runs_any_batch_and_leaves_no_files(
    compiled: tuple[Artifact, Certificate], mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    artifact, _ = compiled
    content, graph = read_content(artifact, artifact.entry("decoder", "aoti")), capture(mlp.source, "decoder")
    run = FORMATS["aoti"].open(content, graph.spec, SessionOptions("cpu", threads=1))
    for batch in (1, 2, 5, 64):
        given = inputs(mlp, "decoder", batch)
        np.testing.assert_allclose(run(given)["image"], evaluate_graph(graph, given)["image"], rtol=1e-4, atol=1e-6)
    del run
    assert list(tmp_path.iterdir()) == []


def test_package_has_no_path_of_this_machine_and_no_source(compiled: tuple[Artifact, Certificate]) -> None:
    artifact, _ = compiled
    data = artifact.read(artifact.entry("decoder", "aoti"))
    assert traces(data) == []
    assert b"#include" not in data


def test_writing_again_gives_the_same_bytes(compiled: tuple[Artifact, Certificate], mlp: Exported) -> None:
    artifact, _ = compiled
    entry, format = artifact.entry("decoder", "aoti"), FORMATS["aoti"]
    content = format.write(capture(mlp.source, "decoder"), options_of(mlp)["decoder"])
    assert FileEntry.of(entry.name, "decoder", "aoti", content, machine=format.required_machine(content)) == entry


def test_package_for_another_machine_is_refused(
    compiled: tuple[Artifact, Certificate], mlp: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = compiled
    content, spec = read_content(artifact, artifact.entry("decoder", "aoti")), mlp.source.contract.spec("decoder")
    machine = artifact.entry("decoder", "aoti").machine
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(
        TargetError, match=f"another machine: decoder; expected {machine}, got linux riscv64; export it"
    ):
        FORMATS["aoti"].open(content, spec, SessionOptions("cpu", threads=1))


def test_missing_instruction_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform
    import sys

    here = f"{sys.platform} {platform.machine()}"
    check_machine(here, "decoder")
    for name, question in (
        ("AVX2", "_is_avx2_supported"),
        ("AVX512_BF16", "_is_avx512_bf16_supported"),
        ("AMX_TILE", "_is_amx_tile_supported"),
        ("AMX_FP16", "_is_amx_fp16_supported"),
    ):
        monkeypatch.setattr(torch.cpu, question, lambda: False)
        with pytest.raises(TargetError, match=rf"expected {here} {name}, got {here} without {name}"):
            check_machine(f"{here} {name}", "decoder")


def test_package_names_instructions_that_inductor_does_not_record(
    mlp: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AMX, Inductor also passes -mavx512bf16; the package must name it. No compiler is called here."""
    from torch._inductor import cpu_vec_isa

    class WithBfloat16:
        def build_arch_flags(self) -> str:
            return "-mavx512f -mamx-tile -mavx512bf16"

    def package(_program: object, *, package_path: io.BytesIO, inductor_configs: dict[str, Any]) -> None:
        stated = {"AOTI_PLATFORM": "linux", "AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX512 AMX_TILE"}
        metadata = json.dumps(inductor_configs["aot_inductor.metadata"] | stated).encode()
        writer = torch._C.PyTorchFileWriter(package_path)
        writer.write_record("data/aotinductor/model/x.wrapper_metadata.json", metadata, len(metadata))
        writer.write_end_of_file()

    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", WithBfloat16)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", package)
    format = FORMATS["aoti"]
    content = format.write(capture(mlp.source, "decoder"), options_of(mlp)["decoder"])
    assert format.required_machine(content) == "linux x86_64 AVX512 AMX_TILE AVX512_BF16"


def test_missing_compiler_is_reported_with_what_to_install(
    mlp: Exported, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="no C\\+\\+ compiler: install g\\+\\+ or clang\\+\\+, or name one in CXX"):
        export(mlp.source, tmp_path / "out", formats=["aoti"], parts=["decoder"])
    refused = invoke("export", "--checkpoint", mlp.checkpoint, "--out", tmp_path / "out", "--format", "aoti")
    assert (refused.code, refused.err.count("\n")) == (6, 1)
    assert not (tmp_path / "out").exists()


def test_package_of_unknown_origin_is_not_loaded(
    compiled: tuple[Artifact, Certificate], mlp: Exported, invoke: Invoke
) -> None:
    artifact, _ = compiled
    path = artifact.folder / "decoder.aoti.pt2"
    refused = invoke("verify", "--checkpoint", mlp.checkpoint, "--file", path, "--part", "decoder", "--quick")
    assert (refused.code, "a file in format aoti is a program" in refused.err) == (2, True)
