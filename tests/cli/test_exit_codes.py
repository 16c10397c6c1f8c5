"""An error is one line and an exit code, whatever a command raised."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.commands import ROOT
from vae_export import VaeExportError, errors

RunApp = Callable[[Callable[..., None]], int]


def error_classes(base: type[VaeExportError] = VaeExportError) -> set[type[VaeExportError]]:
    return {base}.union(*(error_classes(child) for child in base.__subclasses__()))


class TestExitCodes:
    def test_exit_codes_match_the_design(self) -> None:
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
    def test_every_exception_is_one_line(
        self,
        run_app: RunApp,
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
        assert run_app(work) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert err.count("\n") == 1

    def test_debug_prints_the_traceback_first(
        self, run_app: RunApp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("sys.argv", ["cli.py", "--debug", "work"])
        monkeypatch.setenv("VAE_EXPORT_DEBUG", "")
        assert run_app(work) == 1
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
def test_error_message_has_its_parts_on_one_line(arguments: dict[str, object], line: str) -> None:
    assert str(VaeExportError("it broke", **arguments)) == line  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["vae_export", "train"])
def test_code_has_no_assert_and_no_print(folder: str) -> None:
    import ast

    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), f"{path}:{node.lineno}"
