"""`bundle --triton` writes a repository that Triton's own protobuf definition accepts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Invoke, tree
from tests.required import skip_or_fail
from vae_export.contract import Condition, Contract, Part
from vae_export.runtime import open_package
from vae_export.serving.models import ServedBundle
from vae_export.serving.triton import model_config, write_triton
from vae_export.tensors import Symbol


def parsed(text: str) -> Any:
    """Parse a text with the definition in NVIDIA's package; unknown fields and bad values are errors."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        skip_or_fail("tritonclient", "run: pip install -e '.[dev]'")
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def config(contract: Contract, part: Part = "decoder", max_rows: int = 256) -> Any:
    return parsed(model_config(contract.spec(part), "m", max_rows))


def described(tensors: Any) -> list[tuple[str, str, list[int]]]:
    from tritonclient.grpc import model_config_pb2

    names = model_config_pb2.DataType.Name
    return [(tensor.name, names(tensor.data_type), list(tensor.dims)) for tensor in tensors]


def test_config_has_the_tensors_of_the_contract() -> None:
    found = config(Contract((1, 28, 28), (20,)), "autoencoder")
    assert (found.name, found.backend, found.default_model_filename) == ("m", "onnxruntime", "model.onnx")
    assert described(found.input) == [("image", "TYPE_FP32", [1, 28, 28]), ("noise", "TYPE_FP32", [20])]
    assert described(found.output) == [
        ("reconstruction", "TYPE_FP32", [1, 28, 28]),
        ("mean", "TYPE_FP32", [20]),
        ("logvar", "TYPE_FP32", [20]),
        ("latent", "TYPE_FP32", [20]),
    ]
    assert found.max_batch_size == 256
    assert found.HasField("dynamic_batching")
    assert found.version_policy.latest.num_versions == 1


def test_free_sizes_are_minus_one() -> None:
    found = config(Contract((3, "8*h", "8*w"), (4, "h", "w"), (-1, 1)))
    assert described(found.input) == [("latent", "TYPE_FP32", [4, -1, -1])]
    assert described(found.output) == [("image", "TYPE_FP32", [3, -1, -1])]


def test_condition_of_one_number_a_row_is_reshaped() -> None:
    label = Condition("label", (), "int64", 0, 9)
    found = config(Contract((1, 28, 28), (20,), conditions=(label,)))
    assert described(found.input)[1] == ("label", "TYPE_INT64", [1])
    assert found.input[1].HasField("reshape")
    assert list(found.input[1].reshape.shape) == []


def test_bytes_and_codes_have_their_datatypes() -> None:
    contract = Contract((1, 28, 28), (7, 7), encoding="codes", codebook_size=16, code_dtype="int32")
    found = config(contract, "decoder-uint8-hwc")
    assert described(found.input) == [("codes", "TYPE_INT32", [7, 7])]
    assert described(found.output) == [("pixels", "TYPE_UINT8", [28, 28, 1])]


@pytest.mark.parametrize(
    ("batch", "largest", "sizes"),
    [
        (Symbol(1, 16), 16, [20]),
        (Symbol(1, 4096), 256, [20]),
        (Symbol(4, 4), 0, [4, 20]),
        (Symbol(1, 1), 0, [1, 20]),
        (Symbol(2, None), 0, [-1, 20]),
    ],
)
def test_batch_of_the_contract_bounds_the_batch(batch: Symbol, largest: int, sizes: list[int]) -> None:
    found = config(Contract((1, 28, 28), (20,), symbols={"N": batch}))
    assert found.max_batch_size == largest
    assert found.HasField("dynamic_batching") == (largest > 0)
    assert list(found.input[0].dims) == sizes


def test_command_writes_a_repository_beside_the_bundle(run_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    repository, bundle = tmp_path / "models", tmp_path / "small.zip"
    outcome = invoke("bundle", "--run", run_folder, "--out", bundle, "--triton", repository, "--triton-version", 3)
    assert outcome.code == 0, outcome.err
    opened = open_package(bundle)
    names = sorted(path.name for path in repository.iterdir())
    assert names == ["small-autoencoder", "small-decoder", "small-encoder"]
    for entry in (opened.manifest.entry(part) for part in ("encoder", "decoder", "autoencoder")):
        folder = repository / f"small-{entry.part}"
        assert parsed((folder / "config.pbtxt").read_text()).name == folder.name
        assert [path.name for path in (folder / "3").iterdir()] == ["model.onnx"]
        assert hashlib.sha256((folder / "3" / "model.onnx").read_bytes()).hexdigest() == entry.sha256


def test_existing_repository_is_replaced_with_force_alone(run_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    repository, bundle = tmp_path / "models", tmp_path / "small.zip"
    arguments = ("bundle", "--run", run_folder, "--out", bundle, "--triton", repository)
    assert invoke(*arguments).code == 0
    bundle.unlink()
    outcome = invoke(*arguments)
    assert outcome.code == 2
    assert f"output exists: {repository}" in outcome.err
    assert not bundle.exists()
    (repository / "small-decoder" / "config.pbtxt").write_text("old")
    assert invoke(*arguments, "--force").code == 0
    assert (repository / "small-decoder" / "config.pbtxt").read_text() != "old"


@pytest.mark.parametrize(
    "other",
    ["resnet/1/model.onnx", "resnet/config.pbtxt", "small-decoder/2/model.onnx", "small-decoder/labels.txt", "a.txt"],
)
def test_other_models_versions_and_files_are_never_replaced(
    run_folder: Path, tmp_path: Path, invoke: Invoke, other: str
) -> None:
    repository, bundle = tmp_path / "models", tmp_path / "small.zip"
    (repository / other).parent.mkdir(parents=True)
    (repository / other).write_text("mine")
    before = tree(tmp_path)
    outcome = invoke("bundle", "--run", run_folder, "--out", bundle, "--triton", repository, "--force")
    assert outcome.code == 2
    expected = f"expected nothing but version 1 of small-…, got {other}; choose another --triton"
    assert outcome.err == f"vae-export: error: not a folder that may be replaced: {repository}; {expected}\n"
    assert tree(tmp_path) == before


def test_name_that_triton_does_not_take_is_refused_first(run_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    bundle = tmp_path / "a b.zip"
    outcome = invoke("bundle", "--run", run_folder, "--out", bundle, "--triton", tmp_path / "models")
    assert outcome.code == 2
    assert "file name is no model name: " in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run"]


def test_failure_leaves_nothing(packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "small.zip"
    bundle.write_bytes(packed)
    package = open_package(bundle)
    real, wrote = type(package).read, []

    def read(self: Any, file: Any) -> bytes:
        if wrote:
            raise OSError("disk is full")
        wrote.append(file.name)
        return real(self, file)

    monkeypatch.setattr(type(package), "read", read)
    with pytest.raises(OSError, match="disk is full"):
        write_triton(package, tmp_path / "deep" / "models", ServedBundle("small", 1, bundle))
    assert wrote
    assert [path.name for path in tmp_path.iterdir()] == ["small.zip"]
