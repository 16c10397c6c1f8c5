"""Output in a terminal of 80 columns: tables, help, progress and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.commands import COMMANDS, ROOT, Invoke
from vae_export.cli import console
from vae_export.cli.app import build
from vae_export.cli.doctor import fitting_executorch


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are made for 80 columns, as on a terminal."""
    monkeypatch.setattr(console, "width", lambda: 80)


@pytest.mark.usefixtures("narrow")
class TestTables:
    def test_numbers_stay_whole_and_words_wrap(self, capsys: pytest.CaptureFixture[str]) -> None:
        table = console.table("a long name of a thing", "max |Δ|", "reason", right=["max |Δ|"], wrap=["reason"])
        table.add_row("decoder-uint8-hwc", "1.67e-06", "slower than the fastest of its heat " * 3)
        console.result(table)
        lines = capsys.readouterr().out.splitlines()
        assert "1.67e-06" in lines[-3]
        assert "…" not in "".join(lines)
        assert max(map(len, lines)) <= 80

    def test_heading_wraps_before_a_cell_is_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        headings = [f"largest value {number}" for number in range(8)]
        table = console.table(*headings)
        table.add_row(*["1.67e-06"] * 8)
        console.result(table)
        heading, *_, row = capsys.readouterr().out.splitlines()
        assert row.split() == ["1.67e-06"] * 8
        assert len(row) <= 80
        assert heading.split()[:2] == ["largest", "largest"]

    def test_table_that_cannot_fit_is_wider_and_not_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        table = console.table(*"abcdefghij")
        table.add_row(*["1.23456e-06"] * 10)
        console.result(table)
        assert capsys.readouterr().out.split()[-10:] == ["1.23456e-06"] * 10

    def test_line_of_a_pipe_ends_without_spaces(self, capsys: pytest.CaptureFixture[str]) -> None:
        table = console.table("name", "verdict")
        table.add_row("a long name", "pass")
        table.add_row("b", "fail (3)")
        console.result(table)
        assert not any(line.endswith(" ") for line in capsys.readouterr().out.splitlines())

    def test_doctor_shows_whole_targets(self, invoke: Invoke) -> None:
        lines = invoke("doctor").out.splitlines()
        assert any(line.endswith("onnx/CPU") for line in map(str.rstrip, lines))
        assert max(map(len, lines)) <= 80


class TestHelp:
    @pytest.fixture(autouse=True)
    def columns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERMINAL_WIDTH", "80")

    def test_summaries_of_commands_are_whole(self, invoke: Invoke) -> None:
        assert "..." not in invoke("--help").out.partition("Commands:")[2]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_no_python_type_is_shown(self, invoke: Invoke, name: str) -> None:
        text = invoke(name, "--help").out
        assert not any(leak in text for leak in ("<", "list[", ">=", "[default: ("))

    def test_options_of_train_stand_in_sections(self, invoke: Invoke) -> None:
        text = invoke("train", "--help").out
        sections = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
        assert sections == ["Start", "Data", "Model", "Optimiser", "Loss", "Machine", "Output"]
        assert "--epochs N" in text
        assert "Default: 14; blog, conv" in text

    def test_few_options_have_no_sections(self, invoke: Invoke) -> None:
        assert "\nOptions:\n" in invoke("inspect", "--help").out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("export --format onx", "got onx; did you mean onnx?"),
        ("export --format ONNX", "did you mean onnx?"),
        (
            "train --family convv",
            "unknown family; expected mlp | blog | conv | residual | resnet | pyramid, got convv; did you mean conv?",
        ),
        ("evaluate --split tests", "did you mean test?"),
        ("sample --engine spark", "unknown engine; expected local | ray, got spark"),
        ("sample -n 0", "bad -n; expected 1 or more, got 0"),
        ("train --epochs many", "bad --epochs; expected a whole number, got many"),
    ],
)
def test_mistyped_value_is_one_line_with_a_suggestion(invoke: Invoke, typed: str, said: str) -> None:
    outcome = invoke(*typed.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.strip().endswith(said)
    assert outcome.err.count("\n") == 1


def test_steps_are_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.report_steps(2, "verifying") as report:
        for line in ("verifying a.onnx", "note: something", "verifying b.onnx"):
            report(line)
    assert capsys.readouterr().err == "verifying a.onnx\nnote: something\nverifying b.onnx\n"


def test_progress_counts_steps_and_shows_work_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, float]] = []
    with console.report_steps(2, "verifying", uncounted=("measuring",)) as report:
        monkeypatch.setattr(report._bar, "disable", False)
        for line in ("verifying a.onnx", "verifying b.onnx", "measuring nats"):
            report(line)
            report.within(0.5) if line.startswith("verifying") else None
            shown += [(task.description, task.completed) for task in report._bar.tasks]
    assert shown == [("verifying a.onnx", 0.5), ("verifying b.onnx", 1.5), ("measuring nats", 2)]


def test_note_wraps_at_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    note = "note: use --data-protocol dynamic and " + 40 * "x"
    console.note(note)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console.note(note)
    assert capsys.readouterr().err.splitlines() == [
        *(note, "note: use --data-protocol", "  dynamic and", "  " + 40 * "x")
    ]


def test_paragraph_wraps_between_figures_and_not_within(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = f"4:{console.NO_BREAK_SPACE}0.96"
    console.paragraph(f"KL of units: {pair}, {pair}")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(console, "width", lambda: 24)
    console.paragraph(f"KL of units: {pair}, {pair}")
    assert capsys.readouterr().out.splitlines() == ["KL of units: 4: 0.96, 4: 0.96", "KL of units: 4: 0.96,", "4: 0.96"]


@pytest.mark.slow
def test_shell_completes_commands_and_choices(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['vae-export']; import vae_export.cli as c; c.start()"

    def completed(words: str) -> list[str]:
        asked = {"_VAE_EXPORT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return result.stdout.split()

    assert completed("vae-export ex") == ["export", "explore"]
    assert completed("vae-export export --format o") == ["onnx", "openvino", "ort"]


def test_completion_is_installed_by_the_installed_command_alone() -> None:
    def names(app: typer.Typer) -> set[str]:
        return {option for param in typer.main.get_command(app).params for option in param.opts}

    assert "--install-completion" in names(build(completion=True))
    assert "--install-completion" not in names(build())


@pytest.mark.parametrize(("torch", "executorch"), [("2.13.0+cpu", "1.4"), ("2.14.1", "1.5"), ("2.12.0", None)])
def test_doctor_advises_an_executorch_that_fits_torch(torch: str, executorch: str | None) -> None:
    assert fitting_executorch(torch) == executorch
