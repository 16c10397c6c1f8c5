"""The messages of the gRPC protocol, made from a table.

Generated modules would tie this package to one major version of protobuf, and an application that has generated ones
of its own would register the same names twice. https://protobuf.dev/support/cross-version-runtime-guarantee/

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

#: Each message: its fields in the order of their numbers, from 1. A field is a type and a name; `[]` after the type
#: says repeated, `{}` a map from text, and `?` one of several choices.
_MESSAGES: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string[] extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, string[] versions, string platform,"
    " TensorMetadata[] inputs, TensorMetadata[] outputs",
    "TensorMetadata": "string name, string datatype, int64[] shape",
    "InferParameter": "bool? bool_param, int64? int64_param, string? string_param, double? double_param,"
    " uint64? uint64_param",
    "InferTensorContents": "bool[] bool_contents, int32[] int_contents, int64[] int64_contents,"
    " uint32[] uint_contents, uint64[] uint64_contents, float[] fp32_contents, double[] fp64_contents,"
    " bytes[] bytes_contents",
    "InferInputTensor": "string name, string datatype, int64[] shape, InferParameter{} parameters,"
    " InferTensorContents contents",
    "InferRequestedOutputTensor": "string name, InferParameter{} parameters",
    "ModelInferRequest": "string model_name, string model_version, string id, InferParameter{} parameters,"
    " InferInputTensor[] inputs, InferRequestedOutputTensor[] outputs, bytes[] raw_input_contents",
    "InferOutputTensor": "string name, string datatype, int64[] shape, InferParameter{} parameters,"
    " InferTensorContents contents",
    "ModelInferResponse": "string model_name, string model_version, string id, InferParameter{} parameters,"
    " InferOutputTensor[] outputs, bytes[] raw_output_contents",
}
#: The fields of `InferTensorContents` that hold each datatype.
CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents", "INT32": "int_contents", "INT64": "int64_contents"}

_TYPES = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "string", "bytes", "int32", "int64", "uint32", "uint64", "float", "double")
}


def _add_field(message: DescriptorProto, number: int, kind: str, name: str) -> None:
    base = kind.rstrip("[]{}?")
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.endswith(("[]", "{}")):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if kind.endswith("{}"):  # on the wire, a map is a repeated message of key and value
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, 1, "string", "key")
        _add_field(entry, 2, base, "value")
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.{entry.name}"
    elif base in _TYPES:
        field.type = _TYPES[base]
    else:
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{base}"
    if kind.endswith("?"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


def _message_classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="vae_export/open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(filter(None, fields.split(", ")), start=1):
            _add_field(message, number, *field.split())
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


#: The message classes by name.
MESSAGES: Mapping[str, Any] = _message_classes()
