"""Tampering with what the manifest and the certificate say, with hashes that fit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from tests.bundle.tampering.archives import CERTIFICATE, MANIFEST, Tampered, files_of, summed


def malformed_json(data: bytes, rng: random.Random) -> Tampered:
    files = files_of(data)
    name = rng.choice([MANIFEST, CERTIFICATE])
    text = files[name]
    broken = rng.choice(
        [
            text[: rng.randrange(1, len(text) - 2)],
            b"[" * 100_000,
            b"{" + b'"a":{' * 50_000,
            b"null",
            b"[]",
            b"",
            b"\xff\xfe" + text,
            text.replace(b"{", b'{"format":"x","format":"y",', 1),
            b'{"format": NaN}',
            b'{"format": ' + b"9" * 10_000 + b"}",
        ]
    )
    return Tampered(summed(files | {name: broken}), (name,))


def huge_json(data: bytes, _rng: random.Random) -> Tampered:
    files = files_of(data)
    return Tampered(summed(files | {MANIFEST: files[MANIFEST] + b" " * (1 << 20)}), (MANIFEST,))


def newer_version(data: bytes, rng: random.Random) -> Tampered:
    files = files_of(data)
    name, version = rng.choice([(MANIFEST, b"vae-export/1"), (CERTIFICATE, b"vae-export-certificate/1")])
    newer = files[name].replace(version, version[:-1] + b"3", 1)
    return Tampered(summed(files | {name: newer}), (name,))


def changed_manifest(data: bytes, rng: random.Random) -> Tampered:
    """A value of the manifest replaced by another, with hashes that fit."""
    files = files_of(data)
    document = json.loads(files[MANIFEST])
    edits: list[Callable[[], object]] = [
        lambda: document["files"].pop(),
        lambda: document["files"].append(document["files"][0]),
        lambda: document["files"][0].update(sha256="0" * 64),
        lambda: document["files"][0].update(size=1),
        lambda: document["files"][0].update(name="../../etc/passwd"),
        lambda: document["files"][0].update(part="discriminator"),
        lambda: document["files"][0].update(inputs=[]),
        lambda: document["contract"].update(latent_shape=[99]),
        lambda: document["contract"].update(image_shape=[-1, 28, 28]),
        lambda: document["contract"].update(image_range=[1, 0]),
        lambda: document["golden"].pop(),
        lambda: document["golden"][0]["outputs"][0].update(band=-1),
        lambda: document["golden"][0]["outputs"][0].update(band="1e9"),
        lambda: document["golden"][0]["outputs"][0].update(shape=[1, 1]),
        lambda: document["golden"][0]["outputs"][0].update(sha256="f" * 64),
        lambda: document["golden"][0]["inputs"][0].update(file="golden/../decoder.onnx"),
        lambda: document["golden"][0]["inputs"][0].update(file="decoder.onnx"),
        lambda: document.pop("golden"),
        lambda: document.pop("files"),
    ]
    rng.choice(edits)()
    return Tampered(summed(files | {MANIFEST: json.dumps(document).encode()}), ())


def certificate_of_another(data: bytes, rng: random.Random) -> Tampered:
    """A certificate that failed, or one of other files."""
    files = files_of(data)
    document = json.loads(files[CERTIFICATE])
    if rng.random() < 0.5:
        document["verdict"] = "fail"
    else:
        name = rng.choice([name for name in document["files"] if name in files])  # it may be of more than was packed
        document["files"][name] = rng.randbytes(32).hex()
    return Tampered(summed(files | {CERTIFICATE: json.dumps(document).encode()}), (CERTIFICATE,))
