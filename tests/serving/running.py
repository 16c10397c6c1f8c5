"""Servers at work in processes of their own, and clients that nobody of this project wrote."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.commands import ROOT, command
from vae_export.contract import Array

TIMEOUT_SECONDS = 60
PROTOCOLS = ("http", "grpc")
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8"}


@dataclass
class Running:
    """A server that listens.

    Attributes:
        http, grpc: its addresses, HOST:PORT.
        process: its process, whose stderr goes to a file.
        log: that file.
    """

    http: str
    grpc: str
    process: subprocess.Popen[str]
    log: Path

    def client(self, protocol: str) -> Any:
        """Return a client of NVIDIA's package `tritonclient`."""
        if protocol == "http":
            import tritonclient.http

            return tritonclient.http.InferenceServerClient(self.http, network_timeout=30, connection_timeout=30)
        import tritonclient.grpc

        return tritonclient.grpc.InferenceServerClient(self.grpc)

    def infer(
        self,
        protocol: str,
        model: str,
        inputs: Mapping[str, Array],
        *,
        binary: bool = True,
        outputs: Sequence[str] = (),
        **options: Any,
    ) -> Any:
        """Infer with a new client; the result has `as_numpy`."""
        with self.client(protocol) as client:
            return infer(client, protocol, model, inputs, binary=binary, outputs=outputs, **options)

    def post(self, path: str, body: bytes | object, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Post a body, or a document as JSON; return the status and the document of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request(path, data, headers or {})

    def request(
        self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request; return the status and the document of the answer."""
        request = urllib.request.Request(f"http://{self.http}{path}", data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 (http alone)
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text)

    def metrics(self) -> dict[str, float]:
        """Return the samples of the page for Prometheus by name and labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=TIMEOUT_SECONDS) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def memory(self) -> int:
        """Return the largest memory that the process ever had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def wait_until_ready(self, timeout: float = TIMEOUT_SECONDS) -> None:
        deadline, status = time.monotonic() + timeout, 0
        while status != 200:
            try:
                status = self.request("/v2/health/ready")[0]
            except OSError as error:  # nobody listens: it ends, and says why at the end
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(TIMEOUT_SECONDS)
                raise AssertionError(f"exit code {self.process.poll()}: {self.log.read_text()}") from error
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)


def infer(
    client: Any,
    protocol: str,
    model: str,
    inputs: Mapping[str, Array],
    *,
    binary: bool = True,
    outputs: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Infer with a client of `tritonclient`; `binary` says whether HTTP takes bytes or JSON, both ways."""
    if protocol == "http":
        import tritonclient.http as module
    else:
        import tritonclient.grpc as module
    kind = {"binary_data": binary} if protocol == "http" else {}
    if protocol == "grpc":
        options = {"client_timeout": TIMEOUT_SECONDS} | options
    tensors = []
    for name, array in inputs.items():
        tensor = module.InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array, **kind)
        tensors.append(tensor)
    wanted = [module.InferRequestedOutput(name, **kind) for name in outputs]
    return client.infer(model, tensors, outputs=wanted or None, **options)


@contextlib.contextmanager
def started(arguments: Sequence[object], log: Path, program: Sequence[str] | None = None) -> Iterator[Running]:
    """Start a server with ports that the system chooses; kill it at the end, if it is still there.

    Args:
        arguments: of `serve`, or of the program.
        log: where its stderr goes.
        program: another program than `cli.py serve`, which prints the same.
    """
    start = [*program, *map(str, arguments)] if program else command("serve", *arguments)
    ports = [] if program else ["--http-port", "0", "--grpc-port", "0", "--json"]
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [*start, *ports],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, log.read_text()
        document = json.loads(text)
        yield Running(document["http"].removeprefix("http://"), document["grpc"], process, log)
    finally:
        process.kill()
        process.communicate()


def python(script: Path) -> list[str]:
    return [sys.executable, str(script)]


def latents(rows: int, size: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
