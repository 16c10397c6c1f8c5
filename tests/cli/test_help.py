"""Help pages, the version, and what the installed command has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import COMMANDS, ONE_LINE, Invoke, run_python
from tests.conftest import Outcome
from vae_export import __version__


def installed(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command that pip installs, by its entry point."""
    return run_python(
        f"import sys; sys.argv = {['vae-export', *arguments]}; import vae_export.cli as c; c.start()", cwd=cwd
    )


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
    def test_help_is_printed_on_stdout(self, invoke: Invoke, arguments: list[str]) -> None:
        outcome = invoke(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("Usage: cli.py")

    def test_help_names_every_command(self, invoke: Invoke) -> None:
        assert set(COMMANDS) <= set(invoke("--help").out.split())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["", *COMMANDS])
    def test_help_imports_nothing_heavy(self, name: str, tmp_path: Path) -> None:
        code = f"""if True:
            import sys
            sys.argv = {["cli.py", *name.split(), "--help"]}
            from train.cli import evaluate, train
            from vae_export.cli.app import run
            code = run(train, evaluate)
            print("modules:", *sys.modules)
            sys.exit(code)
        """
        result = run_python(code, cwd=tmp_path)
        modules = result.stdout.rpartition("modules:")[2].split()
        assert result.returncode == 0, result.stderr
        assert "typer" in modules
        heavy = {"numpy", "torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "matplotlib", "sklearn", "ray"}
        assert heavy & set(modules) == set()

    @pytest.mark.slow
    def test_command_imports_no_module_of_other_commands(self, tmp_path: Path) -> None:
        code = """if True:
            import sys
            sys.argv = ["cli.py", "doctor", "--help"]
            from vae_export.cli.app import LIBRARY_COMMANDS, run
            run("train.cli:train")
            print("modules:", *({name.partition(":")[0] for name in LIBRARY_COMMANDS} & set(sys.modules)))
            print("train.cli" in sys.modules)
        """
        assert run_python(code, cwd=tmp_path).stdout.endswith("modules: vae_export.cli.doctor\nFalse\n")

    def test_bare_command_prints_help_and_exits_2(self, invoke: Invoke) -> None:
        outcome = invoke()
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("Usage: cli.py")

    def test_version_is_one_line(self, invoke: Invoke) -> None:
        assert invoke("--version") == Outcome(0, f"vae-export {__version__}\n", "")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["train", "evaluate"])
    @pytest.mark.parametrize("options", [[], ["--epochs", "3", "--force"], ["--run=x", "-v"]])
    def test_installed_command_names_the_checkout(self, name: str, options: list[str], tmp_path: Path) -> None:
        result = installed(name, *options, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == ""
        assert ONE_LINE.fullmatch(result.stderr)
        assert f"python cli.py {name}" in result.stderr

    @pytest.mark.slow
    def test_installed_command_runs_doctor(self, tmp_path: Path) -> None:
        result = installed("doctor", "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["versions"]["vae-export"] == __version__
