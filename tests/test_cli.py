"""The command line as users and programs meet it: exit codes, two streams, one line for an error."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import command, run_cli, run_python, tree
from tests.conftest import Exported, Outcome
from vae_export import VaeExportError, __version__, errors
from vae_export.cli import app, console

Invoke = Callable[..., Outcome]
COMMANDS = ("train", "evaluate", "export", "verify", "doctor")
ONE_LINE = re.compile(r"vae-export: error: .+\n")


def installed(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command that pip installs, by its entry point."""
    return run_python(
        f"import sys; sys.argv = {['vae-export', *arguments]}; import vae_export.cli as c; c.start()", cwd=cwd
    )


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
    def test_is_shown_on_stdout(self, invoke: Invoke, arguments: list[str]) -> None:
        outcome = invoke(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("Usage: cli.py")

    def test_names_every_command(self, invoke: Invoke) -> None:
        assert set(COMMANDS) <= set(invoke("--help").out.split())

    @pytest.mark.parametrize("name", ["", *COMMANDS])
    def test_imports_nothing_heavy(self, name: str, tmp_path: Path) -> None:
        code = f"""if True:
            import sys
            sys.argv = {["cli.py", *name.split(), "--help"]}
            from train.commands import evaluate, train
            from vae_export.cli import run
            code = run(train, evaluate)
            print("modules:", *sys.modules)
            sys.exit(code)
        """
        result = run_python(code, cwd=tmp_path)
        modules = result.stdout.rpartition("modules:")[2].split()
        assert result.returncode == 0, result.stderr
        assert "typer" in modules
        assert {"torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "matplotlib", "sklearn"} & set(
            modules
        ) == set()

    def test_bare_command_shows_it_on_stderr_and_is_a_usage_error(self, invoke: Invoke) -> None:
        outcome = invoke()
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("Usage: cli.py")

    def test_version_is_one_line(self, invoke: Invoke) -> None:
        assert invoke("--version") == Outcome(0, f"vae-export {__version__}\n", "")

    @pytest.mark.parametrize("name", ["train", "evaluate"])
    @pytest.mark.parametrize("options", [[], ["--epochs", "3", "--force"], ["--run=x", "-v"]])
    def test_installed_command_says_where_training_lives(self, name: str, options: list[str], tmp_path: Path) -> None:
        result = installed(name, *options, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == ""
        assert ONE_LINE.fullmatch(result.stderr)
        assert f"python cli.py {name}" in result.stderr

    def test_installed_command_has_all_the_others(self, tmp_path: Path) -> None:
        result = installed("doctor", "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["versions"]["vae-export"] == __version__


#: Every line of `design`: what is typed, with the exit code and what the line must say. {run}: a whole run folder;
#: {empty}: an empty folder; {file}: a text file; {none}: nothing there.
BAD_INPUT = [
    ("export --nope", 2, "No such option: --nope"),
    ("exprot", 2, "No such command 'exprot'"),
    ("--nope", 2, "No such option"),
    ("export", 2, "no run found: artifacts; train one first"),
    ("export --run {none}", 2, "no such run: {none}; expected a folder made by cli.py train"),
    ("export --run {file}", 2, "no such run"),
    ("export --run {run} --checkpoint {file}", 2, "--run and --checkpoint exclude each other"),
    ("export --run {run}", 2, "output exists: {run}/export; pass --force"),
    ("export --run {run} --out {file}", 2, "output exists"),
    ("export --run {run} --out {file} --force", 2, "not an export folder"),
    ("export --run {run} --out {home} --force", 2, "not an export folder"),
    ("export --run {run} --out .", 2, "not a name for an output"),
    ("export --run {run} --out {none} --format zip", 2, "unknown format; expected onnx | "),
    ("export --run {run} --out {none} --format ONNX", 2, "unknown format"),
    ("export --run {run} --out {none} --part head", 2, "unknown part; expected encoder | decoder | autoencoder | all"),
    ("export --run {run} --out {none} --opset 0", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset -1", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset 99", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset nan", 2, "Invalid value for '--opset'"),
    ("export --run {run} --out {file}/below", 6, "{file}/below"),
    ("export --run {run} --out {long}", 6, "path too long"),
    ("export --run {empty}", 3, "checkpoint cannot be read: {empty}/checkpoint.safetensors; .*no such file"),
    ("export --checkpoint {none} --out {none}", 3, "no such file"),
    ("export --checkpoint {file} --out {none}", 3, "checkpoint cannot be read"),
    ("export --checkpoint {empty} --out {none}", 3, "not a file"),
    ("export --checkpoint {run}/export/encoder.onnx --out {none}", 3, "checkpoint cannot be read"),
    ("export --checkpoint {run}/export/encoder.pt2 --out {none}", 3, "checkpoint cannot be read"),
    ("verify", 2, "no run found"),
    ("verify --run {none}", 2, "no such run"),
    ("verify --run {empty}", 3, "no export here: {empty}/export"),
    ("verify --run {run} --export {none}", 3, "no export here"),
    ("verify --run {run} --export {file}", 3, "no export here"),
    ("verify --run {run} --checkpoint {file}", 3, "checkpoint cannot be read"),
    ("verify --run {run} --checkpoint {other}", 4, "export is of another checkpoint"),
    ("verify --run {run} --target onnx", 2, "no file for this target: onnx; expected .*format/provider"),
    ("verify --run {run} --target zip/cpu", 2, "no file for this target"),
    ("verify --run {run} --target onnx/TensorrtExecutionProvider", 6, "provider is not there"),
    ("verify --run {run} --target torchscript/toaster", 6, "device is not there: toaster"),
    ("verify --run {run} --out {file}", 2, "output exists: {file}; pass --force"),
    (
        "verify --run {run} --out {empty} --force --target torchscript/cpu",
        6,
        "cannot write: {empty}; got Is a directory",
    ),
    ("doctor --nope", 2, "No such option"),
    ("doctor now", 2, "unexpected extra argument"),
]


@pytest.mark.parametrize(("typed", "code", "said"), BAD_INPUT, ids=[typed for typed, _, _ in BAD_INPUT])
def test_bad_input_is_one_line_with_its_exit_code_and_changes_nothing(
    invoke: Invoke, run_folder: Path, tmp_path: Path, typed: str, code: int, said: str
) -> None:
    from tests import samples
    from vae_export import save_checkpoint

    if "TensorrtExecutionProvider" in typed and has_tensorrt():
        pytest.skip("TensorRT is there")
    home = tmp_path / "home"
    (home / "empty").mkdir(parents=True)
    (home / "notes.txt").write_text("mine")
    save_checkpoint(samples.checkpoint("mlp", seed=1), home / "other.safetensors")
    places = {
        "run": run_folder,
        "home": home,
        "empty": home / "empty",
        "file": home / "notes.txt",
        "none": tmp_path / "none",
        "long": tmp_path / ("n" * 300),
        "other": home / "other.safetensors",
    }
    before = tree(tmp_path)
    outcome = invoke(*(word.format(**places) for word in typed.split()))
    lines = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    if code != 6 or "--out" not in typed:
        assert outcome.out == ""
    assert [line for line in lines if line.startswith("vae-export: error: ")] == lines[-1:]
    pattern = ".*".join(re.escape(piece.format(**places)) for piece in said.split(".*"))
    assert re.search(pattern, lines[-1]), lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)
    assert tree(tmp_path) == before


def has_tensorrt() -> bool:
    import onnxruntime

    return "TensorrtExecutionProvider" in onnxruntime.get_available_providers()


def error_classes(base: type[VaeExportError] = VaeExportError) -> set[type[VaeExportError]]:
    return {base}.union(*(error_classes(child) for child in base.__subclasses__()))


class TestExitCodes:
    def test_are_those_of_the_design(self) -> None:
        from vae_export.errors import Interrupted, Terminated

        assert {
            error.__name__: error.exit_code for error in error_classes() if error.__module__ == errors.__name__
        } == {
            "VaeExportError": 1,
            "UsageError": 2,
            "OutputExistsError": 2,
            "InputError": 3,
            "DataError": 3,
            "CheckpointError": 3,
            "ModelError": 3,
            "IntegrityError": 4,
            "ParityError": 5,
            "MachineError": 6,
            "MissingExtraError": 6,
            "TargetError": 6,
            "StorageError": 6,
            "OutOfMemoryError": 6,
        }
        assert (Interrupted.exit_code, Terminated.exit_code) == (130, 143)

    @pytest.mark.parametrize(
        ("raised", "code", "said"),
        [
            (
                ValueError("two\nlines"),
                1,
                "error: internal error: ValueError: two lines; run with --debug and report it",
            ),
            (AssertionError(), 1, "error: internal error: AssertionError"),
            (MemoryError("8 GB"), 6, "error: out of memory; got 8 GB; try a smaller --batch-size"),
            (errors.ParityError("different"), 5, "error: different"),
            (
                errors.MissingExtraError("onnx", "export"),
                6,
                "onnx is not installed; run: pip install 'vae-export[export]'",
            ),
            (KeyboardInterrupt(), 130, "vae-export: interrupted"),
            (errors.Interrupted("saved it"), 130, "vae-export: interrupted: saved it"),
            (errors.Terminated(), 143, "vae-export: terminated"),
            (errors.Terminated("saved it"), 143, "vae-export: terminated: saved it"),
        ],
    )
    def test_whatever_a_command_raises_is_one_line(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        raised: BaseException,
        code: int,
        said: str,
    ) -> None:
        def work() -> None:
            raise raised

        monkeypatch.setattr("sys.argv", ["cli.py", "work"])
        monkeypatch.delenv("VAE_EXPORT_DEBUG", raising=False)
        assert app._outcome(app.build(work)) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert err.count("\n") == 1

    def test_debug_shows_the_traceback_before_the_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("sys.argv", ["cli.py", "--debug", "work"])
        monkeypatch.setenv("VAE_EXPORT_DEBUG", "")
        assert app._outcome(app.build(work)) == 1
        err = capsys.readouterr().err
        assert err.startswith("Traceback")
        assert "in work" in err
        assert err.splitlines()[-1].startswith("vae-export: error: internal error: ZeroDivisionError")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "it broke"),
        ({"where": "here"}, "it broke: here"),
        ({"expected": 1, "got": 0}, "it broke; expected 1, got 0"),
        ({"got": 0}, "it broke; got 0"),
        ({"where": "a\nb", "expected": "c\n  d", "do": "e\tf"}, "it broke: a b; expected c d; e f"),
    ],
)
def test_an_error_is_what_where_expected_got_do_in_one_line(arguments: dict[str, object], line: str) -> None:
    assert str(VaeExportError("it broke", **arguments)) == line  # type: ignore[arg-type]


class TestExport:
    def test_prints_results_on_stdout_and_messages_on_stderr(self, run_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "with space"
        result = run_cli(
            "export", "--run", run_folder, "--out", out, "--format", "all", "--part", "decoder", cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("file ")
        assert "decoder.onnx" in result.stdout
        assert re.search(r"^verified: \d+ comparisons with PyTorch passed$", result.stdout, re.MULTILINE)
        assert result.stdout.endswith(f"exported to {out}\n")
        messages = result.stderr.splitlines()
        assert messages[0].startswith("writing decoder.")
        assert {line.split()[0] for line in messages} <= {"writing", "verifying"}

    def test_says_which_run_it_took(self, invoke: Invoke, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        older = run_folder.parent / "artifacts" / "older"
        newer = run_folder.parent / "artifacts" / "newer"
        older.parent.mkdir()
        for folder, time in ((newer, 2000), (older, 1000)):
            folder.mkdir()
            (folder / "checkpoint.safetensors").write_bytes((run_folder / "checkpoint.safetensors").read_bytes())
            os.utime(folder / "checkpoint.safetensors", (time, time))
        monkeypatch.setattr("vae_export.runs.ARTIFACTS", older.parent)
        monkeypatch.setattr("vae_export.runs.newest_run.__defaults__", (older.parent,))
        outcome = invoke("export", "--format", "torchscript", "--part", "decoder", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.err.startswith(f"run: {newer}\n")
        assert json.loads(outcome.out)["folder"] == str(newer / "export")
        assert not (older / "export").exists()

    def test_repeated_and_mixed_choices_are_each_written_once(
        self, invoke: Invoke, run_folder: Path, tmp_path: Path
    ) -> None:
        given = [
            "--format",
            "pt2",
            "--format",
            "torchscript",
            "--format",
            "pt2",
            "--part",
            "decoder",
            "--part",
            "decoder",
        ]
        outcome = invoke("export", "--run", run_folder, "--out", tmp_path / "out", *given, "--json")
        assert outcome.code == 0, outcome.err
        names = [entry["name"] for entry in json.loads(outcome.out)["manifest"]["files"]]
        assert names == ["decoder.torchscript.pt", "decoder.pt2"]


class TestVerify:
    def test_json_is_the_certificate(self, invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "certificate.json"
        given = ("verify", "--run", run_folder, "--target", "torchscript/cpu", "--out", out)
        outcome = invoke(*given, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out) == json.loads(out.read_text())
        assert json.loads(outcome.out)["verdict"] == "pass"
        assert invoke(*given).code == 2, "the certificate exists"
        assert invoke(*given, "--force").code == 0

    def test_prints_a_line_for_each_output_and_the_verdict(self, invoke: Invoke, run_folder: Path) -> None:
        before = (run_folder / "export" / "manifest.json").read_bytes()
        outcome = invoke("verify", "--run", run_folder, "--target", "torchscript/cpu", "--target", "pt2/cpu")
        assert outcome.code == 0, outcome.err
        lines = outcome.out.splitlines()
        assert sum(line.rstrip().endswith(" pass") for line in lines) == (1 + 2 + 4 + 2) * 2
        assert re.fullmatch(r"pass: [\d,]+ comparisons", lines[-1])
        assert "Traceback" not in outcome.err
        assert (run_folder / "export" / "manifest.json").read_bytes() == before

    def test_an_altered_file_ends_in_exit_code_4(self, invoke: Invoke, run_folder: Path) -> None:
        path = run_folder / "export" / "decoder.onnx"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        outcome = invoke("verify", "--run", run_folder)
        assert outcome.code == 4
        assert f"vae-export: error: exported file was altered: {path}; expected" in outcome.err

    @pytest.mark.parametrize("json_option", [[], ["--json"]])
    def test_a_wrong_file_ends_in_exit_code_5_with_the_evidence_written(
        self, invoke: Invoke, mlp: Exported, run_folder: Path, tmp_path: Path, json_option: list[str]
    ) -> None:
        from tests.test_parity import no_sigmoid, rewritten

        artifact = rewritten(mlp, tmp_path / "wrong", "decoder", no_sigmoid)
        outcome = invoke("verify", "--run", run_folder, "--export", artifact.folder, *json_option)
        assert outcome.code == 5
        assert ONE_LINE.fullmatch(outcome.err.splitlines(keepends=True)[-1])
        assert "comparisons failed: decoder on onnx/CPUExecutionProvider, 'image'" in outcome.err
        assert json.loads(artifact.certificate.read_text())["verdict"] == "fail"
        if json_option:
            assert json.loads(outcome.out)["verdict"] == "fail"
        else:
            assert "FAIL" in outcome.out
            assert "pass: " not in outcome.out


class TestDoctor:
    def test_json_has_every_format_and_device(self, invoke: Invoke) -> None:
        from vae_export.formats import FORMATS

        outcome = invoke("doctor", "--json")
        document = json.loads(outcome.out)
        assert (outcome.code, outcome.err) == (0, "")
        assert [entry["name"] for entry in document["formats"]] == list(FORMATS)
        assert document["devices"]["cpu"] is None
        assert document["devices"]["CPUExecutionProvider"] is None
        assert "onnx/CPUExecutionProvider" in document["formats"][0]["targets"]

    def test_a_provider_that_does_not_work_has_a_reason(self, invoke: Invoke) -> None:
        import torch

        devices = json.loads(invoke("doctor", "--json").out)["devices"]
        if not torch.cuda.is_available():
            assert "finds no NVIDIA GPU" in devices["cuda"]
            assert devices["CUDAExecutionProvider"]

    def test_brackets_in_a_table_are_text_and_no_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        from rich.table import Table

        from vae_export.cli import console

        table = Table("line")
        table.add_row("pip install 'vae-export[export]'")
        console.result(table)
        assert "vae-export[export]" in capsys.readouterr().out

    def test_table_is_not_cut(self, invoke: Invoke) -> None:
        outcome = invoke("doctor")
        assert outcome.code == 0
        assert "…" not in outcome.out
        assert "onnx/CPUExecutionProvider" in outcome.out


class TestStreams:
    """Each with a real process: the interpreter's own flush at exit is part of it."""

    def run(self, shell: str, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        line = ["bash", "-c", f"set -o pipefail; {shell}", "bash", *command(*arguments)]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    @pytest.mark.parametrize(
        ("shell", "arguments", "code"),
        [
            ('(sleep 0.3; "$@") | true', ["--help"], 0),
            ('(sleep 0.3; "$@") | true', ["doctor"], 0),
            ('"$@" >&-', ["--version"], 0),
            ('"$@" >&-', ["export", "--help"], 0),
            ('"$@" >&- 2>&-', ["--version"], 0),
            ('"$@" 2>&-', ["nope"], 2),
            ('(sleep 0.3; "$@") 2>&1 >/dev/null | true', ["nope"], 2),
            ('"$@" 2>/dev/full', ["nope"], 2),
            ('"$@" </dev/null', ["--version"], 0),
            ('"$@" <&-', ["--version"], 0),
        ],
    )
    def test_a_closed_one_changes_no_exit_code_and_shows_no_traceback(
        self, tmp_path: Path, shell: str, arguments: list[str], code: int
    ) -> None:
        result = self.run(shell, tmp_path, *arguments)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr

    def test_a_result_that_cannot_be_written_is_no_success(self, tmp_path: Path) -> None:
        result = self.run('"$@" >/dev/full', tmp_path, "--version")
        assert result.returncode == 6
        reason = os.strerror(errno.ENOSPC)
        assert result.stderr == f"vae-export: error: result cannot be written: stdout; got {reason}\n"

    def test_head_does_not_stop_an_export(self, run_folder: Path, tmp_path: Path) -> None:
        arguments = ("export", "--run", run_folder, "--out", "exported", "--format", "torchscript", "--part", "decoder")
        result = self.run('"$@" 2>&1 | head -1', tmp_path, *arguments)
        assert result.returncode == 0
        assert result.stdout == "writing decoder.torchscript.pt\n"
        assert (tmp_path / "exported" / "certificate.json").exists()

    def test_paths_that_are_no_text_are_printed_as_they_are(self, run_folder: Path, tmp_path: Path) -> None:
        out = os.fsencode(tmp_path) + b"/caf\xe9 \xff"
        line = [*command("export", "--run", run_folder, "--format", "torchscript", "--part", "decoder", "--out"), out]
        result = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=120)
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith(b"exported to " + out + b"\n")
        again = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=120)
        assert again.returncode == 2
        assert again.stderr.startswith(b"vae-export: error: output exists: " + out + b"; pass --force")

    def test_where_python_has_no_utf8_nothing_changes(self, tmp_path: Path) -> None:
        environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        result = subprocess.run(
            command("export", "--run", "né-ü"), cwd=tmp_path, env=environment, capture_output=True, timeout=120
        )
        assert result.returncode == 2
        assert "no such run: né-ü" in result.stderr.decode()

    def test_result_refuses_numbers_that_are_no_json(self) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.result_json({"loss": float("nan")})


def test_asserts_are_no_checks(run_folder: Path, tmp_path: Path) -> None:
    """`python -O` removes them: what is refused must be refused all the same."""
    arguments = command("export", "--checkpoint", run_folder / "export" / "encoder.onnx", "--out", "out")[1:]
    result = subprocess.run(
        [sys.executable, "-O", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 3
    assert ONE_LINE.fullmatch(result.stderr)


@pytest.mark.parametrize("folder", ["vae_export", "train"])
def test_no_assert_and_no_print_in_the_code(folder: str) -> None:
    import ast

    from tests.commands import ROOT

    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), f"{path}:{node.lineno}"
