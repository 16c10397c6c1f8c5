"""Requests that do not fit are refused in one line that names what is wrong, over both protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.serving.running import PROTOCOLS, Running, latents
from vae_export.contract import Array

NAN, LARGE = latents(3), latents(3)
NAN[1, 2], LARGE[2, 0] = np.nan, np.inf
IMAGE = np.full((1, 1, 28, 28), 0.5, np.float32)
BRIGHT = IMAGE * 3

#: Model, inputs, and the answer.
CASES: dict[str, tuple[str, dict[str, Array], str]] = {
    "unknown": ("decoder", {"x": latents(1)}, "unknown input: small-decoder; expected latent, got x"),
    "missing": ("autoencoder", {"image": IMAGE}, "input is missing: small-autoencoder; .* got image, without noise"),
    "datatype": (
        "decoder",
        {"latent": latents(1).astype(np.float64)},
        "wrong datatype: tensor 'latent'; expected FP32",
    ),
    "rank": ("decoder", {"latent": latents(1)[0]}, r"wrong shape: tensor 'latent'; expected .*, got \(4,\)"),
    "size": ("decoder", {"latent": latents(1, 5)}, r"wrong shape: tensor 'latent'; expected .*, got \(1, 5\)"),
    "empty": ("decoder", {"latent": latents(0)}, "empty batch: tensor 'latent'"),
    "nan": ("decoder", {"latent": NAN}, r"not finite: tensor 'latent' at \(1, 2\); .*, got nan"),
    "infinite": ("decoder", {"latent": LARGE}, r"not finite: tensor 'latent' at \(2, 0\); .*, got inf"),
    "range": ("encoder", {"image": BRIGHT}, r"out of range: tensor 'image' at \(0, 0, 0, 0\); .*, got 1.5"),
    "rows": ("autoencoder", {"image": IMAGE, "noise": latents(2)}, "wrong shape: tensor 'noise'"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_input_that_does_not_fit_is_refused_by_name(server: Running, protocol: str, case: str) -> None:
    from tritonclient.utils import InferenceServerException

    part, inputs, message = CASES[case]
    with pytest.raises(InferenceServerException, match=message) as caught:
        server.infer(protocol, f"small-{part}", inputs)
    expected = "400" if protocol == "http" else "StatusCode.INVALID_ARGUMENT"
    assert caught.value.status() == expected
    assert "\n" not in caught.value.message()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_output_that_does_not_exist_is_refused(server: Running, protocol: str) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="unknown output: small-decoder; expected image, got mean"):
        server.infer(protocol, "small-decoder", {"latent": latents(1)}, outputs=["mean"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_whose_images_would_be_too_large_are_refused(server: Running, protocol: str) -> None:
    from tritonclient.utils import InferenceServerException

    inputs = {"latent": latents(30_000)}  # 480 kB, and 94 MB of images
    with pytest.raises(InferenceServerException, match="response would be too large: small-decoder; .*30,000 rows"):
        server.infer(protocol, "small-decoder", inputs)


TENSOR = {"name": "latent", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}

#: Documents that are not what the protocol says.
DOCUMENTS: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{nonsense", "body is not JSON"),
    "NaN in JSON": (b'{"inputs": [{"name": "latent", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', "not JSON"),
    "nested without an end": (b"[" * 100_000, "body is not JSON"),
    "a list": ([], "not a JSON object: body"),
    "no inputs": ({}, "inputs are missing"),
    "inputs of texts": ({"inputs": ["latent"]}, "not a JSON object: each of inputs"),
    "no name": ({"inputs": [TENSOR | {"name": 3}]}, "not a text: name of an input"),
    "no shape": ({"inputs": [TENSOR | {"shape": None}]}, "shape is missing: tensor 'latent'"),
    "shape of texts": ({"inputs": [TENSOR | {"shape": ["1", "4"]}]}, "bad shape: tensor 'latent'"),
    "negative shape": ({"inputs": [TENSOR | {"shape": [-1, -4]}]}, "bad shape: tensor 'latent'"),
    "gigantic shape": ({"inputs": [TENSOR | {"shape": [2**39, 4]}]}, "wrong number of values: tensor 'latent'"),
    "no data": ({"inputs": [{**TENSOR, "data": None}]}, "data is not an array: tensor 'latent'"),
    "numbers as texts": ({"inputs": [TENSOR | {"data": ["0", "0", "0", "0"]}]}, "data is not an array: .*got texts"),
    "ragged": ({"inputs": [TENSOR | {"data": [[0, 0], [0]]}]}, "data is not an array: tensor 'latent'"),
    "booleans": ({"inputs": [TENSOR | {"data": [True] * 4}]}, "data is not an array: .*got booleans"),
    "too few": (
        {"inputs": [TENSOR | {"data": [0, 0, 0]}]},
        "wrong number of values: tensor 'latent'; expected 4, got 3",
    ),
    "beyond float32": ({"inputs": [TENSOR | {"data": [1e300, 0, 0, 0]}]}, r"not finite: tensor 'latent' at \(0, 0\)"),
    "twice": ({"inputs": [TENSOR, TENSOR]}, "input is given twice: tensor 'latent'"),
    "bytes that are not there": (
        {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 16}}]},
        "data is given twice: tensor 'latent'",
    ),
    "parameters": ({"inputs": [TENSOR], "parameters": 3}, "not a JSON object: parameters"),
    "classification": (
        {"inputs": [TENSOR], "outputs": [{"name": "image", "parameters": {"classification": 3}}]},
        "classification is not supported: output 'image'",
    ),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_document_of_another_kind_is_refused(server: Running, case: str) -> None:
    body, message = DOCUMENTS[case]
    refused(lambda: server.post("/v2/models/small-decoder/infer", body), 400, message)


HEADERS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "longer than the body": (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "bad header: inference-header"),
    "not a number": (b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "bad header: inference-header"),
    "bytes are left": (b'{"inputs":[]}xx', {"Inference-Header-Content-Length": "13"}, 400, "bytes are left after"),
    "compressed": (b"x", {"Content-Encoding": "gzip"}, 400, "compressed requests are not supported"),
    "too large": (b" " * ((1 << 20) + 1), {}, 413, "request is too large; expected 1048576 bytes at most"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_body_of_another_kind_is_refused(server: Running, case: str) -> None:
    body, headers, status, message = HEADERS[case]
    refused(lambda: server.post("/v2/models/small-decoder/infer", body, headers), status, message)


def refused(send: Callable[[], tuple[int, Any]], status: int, message: str) -> None:
    import re

    found, document = send()
    assert found == status
    assert list(document) == ["error"]
    assert re.search(message, document["error"]), document
    assert "\n" not in document["error"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v3", 404), ("/v2/models/small-decoder/infer", 405), ("/v2/models", 404)]
)
def test_path_that_does_not_exist_is_an_error_in_json(server: Running, path: str, status: int) -> None:
    found, document = server.request(path)
    assert (found, list(document)) == (status, ["error"])


def test_grpc_refuses_bytes_and_numbers_that_do_not_belong_together(server: Running) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    def send(raw: list[bytes], **contents: list[float]) -> str:
        request = service_pb2.ModelInferRequest(model_name="small-decoder", raw_input_contents=raw)
        tensor = request.inputs.add(name="latent", datatype="FP32", shape=[1, 4])
        for name, values in contents.items():
            getattr(tensor.contents, name).extend(values)
        with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return caught.value.details()

    assert send([b"", b""]).startswith("wrong number of raw_input_contents")
    assert send([b"0" * 16], fp32_contents=[0] * 4).startswith("data is given twice: tensor 'latent'")
    assert send([b"0" * 15]).startswith("wrong number of bytes: tensor 'latent'")
    assert send([], fp64_contents=[0] * 4).startswith("wrong number of values: tensor 'latent'")
