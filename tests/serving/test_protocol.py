"""The Open Inference Protocol, spoken with a client of another project over HTTP and gRPC."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import ROOT, run_python
from tests.reference_variants import REFERENCE
from tests.serving.running import PROTOCOLS, Running, infer, latents, started
from vae_export import Model, __version__

#: HTTP takes tensors as JSON, or as bytes after it.
WAYS = [("http", True), ("http", False), ("grpc", True)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestHealthAndMetadata:
    def test_server_and_models_are_live_and_ready(self, server: Running, protocol: str) -> None:
        with server.client(protocol) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("small-decoder")
            assert client.is_model_ready("small-decoder", "2")

    def test_server_describes_itself(self, server: Running, protocol: str) -> None:
        with server.client(protocol) as client:
            found = client.get_server_metadata(**as_dict(protocol))
        assert found == {"name": "vae-export", "version": __version__, "extensions": ["binary_tensor_data"]}

    @pytest.mark.parametrize("version", ["", "1"])
    def test_model_is_described_from_the_contract(self, server: Running, protocol: str, version: str) -> None:
        with server.client(protocol) as client:
            found = client.get_model_metadata("small-encoder", version, **as_dict(protocol))
        sizes = [str if protocol == "grpc" else int][0]  # protobuf writes 64-bit integers of JSON as texts
        assert found == {
            "name": "small-encoder",
            "versions": ["1", "2"],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": list(map(sizes, [-1, 1, 28, 28]))}],
            "outputs": [
                {"name": "mean", "datatype": "FP32", "shape": list(map(sizes, [-1, 4]))},
                {"name": "logvar", "datatype": "FP32", "shape": list(map(sizes, [-1, 4]))},
            ],
        }

    def test_unknown_model_and_version_are_named(self, server: Running, protocol: str) -> None:
        from tritonclient.utils import InferenceServerException

        with server.client(protocol) as client:
            with pytest.raises(InferenceServerException, match="unknown model; expected other-.*, got nothing-here"):
                client.get_model_metadata("nothing-here")
            with pytest.raises(InferenceServerException, match=r"unknown version: other-decoder; expected 7, got 3"):
                client.get_model_metadata("other-decoder", "3")


def as_dict(protocol: str) -> dict[str, bool]:
    return {"as_json": True} if protocol == "grpc" else {}


class TestInference:
    @pytest.mark.parametrize(("protocol", "binary"), WAYS)
    @pytest.mark.parametrize("rows", [1, 3, 200])
    def test_decoder_gives_what_the_model_computes(
        self, server: Running, model: Model, protocol: str, binary: bool, rows: int
    ) -> None:
        inputs = latents(rows)
        result = server.infer(protocol, "small-decoder", {"latent": inputs}, binary=binary, outputs=["image"])
        # Of one latent or of 64, the last bit of a sum may differ.
        np.testing.assert_allclose(result.as_numpy("image"), model.decode(inputs), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("protocol", "binary"), WAYS)
    def test_encoder_gives_every_output_or_those_that_are_asked_for(
        self, server: Running, model: Model, protocol: str, binary: bool
    ) -> None:
        images = model.sample(2)
        mean, logvar = model.encode(images)
        every = server.infer(protocol, "small-encoder", {"image": images}, binary=binary)
        np.testing.assert_allclose(every.as_numpy("mean"), mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(every.as_numpy("logvar"), logvar, rtol=0, atol=1e-6)
        one = server.infer(protocol, "small-encoder", {"image": images}, binary=binary, outputs=["logvar"])
        assert one.as_numpy("mean") is None
        np.testing.assert_allclose(one.as_numpy("logvar"), logvar, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_autoencoder_takes_two_inputs(self, server: Running, model: Model, protocol: str) -> None:
        images, noise = model.sample(2), latents(2)
        result = server.infer(protocol, "small-autoencoder", {"image": images, "noise": noise})
        expected = model.run("autoencoder", image=images, noise=noise)
        for name, array in expected.items():
            np.testing.assert_allclose(result.as_numpy(name), array, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_answer_repeats_id_name_and_version(self, server: Running, protocol: str) -> None:
        def answer(**options: Any) -> tuple[str, str, str]:
            result = server.infer(protocol, "small-decoder", {"latent": latents(1)}, **options).get_response()
            found = result if protocol == "http" else {key.name: value for key, value in result.ListFields()}
            return found["id"], found["model_name"], found["model_version"]

        assert answer(request_id="a request") == ("a request", "small-decoder", "2")  # the newest
        assert answer(request_id="b", model_version="1") == ("b", "small-decoder", "1")

    def test_grpc_takes_numbers_in_fields_instead_of_bytes(self, server: Running, model: Model) -> None:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        inputs = latents(2)
        request = service_pb2.ModelInferRequest(model_name="small-decoder")
        tensor = request.inputs.add(name="latent", datatype="FP32", shape=[2, 4])
        tensor.contents.fp32_contents.extend(inputs.reshape(-1).tolist())
        with grpc.insecure_channel(server.grpc) as channel:
            response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        image = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(2, 1, 28, 28)
        np.testing.assert_allclose(image, model.decode(inputs), rtol=0, atol=1e-6)

    def test_json_may_be_nested_or_flat_and_asks_for_bytes(self, server: Running, model: Model) -> None:
        inputs = latents(2)
        expected = model.decode(inputs)
        for data in (inputs.tolist(), inputs.reshape(-1).tolist()):
            tensor = {"name": "latent", "shape": [2, 4], "datatype": "FP32", "data": data}
            status, found = server.post("/v2/models/small-decoder/infer", {"inputs": [tensor]})
            assert status == 200
            image = np.array(found["outputs"][0]["data"], np.float32).reshape(found["outputs"][0]["shape"])
            np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_clients_at_once_get_their_own_images(self, server: Running, model: Model, protocol: str) -> None:
        before = server.metrics()

        def work(client_number: int) -> None:
            with server.client(protocol) as client:
                for request in range(15):
                    inputs = latents(1 + request % 3, seed=100 * client_number + request)
                    result = infer(client, protocol, "other-decoder", {"latent": inputs})
                    np.testing.assert_allclose(result.as_numpy("image"), model.decode(inputs), rtol=0, atol=1e-6)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [None] * 8
        after = server.metrics()
        labels = '{model="other-decoder",version="7"}'
        requests, batches = (
            after[f"{name}{labels}"] - before[f"{name}{labels}"]
            for name in ("vae_export_batch_requests_total", "vae_export_batch_rows_count")
        )
        assert requests == 8 * 15
        assert batches < requests  # some were computed together


@pytest.mark.slow
@pytest.mark.usefixtures("_packages")
def test_requests_of_the_page_are_answered(tmp_path: Path) -> None:
    page = (ROOT / "docs/serving.md").read_text("utf-8")
    sent = re.search(r"^curl localhost:8000(\S+) -d '(.*?)'\n", page, re.M | re.S)
    (client,) = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    assert sent is not None
    with started([REFERENCE], tmp_path / "log") as server:
        server.wait_until_ready()
        status, answer = server.post(sent[1], sent[2].encode())
        assert (status, answer["outputs"][0]["shape"]) == (200, [1, 1, 28, 28])
        for protocol, address in (("http", server.http), ("grpc", server.grpc)):
            code = client.replace("tritonclient.http", f"tritonclient.{protocol}").replace("localhost:8000", address)
            done = run_python(f"{code}\nprint(images.shape)")
            assert (done.returncode, done.stdout) == (0, "(16, 1, 28, 28)\n"), done.stderr


def test_metrics_count_requests_and_refusals(server: Running) -> None:
    def count(outcome: str) -> float:
        labels = f'model="small-decoder",outcome="{outcome}",protocol="http",version="1"'
        return server.metrics().get(f"vae_export_requests_total{{{labels}}}", 0)

    fine, refused = count("OK"), count("INVALID_ARGUMENT")
    server.infer("http", "small-decoder", {"latent": latents(1)}, model_version="1")
    server.post("/v2/models/small-decoder/versions/1/infer", {"inputs": []})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (fine + 1, refused + 1)
    assert server.metrics()["vae_export_ready"] == 1
