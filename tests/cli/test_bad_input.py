"""Whatever is typed wrongly, or is wrong in a file, is one line with its exit code, and changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ONE_LINE, Invoke, command, run_cli, tree

#: Every line of `design`: what is typed, with the exit code and what the line must say. {run}: a whole run folder;
#: {empty}: an empty folder; {full}: a folder called .json; {file}: a text file; {none}: nothing there.
BAD_INPUT = [
    ("export --nope", 2, "unknown option: --nope; see --help"),
    ("export --forma onnx", 2, "unknown option: --forma; did you mean --format?"),
    ("export --output x", 2, "unknown option: --output; did you mean --decoder-output or --out?"),
    ("serve --port 80", 2, "unknown option: --port; did you mean --grpc-port or --http-port?"),
    ("export --shape 1x2x2", 2, "unknown option: --shape; did you mean --data-shape or --latent-shape?"),
    ("export --lr 1", 2, "unknown option: --lr; see --help"),
    ("export --verify-m 2", 2, "unknown option: --verify-m; did you mean --verify-minutes?"),
    ("export --out", 2, "Option '--out' requires an argument; see --help"),
    ("verify --atol much", 2, "bad --atol; expected a"),
    ("verify --run {run} --atol nan", 2, "bad --atol; expected a number from 0 up, got nan"),
    ("verify --run {run} --rtol -1", 2, "bad --rtol; expected a number from 0 up, got -1"),
    ("exprot", 2, "unknown command: exprot; did you mean export?"),
    ("zzz", 2, "unknown command: zzz; see --help"),
    ("decode", 2, "missing argument: LATENTS; see --help"),
    ("--nope", 2, "unknown option: --nope"),
    ("export", 2, "no run found: artifacts; train one first"),
    ("export --run {none}", 2, "no such run: {none}; expected a folder made by python cli.py train"),
    ("export --run {file}", 2, "no such run"),
    ("export --run {run} --checkpoint {file}", 2, "--run and --checkpoint exclude each other"),
    (
        "export --run {run}",
        2,
        "output exists: {run}/export; pass --force to replace it, --add to add files to it, or --out",
    ),
    ("export --run {run} --out {full}", 2, "output exists: {full}; pass --force to replace it, or --out"),
    ("export --run {run} --out {file}", 2, "output exists"),
    ("export --run {run} --out {file} --force", 2, "not an export folder"),
    ("export --run {run} --out {home} --force", 2, "not an export folder"),
    ("export --run {run} --out .", 2, "not a valid output name"),
    ("export --run {run} --out {none} --format zip", 2, "unknown format; expected onnx | "),
    ("export --run {run} --out {none} --format ONNX", 2, "unknown format; .*got ONNX; did you mean onnx?"),
    ("export --run {run} --out {none} --pixels uint8", 2, "unknown pixels; expected uint8-hwc | uint8-chw, got uint8"),
    ("export --run {run} --out {none} --pixels uint8-hwc --precision int8", 2, "pixels are exported in float32 only"),
    ("export --run {run} --out {none} --part head", 2, "unknown part; expected encoder | decoder | autoencoder | all"),
    ("export --run {run} --out {none} --opset 0", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset -1", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset 99", 2, "opset cannot be written"),
    ("export --run {run} --out {none} --opset nan", 2, "bad --opset; expected a"),
    ("export --run {run} --out {file}/below", 6, "{file}/below"),
    ("export --run {run} --out {long}", 6, "path too long"),
    (
        "export --run {empty}",
        3,
        "checkpoint cannot be read: {empty}/checkpoint.safetensors; expected a checkpoint of python cli.py train, "
        "got OSError: no such file",
    ),
    ("export --checkpoint {none} --out {none}", 3, "no such file"),
    ("export --checkpoint {file} --out {none}", 3, "checkpoint cannot be read"),
    ("export --checkpoint {empty} --out {none}", 3, "not a file"),
    ("export --checkpoint {run}/export/encoder.onnx --out {none}", 3, "checkpoint cannot be read"),
    ("export --checkpoint {run}/export/encoder.pt2 --out {none}", 3, "checkpoint cannot be read"),
    ("bundle --run {run} --precision int8 --out {none}", 2, "export has no such precision; expected fp32, got int8"),
    ("bundle --run {run} --name a/b", 2, "not a valid file name: --name; got a/b; pass --out for the file"),
    ("bundle --run {run} --name a\x07b --out {none}", 2, "bad name: --name; expected printable text, got 'a\\x07b'"),
    (
        "bundle --run {run} --licence {run}/export/encoder.onnx --out {none}",
        3,
        "not a text: --licence {run}/export/encoder.onnx",
    ),
    ("bench --run {run} --batch 0", 2, "bad --batch; expected 1 to 1,048,576, got 0"),
    ("bench --run {run} --batch nan", 2, "bad --batch; expected a"),
    ("bench --run {run} --threads 0", 2, "bad --threads; expected 1 to"),
    ("bench --run {run} --rounds -1", 2, "bad --rounds; expected 1 to 10,000, got -1"),
    ("bench --run {run} --part head", 2, "unknown part; expected encoder | decoder | autoencoder | decoder-uint8-hwc"),
    ("bench --run {run} --out {home}/t.json --target onnx", 2, "no file for this target: onnx"),
    ("bench --run {run} --out {none}", 2, "--out is for the JSON"),
    ("bench --run {empty}", 3, "no export found: {empty}/export"),
    ("verify", 2, "no run found"),
    ("verify --run {none}", 2, "no such run"),
    ("verify --run {empty}", 3, "no export found: {empty}/export"),
    ("verify --run {run} --export {none}", 3, "no export found"),
    ("verify --run {run} --export {file}", 3, "no export found"),
    ("verify --run {run} --checkpoint {file}", 3, "checkpoint cannot be read"),
    ("verify --run {run} --checkpoint {other}", 4, "export is of another checkpoint"),
    ("verify --run {run} --target onnx", 2, "no file for this target: onnx; expected .*format/provider"),
    ("verify --run {run} --target zip/cpu", 2, "no file for this target"),
    (
        "verify --run {run} --target onnx/TensorrtExecutionProvider",
        6,
        "provider not found: TensorrtExecutionProvider; expected CPUExecutionProvider; run: pip",
    ),
    ("verify --run {run} --target torchscript/toaster", 6, "device not found: torchscript/toaster"),
    ("verify --run {run} --out {file}", 2, "--out is for the JSON; .*: {file}; expected a name in .json"),
    ("verify --run {run} --out {none}.html", 2, "--out is for the JSON; the page goes beside it"),
    ("verify --run {run} --out {none}", 2, "--out is for the JSON"),
    (
        "verify --run {run} --out {json} --force",
        2,
        "--force does not replace a file of another kind: {json}; expected a",
    ),
    (
        "bench --run {run} --out {json} --force",
        2,
        "--force does not replace a file of another kind: {json}; expected a",
    ),
    ("verify --run {run} --out {page}.json --force", 2, "--force does not replace a page of another kind: {page}.html"),
    (
        "verify --run {run} --file {run}/export/decoder.onnx --part encoder",
        3,
        "inputs do not match the contract: .*encoder; expected image float (N, 1, 28, 28), got latent float (N, 4)",
    ),
    ("encode {none} --run {run} --out {npz}", 3, "cannot be read: {none}; got No such file"),
    ("verify --run {run} --out {full}", 2, "output is a folder: {full}; expected the name of a file"),
    ("verify {run}", 2, "unexpected argument: {run}; pass --run {run}"),
    ("verify {run}/export", 2, "unexpected argument: {run}/export; pass --export {run}/export"),
    ("export model.py:vae", 2, "unexpected argument: model.py:vae; pass --model model.py:vae"),
    ("verify --export {none}", 3, "no export found: {none}"),
    ("bundle --run {run} --out {empty} --force", 2, "output is a folder: {empty}"),
    ("bundle --model {file}:vae --out {none} --licence {none}", 3, "file cannot be read: --licence {none}"),
    ("bundle --model {file}:vae --out {none} --notes {none}", 3, "file cannot be read: --notes {none}"),
    ("bundle --model {file}:vae --out {none} --sign {none}", 3, "key cannot be read: {none}; got No such file"),
    ("bundle --model {file}:vae --out {file}/a.zip", 6, "not a folder: {file}; got "),
    ("bundle --model {file}:vae --out {none} --triton {file}/models", 6, "not a folder: {file}; got "),
    ("bundle --run {run} --out {none} --licence {none}", 3, "file cannot be read: --licence {none}"),
    ("bundle --run {run} --verify-minutes 3", 2, "--verify-minutes and --thorough go with --model"),
    ("verify --run {run} --out {full} --force", 2, "output is a folder: {full}"),
    ("doctor --nope", 2, "unknown option: --nope"),
    ("doctor now", 2, "unexpected argument"),
]


@pytest.mark.parametrize(("typed", "code", "said"), BAD_INPUT, ids=[typed for typed, _, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_changes_nothing(
    invoke: Invoke, run_folder: Path, tmp_path: Path, typed: str, code: int, said: str
) -> None:
    from tests import sample_models
    from vae_export import save_checkpoint

    if "TensorrtExecutionProvider" in typed and has_tensorrt():
        pytest.skip("TensorRT is there")
    home = tmp_path / "home"
    (home / "empty").mkdir(parents=True)
    (home / "full.json").mkdir()
    (home / "notes.txt").write_text("mine")
    (home / "latents.npz").write_bytes(b"mine")
    (home / "package.json").write_text('{"format": "mine"}')
    (home / "page.html").write_text("mine")
    save_checkpoint(sample_models.checkpoint("mlp", seed=1), home / "other.safetensors")
    places = {
        "run": run_folder,
        "home": home,
        "empty": home / "empty",
        "file": home / "notes.txt",
        "none": tmp_path / "none",
        "npz": home / "latents.npz",
        "json": home / "package.json",
        "page": home / "page",
        "full": home / "full.json",
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


def test_refused_opset_prints_one_line_only(invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
    outcome = invoke("export", "--run", run_folder, "--out", tmp_path / "out", "--opset", "99")
    assert outcome.code == 2
    assert outcome.err.startswith("vae-export: error: opset cannot be written; expected 11 to ")
    assert ONE_LINE.fullmatch(outcome.err)


@pytest.mark.slow
def test_damaged_pt2_file_prints_no_traceback(run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "decoder.pt2"
    path.write_bytes((run_folder / "export" / "decoder.pt2").read_bytes()[:-100])
    given = ("--checkpoint", run_folder / "checkpoint.safetensors", "--file", path, "--part", "decoder")
    result = run_cli("verify", *given, "--trust", "--quick", cwd=tmp_path)
    assert result.returncode == 3
    *messages, error = result.stderr.splitlines()
    assert messages == ["verifying decoder.pt2"]
    assert error.startswith("vae-export: error: not a readable pt2 file: decoder.pt2; got ")


@pytest.mark.slow
def test_bad_checkpoint_is_refused_without_asserts(run_folder: Path, tmp_path: Path) -> None:
    """`python -O` removes them: what is refused must be refused all the same."""
    arguments = command("export", "--checkpoint", run_folder / "export" / "encoder.onnx", "--out", "out")[1:]
    result = subprocess.run(
        [sys.executable, "-O", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 3
    assert ONE_LINE.fullmatch(result.stderr)
