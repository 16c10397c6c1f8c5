"""Write a model repository for NVIDIA's Triton Inference Server, which runs the ONNX files of a bundle without Python.

    FOLDER/mnist-decoder/config.pbtxt       names, datatypes, sizes, largest batch
    FOLDER/mnist-decoder/1/model.onnx       the file, by its version

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from vae_export.artifact.folder import Package
from vae_export.contract import EVERY_PART, PartSpec
from vae_export.errors import ModelError
from vae_export.io.atomic import check_writable
from vae_export.io.staging import check_free, check_replaceable, staged_folder
from vae_export.runtime import Model
from vae_export.serving.models import ServedBundle
from vae_export.session_options import RUNTIME_FORMAT
from vae_export.tensors import BATCH, Size, Symbol, TensorSpec

CONFIG, MODEL_FILE = "config.pbtxt", "model.onnx"
#: The names of Triton's `DataType` for the contract's dtypes.
_DATATYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64"}


def write_triton(package: Package, out: Path, served: ServedBundle, *, force: bool = False) -> list[Path]:
    """Write a model repository, whole or not at all.

    Args:
        package: a bundle, or a certified export.
        out: the folder to make.
        served: the name before each part, and the version.
        force: replace an existing folder that holds nothing but these models in this version.

    Returns:
        The folder of each model.

    Raises:
        OutputExistsError: `out` exists, and `force` was not given.
        UsageError: it exists, and holds something else.
        ModelError: there is no ONNX file; or one needs a setting that Triton does not offer.
        IntegrityError: a file was altered.
        StorageError: the disk is full, or the folder is not writable.
    """
    model = Model(package)
    if not model.parts:
        raise ModelError("Triton runs ONNX files", expected=RUNTIME_FORMAT, do="pass --format onnx too")
    check_repository_free(out, served, force=force)
    with staged_folder(out, force=force) as staging:
        for part in model.parts:
            entry = package.manifest.entry(part, precision=model.running(part).precision)
            if entry.without_vnni:
                what, do = "Triton cannot set what this file needs on processors without VNNI", "bundle fp32 too"
                raise ModelError(what, where=entry.name, got=", ".join(entry.without_vnni), do=do)
            name = f"{served.name}-{part}"
            version = staging / name / str(served.version)
            version.mkdir(parents=True)
            config = model_config(model.contract.spec(part), name, model.rows_at_a_time(part))
            (staging / name / CONFIG).write_text(config, "utf-8")
            (version / MODEL_FILE).write_bytes(package.read(entry))
            for sidecar in entry.beside:  # the ONNX file names it
                (version / sidecar.name).write_bytes(package.read(sidecar))
    return [out / f"{served.name}-{part}" for part in model.parts]


def check_repository_free(out: Path, served: ServedBundle, *, force: bool) -> None:
    """Check that a model repository can be made; with `force`, also in place of these models in this version.

    Raises:
        OutputExistsError: `out` exists, and `force` was not given.
        UsageError: it is no folder, or holds other models, versions or files, which are never replaced.
    """
    check_free(out, force=force)
    check_writable(out.parent)
    if force:
        models = rf"{re.escape(served.name)}-(?:{'|'.join(EVERY_PART)})"
        expected = f"version {served.version} of {served.name}-…"
        ours = rf"{models}/(?:{re.escape(CONFIG)}|{served.version}/[^/]+)"
        check_replaceable(out, ours, expected, "choose another --triton")


def model_config(spec: PartSpec, name: str, max_rows: int) -> str:
    """Return the text of a config.pbtxt.

    Args:
        spec: the inputs and outputs of the part.
        name: the name of the model.
        max_rows: the largest batch that fits into memory; the contract may allow less.

    Returns:
        A `ModelConfig` in protobuf's text format.
    """
    batch = spec.symbols.get(BATCH, Symbol())
    # Triton's own batches begin with one row. Where a graph takes no single row, the batch is an axis like others.
    largest = min(max_rows, batch.high or max_rows) if batch.low == 1 and not batch.is_fixed else 0
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(MODEL_FILE)}",
        f"max_batch_size: {largest}",
        *_tensors("input", spec.inputs, largest > 0),
        *_tensors("output", spec.outputs, largest > 0),
        "version_policy { latest { num_versions: 1 } }",
        *(["dynamic_batching { }"] if largest else []),
    ]
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Sequence[TensorSpec], is_batched: bool) -> list[str]:
    lines = []
    for tensor in tensors:
        sizes = list(map(_size, tensor.item if is_batched else tensor.shape))
        fields = [f"name: {json.dumps(tensor.name)}", f"data_type: {_DATATYPES[tensor.dtype]}"]
        # No tensor of Triton is without sizes: one number a row is a row of one number there.
        fields += [f"dims: {sizes}"] if sizes else ["dims: [1]", "reshape { shape: [] }"]
        lines.append(f"{kind} {{ {' '.join(fields)} }}")
    return lines


def _size(size: Size) -> int:
    return size if isinstance(size, int) else -1
