"""A server starts, tests itself, is ready, drains and ends."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import ONE_LINE, Invoke
from tests.serving.running import PROTOCOLS, Running, latents, python, started

SCRIPTED = python(Path(__file__).with_name("scripted.py"))

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_packages")]


def let_go_on(running: Running) -> None:
    """Let the self-test, or afterwards the batches, go on."""
    assert running.process.stdin is not None
    running.process.stdin.write("\n")
    running.process.stdin.flush()


def test_server_is_live_and_refuses_until_the_self_test_has_passed(bundle: Path, tmp_path: Path) -> None:
    from tritonclient.utils import InferenceServerException

    with started([bundle], tmp_path / "log", SCRIPTED) as running:
        for protocol in PROTOCOLS:
            with running.client(protocol) as client:
                assert client.is_server_live()
                assert not client.is_server_ready()
                assert not client.is_model_ready("small-decoder")
            with pytest.raises(InferenceServerException, match="server is starting") as caught:
                running.infer(protocol, "small-decoder", {"latent": latents(1)})
            assert caught.value.status() in ("503", "StatusCode.UNAVAILABLE")
        let_go_on(running)
        running.wait_until_ready()
        let_go_on(running)
        running.infer("grpc", "small-decoder", {"latent": latents(1)})


def test_failed_self_test_ends_the_server(bundle: Path, tmp_path: Path) -> None:
    with started([bundle, "fail"], tmp_path / "log", SCRIPTED) as running:
        let_go_on(running)
        assert running.process.wait(30) == 5
        assert running.log.read_text() == "self-test failed: decoder\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_requests_finish_and_refuses_new_ones(bundle: Path, tmp_path: Path, number: int) -> None:
    from tritonclient.utils import InferenceServerException

    with started([bundle], tmp_path / "log", SCRIPTED) as running, ThreadPoolExecutor(4) as pool:
        let_go_on(running)
        running.wait_until_ready()
        # Two batches, because a batch has at most eight rows: the second waits for the only worker.
        work = [
            pool.submit(running.infer, protocol, "small-decoder", {"latent": latents(6)})
            for protocol in (*PROTOCOLS, *PROTOCOLS)
        ]
        while running.metrics()["vae_export_requests_in_flight"] < len(work):
            time.sleep(0.01)
        running.process.send_signal(number)
        while running.request("/v2/health/ready")[0] == 200:
            time.sleep(0.01)
        for protocol in PROTOCOLS:
            with pytest.raises(InferenceServerException, match="server is draining") as caught:
                running.infer(protocol, "small-decoder", {"latent": latents(1)})
            assert caught.value.status() in ("503", "StatusCode.UNAVAILABLE")
        assert not any(item.done() for item in work)
        let_go_on(running)
        assert all(item.result(30).as_numpy("image").shape == (6, 1, 28, 28) for item in work)
        assert running.process.wait(30) == 0
        assert running.log.read_text() == f"ended by {number:d}\n"


def test_second_signal_ends_at_once(bundle: Path, tmp_path: Path) -> None:
    with started([bundle], tmp_path / "log", SCRIPTED) as running, ThreadPoolExecutor(1) as pool:
        let_go_on(running)
        running.wait_until_ready()
        work = pool.submit(running.infer, "http", "small-decoder", {"latent": latents(1)})
        while not running.metrics()["vae_export_requests_in_flight"]:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        while running.request("/v2/health/ready")[0] == 200:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        assert work.exception(15) is not None


def test_command_ends_with_the_exit_codes_of_signals(bundle: Path, tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 0), (signal.SIGTERM, 143)):
        with started([bundle], tmp_path / "log") as running:
            running.wait_until_ready()
            assert running.stop(number) == code
            assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_port_in_use_is_one_line(bundle: Path, invoke: Invoke, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = invoke("serve", bundle, "--http-port", 0, "--grpc-port", 0, option, port)
    assert outcome.code == 6
    assert ONE_LINE.fullmatch(outcome.err), outcome.err
    assert f"port is in use: 127.0.0.1:{port}; pass {option} 0 for a free one" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{bundle}", "{bundle}"], 2, "model is named twice: small-encoder, version 1"),
        (["a b.zip"], 2, "file name is no model name: a b.zip"),
        (["mnist:0={bundle}"], 2, "bad version: mnist:0="),
        (["mnist:={bundle}"], 2, "bad version: mnist:="),
        (["mnist=missing.zip"], 3, "no such file or folder: missing.zip"),
        (["{bundle}", "--precision", "int8"], 2, "no ONNX file has this precision"),
    ],
)
def test_bad_arguments_are_one_line(
    bundle: Path, invoke: Invoke, arguments: list[str], code: int, message: str
) -> None:
    outcome = invoke("serve", *(text.format(bundle=bundle) for text in arguments))
    assert outcome.code == code
    assert ONE_LINE.fullmatch(outcome.err), outcome.err
    assert message in outcome.err
