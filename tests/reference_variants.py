"""Bundles made from the reference bundle: decoders to bytes, one part alone, weights beside the graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.commands import ROOT
from vae_export.artifact.certificate import CERTIFICATE_FORMATS, manifest_digests
from vae_export.bundles import open_bundle
from vae_export.bundles.archive import write_archive
from vae_export.io.atomic import sha256

REFERENCE = ROOT / "artifacts" / "reference" / "mnist.zip"


def consistent(files: Mapping[str, bytes], manifest: Any) -> bytes:
    """Return a bundle of these files with another manifest, in canonical order and with matching hashes."""
    stored = [file for entry in manifest["files"] for file in (entry, *entry.get("beside", ()))]
    golden = [array["file"] for part in manifest["golden"] for array in (*part["inputs"], *part["outputs"])]
    order = ["manifest.json", *(file["name"] for file in stored), *golden]
    held = {name: files[name] for name in [*order, *files] if name != "SHA256SUMS"}
    held["manifest.json"] = json.dumps(manifest).encode()
    certificate = json.loads(files["certificate.json"])
    certificate["files"] |= {file["name"]: file["sha256"] for file in stored}
    if certificate["format"] != CERTIFICATE_FORMATS[0]:
        certificate["reproduction"] |= {entry["name"]: {"state": "reproduced"} for entry in manifest["files"]}
        certificate["manifest"] = manifest_digests(held["manifest.json"])
    held["certificate.json"] = json.dumps(certificate).encode()
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in held.items())
    return write_archive({"SHA256SUMS": sums.encode(), **held})


def bytes_only(layout: str) -> bytes:
    """Return the bundle with a decoder to bytes, `hwc` or `chw`, and no other file."""
    files, manifest = _pieces()
    manifest["files"] = [_bytes_file(files, manifest, layout)]
    return _trimmed(files, manifest, "decoder")


def inverted_bytes(layout: str) -> bytes:
    """Return the bundle with a second decoder, to bytes of the inverted image, which shows which of the two is used."""
    files, manifest = _pieces()
    manifest["files"].append(_bytes_file(files, manifest, layout, scale=-255.0, offset=255.5))
    return consistent(files, manifest)


def _bytes_file(files: dict[str, bytes], manifest: Any, layout: str, **rounding: float) -> Any:
    """Add a decoder to bytes to the files, made of the decoder, and return its entry in a manifest."""
    decoder = next(file for file in manifest["files"] if (file["part"], file["format"]) == ("decoder", "onnx"))
    shape: list[str | int | None] = ["N", 28, 28, 1] if layout == "hwc" else ["N", 1, 28, 28]
    pixels = {"name": "pixels", "dtype": "uint8", "shape": shape, "range": [0, 255]}
    entry = decoder | {"part": f"decoder-uint8-{layout}", "name": "bytes.onnx", "outputs": [pixels]}
    return entry | _stored(files, "bytes.onnx", _to_bytes(files[decoder["name"]], layout, **rounding))


def one_part(part: str, format: str = "onnx") -> bytes:
    """Return the bundle with the file of one part."""
    files, manifest = _pieces()
    manifest["files"] = [file for file in manifest["files"] if (file["part"], file["format"]) == (part, format)]
    return _trimmed(files, manifest, part)


def compiled() -> bytes:
    """Return the bundle with a decoder that was compiled for one kind of machine, and no other file."""
    files, manifest = _pieces()
    manifest["files"] = [file for file in manifest["files"] if (file["part"], file["format"]) == ("decoder", "onnx")]
    manifest["files"][0]["machine"] = "linux x86_64 AVX2"
    return _trimmed(files, manifest, "decoder")


def with_sidecar(folder: Path) -> bytes:
    """Return the bundle with a decoder whose weights lie in a sidecar.

    Args:
        folder: an empty folder for the files on their way.
    """
    files, manifest = _pieces()
    manifest["files"] = [file for file in manifest["files"] if (file["part"], file["format"]) == ("decoder", "onnx")]
    [decoder] = manifest["files"]
    model = onnx.load_model_from_string(files[decoder["name"]])
    path = folder / "decoder.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="decoder.data", size_threshold=1024)
    decoder |= _stored(files, "decoder.onnx", path.read_bytes())
    decoder["beside"] = [
        {"name": "decoder.data", **_stored(files, "decoder.data", (folder / "decoder.data").read_bytes())}
    ]
    return _trimmed(files, manifest, "decoder")


def _pieces() -> tuple[dict[str, bytes], Any]:
    files = {name: bytes(data) for name, data in open_bundle(REFERENCE).files.items()}
    return files, json.loads(files["manifest.json"])


def _stored(files: dict[str, bytes], name: str, data: bytes) -> dict[str, Any]:
    files[name] = data
    return {"size": len(data), "sha256": sha256(data)}


def _trimmed(files: Mapping[str, bytes], manifest: Any, part: str) -> bytes:
    """Return a bundle without golden vectors of other parts and without files that the manifest does not name."""
    manifest["golden"] = [item for item in manifest["golden"] if item["part"] == part]
    kept = {stored["name"] for file in manifest["files"] for stored in (file, *file.get("beside", ()))}
    kept |= {array["file"] for item in manifest["golden"] for array in (*item["inputs"], *item["outputs"])}
    kept |= {"SHA256SUMS", "manifest.json", "certificate.json", "MODEL_CARD.md", "LICENSE"}
    return consistent({name: data for name, data in files.items() if name in kept}, manifest)


def _to_bytes(decoder: bytes, layout: str, scale: float = 255.0, offset: float = 0.5) -> bytes:
    """Append the rounding of section 4 to a decoder of images in [0, 1]."""
    model = onnx.load_model_from_string(decoder)
    graph, number = model.graph, helper.make_tensor
    constants = {"scale": scale, "offset": offset, "lowest": 0.0, "highest": 255.0}
    graph.initializer.extend(number(f"px_{name}", TensorProto.FLOAT, [], [value]) for name, value in constants.items())
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Mul", ["px_scale"], {}),
        ("Add", ["px_offset"], {}),
        ("Floor", [], {}),
        ("Clip", ["px_lowest", "px_highest"], {}),
        ("Transpose", [], {"perm": [0, 2, 3, 1] if layout == "hwc" else [0, 1, 2, 3]}),
        ("Cast", [], {"to": TensorProto.UINT8}),
    ]
    value = "image"
    for place, (kind, others, attributes) in enumerate(steps):
        result = "pixels" if place == len(steps) - 1 else f"px_{place}"
        graph.node.append(helper.make_node(kind, [value, *others], [result], name=f"px_node_{place}", **attributes))
        value = result
    shape: list[str | int | None] = ["N", 28, 28, 1] if layout == "hwc" else ["N", 1, 28, 28]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    onnx.checker.check_model(model)
    return model.SerializeToString()


VARIANTS: Mapping[str, Callable[[Path], bytes]] = {
    "bytes hwc": lambda _: bytes_only("hwc"),
    "bytes chw": lambda _: bytes_only("chw"),
    "encoder": lambda _: one_part("encoder"),
    "decoder": lambda _: one_part("decoder"),
    "sidecar": with_sidecar,
    "torchscript": lambda _: one_part("decoder", "torchscript"),
    "compiled": lambda _: compiled(),
}
