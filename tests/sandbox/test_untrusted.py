"""ONNX files of unknown origin: what is wrong with one is one line here, and happens in a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.commands import run_cli, run_python
from tests.conftest import Exported
from tests.parity import mutations
from tests.parity.mutations import after, f32, i64, step
from vae_export.errors import ModelError
from vae_export.sandbox import read_untrusted, untrusted

pytestmark = pytest.mark.slow

BATCH = 257
Change = Callable[[ModelProto], None]


def stranger(mlp: Exported, folder: Path, *changes: Change) -> Path:
    """A decoder without a manifest, changed."""
    model = onnx.load_from_string(mlp.data("decoder"))
    for change in changes:
        change(model)
    path = folder / "stranger.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def read_decoder(mlp: Exported, path: Path, batch: int = BATCH) -> bytes:
    return read_untrusted(path, mlp.source.contract, "decoder", batch)


def test_valid_file_is_returned_unchanged(mlp: Exported, tmp_path: Path) -> None:
    path = stranger(mlp, tmp_path)
    assert read_decoder(mlp, path) == path.read_bytes()


def test_file_with_nan_outputs_passes_the_sandbox(mlp: Exported, tmp_path: Path) -> None:
    weight = mutations.weight("decoder.body.2.weight", mutations.set_to((3, 5), np.nan))
    assert read_decoder(mlp, stranger(mlp, tmp_path, weight))


def second_opset(domain: str, version: int) -> Change:
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, version))


def constant_elsewhere(model: ModelProto) -> None:
    """A tensor of a node's attribute, in a file of the machine."""
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["secret"], value=tensor))


def sparse_elsewhere(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(f32([1]), "secret"))
    sparse.indices.CopyFrom(numpy_helper.from_array(i64(0)))
    sparse.dims.append(4)
    sparse.values.external_data.add(key="location", value="../../secret")


def sparse_constant_elsewhere(model: ModelProto) -> None:
    sparse_elsewhere(model)
    node = helper.make_node("Constant", [], ["secret"], sparse_value=model.graph.sparse_initializer[0])
    del model.graph.sparse_initializer[:]
    model.graph.node.insert(0, node)


def in_a_branch(change: Change) -> Change:
    """The change inside a branch of an If."""

    def apply(model: ModelProto) -> None:
        mutations.training_branch(model)
        inside = ModelProto(graph=mutations.node_of(model, "relu").attribute[0].g)
        change(inside)
        mutations.node_of(model, "relu").attribute[0].g.CopyFrom(inside.graph)

    return apply


def trained_on(model: ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(model.graph)


REFUSED: dict[str, tuple[Change, str]] = {
    "a future operator set": (mutations.opset(99), r"opset not known: .*; expected 7 to \d+, got 99"),
    "an ancient operator set": (mutations.opset(6), "opset not known"),
    "a future IR version": (mutations.ir_version(99), r"IR version not known: .*; expected 1 to \d+, got 99"),
    "another domain": (second_opset("com.microsoft", 1), "operators of an unknown domain: .*, got com.microsoft"),
    "an operator set twice": (second_opset("", 18), "not one operator set: .*; expected ai.onnx once, got 2"),
    "an operator set by both its names": (second_opset("ai.onnx", 20), "not one operator set"),
    "no operator set": (lambda model: model.ClearField("opset_import"), "not one operator set: .*, got 0"),
    "functions": (mutations.hidden_in_a_function, "operators of an unknown domain"),
    "functions of ONNX's own domain": (
        lambda model: model.functions.append(helper.make_function("", "Relu", ["x"], ["x"], [], [])),
        "file has more than a graph: .*, got functions of its own",
    ),
    "training information": (trained_on, "file has more than a graph: .*, got training information"),
    "an unknown operator": (mutations.operator("relu", "Rellu"), "unknown operator: .*got ai.onnx Rellu"),
    "an unknown operator in a branch": (
        in_a_branch(lambda model: model.graph.node[0].MergeFrom(onnx.NodeProto(op_type="Rellu"))),
        "unknown operator: .*got ai.onnx Rellu",
    ),
    "weights elsewhere": (mutations.sidecar, "weights outside the file: .*got decoder.onnx.data"),
    "a constant elsewhere": (constant_elsewhere, "weights outside the file: .*'secret'; got /etc/passwd"),
    "a constant elsewhere in a branch": (in_a_branch(constant_elsewhere), "weights outside the file"),
    "sparse weights elsewhere": (sparse_elsewhere, "weights outside the file: .*got ../../secret"),
    "a sparse constant elsewhere": (sparse_constant_elsewhere, "weights outside the file: .*got ../../secret"),
    "another output": (mutations.renamed("image", "picture"), "outputs do not match the contract"),
    "a value that nothing computes": (mutations.inputs_of("relu", "nowhere"), "ONNX file cannot be opened"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_is_not_a_plain_graph_is_refused(mlp: Exported, name: str, tmp_path: Path) -> None:
    change, text = REFUSED[name]
    path = stranger(mlp, tmp_path, change)
    with pytest.raises(ModelError, match=text) as caught:
        read_decoder(mlp, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"this is no model\n" * 100, bytes(1000), b"\x08\x0a" + b"\x0b" * 5000])
def test_file_that_is_not_onnx_is_refused(mlp: Exported, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stranger.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not an ONNX file|IR version not known"):
        read_decoder(mlp, path)


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "pipe", "device", "too large"])
def test_link_pipe_or_large_file_is_refused_at_once(
    mlp: Exported, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "stranger.onnx", stranger(mlp, tmp_path)
    data = whole.read_bytes()
    whole.unlink()
    if kind == "link":
        (tmp_path / "real").write_bytes(data)
        path.symlink_to(tmp_path / "real")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "too large":
        path.write_bytes(data)
        monkeypatch.setattr(untrusted, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ModelError, match="file too large" if kind == "too large" else "not a plain file"):
        read_decoder(mlp, path)


def bomb(bytes_per_row: int) -> Change:
    """Takes this much memory for each row of the batch, and gives the image as it was."""
    return after(
        "image",
        step("Flatten"),
        step("ReduceSum", i64(1), keepdims=1),
        step("Expand", i64(1, bytes_per_row // 4)),
        step("ReduceMax", i64(1), keepdims=1),
        step("Reshape", i64(-1, 1, 1, 1)),
        step("Mul", f32(0)),
        step("Add", "SOURCE"),
    )


def test_memory_limit_ends_the_child_only(mlp: Exported, tmp_path: Path) -> None:
    """A small batch is harmless: only the largest that parity runs shows what the file asks for."""
    path = stranger(mlp, tmp_path, bomb(16 << 20))
    assert read_decoder(mlp, path, batch=2)
    with pytest.raises(ModelError, match="trial run|memory|alloc") as caught:
        read_decoder(mlp, path)
    assert "\n" not in str(caught.value)


def test_parent_never_parses_the_file(mlp: Exported, tmp_path: Path) -> None:
    """The parent imports no reader of ONNX on the way to a verdict."""
    path = stranger(mlp, tmp_path, mutations.opset(99))
    code = """if True:
        import sys
        from pathlib import Path
        from vae_export.sandbox import read_untrusted
        from vae_export.contract import Contract
        from vae_export.errors import ModelError
        try:
            read_untrusted(Path(sys.argv[1]), Contract((1, 16, 16), (6,)), "decoder", 257)
        except ModelError as error:
            print(error)
        print({"onnx", "onnxruntime", "torch"} & set(sys.modules))
    """
    result = run_python(code, path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    refusal, modules = result.stdout.splitlines()
    assert refusal.startswith("opset not known")
    assert modules == "set()"


def in_place_of_the_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """A package that the child finds first."""
    package = tmp_path / "packages" / "vae_export" / "sandbox"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "untrusted_child.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "packages")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "trial run crashed: .*died of SIGSEGV"),
        ("import os; os.abort()", "trial run crashed: .*died of SIGABRT"),
        ("raise SystemExit('no\\nmemory')", "trial run failed: .*got exit code 1, memory"),
        ("import sys; print('{}'); sys.exit(3)", "trial run failed: .*got exit code 3, no output"),
    ],
)
def test_end_of_the_child_is_a_one_line_error(
    mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    path = stranger(mlp, tmp_path)
    in_place_of_the_trial(monkeypatch, tmp_path, code)
    with pytest.raises(ModelError, match=said) as caught:
        read_decoder(mlp, path)
    assert "\n" not in str(caught.value)


def test_child_that_hangs_is_killed(mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stranger(mlp, tmp_path)
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    in_place_of_the_trial(monkeypatch, tmp_path, code)
    monkeypatch.setattr(untrusted, "SECONDS", 3)
    begun = time.monotonic()
    with pytest.raises(ModelError, match="trial run took too long: .*; expected 3 s at most"):
        read_decoder(mlp, path)
    assert time.monotonic() - begun < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)


def test_module_in_the_working_folder_is_not_imported(
    mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's file may come with a stranger's folder."""
    path = stranger(mlp, tmp_path)
    (tmp_path / "onnx.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert read_decoder(mlp, path)
    assert not (tmp_path / "ran").exists()


def verify_file(mlp: Exported, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    given = ("--checkpoint", mlp.checkpoint, "--file", path, "--part", "decoder", "--quick", *options)
    return run_cli("verify", *given, cwd=path.parent)


def test_command_line_verifies_one_file(mlp: Exported, tmp_path: Path) -> None:
    result = verify_file(mlp, stranger(mlp, tmp_path), "--target", "onnx/CPUExecutionProvider")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "stranger.onnx.certificate.json").exists()


@pytest.mark.parametrize(
    ("name", "options", "code", "said"),
    [
        ("none.onnx", (), 3, "not a plain file"),
        ("none.pt2", ("--trust",), 3, "not a plain file"),
        ("none.pt2", (), 2, "a file in format pt2 is a program"),
        ("none.zip", (), 2, "unknown format"),
    ],
)
def test_command_line_refuses_a_file_in_one_line(
    mlp: Exported, name: str, options: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    result = verify_file(mlp, tmp_path / name, *options)
    assert result.returncode == code
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert not list(tmp_path.iterdir())
