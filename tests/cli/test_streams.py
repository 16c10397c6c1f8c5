"""Ctrl-C, closed pipes, paths that are no text: nothing shows a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import ROOT, command, run_python
from vae_export.cli import app, console

RunApp = Callable[[Callable[..., None]], int]

pytestmark = pytest.mark.slow


class TestInterrupts:
    """Ctrl-C at any time is one line and 130, also while a second of imports is going on."""

    @pytest.mark.parametrize("module", ["typer", "vae_export.cli.app", "vae_export.cli.verify", "torch", "onnxruntime"])
    @pytest.mark.parametrize("program", ["cli.py", "vae-export"])
    def test_interrupt_during_import_is_one_line(
        self, program: str, module: str, run_folder: Path, tmp_path: Path
    ) -> None:
        code = f"""if True:
            import os, runpy, signal, sys
            class Finder:
                def find_spec(self, name, path, target=None):
                    if name == {module!r}:
                        sys.meta_path.remove(self)
                        os.kill(os.getpid(), signal.SIGINT)
            sys.meta_path.insert(0, Finder())
            sys.argv = [{program!r}, "verify", "--run", sys.argv[1]]
            if {program!r} == "cli.py":
                runpy.run_path({str(ROOT / "cli.py")!r}, run_name="__main__")
            else:
                from vae_export.cli import start
                start()
        """
        result = run_python(code, run_folder, cwd=tmp_path)
        assert result.returncode == 130, result.stderr
        assert result.stderr == "vae-export: interrupted\n"
        assert result.stdout == ""

    def test_interrupt_turned_into_an_error_exits_130(
        self, run_app: RunApp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work() -> None:
            try:
                app._interrupt(2, None)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None

        monkeypatch.setattr("sys.argv", ["cli.py", "work"])
        assert run_app(work) == 130
        assert capsys.readouterr().err == "vae-export: interrupted\n"

    def test_ignored_interrupt_stays_ignored(self, tmp_path: Path) -> None:
        code = """if True:
            import signal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            from vae_export.cli import prepare
            prepare()
            print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        """
        assert run_python(code, cwd=tmp_path).stdout == "True\n"


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
    def test_closed_stream_changes_no_exit_code(
        self, tmp_path: Path, shell: str, arguments: list[str], code: int
    ) -> None:
        result = self.run(shell, tmp_path, *arguments)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr

    def test_unwritable_result_is_an_error(self, tmp_path: Path) -> None:
        result = self.run('"$@" >/dev/full', tmp_path, "--version")
        assert result.returncode == 6
        reason = os.strerror(errno.ENOSPC)
        assert result.stderr == f"vae-export: error: result cannot be written: stdout; got {reason}\n"

    def test_head_does_not_stop_an_export(self, run_folder: Path, tmp_path: Path) -> None:
        arguments = ("export", "--run", run_folder, "--out", "exported", "--format", "torchscript", "--part", "decoder")
        result = self.run('"$@" 2>&1 | head -1', tmp_path, *arguments)
        assert result.returncode == 0
        assert result.stdout == "capturing decoder\n"
        assert (tmp_path / "exported" / "certificate.json").exists()

    def test_path_that_is_not_utf8_is_printed_unchanged(self, run_folder: Path, tmp_path: Path) -> None:
        out = os.fsencode(tmp_path) + b"/caf\xe9 \xff"
        export = command("export", "--run", run_folder, "--format", "torchscript", "--part", "decoder", "--out")
        line = [*map(os.fsencode, export), out]
        result = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=120)
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith(b"exported to " + out + b"\n")
        again = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=120)
        assert again.returncode == 2
        assert again.stderr.startswith(b"vae-export: error: output exists: " + out + b"; pass --force")

    def test_ascii_locale_changes_nothing(self, tmp_path: Path) -> None:
        environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        result = subprocess.run(
            command("export", "--run", "né-ü"), cwd=tmp_path, env=environment, capture_output=True, timeout=120
        )
        assert result.returncode == 2
        assert "no such run: né-ü" in result.stderr.decode()

    def test_json_result_refuses_nan(self) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            console.result_json({"loss": float("nan")})
