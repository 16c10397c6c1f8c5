"""Requests per second and latency of a server, beside calling the session directly; and a count of wrong images.

    python benchmarks/serving.py                        # 1, 8 and 64 clients, single latents and batches of 64
    python benchmarks/serving.py --check 100000         # compares every image with the session's

A server of the bundle is started as a process of its own, and the clients are processes of their own with several
connections each, so that they do not wait for each other's interpreter. They speak the protocol themselves: HTTP with
the binary extension through `http.client`, and gRPC with messages of this project. All of them share the cores of the
machine with the server. "directly" is `Model.run` in one process, in as many threads as there are clients.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vae_export
from vae_export.contract import Array
from vae_export.system.hardware import describe_machine

ROOT = Path(__file__).parents[1]
CLIENTS, ROWS = (1, 8, 64), (1, 64)
#: Connections in each client process.
CONNECTIONS = 16
#: How far a pixel may be from the session's own, which sums in another order for another batch: less than 1/255 by far.
ATOL = 1e-5


@dataclass(frozen=True)
class Job:
    """What a client process does.

    Attributes:
        protocol: "http", "grpc" or "directly".
        address: HOST:PORT.
        model: the name of the decoder.
        bundle: the bundle, to compute what is expected.
        rows: rows of a request.
        requests: of each connection.
        connections: how many.
        seed: of the latents.
        check: whether to compare every image.
    """

    protocol: str
    address: str
    model: str
    bundle: Path
    rows: int
    requests: int
    connections: int
    seed: int
    check: bool


@dataclass(frozen=True)
class Outcome:
    """What clients found.

    Attributes:
        latencies: seconds of each request.
        wrong: images that differ from the session's.
        begin, end: the times of the first request and the last answer, on the clock of the machine.
    """

    latencies: list[float]
    wrong: int
    begin: float
    end: float

    @classmethod
    def of(cls, outcomes: list[Outcome]) -> Outcome:
        """Join the outcomes of clients that worked at the same time."""
        return cls(
            [value for one in outcomes for value in one.latencies],
            sum(one.wrong for one in outcomes),
            min(one.begin for one in outcomes),
            max(one.end for one in outcomes),
        )

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / (self.end - self.begin)


def http_caller(job: Job, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return a function that sends latents over a connection of its own."""
    connection = http.client.HTTPConnection(job.address, timeout=120)

    def call(latents: Array) -> Array:
        tensor = {
            "name": "latent",
            "shape": latents.shape,
            "datatype": "FP32",
            "parameters": {"binary_data_size": latents.nbytes},
        }
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        connection.request("POST", f"/v2/models/{job.model}/infer", text + latents.tobytes(), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(body.decode())
        start = int(answer.headers["Inference-Header-Content-Length"])
        return np.frombuffer(body, "<f4", offset=start).reshape(len(latents), *shape)

    return call


def grpc_caller(job: Job, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return a function that sends latents over a channel of its own."""
    import grpc

    from vae_export.serving.grpc_messages import MESSAGES, SERVICE

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(job.address, options)
    infer = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
        response_deserializer=MESSAGES["ModelInferResponse"].FromString,
    )

    def call(latents: Array) -> Array:
        request = MESSAGES["ModelInferRequest"](model_name=job.model, raw_input_contents=[latents.tobytes()])
        request.inputs.add(name="latent", datatype="FP32", shape=latents.shape)
        (data,) = infer(request, timeout=120).raw_output_contents
        return np.frombuffer(data, "<f4").reshape(len(latents), *shape)

    return call


def work(job: Job) -> Outcome:
    """Send the requests of a client process: each connection in a thread."""
    model = vae_export.load(job.bundle, threads=1)
    shape, size = model.contract.output.fixed_item, model.contract.latents[0].fixed_item
    make: dict[str, Callable[[], Callable[[Array], Array]]] = {
        "http": lambda: http_caller(job, shape),
        "grpc": lambda: grpc_caller(job, shape),
        "directly": lambda: lambda latents: model.run("decoder", latent=latents)["image"],
    }

    def connection(number: int) -> Outcome:
        call, rng = make[job.protocol](), np.random.default_rng((job.seed, number))
        latencies, wrong, begin = [], 0, time.perf_counter()
        for _ in range(job.requests):
            latents = rng.standard_normal((job.rows, *size)).astype(np.float32)
            start = time.perf_counter()
            images = call(latents)
            latencies.append(time.perf_counter() - start)
            if job.check:
                errors = np.abs(images - model.decode(latents)).reshape(job.rows, -1).max(axis=1)
                wrong += int(np.count_nonzero(~(errors <= ATOL)))
        return Outcome(latencies, wrong, begin, time.perf_counter())

    with ThreadPoolExecutor(job.connections) as threads:
        return Outcome.of(list(threads.map(connection, range(job.connections))))


def measure(job: Job, clients: int) -> Outcome:
    """Run so many clients at a time; return what they found."""
    if job.protocol == "directly":
        jobs = [replace(job, connections=clients)]
    else:
        processes = -(-clients // CONNECTIONS)
        jobs = [replace(job, connections=clients // processes, seed=number) for number in range(processes)]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        pool.map(work, [replace(one, requests=3) for one in jobs])
        return Outcome.of(pool.map(work, jobs, chunksize=1))


@contextmanager
def server(bundle: Path, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Start a server and wait until it is ready; yield its addresses and models."""
    command = [sys.executable, str(ROOT / "cli.py"), "serve", f"bench={bundle}"]
    command += ["--http-port", "0", "--grpc-port", "0", "--json", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        if process.stdout is None or process.stderr is None:
            raise SystemExit("no output")
        document = "".join(iter(process.stdout.readline, "}\n")) + "}"
        if not process.stderr.readline().startswith("ready"):
            raise SystemExit(process.stderr.read())
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield json.loads(document) | {"process": process.pid}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> None:
    """Print the table, or the count of wrong images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "reference" / "mnist.zip")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long each cell of the table takes")
    parser.add_argument("--check", type=int, metavar="N", help="send N requests of a latent, and compare every image")
    parser.add_argument("--protocol", choices=("http", "grpc"), action="append")
    parser.add_argument("--serve", default="", help="further options of `serve`, in one argument")
    options = parser.parse_args()
    protocols = options.protocol or ["http", "grpc"]
    facts = describe_machine()
    print(f"{facts['processor']}, {facts['cores']} cores, load {facts['load_average']}; {options.bundle.name}")
    with server(options.bundle, options.serve.split()) as found:
        addresses = {"http": found["http"].removeprefix("http://"), "grpc": found["grpc"], "directly": ""}

        def job(protocol: str, rows: int, requests: int, *, check: bool = False) -> Job:
            return Job(protocol, addresses[protocol], "bench-decoder", options.bundle, rows, requests, 1, 0, check)

        if options.check:
            check(lambda protocol, requests: job(protocol, 1, requests, check=True), protocols, options.check)
            return
        print("\n| rows | clients | way | requests/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
        for rows in ROWS:
            for clients in CLIENTS:
                for protocol in ("directly", *protocols):
                    pilot = measure(job(protocol, rows, 10), clients)
                    requests = max(10, int(options.seconds * pilot.rate / clients))
                    outcome = measure(job(protocol, rows, requests), clients)
                    p50, p99 = np.quantile(outcome.latencies, (0.5, 0.99)) * 1e3
                    rate = f"{outcome.rate:,.0f}"
                    print(f"| {rows} | {clients} | {protocol} | {rate} | {p50:.2f} | {p99:.2f} |", flush=True)


def check(job: Callable[[str, int], Job], protocols: list[str], total: int) -> None:
    """Send requests over each protocol, 16 clients at a time, and count the images that differ."""
    for protocol in protocols:
        clients = 16
        each = -(-total // len(protocols) // clients)
        outcome = measure(job(protocol, each), clients)
        count, seconds = len(outcome.latencies), outcome.end - outcome.begin
        print(f"{protocol}: {count:,} requests in {seconds:.0f} s, {outcome.wrong} wrong images (beyond {ATOL:g})")
        if outcome.wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
