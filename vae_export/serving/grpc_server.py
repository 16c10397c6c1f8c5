"""The gRPC side of a server.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from vae_export.contract import Array
from vae_export.errors import InputError, MachineError
from vae_export.serving.grpc_messages import CONTENTS, MESSAGES, SERVICE
from vae_export.serving.http_codec import EXTENSIONS
from vae_export.serving.inference_request import InferenceRequest, RequestedOutput, RequestTensor
from vae_export.serving.models import DATATYPES, ServedModel
from vae_export.serving.refusals import SlowClientError, UnknownModelError, message_of, status_of
from vae_export.serving.service import SERVER_NAME, SERVER_VERSION, Service

#: Calls at a time on one connection: one client cannot have all of `RequestLimits.requests`.
_STREAMS = 64


async def start_server(service: Service, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Start a server.

    Args:
        service: the service.
        host: the address to listen on.
        port: the port; 0 takes a free one.

    Returns:
        The server and its port.

    Raises:
        MachineError: the port cannot be opened.
    """
    limits = service.limits
    server = grpc.aio.server(
        maximum_concurrent_rpcs=limits.requests,
        options=[
            ("grpc.max_receive_message_length", limits.request_bytes),
            ("grpc.max_send_message_length", -1),  # `RequestLimits.response_bytes` has been checked by then
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.so_reuseport", 0),  # a port that another process has is an error
        ],
    )
    server.add_generic_rpc_handlers((_handlers(service),))
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(name)
    except RuntimeError:
        bound = 0
    if not bound:
        raise MachineError("port cannot be opened", where=name, do="pass --grpc-port 0 for a free one")
    await server.start()
    return server, bound


def _handlers(service: Service) -> grpc.GenericRpcHandler:
    """Return the methods of the protocol."""
    servicer = _Servicer(service)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=MESSAGES[f"{name}Request"].FromString,
            response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
        )
        for name, method in (
            ("ServerLive", "server_live"),
            ("ServerReady", "server_ready"),
            ("ModelReady", "model_ready"),
            ("ServerMetadata", "server_metadata"),
            ("ModelMetadata", "model_metadata"),
        )
    }
    # Streams of one message are the same on the wire, and let us stop waiting for a client that sends half of a
    # request, or does not take its response.
    handlers["ModelInfer"] = grpc.stream_stream_rpc_method_handler(
        servicer.model_infer,
        request_deserializer=MESSAGES["ModelInferRequest"].FromString,
        response_serializer=MESSAGES["ModelInferResponse"].SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class _Servicer:
    """The methods of the protocol, each of which takes and returns messages."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server_live(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def server_ready(self, _request: Any, _context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._service.is_ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        try:
            ready = self._service.model_is_ready(request.name, request.version)
        except UnknownModelError as error:
            return await _abort(context, error)
        return MESSAGES["ModelReadyResponse"](ready=ready)

    async def server_metadata(self, _request: Any, _context: Any) -> Any:
        message = MESSAGES["ServerMetadataResponse"]
        return message(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        catalogue = self._service.catalogue
        try:
            model = catalogue.find(request.name, request.version)
        except UnknownModelError as error:
            return await _abort(context, error)
        return MESSAGES["ModelMetadataResponse"](**model.metadata(catalogue.versions(model.name)))

    async def model_infer(self, requests: AsyncIterator[Any], context: Any) -> None:
        start, model, outcome = time.perf_counter(), None, "CANCELLED"
        service = self._service
        try:
            with service.admitted() as reservation:
                message = await self._received(requests)
                model = service.catalogue.find(message.model_name, message.model_version)
                reservation.take(message.ByteSize())
                request = _request(message)
                wanted = request.wanted(model)
                response = _response(model, request, await service.infer(model, request, reservation), wanted)
                try:
                    async with asyncio.timeout(service.limits.client_seconds):
                        await context.write(response)
                except TimeoutError:
                    raise SlowClientError("response was not taken") from None
                outcome = "OK"
        except Exception as error:
            outcome = status_of(error)[1]
            if outcome == "INTERNAL":
                traceback.print_exc(file=sys.stderr)
            await _abort(context, error)
        finally:
            service.metrics.request_finished("grpc", model, outcome, time.perf_counter() - start)

    async def _received(self, requests: AsyncIterator[Any]) -> Any:
        """Return the message of a call, which a client may begin and not finish."""
        seconds = self._service.limits.client_seconds
        try:
            async with asyncio.timeout(seconds):
                async for message in requests:
                    return message
        except TimeoutError:
            raise SlowClientError("request did not arrive", expected=f"within {seconds:g} s") from None
        raise InputError("request is missing")


async def _abort(context: Any, error: Exception) -> None:
    await context.abort(getattr(grpc.StatusCode, status_of(error)[1]), message_of(error))


def _request(message: Any) -> InferenceRequest:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        what, got = "wrong number of raw_input_contents", len(raw)
        raise InputError(what, expected=f"{len(message.inputs)}, one for each input", got=got)
    tensors = []
    for number, item in enumerate(message.inputs):
        contents = CONTENTS.get(item.datatype)
        if raw and any(values for _, values in item.contents.ListFields()):
            raise InputError("data is given twice", where=f"tensor '{item.name[:100]}'", expected="contents or raw")
        # Contents of another datatype than the stated one are left out, and then too few.
        data = raw[number] if raw else list(getattr(item.contents, contents)) if contents else []
        tensors.append(RequestTensor(item.name, item.datatype, list(item.shape), data))
    outputs = [RequestedOutput(item.name) for item in message.outputs]
    return InferenceRequest(message.id, tensors, outputs)


def _response(
    model: ServedModel, request: InferenceRequest, outputs: Mapping[str, Array], wanted: Sequence[RequestedOutput]
) -> Any:
    message = MESSAGES["ModelInferResponse"](model_name=model.name, model_version=str(model.version), id=request.id)
    dtypes = {tensor.name: tensor.dtype for tensor in model.spec.outputs}
    for output in wanted:
        array = outputs[output.name]
        message.outputs.add(name=output.name, datatype=DATATYPES[dtypes[output.name]], shape=array.shape)
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        message.raw_output_contents.append(data)
    return message
