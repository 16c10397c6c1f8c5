"""Clients that send nonsense, half a request or gigabytes harm nobody: others get images, and memory is bounded."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.serving.running import Running, latents
from vae_export import Model

HEAD = "POST /v2/models/small-decoder/infer HTTP/1.1\r\nHost: x\r\n"
#: How much the memory may grow: far less than what is sent.
GROWTH = 100 << 20


@contextlib.contextmanager
def unharmed(server: Running, model: Model) -> Iterator[None]:
    """Check that others are served during and after the block, and that the memory hardly grows."""
    check_served(server, model)
    before = server.memory()
    yield
    check_served(server, model)
    assert server.memory() - before < GROWTH
    assert server.process.poll() is None


def check_served(server: Running, model: Model) -> None:
    inputs, start = latents(2), time.monotonic()
    for protocol in ("http", "grpc"):
        result = server.infer(protocol, "small-decoder", {"latent": inputs})
        np.testing.assert_allclose(result.as_numpy("image"), model.decode(inputs), rtol=0, atol=1e-6)
    assert time.monotonic() - start < 10


def connected(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes; a reset counts as that."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def send_until_refused(connection: socket.socket, pieces: Callable[[], bytes], total: int) -> int:
    """Send until the server closes; return how much it took."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < total:
            piece = pieces()
            connection.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nonsense_is_refused(server: Running, model: Model, protocol: str) -> None:
    noise = np.random.default_rng(0).bytes(1 << 16)
    with unharmed(server, model):
        for _ in range(20):
            with connected(getattr(server, protocol)) as connection:
                with contextlib.suppress(OSError):  # the server has closed
                    connection.sendall(noise)
                    connection.shutdown(socket.SHUT_WR)
                read_all(connection)


def test_half_a_body_is_given_up(server: Running, model: Model) -> None:
    with unharmed(server, model), connected(server.http) as connection:
        connection.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())
        check_served(server, model)  # while the half request waits
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body did not arrive; expected within 3 s" in answer


def test_body_that_ends_early_harms_nobody(server: Running, model: Model) -> None:
    with unharmed(server, model):
        for _ in range(20):
            with connected(server.http) as connection:
                connection.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())


@pytest.mark.parametrize("length", [str(2 << 30), "9" * 400])
def test_two_gigabytes_are_refused_before_they_are_sent(server: Running, model: Model, length: str) -> None:
    with unharmed(server, model), connected(server.http) as connection:
        connection.sendall(f"{HEAD}Content-Length: {length}\r\n\r\n".encode())
        answer = read_all(connection)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("framing", [f"Content-Length: {2 << 30}", "Transfer-Encoding: chunked"])
def test_two_gigabytes_are_not_kept(server: Running, model: Model, framing: str) -> None:
    chunk = b" " * (1 << 20)
    if framing.startswith("Transfer"):
        chunk = b"%x\r\n%s\r\n" % (len(chunk), chunk)

    def piece() -> bytes:
        time.sleep(0.002)  # all pieces take more than the second for which the server reads on
        return chunk

    with unharmed(server, model), connected(server.http) as connection:
        connection.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
        sent = send_until_refused(connection, piece, 2 << 30)
    assert sent < 2 << 30


def test_headers_without_an_end_are_not_kept(server: Running, model: Model) -> None:
    with unharmed(server, model), connected(server.http) as connection:
        connection.sendall(HEAD.encode())
        sent = send_until_refused(connection, lambda: b"X-Header: " + b"x" * 60_000 + b"\r\n", 1 << 28)
    assert sent < 1 << 24


def test_grpc_message_of_gigabytes_is_refused(server: Running, model: Model) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="small-decoder", raw_input_contents=[b" " * (64 << 20)])
    with unharmed(server, model), grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_call_without_a_message_is_given_up(server: Running, model: Model) -> None:
    import grpc

    def never() -> Iterator[bytes]:
        time.sleep(6)
        yield b""

    with unharmed(server, model), grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="request did not arrive; expected within 3 s"):
            call(never())


def wait_until_idle(server: Running, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while server.metrics()["vae_export_requests_in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_response_that_is_not_taken_is_given_up(server: Running, model: Model) -> None:
    inputs = latents(15_000)  # 47 MB of images, more than the buffers of two sockets
    size = {"binary_data_size": inputs.nbytes}
    tensor = {"name": "latent", "shape": inputs.shape, "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = f"{HEAD}Content-Length: {len(text) + inputs.nbytes}\r\nInference-Header-Content-Length: {len(text)}\r\n\r\n"
    with connected(server.http) as connection:
        connection.sendall(head.encode() + text + inputs.tobytes())
        assert connection.recv(12) == b"HTTP/1.1 200"
        check_served(server, model)
        wait_until_idle(server, 10)
        assert len(read_all(connection)) < 47_000_000


def test_grpc_response_that_is_not_taken_is_given_up(server: Running, model: Model) -> None:
    import grpc
    from tritonclient.grpc import service_pb2

    inputs = latents(15_000)
    request = service_pb2.ModelInferRequest(model_name="small-decoder", raw_input_contents=[inputs.tobytes()])
    request.inputs.add(name="latent", datatype="FP32", shape=inputs.shape)
    with grpc.insecure_channel(server.grpc, [("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_stream("/inference.GRPCInferenceService/ModelInfer")
        responses = call(request.SerializeToString())  # no response is read
        while not server.metrics()["vae_export_requests_in_flight"]:
            time.sleep(0.01)
        check_served(server, model)
        wait_until_idle(server, 20)
        responses.cancel()


def test_latents_that_overflow_fail_alone(server: Running, model: Model) -> None:
    """Finite numbers can become infinite inside the network, in the same batch as those of others."""
    from concurrent.futures import ThreadPoolExecutor

    from tritonclient.utils import InferenceServerException

    def send(number: int) -> str:
        inputs = latents(1, seed=number)
        if number % 3 == 0:
            inputs[:] = 3e38
        try:
            result = server.infer("http", "small-decoder", {"latent": inputs})
        except InferenceServerException as error:
            return str(error)
        np.testing.assert_allclose(result.as_numpy("image"), model.decode(inputs), rtol=0, atol=1e-6)
        return "right"

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(60)))
    for number, answer in enumerate(answers):
        assert answer == "right" if number % 3 else "not finite: tensor 'image'" in answer
