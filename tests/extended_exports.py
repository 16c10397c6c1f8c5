"""Exports and bundles of the extended models, made in seconds by PyTorch's own exporter.

They hold encoder and decoder as ONNX, and golden vectors by PyTorch. Nothing verified them: their certificates say so
for readers only. Tests of readers and hosts need them, and not what `vae_export.export` proves.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from tests.extended_models import extended_source
from vae_export import Source
from vae_export.artifact.certificate import CERTIFICATE_FORMATS
from vae_export.artifact.golden import DTYPES, SUFFIXES, GoldenArray, GoldenPart
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest, parse_manifest
from vae_export.bundles.archive import write_archive
from vae_export.bundles.reader import entries
from vae_export.contract import Array, Contract, Part
from vae_export.io.atomic import sha256, write_atomic
from vae_export.rng import sample, sample_codes
from vae_export.tensors import BATCH, Symbol

PARTS: tuple[Part, ...] = ("encoder", "decoder")
#: Far above the rounding errors of these models, and far below their outputs.
TOLERANCE = 1e-4


def write_extended(name: str, folder: Path) -> None:
    """Write one of `CONTRACTS` of `tests.extended_models`: an export without a certificate, and a bundle of it."""
    files = _files(extended_source(name))
    for file, data in files.items():
        write_atomic(folder / "export" / file, data)
    write_atomic(folder / "bundle.zip", _bundle(name, files))


def _bundle(name: str, files: dict[str, bytes]) -> bytes:
    manifest = parse_manifest(files[MANIFEST], MANIFEST)
    hashes = {entry.name: entry.sha256 for entry in manifest.files}
    counts = {
        "rows": [{"passed": True, "error": 0.0, "band": 1.0}],
        "planned_rows": 1,
        "failed_rows": 0,
        "findings": [],
    }
    certificate = {"format": CERTIFICATE_FORMATS[0], "verdict": "pass", "files": hashes} | counts
    texts = {"certificate.json": json.dumps(certificate).encode(), "MODEL_CARD.md": name.encode(), "LICENSE": b"none"}
    held = files | texts
    ordered = {entry: held[entry] for entry in entries(manifest) if entry in held}
    sums = "".join(f"{sha256(data)}  {entry}\n" for entry, data in ordered.items())
    return write_archive({"SHA256SUMS": sums.encode(), **ordered})


def _files(source: Source) -> dict[str, bytes]:
    models = {f"{part}.onnx": _onnx(source, part) for part in PARTS}
    golden, arrays = _golden(source)
    stored = tuple(
        FileEntry.of(name, part, "onnx", FileContent(data))
        for part, (name, data) in zip(PARTS, models.items(), strict=True)
    )
    return {MANIFEST: Manifest(source.contract, stored, 18, {}, {}, golden).text, **models, **arrays}


def _onnx(source: Source, part: Part) -> bytes:
    spec = source.contract.spec(part)
    module = source.encoder if part == "encoder" else source.decoder
    assert module is not None
    example = tuple(map(torch.from_numpy, _golden_inputs(source.contract, part, 3).values()))
    dynamic = [
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in spec.inputs
    ]
    names: dict[str, Any] = {
        "input_names": [t.name for t in spec.inputs],
        "output_names": [t.name for t in spec.outputs],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module.eval(), example, dynamo=True, dynamic_shapes=dynamic, verbose=False, **names)
    assert program is not None
    model = program.model_proto
    for tensor, value in zip((*spec.inputs, *spec.outputs), (*model.graph.input, *model.graph.output), strict=True):
        for size, dim in zip(tensor.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(size, str):
                dim.dim_param = size.replace("*", " * ")  # other writers' spaces do not matter
    return model.SerializeToString()


def _golden(source: Source) -> tuple[tuple[GoldenPart, ...], dict[str, bytes]]:
    files: dict[str, bytes] = {}
    parts = []

    def stored(tensor: str, name: str, array: Array, tolerance: float | None = None) -> GoldenArray:
        dtype = array.dtype.name
        data = np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
        files[f"golden/{name}{SUFFIXES[dtype]}"] = data
        return GoldenArray(tensor, f"golden/{name}{SUFFIXES[dtype]}", array.shape, sha256(data), tolerance, {}, dtype)

    bounds = source.contract.symbols.get(BATCH, Symbol())
    rows = min(6, bounds.high or 6)
    for part in PARTS:
        inputs = _golden_inputs(source.contract, part, rows)
        module = source.encoder if part == "encoder" else source.decoder
        assert module is not None
        with torch.no_grad():
            given = module.eval()(*map(torch.from_numpy, inputs.values()))
        given = given if isinstance(given, tuple) else (given,)
        outputs = [
            stored(tensor.name, f"{part}.{tensor.name}", array.numpy(), 0 if tensor.is_integer else TOLERANCE)
            for tensor, array in zip(source.contract.spec(part).outputs, given, strict=True)
        ]
        names = tuple(stored(name, name, array) for name, array in inputs.items())
        parts.append(GoldenPart(part, names, tuple(outputs)))
    return tuple(parts), files


def _golden_inputs(contract: Contract, part: Part, rows: int) -> dict[str, Array]:
    """Return the golden inputs of a part, as section 5 of the specification says."""
    arrays: dict[str, Array] = {}
    contract = contract.at()
    for index, tensor in enumerate(contract.spec(part).inputs):
        shape = (rows, *tensor.fixed_item)
        drawn, rng = (rows - 2, *tensor.fixed_item), np.random.default_rng(crc32(tensor.name.encode()))
        if tensor.role == "codes":
            arrays[tensor.name] = np.zeros(shape, tensor.dtype)
            arrays[tensor.name][1] = int(tensor.high)
            arrays[tensor.name][2:] = sample_codes(drawn, int(tensor.high) + 1, 2 * index)
        elif tensor.role == "latent":
            arrays[tensor.name] = np.zeros(shape, np.float32)
            arrays[tensor.name][1] = (6 - 12 * (np.arange(np.prod(shape[1:])) % 2)).reshape(shape[1:])
            arrays[tensor.name][2:] = sample(drawn, 2 * index)
        elif tensor.is_integer:
            arrays[tensor.name] = rng.integers(int(tensor.low), int(tensor.high) + 1, shape).astype(tensor.dtype)
        else:
            low, high = (tensor.low, tensor.high) if tensor.is_bounded else (-2, 2)
            arrays[tensor.name] = rng.uniform(low, high, shape).astype(np.float32)
    return arrays
