"""The C++ library without an engine, under sanitizers: what it refuses and says, signatures, settings, pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import random
import re
import subprocess
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bundles.tampering import EXPENSIVE, KINDS
from tests.bundles.tampering.archives import files_of, summed
from tests.commands import ROOT
from tests.conftest import Exported
from tests.cpp.programs import LIBRARY, WARNINGS, compiler, openvino, output_of
from tests.reference_variants import REFERENCE, consistent
from vae_export.artifact.certificate import read_certificate
from vae_export.bundles import open_bundle
from vae_export.bundles.signature import public_key
from vae_export.bundles.writer import pack
from vae_export.system.hardware import identity

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns of the duplicates it is asked to write
def test_every_kind_of_tampering_is_refused_and_named(cpp_reader: Path, packed: bytes, tmp_path: Path) -> None:
    named = {}
    for kind in KINDS:
        rng = random.Random(zlib.crc32(kind.__name__.encode()))
        for number in range(1 if kind in EXPENSIVE else 3):
            tampered = kind(packed, rng)
            name = f"{kind.__name__}-{number}"
            named[name] = tampered.named
            (tmp_path / f"{name}.zip").write_bytes(tampered.data)
    lines = output_of(cpp_reader, "--why", tmp_path).splitlines()
    assert len(lines) == len(named)
    for line in lines:
        name, said, message = line.split(" ", 2)
        assert said == "refuse", line
        assert message.isprintable()
        assert not named[name] or any(file in message for file in named[name]), line


def test_any_flipped_bit_is_refused(cpp_reader: Path, tmp_path: Path) -> None:
    """Bits of every 20th part of the bundle, and many of its central directory."""
    good = REFERENCE.read_bytes()
    places = [len(good) * index // 20 for index in range(20)] + [len(good) - 1 - 7 * index for index in range(60)]
    for place in places:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        (tmp_path / f"{place}.zip").write_bytes(data)
    answers = {line.split()[1] for line in output_of(cpp_reader, tmp_path).splitlines()}
    assert answers == {"refuse"}


def test_signature_is_checked_with_the_key_that_is_given(cpp_reader: Path, mlp: Exported, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    def private(seed: int) -> bytes:
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    certificate = read_certificate(mlp.artifact.certificate)
    good, other, plain = tmp_path / "good.zip", tmp_path / "other.zip", REFERENCE
    good.write_bytes(pack(mlp.artifact, certificate, name="x", formats=["onnx"], sign_key=private(1)))
    other.write_bytes(pack(mlp.artifact, certificate, name="x", formats=["onnx"], sign_key=private(2)))
    key = tmp_path / "key.pub"
    key.write_bytes(public_key(private(1)))
    said = output_of(cpp_reader, "--signed", key, good, other, plain).splitlines()
    assert said[0] == open_bundle(good, verify_key=key).signed_by
    assert said[1].startswith("signature is not valid; expected a signature by the key ")
    assert said[2].startswith("not signed; expected a signature by the key ")
    for text in (private(1), b"x", b"", public_key(private(1))[:-40]):
        key.write_bytes(text)
        expected = "\n" if text == b"" else "key cannot be read; expected an Ed25519 public key in PEM\n"
        assert output_of(cpp_reader, "--signed", key, good) == expected


def test_labels_have_no_character_that_cannot_be_shown(cpp_reader: Path) -> None:
    """As Python's own tables of Unicode say, apart from characters that are not assigned."""
    found = {int(word, 16) for word in output_of(cpp_reader, "--labels").split()}
    categories = {number: unicodedata.category(chr(number)) for number in range(0x110000)}
    expected = {number for number, category in categories.items() if category[0] in "CZ" and category != "Cn"} - {0x20}
    assert expected <= found
    assert all(categories[number] == "Cn" for number in found - expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_has_the_pixels_of_every_number_of_channels(cpp_reader: Path, channels: int, tmp_path: Path) -> None:
    height, width = 90, 70  # the picture is larger than a block of zlib
    output_of(cpp_reader, "--png", channels, height, width, tmp_path / "grid.png")
    images = np.arange(16 * height * width * channels).astype(np.uint8).reshape(4, 4, height, width, channels)
    expected = images.transpose(0, 2, 1, 3, 4).reshape(4 * height, 4 * width, channels)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
        assert (np.asarray(picture).reshape(expected.shape) == expected).all()


def test_png_of_five_channels_is_refused(cpp_reader: Path, tmp_path: Path) -> None:
    command = [str(cpp_reader), "--png", "5", "4", "4", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no image that can be shown; expected 1 to 4 channels, got 5\n"
    assert list(tmp_path.iterdir()) == []


def test_recommendation_is_followed_on_a_machine_like_the_measured_one(cpp_reader: Path, tmp_path: Path) -> None:
    files = files_of(REFERENCE.read_bytes())
    manifest = json.loads(files["manifest.json"])
    decoder = next(file for file in manifest["files"] if file["name"] == "decoder.onnx")
    good: dict[str, Any] = {
        "part": "decoder", "file": "decoder.onnx", "sha256": decoder["sha256"], "provider": "CPUExecutionProvider",
        "threads": 1, "optimisation": "basic", "switches": ["no-spinning", "no-arena"], "batch": 2,
        "p50_seconds": 1e-3, "speedup": 1.5, "budget": {}, "machine": identity(),
    }  # fmt: skip
    followed = "recommended, and measured on a machine like this one"
    elsewhere, unknown = (
        "recommendation not followed: it was measured on another machine (cores)",
        ("recommendation not followed: it is not understood"),
    )
    cases = {
        "good": ([good, good | {"threads": 2}], f"decoder.onnx 1 basic 0001 {followed}"),
        "switches": ([good | {"switches": ["parallel", "no-pattern"]}], f"decoder.onnx 1 basic 1110 {followed}"),
        "none": ([], "none 0 all 1011 "),
        "elsewhere": ([good | {"machine": identity() | {"cores": 1000}}], f"none 0 all 1011 {elsewhere}"),
        "switch": ([good | {"switches": ["warp"]}], f"none 0 all 1011 {unknown}"),
        "file": ([good | {"sha256": "0" * 64}], f"none 0 all 1011 {unknown}"),
        "threads": ([good | {"threads": "1"}], f"none 0 all 1011 {unknown}"),
    }
    expected = []
    for name, (recommended, said) in cases.items():
        data = files | {"manifest.json": json.dumps(manifest | {"recommended": recommended}).encode()}
        (tmp_path / f"{name}.zip").write_bytes(summed(data))
        expected.append(said)
    decoder["machine"] = "linux x86_64 AVX2"  # it was compiled for some machine
    (tmp_path / "compiled.zip").write_bytes(consistent(files, manifest | {"recommended": [good]}))
    expected.append(f"none 0 all 1011 {unknown}")
    paths = [tmp_path / f"{name}.zip" for name in (*cases, "compiled")]
    assert output_of(cpp_reader, "--running", *paths).splitlines() == expected


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the settings are for x86-64")
def test_settings_that_a_processor_without_vnni_needs_are_used_there_alone(cpp_reader: Path, tmp_path: Path) -> None:
    files = files_of(REFERENCE.read_bytes())
    manifest = json.loads(files["manifest.json"])
    decoder = next(file for file in manifest["files"] if file["name"] == "decoder.onnx")
    decoder["without_vnni"] = {"session.x64quantprecision": "1"}
    (tmp_path / "x.zip").write_bytes(consistent(files, manifest))
    is_safe = {"avx512_vnni", "avx_vnni"} & set(identity()["features"])
    said = output_of(cpp_reader, "--running", tmp_path / "x.zip")
    assert said == f"none 0 all 1011{'' if is_safe else ' session.x64quantprecision=1'} \n"


def test_every_header_compiles_with_clang_without_warnings() -> None:
    """The headers of every engine, too; those of ONNX Runtime where `ORT_ROOT` says where it is, as it does in CI."""
    torch = Path(str(importlib.util.find_spec("torch").origin)).parent / "include"  # type: ignore[union-attr]
    folders = {
        "libtorch": [torch, torch / "torch/csrc/api/include"],
        "opencv": [Path("/usr/include/opencv4")],
        "openvino": [openvino() / "include"],
    }
    if root := os.environ.get("ORT_ROOT"):
        folders["onnxruntime"] = [Path(root) / "include"]
    programs = {LIBRARY / "tests/reader.cpp": [], LIBRARY / "tests/verbs.cpp": folders["openvino"]}
    programs |= {ROOT / f"examples/cpp-{name}/main.cpp": found for name, found in folders.items()}
    for program, found in programs.items():
        flags = [*WARNINGS, "-fsyntax-only", *(f"-isystem{folder}" for folder in found)]
        done = subprocess.run([compiler("clang++"), *flags, str(program)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), program


def test_every_header_is_self_contained_and_named_in_the_page() -> None:
    """Each starts with what it is for, and includes what it names of the standard library."""
    page = (LIBRARY / "README.md").read_text("utf-8")
    headers = sorted((LIBRARY / "include").rglob("*.hpp"))
    assert len(headers) > 15
    for header in headers:
        text = header.read_text("utf-8")
        assert re.match(r"// .+\n(//.*\n)*#pragma once\n", text), header
        for name in ("map", "set", "vector", "optional", "variant", "array"):
            assert f"std::{name}<" not in text or f"#include <{name}>" in text, (header, name)
    for engine in (LIBRARY / "include/vae/engines").glob("*.hpp"):
        assert engine.name == "temporary_folder.hpp" or f"vae/engines/{engine.name}" in page
