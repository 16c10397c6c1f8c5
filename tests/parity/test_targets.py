"""Names of targets, and the choice of those that run."""

from __future__ import annotations

import pytest

from tests import sample_models
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.errors import IntegrityError, TargetError, UsageError
from vae_export.formats import FORMATS
from vae_export.parity.targets import Kind, Target, choose_targets, parse_target
from vae_export.session_options import CPU, CUDA, TENSORRT, SessionOptions

#: Every format in each of its precisions.
KINDS: list[Kind] = [(name, precision) for name, format in FORMATS.items() for precision in format.precisions]


@pytest.mark.parametrize(
    "name",
    [
        "onnx/CPUExecutionProvider",
        "onnx/CUDAExecutionProvider+tf32",
        "onnx+int8/CPUExecutionProvider",
        "onnx+fp16/CUDAExecutionProvider+tf32",
        "pt2/cuda",
        "pt2+bf16/cpu",
    ],
)
def test_target_name_round_trips(name: str) -> None:
    assert str(parse_target(name, KINDS)) == name


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("onnx/CPU", "onnx/CPUExecutionProvider"),
        ("onnx+int8/cpu", "onnx+int8/CPUExecutionProvider"),
        ("onnx/cuda+tf32", "onnx/CUDAExecutionProvider+tf32"),
        ("ort/cpu", "ort/CPUExecutionProvider"),
        ("onnx/tensorrt", "onnx/TensorrtExecutionProvider"),
        ("pt2/CPU", "pt2/cpu"),
        ("openvino/cpu", "openvino/CPU"),
    ],
)
def test_short_name_of_a_provider_is_enough(name: str, full: str) -> None:
    assert str(parse_target(name, KINDS)) == full


def test_target_in_two_spellings_is_chosen_once() -> None:
    assert choose_targets([("onnx", "fp32")], ["onnx/CPU", "onnx/CPUExecutionProvider"]) == [Target("onnx", CPU)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "onnx",
        "onnx/",
        "/cpu",
        "tflite/cpu",
        "onnx/CPUExecutionProvider+tf32",
        "pt2/cpu+tf32",
        "pt2/+tf32",
        "pt2+int8/cpu",
        "onnx+int7/CPUExecutionProvider",
    ],
)
def test_invalid_target_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no file for this target"):
        parse_target(name, KINDS)


def test_target_of_a_format_not_exported_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no file for this target: pt2/cpu; expected onnx"):
        choose_targets([("onnx", "fp32")], ["pt2/cpu"])


def test_requested_targets_are_taken_once_and_in_order() -> None:
    asked = ["pt2/cpu", f"onnx/{CPU}", "pt2/cpu"]
    assert list(map(str, choose_targets([("onnx", "fp32"), ("pt2", "fp32")], asked))) == ["pt2/cpu", f"onnx/{CPU}"]


def test_all_available_targets_are_taken_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FORMATS["onnx"]), "providers", lambda _: (CPU, CUDA))
    assert list(map(str, choose_targets([("onnx", "fp32")], None))) == [
        f"onnx/{CPU}",
        f"onnx/{CUDA}",
        f"onnx/{CUDA}+tf32",
    ]
    assert choose_targets([], None) == []


def test_unknown_format_is_refused() -> None:
    with pytest.raises(IntegrityError, match="unknown format"):
        choose_targets([("onnx", "fp32"), ("tflite", "fp32")], None)


def test_target_runs_only_files_of_its_format_and_precision() -> None:
    target = Target("onnx", CPU, precision="int8")
    assert target.runs(FileEntry.of("decoder.int8.onnx", "decoder", "onnx", FileContent(b""), "int8"))
    assert not target.runs(FileEntry.of("decoder.onnx", "decoder", "onnx", FileContent(b"")))
    assert not target.runs(FileEntry.of("decoder.int8.pt2", "decoder", "pt2", FileContent(b""), "int8"))


def test_quick_runs_two_optimisation_levels_and_thorough_all_settings() -> None:
    target = Target("onnx", CPU)
    assert target.session_options(thorough=False) == (
        SessionOptions(threads=1, optimisation="all"),
        SessionOptions(threads=1, optimisation="disabled"),
    )
    thorough = target.session_options(thorough=True)
    assert len(thorough) == len(set(thorough)) == 8
    assert thorough[0] == target.session_options(thorough=False)[0]
    for format in sample_models.QUICK:
        plain = Target(format, FORMATS[format].providers()[0])
        assert set(plain.session_options(thorough=False)) <= set(plain.session_options(thorough=True))


def test_target_that_contradicts_the_tf32_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FORMATS["onnx"]), "providers", lambda _: (CPU, CUDA, TENSORRT))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    Target("onnx", CUDA).check()
    Target("onnx", TENSORRT).check()
    with pytest.raises(TargetError, match="TF32 is off"):
        Target("onnx", CUDA, tf32=True).check()
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    Target("onnx", CUDA, tf32=True).check()
    with pytest.raises(TargetError, match="TensorRT uses TF32"):
        Target("onnx", TENSORRT).check()
