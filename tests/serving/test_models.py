"""Names, versions and descriptions of models, and how tensors of requests become arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import run_python
from vae_export.contract import Condition, Contract, Part
from vae_export.errors import InputError, UsageError
from vae_export.serving.inference_request import RequestTensor, read_inputs
from vae_export.serving.models import Catalogue, ServedBundle, ServedModel
from vae_export.serving.refusals import TooLargeError, UnknownModelError
from vae_export.tensors import Symbol

FREE = Contract((3, "8*h", "8*w"), (4, "h", "w"), (-1, 1), symbols={"h": Symbol(1, 64), "w": Symbol(1, 64)})
LABEL = Contract((1, 4, 4), (2,), conditions=(Condition("label", (), "int64", 0, 9),))
CODES = Contract((1, 28, 28), (7,), encoding="codes", codebook_size=16, code_dtype="int32")


def served(contract: Contract = FREE, part: Part = "decoder", version: int = 1) -> ServedModel:
    return ServedModel(f"m-{part}", version, 0, part, contract.spec(part))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist.zip", ("mnist", 1, "mnist.zip")),
        ("a/b/mnist-2.1.zip", ("mnist-2.1", 1, "a/b/mnist-2.1.zip")),
        ("runs/export", ("export", 1, "runs/export")),
        ("digits=a.zip", ("digits", 1, "a.zip")),
        ("digits:12=a=b.zip", ("digits", 12, "a=b.zip")),
        ("./a=b/mnist.zip", ("mnist", 1, "./a=b/mnist.zip")),
    ],
)
def test_argument_is_a_name_a_version_and_a_file(text: str, expected: tuple[str, int, str]) -> None:
    name, version, path = expected
    assert ServedBundle.parse(text) == ServedBundle(name, version, Path(path))


@pytest.mark.parametrize(
    ("typed", "name"),
    [("runs/mnist/export", "mnist"), ("runs/mnist/export/", "mnist"), (".", "mnist"), ("../../other", "other")],
)
def test_export_is_named_by_its_run_and_another_folder_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, name: str
) -> None:
    export = tmp_path / "runs" / "mnist" / "export"
    export.mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    monkeypatch.chdir(tmp_path if typed.startswith("runs") else export)
    assert ServedBundle.parse(typed) == ServedBundle(name, 1, Path(typed))


@pytest.mark.parametrize("text", ["a b.zip", ".zip", "m:=a.zip", "m:0=a.zip", "m:01=a.zip", "m:x=a.zip", "m:1e9=a"])
def test_argument_without_a_valid_name_or_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="file name is no model name|bad version"):
        ServedBundle.parse(text)


def test_newest_version_is_the_default() -> None:
    catalogue = Catalogue.of([served(version=version) for version in (10, 9, 2)])
    assert catalogue.find("m-decoder").version == 10
    assert catalogue.find("m-decoder", "9").version == 9
    assert catalogue.versions("m-decoder") == [2, 9, 10]
    for name, version in (("m", ""), ("m-decoder", "3"), ("m-decoder", "09"), ("m-decoder", "9 ")):
        with pytest.raises(UnknownModelError):
            catalogue.find(name, version)


def test_free_sizes_are_described_as_minus_one() -> None:
    found = served().metadata([1])
    assert found["inputs"] == [{"name": "latent", "datatype": "FP32", "shape": [-1, 4, -1, -1]}]
    assert found["outputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert served(LABEL).metadata([1])["inputs"][1] == {"name": "label", "datatype": "INT64", "shape": [-1]}


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> RequestTensor:
    return RequestTensor(name, datatype, shape, data)


def test_free_sizes_may_differ_between_requests() -> None:
    for height in (1, 3):
        array = np.zeros((2, 4, height, 2), np.float32)
        found = read_inputs(served(), [tensor("latent", "FP32", list(array.shape), array.tobytes())], 1 << 30)
        assert found["latent"].shape == array.shape
    with pytest.raises(InputError, match="size out of bounds: decoder, h; expected 1 to 64, got 65"):
        read_inputs(served(), [tensor("latent", "FP32", [1, 4, 65, 1], [0] * 260)], 1 << 30)


def test_response_is_bounded_by_its_sizes() -> None:
    tensors = [tensor("latent", "FP32", [1, 4, 64, 64], np.zeros(4 * 64 * 64, np.float32).tobytes())]
    bytes_of_image = 3 * 512 * 512 * 4
    read_inputs(served(), tensors, bytes_of_image)
    with pytest.raises(TooLargeError, match=f"expected {bytes_of_image - 1:,} bytes at most, got 1 rows"):
        read_inputs(served(), tensors, bytes_of_image - 1)


@pytest.mark.parametrize("data", [[3, 9], np.array([3, 9], "<i8").tobytes()])
def test_integers_come_as_numbers_or_bytes(data: Any) -> None:
    latent = tensor("latent", "FP32", [2, 2], [0, 0, 0.5, 0])
    found = read_inputs(served(LABEL), [latent, tensor("label", "INT64", [2], data)], 1 << 30)
    assert found["label"].dtype == np.int64
    assert found["label"].tolist() == [3, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([3, 10], r"out of range: tensor 'label' at \(1,\); expected integers in \[0, 9\], got 10"),
        ([3, 1.0], "data is not an array: tensor 'label'; expected integers, got fractions"),
        ([2**63, 2**63 + 1], "out of range: tensor 'label'; expected int64 integers"),
    ],
)
def test_integers_out_of_range_are_refused(data: Any, message: str) -> None:
    latent = tensor("latent", "FP32", [2, 2], [0, 0, 0, 0])
    with pytest.raises(InputError, match=message):
        read_inputs(served(LABEL), [latent, tensor("label", "INT64", [2], data)], 1 << 30)


def test_code_beyond_32_bits_does_not_wrap() -> None:
    with pytest.raises(InputError, match="out of range: tensor 'codes'; expected int32 integers"):
        read_inputs(served(CODES), [tensor("codes", "INT32", [1, 7], [2**32] * 7)], 1 << 30)


def test_bytes_that_are_not_aligned_are_copied() -> None:
    data = memoryview(b"x" + np.arange(8, dtype="<f4").tobytes())[1:]
    found = read_inputs(
        served(LABEL), [tensor("latent", "FP32", [4, 2], data), tensor("label", "INT64", [4], [0] * 4)], 1 << 30
    )
    assert found["latent"].flags.aligned
    assert found["latent"].tolist() == np.arange(8).reshape(4, 2).tolist()


@pytest.mark.slow
def test_messages_have_the_numbers_and_types_of_another_implementation() -> None:
    """Compare each field of the table with NVIDIA's definition, which has further fields and messages of its own."""
    code = """if True:
        from tritonclient.grpc import service_pb2
        from vae_export.serving.grpc_messages import MESSAGES

        def all_messages(messages):
            for message in messages:
                yield message.name, message
                yield from all_messages(message.nested_types)

        def fields(message):
            return {
                field.name: (field.number, field.type, field.is_repeated, getattr(field.message_type, "name", None))
                for field in message.fields
            }

        theirs = dict(all_messages(service_pb2.DESCRIPTOR.message_types_by_name.values()))
        for name, ours in MESSAGES.items():
            expected = fields(theirs[name])
            for field, found in fields(ours.DESCRIPTOR).items():
                assert expected[field] == found, (name, field, expected[field], found)
        print(len(MESSAGES))
    """
    from importlib.util import find_spec

    from tests.required import skip_or_fail

    if find_spec("tritonclient") is None or find_spec("grpc") is None:
        skip_or_fail("tritonclient", "run: pip install -e '.[dev]'")
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "18\n"


@pytest.mark.slow
def test_serving_imports_no_pytorch() -> None:
    from importlib.util import find_spec

    from tests.required import skip_or_fail

    if find_spec("uvicorn") is None:
        skip_or_fail("uvicorn", "run: pip install -e '.[dev]'")
    result = run_python("import sys, vae_export.cli.serve, vae_export.serving.server; print('torch' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False\n", "")
