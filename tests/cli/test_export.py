"""`export` and `doctor` on a terminal and for programs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import sample_models
from tests.commands import ONE_LINE, Invoke, run_cli
from vae_export import save_checkpoint
from vae_export.cli import console


class TestExport:
    @pytest.mark.slow
    def test_results_go_to_stdout_messages_to_stderr(self, run_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "with space"
        result = run_cli(
            "export", "--run", run_folder, "--out", out, "--format", "all", "--part", "decoder", cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("file ")
        assert "decoder.onnx" in result.stdout
        assert re.search(r"^verified: [\d,]+ comparisons with PyTorch passed$", result.stdout, re.MULTILINE)
        assert result.stdout.endswith(f"exported to {out}\n")
        messages = result.stderr.splitlines()
        left_out = [line for line in messages if line.startswith("left out: ")]
        assert any(line.endswith("to have it too: --format all --format aoti") for line in left_out)
        assert {line.split()[0] for line in messages[len(left_out) : -1]} == {
            *("capturing", "writing", "computing", "trying", "verifying", "measuring")
        }
        laps = r"capture [\d.]+, onnx [\d.]+, .*golden vectors [\d.]+, verification [\d.]+, certificate [\d.]+"
        assert re.fullmatch(rf"took [\d.]+ s: {laps}", messages[-1])

    def test_newest_run_is_taken_and_named(
        self, invoke: Invoke, run_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_newest_run_with_an_export_is_taken_where_one_is_needed(
        self, invoke: Invoke, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = tmp_path / "artifacts"
        for name, time in (("newer", 2000), ("older", 1000)):
            (runs / name).mkdir(parents=True)
            (runs / name / "checkpoint.safetensors").touch()
            os.utime(runs / name / "checkpoint.safetensors", (time, time))
        (runs / "older" / "export").symlink_to(run_folder / "export")
        monkeypatch.setattr("vae_export.runs.ARTIFACTS", runs)
        outcome = invoke("sample", "-n", "1", "--out", tmp_path / "picture.PNG")
        assert outcome.code == 0, outcome.err
        assert outcome.err.startswith(f"run: {runs / 'older'}; {runs / 'newer'} is newer and has no export\n")
        assert (tmp_path / "picture.PNG").read_bytes().startswith(b"\x89PNG")
        (runs / "older" / "export").unlink()
        outcome = invoke("sample")
        assert (outcome.code, outcome.err.splitlines()[0]) == (3, f"run: {runs / 'newer'}")
        assert "no such file or folder" in outcome.err

    @pytest.mark.slow
    def test_export_before_the_last_training_is_not_bundled(self, invoke: Invoke, run_folder: Path) -> None:
        with (run_folder / "checkpoint.safetensors").open("ab") as checkpoint:
            checkpoint.write(b"\0")
        outdated = invoke("bundle", "--run", run_folder)
        assert outdated.code == 4
        assert ONE_LINE.fullmatch(outdated.err.splitlines(keepends=True)[-1])
        assert "export is of another checkpoint" in outdated.err
        assert not list(run_folder.glob("*.zip"))
        asked = invoke("bundle", "--export", run_folder / "export", "--out", run_folder / "old.zip")
        assert asked.code == 0, asked.err

    def test_repeated_choices_are_written_once(self, invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
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


class TestDoctor:
    def test_doctor_json_has_every_format_and_device(self, invoke: Invoke) -> None:
        from vae_export.formats import FORMATS

        outcome = invoke("doctor", "--json")
        document = json.loads(outcome.out)
        assert (outcome.code, outcome.err) == (0, "")
        assert [entry["name"] for entry in document["formats"]] == list(FORMATS)
        assert document["devices"]["cpu"] is None
        assert document["devices"]["CPUExecutionProvider"] is None
        assert "onnx/CPUExecutionProvider" in document["formats"][0]["targets"]

    def test_missing_provider_has_a_reason(self, invoke: Invoke) -> None:
        import torch

        devices = json.loads(invoke("doctor", "--json").out)["devices"]
        if not torch.cuda.is_available():
            assert "finds no NVIDIA GPU" in devices["cuda"]
            assert devices["CUDAExecutionProvider"]

    def test_brackets_in_a_table_are_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        from rich.table import Table

        table = Table("line")
        table.add_row("pip install 'vae-export[export]'")
        console.result(table)
        assert "vae-export[export]" in capsys.readouterr().out

    def test_doctor_table_is_not_cut(self, invoke: Invoke) -> None:
        outcome = invoke("doctor")
        assert outcome.code == 0
        assert "…" not in outcome.out
        assert "onnx/CPU" in outcome.out


@pytest.mark.slow
class TestPrecision:
    """Files of fewer bits on the command line: what is not good enough is not published."""

    @pytest.mark.slow
    @pytest.mark.parametrize("budget", [("--max-grey-levels", 0), ("--max-nats", 0)])
    def test_missed_budget_exits_5_and_publishes_nothing(
        self, invoke: Invoke, run_folder: Path, tmp_path: Path, budget: tuple[object, ...]
    ) -> None:
        outcome = invoke(
            "export", "--run", run_folder, "--out", tmp_path / "out", "--precision", "int4-weights", *budget
        )
        assert outcome.code == 5
        assert outcome.err.splitlines()[-1].startswith(
            "vae-export: error: budget is missed; got decoder on onnx+int4-weights/"
        )
        assert f"; nothing was written to {tmp_path / 'out'}; " in outcome.err
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_large_degradation_without_budget_is_a_warning(
        self, invoke: Invoke, run_folder: Path, tmp_path: Path
    ) -> None:
        outcome = invoke("export", "--run", run_folder, "--out", tmp_path / "out", "--precision", "int4-weights")
        assert outcome.code == 0
        assert re.search(r"^warning: costly: decoder on onnx\+int4-weights/.*, above 0\.1", outcome.err, re.MULTILINE)
        assert "costly" in (tmp_path / "out" / "certificate.json").read_text("utf-8")

    def test_too_few_calibration_images_exit_3(self, invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
        outcome = invoke("export", "--run", run_folder, "--out", tmp_path / "out", "--precision", "int8-static")
        assert outcome.code == 3
        *_, line = outcome.err.splitlines()
        assert line.startswith("vae-export: error: too few images to calibrate with; expected 16 at least, got 8; ")
        assert not (tmp_path / "out").exists()

    def test_calibration_inputs_that_are_not_finite_exit_3(self, invoke: Invoke, tmp_path: Path) -> None:
        """Latents that are sums of 3e38 are beyond float32."""
        base = sample_models.checkpoint(examples=16)
        weights = sample_models.replaced(
            base, encoder__mean__weight=torch.full_like(base.weights["encoder.mean.weight"], 3e38)
        )
        path = tmp_path / "checkpoint.safetensors"
        save_checkpoint(replace(base, weights=weights), path)
        outcome = invoke("export", "--checkpoint", path, "--out", tmp_path / "out", "--precision", "int8-static")
        assert outcome.code == 3
        *_, line = outcome.err.splitlines()
        assert line == "vae-export: error: inputs to calibrate with are not finite: encoder, 'image'"
        assert not (tmp_path / "out").exists()
