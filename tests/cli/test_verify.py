"""`verify` on a terminal and for programs: results, the certificate, what was left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import keep_decoders
from tests.commands import ONE_LINE, Invoke
from tests.conftest import Exported

pytestmark = pytest.mark.slow


class TestVerify:
    def test_json_has_a_summary_or_all_rows(self, invoke: Invoke, decoder_run: Path, tmp_path: Path) -> None:
        out = tmp_path / "certificate.json"
        given = ("verify", "--run", decoder_run, "--target", "torchscript/cpu", "--quick", "--out", out)
        outcome = invoke(*given, "--json")
        assert outcome.code == 0, outcome.err
        written, shown = json.loads(out.read_text()), json.loads(outcome.out)
        assert shown["verdict"] == "pass"
        assert sum(output["rows"] for output in shown["outputs"]) == len(written["rows"])
        assert {key: shown[key] for key in written if key != "rows"} | {"rows": written["rows"]} == written
        assert (shown.keys() - written.keys(), written.keys() - shown.keys()) == ({"outputs"}, {"rows"})
        everything = invoke(*given, "--json", "--rows", "--force")
        assert json.loads(everything.out) == json.loads(out.read_text())
        assert invoke(*given).code == 2, "the certificate exists"
        assert invoke(*given, "--force").code == 0
        refused = invoke(*given, "--rows")
        assert (refused.code, refused.out) == (2, "")
        assert "--rows goes with --json" in refused.err

    def test_every_output_has_a_line_with_a_verdict(self, invoke: Invoke, run_folder: Path) -> None:
        before = (run_folder / "export" / "manifest.json").read_bytes()
        targets = ("--target", "torchscript/cpu", "--target", "pt2/cpu")
        outcome = invoke("verify", "--run", run_folder, *targets, "--quick", "--force")
        assert outcome.code == 0, outcome.err
        lines = outcome.out.splitlines()
        assert sum(line.rstrip().endswith(" pass") for line in lines) == (1 + 2 + 4 + 2) * 2
        assert "nats per image: largest difference from PyTorch in each output" in lines
        assert re.fullmatch(r"pass: [\d,]+ comparisons", lines[-1])
        assert "Traceback" not in outcome.err
        assert (run_folder / "export" / "manifest.json").read_bytes() == before

    def test_unwritable_certificate_fails_before_verification(self, invoke: Invoke, run_folder: Path) -> None:
        out = run_folder / "checkpoint.safetensors" / "certificate.json"
        outcome = invoke("verify", "--run", run_folder, "--out", out)
        assert outcome.code == 6
        assert re.fullmatch(r"vae-export: error: not a folder: .*\n", outcome.err), "and no line of a file before it"

    def test_altered_file_exits_4(self, invoke: Invoke, run_folder: Path) -> None:
        path = run_folder / "export" / "decoder.onnx"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        outcome = invoke("verify", "--run", run_folder)
        assert outcome.code == 4
        assert f"vae-export: error: exported file was altered: {path}; expected" in outcome.err

    @pytest.mark.parametrize("json_option", [[], ["--json"]])
    def test_wrong_file_exits_5_and_writes_the_certificate(
        self, invoke: Invoke, mlp: Exported, run_folder: Path, tmp_path: Path, json_option: list[str]
    ) -> None:
        from tests.damaged_onnx import no_sigmoid, rewritten

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

    def test_weaker_certificate_does_not_replace_a_thorough_one(self, invoke: Invoke, run_folder: Path) -> None:
        keep_decoders(run_folder, "decoder.torchscript.pt", "decoder.pt2")
        both = ("verify", "--run", run_folder, "--target", "torchscript/cpu", "--target", "pt2/cpu")
        one = both[:5]
        place = run_folder / "export" / "certificate.json"
        assert invoke(*both, "--quick").code == 0, "an export's certificate is quick"
        assert invoke(*both).code == 0
        thorough = place.read_bytes()
        assert json.loads(thorough)["environment"]["thorough"] is True
        for given, less in [
            ((*both, "--quick"), "fewer test cases"),
            (one, "not on pt2/cpu"),
            ((*both, "--rtol", "0.1"), "--atol or --rtol in place of the measured tolerance"),
            ((*one, "--quick"), "fewer test cases; not on pt2/cpu"),
        ]:
            outcome = invoke(*given)
            assert outcome.code == 2
            assert ONE_LINE.fullmatch(outcome.err)
            said = f"a weaker certificate would replace a thorough one: {place}; got {less};"
            assert said in outcome.err
            assert place.read_bytes() == thorough
        assert invoke(*one, "--quick").err == invoke(*one[:-1], "torchscript/CPU", "--quick").err
        unknown = invoke(*both, "--target", "onnyx/cpu")
        assert unknown.code == 2
        assert "no file for this target: onnyx/cpu" in unknown.err
        assert invoke(*one, "--quick", "--force").code == 0
        assert json.loads(place.read_text())["environment"]["thorough"] is False

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "null", '{"environment": {"thorough": 1}, "rows": [], "tolerance": null}', "[" * 100_000],
    )
    def test_quick_certificate_replaces_one_that_is_not_thorough(
        self, invoke: Invoke, decoder_run: Path, text: str
    ) -> None:
        (decoder_run / "export" / "certificate.json").write_text(text)
        assert invoke("verify", "--run", decoder_run, "--quick").code == 0

    def test_gaps_and_own_tolerance_are_printed(self, invoke: Invoke, run_folder: Path) -> None:
        (run_folder / "export" / "encoder.torchscript.pt").unlink()
        keep_decoders(run_folder, "decoder.torchscript.pt", "decoder.pt2")
        given = ("verify", "--run", run_folder, "--target", "torchscript/cpu", "--quick", "--force", "--atol", "0.001")
        outcome = invoke(*given)
        assert outcome.code == 0, outcome.err
        lines = outcome.out.splitlines()
        assert "not verified: decoder.pt2: no target of this verification runs it" in lines
        assert "not verified: nats: no target ran both an encoder and a decoder" in lines
        assert re.fullmatch(r"pass: [\d,]+ comparisons, within your own tolerance: atol 0.001, rtol 0", lines[-1])
        said = json.loads((run_folder / "export" / "certificate.json").read_text())
        assert said["tolerance"] == {"atol": 0.001, "rtol": 0.0}
        assert said["files_not_verified"] == ["decoder.pt2"]
        page = (run_folder / "export" / "certificate.html").read_text("utf-8")
        assert "decoder.pt2: no target of this verification runs it" in page
