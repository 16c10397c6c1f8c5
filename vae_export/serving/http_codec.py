"""Requests and responses of the HTTP protocol: JSON, and the extension that puts tensors as bytes after it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from vae_export.contract import Array
from vae_export.errors import InputError
from vae_export.serving.inference_request import InferenceRequest, RequestedOutput, RequestTensor
from vae_export.serving.models import DATATYPES, ServedModel

#: The header that says how many bytes of a body are JSON, in requests and responses.
JSON_LENGTH = "inference-header-content-length"
#: The names of the extensions, for the metadata of the server.
EXTENSIONS = ("binary_tensor_data",)


def decode_request(body: bytes, json_length: str | None) -> InferenceRequest:
    """Return the request in a body.

    Args:
        body: the whole body.
        json_length: the value of the header `JSON_LENGTH`; None where the body is JSON alone.

    Raises:
        InputError: the body is no request of the protocol.
    """
    whole = memoryview(body)
    length = len(whole) if json_length is None else _length(json_length, len(whole))
    document = _object(_parsed(whole[:length]), "body")
    blob = whole[length:]
    tensors = []
    for item in _objects(document, "inputs"):
        tensor, blob = _input(item, blob)
        tensors.append(tensor)
    if len(blob):
        raise InputError("bytes are left after the last input", got=f"{len(blob):,}")
    everything = _flag(_parameters(document), "binary_data_output") or False
    outputs = [_output(item, everything) for item in _objects(document, "outputs", required=False)]
    return InferenceRequest(_text(document.get("id", ""), "id"), tensors, outputs, everything)


def encode_response(
    model: ServedModel, request: InferenceRequest, outputs: Mapping[str, Array], wanted: Sequence[RequestedOutput]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a response.

    Args:
        model: the model that computed.
        request: the request.
        outputs: arrays by name.
        wanted: which of them to send, and how.
    """
    dtypes = {tensor.name: tensor.dtype for tensor in model.spec.outputs}
    described, blobs = [], []
    for output in wanted:
        array = outputs[output.name]
        item: dict[str, Any] = {
            "name": output.name,
            "datatype": DATATYPES[dtypes[output.name]],
            "shape": list(array.shape),
        }
        if output.binary:
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            blobs.append(data)
            item["parameters"] = {"binary_data_size": len(data)}
        else:
            item["data"] = np.ascontiguousarray(array).reshape(-1)
        described.append(item)
    document = {"model_name": model.name, "model_version": str(model.version), "outputs": described}
    if request.id:
        document["id"] = request.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return text, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(text))}
    return b"".join([text, *blobs]), headers


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON."""
    text: bytes = orjson.dumps(document)
    return text


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
        raise InputError("bad header", where=JSON_LENGTH, expected=f"0 to {most}", got=text[:100])
    return int(text)


def _parsed(text: memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError("body is not JSON", got=str(error)[:200]) from None


def _input(item: Mapping[str, Any], blob: memoryview) -> tuple[RequestTensor, memoryview]:
    """Return an input, and the bytes that are left for the inputs after it."""
    name = _text(item.get("name"), "name of an input")
    where = f"tensor '{name[:100]}'"
    shape = item.get("shape")
    if not isinstance(shape, list):
        raise InputError("shape is missing", where=where, expected="a list of sizes")
    datatype = _text(item.get("datatype"), f"datatype of {where}")
    size = _parameters(item).get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise InputError("data is missing", where=where, expected="data, or binary_data_size")
        return RequestTensor(name, datatype, shape, item["data"]), blob
    if "data" in item:
        raise InputError("data is given twice", where=where, expected="data or binary_data_size")
    if type(size) is not int or not 0 <= size <= len(blob):
        raise InputError("bad binary_data_size", where=where, expected=f"0 to {len(blob)}", got=str(size)[:100])
    return RequestTensor(name, datatype, shape, blob[:size]), blob[size:]


def _output(item: Mapping[str, Any], everything: bool) -> RequestedOutput:
    name = _text(item.get("name"), "name of an output")
    parameters = _parameters(item)
    if "classification" in parameters:
        raise InputError("classification is not supported", where=f"output '{name[:100]}'")
    binary = _flag(parameters, "binary_data")
    return RequestedOutput(name, everything if binary is None else binary)


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if not isinstance(value, bool | None):
        raise InputError("bad parameter", where=name, expected="true | false", got=str(value)[:100])
    return value


def _objects(document: Mapping[str, Any], name: str, *, required: bool = True) -> list[Mapping[str, Any]]:
    items = document.get(name)
    if items is None and not required:
        return []
    if not isinstance(items, list):
        raise InputError(f"{name} are missing", where="body", expected="a list of tensors")
    return [_object(item, f"each of {name}") for item in items]


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(document.get("parameters", {}), "parameters")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=where, got=type(value).__name__)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError("not a text", where=where, got="nothing" if value is None else type(value).__name__)
    return value
