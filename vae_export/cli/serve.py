"""`serve`: answer requests for the parts of bundles over HTTP and gRPC."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vae_export.cli import console
from vae_export.cli.command import grouped, option_group
from vae_export.cli.options import JsonOption, RayAddressOption, VerifyKeyOption, chosen_run
from vae_export.errors import Terminated, UsageError
from vae_export.precision import PrecisionName

if TYPE_CHECKING:
    from vae_export.serving.engines import BatchEngine, OpenedBundle
    from vae_export.serving.server import Listening

EngineName = Literal["local", "ray"]


@option_group("Server")
class AddressOptions:
    """The addresses of the server."""

    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for every network of this machine.")
    ] = "127.0.0.1"
    http_port: Annotated[
        int, typer.Option("--http-port", help="Port of HTTP; 0 takes a free one.", min=0, max=65535)
    ] = 8000
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", help="Port of gRPC; 0 takes a free one.", min=0, max=65535)
    ] = 8001
    drain: Annotated[
        float, typer.Option("--drain", help="Seconds for requests in work after SIGTERM or Ctrl-C.", min=0)
    ] = 30.0


@option_group("Batches and limits")
class RequestOptions:
    """Options for putting requests together, and for refusing them."""

    max_batch: Annotated[
        int, typer.Option("--max-batch", help="Most rows that are computed as one batch.", min=1, max=1 << 20)
    ] = 64
    batch_delay_ms: Annotated[
        float, typer.Option("--batch-delay-ms", help="Milliseconds that a request waits for others.", min=0)
    ] = 0.0
    max_request_mb: Annotated[
        int, typer.Option("--max-request-mb", help="Largest request, in MiB.", min=1, max=1024)
    ] = 16
    max_response_mb: Annotated[
        int, typer.Option("--max-response-mb", help="Largest outputs of a request, in MiB.", min=1, max=1024)
    ] = 64
    max_requests: Annotated[
        int, typer.Option("--max-requests", help="Most requests in work at a time, of each protocol.", min=1)
    ] = 256
    client_timeout: Annotated[
        float,
        typer.Option(
            "--client-timeout", help="Seconds for a client to send a request, or to take a response.", min=0.1
        ),
    ] = 60.0


@option_group("Machine")
class ComputeOptions:
    """The files, processes and threads that compute."""

    precision: Annotated[
        PrecisionName | None,
        typer.Option("--precision", help="Precision of the files. Default: fp32, or the only one."),
    ] = None
    provider: Annotated[str | None, typer.Option("--provider", help="ONNX Runtime provider. Default: CPU.")] = None
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of a batch. Default: as tuned, or 1.")
    ] = None
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", min=1, help="Batches at a time in this process. Default: one for each core."),
    ] = None
    engine: Annotated[EngineName, typer.Option("--engine", help="This process, or replicas on a Ray cluster.")] = (
        "local"
    )
    actors: Annotated[int, typer.Option("--actors", min=1, help="Replicas of --engine ray, each with all models.")] = 2
    ray_address: RayAddressOption = None


@grouped
def serve(
    *,
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Bundles: FILE, NAME=FILE or NAME:VERSION=FILE. Default: the newest run's export."),
    ] = None,
    verify_key: VerifyKeyOption = None,
    address: AddressOptions,
    requests: RequestOptions,
    compute: ComputeOptions,
    json: JsonOption = False,
) -> None:
    """Serve bundles over HTTP and gRPC.

    Speaks the Open Inference Protocol, version 2, for which there are clients in many languages. Each part of a bundle
    is a model: mnist.zip becomes mnist-decoder, mnist-encoder and mnist-autoencoder. Every bundle passes its self-test
    before the server is ready. Rows that arrive together are computed as one batch. SIGTERM and Ctrl-C let requests in
    work finish. Metrics for Prometheus are at /metrics. There is no encryption and no login: put a proxy in front.
    """
    from vae_export.system.extras import require

    require("serve")
    opened = _opened(bundles or (), verify_key, compute)
    engine = _engine(opened, compute)

    from vae_export.serving.batching import BatchOptions
    from vae_export.serving.server import ServerOptions, run_server
    from vae_export.serving.service import RequestLimits

    limits = RequestLimits(
        request_bytes=requests.max_request_mb << 20,
        response_bytes=requests.max_response_mb << 20,
        requests=requests.max_requests,
        client_seconds=requests.client_timeout,
    )
    options = ServerOptions(
        address.host,
        address.http_port,
        address.grpc_port,
        BatchOptions(requests.max_batch, requests.batch_delay_ms / 1000),
        limits,
        address.drain,
    )
    number = run_server(
        opened,
        engine,
        options,
        lambda listening: _say(listening, json),
        lambda: console.message("ready; Ctrl-C ends it"),
    )
    if number == signal.SIGTERM:
        raise Terminated
    console.message("ended")


def _opened(texts: Sequence[str], verify_key: Path | None, compute: ComputeOptions) -> list[OpenedBundle]:
    from vae_export.runtime import open_package
    from vae_export.serving.engines import OpenedBundle
    from vae_export.serving.models import ServedBundle

    served = [ServedBundle.parse(text) for text in texts]
    if not served:
        if verify_key is not None:
            raise UsageError("--verify-key goes with a bundle", where=verify_key, do="name the signed bundle")
        served = [ServedBundle.of_file(chosen_run(None, exported=True).export)]
    return [
        OpenedBundle.open(
            bundle,
            open_package(bundle.path, verify_key=verify_key),
            precision=compute.precision,
            provider=compute.provider,
            threads=compute.threads,
        )
        for bundle in served
    ]


def _engine(bundles: Sequence[OpenedBundle], compute: ComputeOptions) -> BatchEngine:
    if compute.engine == "ray":
        from vae_export.serving.ray_engine import ReplicaEngine

        return ReplicaEngine(bundles, compute.actors, compute.ray_address or os.environ.get("RAY_ADDRESS"))

    from vae_export.serving.engines import ThreadEngine

    return ThreadEngine(bundles, compute.parallel or os.cpu_count() or 1)


def _say(listening: Listening, json: bool) -> None:
    if json:
        models = [model.metadata(listening.catalogue.versions(model.name)) for model in listening.catalogue]
        console.result_json({"http": listening.http, "grpc": listening.grpc, "models": models})
        return
    console.result(f"HTTP {listening.http}\ngRPC {listening.grpc}")
    for model in listening.catalogue:
        console.result(str(model))
