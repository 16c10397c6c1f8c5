"""The manifest comes back as it was, and whatever else lies in its place is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Exported
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest, read_manifest
from vae_export.contract import Contract
from vae_export.errors import IntegrityError, ModelError, VaeExportError
from vae_export.precision import PRECISIONS, infix

EXAMPLE = Manifest(
    Contract((1, 28, 28), (4,)),
    (
        FileEntry.of("decoder.onnx", "decoder", "onnx", FileContent(b"data")),
        FileEntry.of("encoder.pt2", "encoder", "pt2", FileContent(b"")),
        FileEntry.of("encoder.openvino.xml", "encoder", "openvino", FileContent(b"graph", {".bin": b"weights"})),
    ),
    20,
    {"torch": "2.13.0"},
    {"config": {"family": "mlp"}},
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["..", "a/b", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(EXAMPLE.text)
    assert read_manifest(tmp_path) == EXAMPLE


def test_real_manifest_round_trips(mlp: Exported, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(mlp.artifact.manifest.text)
    assert read_manifest(tmp_path) == mlp.artifact.manifest
    assert (tmp_path / MANIFEST).read_bytes() == (mlp.folder / MANIFEST).read_bytes()


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(below for key, inner in items for below in places(inner, (*place, key)))]


@pytest.mark.slow
@given(st.sampled_from(places(EXAMPLE.to_json())), values)
def test_manifest_fuzzing_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: object
) -> None:
    document: Any = json.loads(EXAMPLE.text)
    if place:
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    else:
        document = value
    folder = tmp_path_factory.getbasetemp()
    (folder / MANIFEST).write_text(json.dumps(document))
    refused = None
    try:
        manifest = read_manifest(folder)
    except VaeExportError as error:
        refused = error
    if refused is None:
        assert all("/" not in entry.name and entry.name.isprintable() for entry in manifest.files)
    else:
        assert refused.exit_code in (3, 4)
        assert "\n" not in str(refused)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises((ModelError, IntegrityError)):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * 100_000, "manifest cannot be read"),
        (b"9" * 10_000, "manifest cannot be read"),
        (b" " * (1 << 20) + b"{}", "manifest is too large"),
        (EXAMPLE.text.replace(b": 20", b": 1e999"), "manifest cannot be read"),
        (json.dumps(EXAMPLE.to_json() | {"opset": 0}).encode(), "manifest cannot be read: .*opset is 0"),
        (json.dumps(EXAMPLE.to_json() | {"opset": -1}).encode(), "manifest cannot be read: .*opset is -1"),
        (json.dumps(EXAMPLE.to_json() | {"opset": True}).encode(), "manifest cannot be read: .*opset is True"),
        (json.dumps(EXAMPLE.to_json() | {"opset": "20"}).encode(), "manifest cannot be read: .*opset is '20'"),
        (EXAMPLE.text.replace(b"vae-export/1", b"vae-export/2"), "contract is not of this version"),
        (EXAMPLE.text.replace(b"vae-export/1", b"vae-export/3"), "another version: .*expected vae-export/1"),
        (EXAMPLE.text.replace(b"decoder.onnx", b"../decoder.onnx"), "file name is not allowed"),
        (EXAMPLE.text.replace(b"decoder.onnx", b"/etc/passwd"), "file name is not allowed"),
        (EXAMPLE.text.replace(b'"decoder.onnx"', b'"a\\u0000b"'), "file name is not allowed"),
        (EXAMPLE.text.replace(b'"decoder.onnx"', b'"."'), "file name is not allowed"),
        (EXAMPLE.text.replace(b'"decoder.onnx"', b'["x"]'), "manifest cannot be read"),
        (EXAMPLE.text.replace(b'"onnx"', b'["onnx"]'), "manifest cannot be read"),
        (json.dumps(EXAMPLE.to_json() | {"files": [None]}).encode(), "manifest cannot be read"),
        (EXAMPLE.text.replace(b"encoder.openvino.bin", b"../secret.bin"), "file name is not allowed"),
        (EXAMPLE.text.replace(b"encoder.openvino.bin", b"encoder.openvino.xml"), "two files have one name"),
        (
            EXAMPLE.text.replace(b"encoder.openvino.bin", b"decoder.openvino.bin"),
            "name of a sidecar does not match its file: .*manifest.json, decoder",
        ),
        (EXAMPLE.text.replace(b'"encoder.openvino.bin"', b"7"), "manifest cannot be read"),
    ],
)
def test_hostile_manifests_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    assert data != EXAMPLE.text
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(VaeExportError, match=said):
        read_manifest(tmp_path)


def test_file_of_unknown_precision_is_checked_but_not_run(tmp_path: Path) -> None:
    later = EXAMPLE.text.replace(b'"precision": "fp32"', b'"precision": "fp2"', 1)
    (tmp_path / MANIFEST).write_bytes(later)
    manifest = read_manifest(tmp_path)
    (unknown,) = set(manifest.files) - set(manifest.known)
    assert (unknown.name, unknown.precision) == ("decoder.onnx", "fp2")
    assert unknown in manifest.stored
    for find in (manifest.entry, manifest.finest):
        with pytest.raises(ModelError, match="no such file: decoder, onnx"):
            find("decoder")
    assert manifest.text == later  # a bundle of it says the same


def test_finest_file_has_the_first_precision() -> None:
    files = [
        FileEntry.of(f"decoder{infix(precision)}.onnx", "decoder", "onnx", FileContent(b""), precision)
        for precision in PRECISIONS
    ]
    for first, precision in enumerate(PRECISIONS):
        manifest = replace(EXAMPLE, files=tuple(reversed(files[first:])))
        assert manifest.finest("decoder").precision == precision


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("precision",), "float16", "of another precision: .*expected float32, got float16"),
        (("contract", "prior"), "uniform", "prior is 'uniform', not 'standard normal'"),
        (("golden", 0, "inputs", 0, "shape", 0), 1, "has 1 rows, not 2 to 16"),
        (("golden", 0, "outputs", 0, "shape", 0), 17, "has 17 rows, not 2 to 16"),
        (("golden", 0, "outputs", 0, "shape"), [], "shape of a golden array"),
    ],
)
def test_specified_values_are_enforced(
    mlp: Exported, tmp_path: Path, place: tuple[Any, ...], value: object, said: str
) -> None:
    document = inner = json.loads(mlp.artifact.manifest.text)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(VaeExportError, match=said):
        read_manifest(tmp_path)


def test_non_finite_numbers_are_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = replace(EXAMPLE, provenance={"loss": float("nan")}).text
