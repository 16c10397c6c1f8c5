"""Tampering with what the manifest, the certificate and the texts say, with hashes that fit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

from tests.bundles.tampering.archives import CERTIFICATE, MANIFEST, Tampered, files_of, summed


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
    name = rng.choice([MANIFEST, CERTIFICATE])
    newer = re.sub(rb'("vae-export(?:-certificate)?/)\d', rb"\g<1>9", files[name], count=1)
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


def certificate_that_contradicts_itself(data: bytes, rng: random.Random) -> Tampered:
    """A verdict that the rows, their counts or the findings do not support."""
    document = json.loads(files_of(data)[CERTIFICATE])
    rows = document["rows"]
    row = rng.choice(rows)
    edits: list[Callable[[], object]] = [
        lambda: document.update(failed_rows=99, rows=[]),
        lambda: document.update(failed_rows=1),
        lambda: document.update(failed_rows=-1),
        lambda: document.update(planned_rows=0, rows=[]),
        lambda: document.update(planned_rows=len(rows) + 1),
        lambda: document.update(planned_rows="many"),
        lambda: document.update(planned_rows=None),
        lambda: document.pop("planned_rows"),
        lambda: document.pop("rows"),
        lambda: rows.pop(),
        lambda: rows.append(None),
        lambda: row.update(passed=False),
        lambda: row.update(passed=1),
        lambda: row.pop("passed"),
        lambda: row.update(error=row["band"] * 2),
        lambda: row.update(error=None),
        lambda: row.update(fault="not finite"),
        lambda: row.update(outside=1),
        lambda: row.update(grey={"differing": 1, "unexplained": 1, "worst": 1}),
        lambda: document.update(findings=[{"rule": "x", "severity": "error", "where": "x", "detail": "x"}]),
        lambda: document.update(findings="none"),
    ]
    rng.choice(edits)()
    return _with_document(data, CERTIFICATE, document)


def number_that_overflows(data: bytes, rng: random.Random) -> Tampered:
    number = rng.choice([b"1e999", b"-1e999", b"1e99999", b"9" * 400 + b".0"])
    return _with_value(data, rng, number)


def half_a_character(data: bytes, rng: random.Random) -> Tampered:
    text = rng.choice([rb'"\ud800"', rb'"\udfff!"', rb'"\ude00\ud83d"', rb'{"\uDC80": 1}'])
    return _with_value(data, rng, text)


def deep_json(data: bytes, rng: random.Random) -> Tampered:
    """Deeper than the 64 levels that are allowed, and less deep than what Python's parser refuses by itself."""
    depth = rng.choice([64, 100, 900, 5_000])
    opened, closed = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return _with_value(data, rng, opened * depth + b"1" + closed * depth)


def endless_json(data: bytes, rng: random.Random) -> Tampered:
    """Few bytes that become many objects."""
    values = rng.choice([b"[]", b"{}", b"1", b'""', b'{"a":[1]}'])
    item = b"[" + b",".join([values] * ((1 << 22) + 1)) + b"]"
    files = files_of(data)
    return Tampered(summed(files | {CERTIFICATE: b'{"x":' + item + b"," + files[CERTIFICATE][1:]}), (CERTIFICATE,))


def unprintable_label(data: bytes, rng: random.Random) -> Tampered:
    """A name that is shown on one line, with characters that move the cursor or turn the text."""
    document = json.loads(files_of(data)[MANIFEST])
    file = rng.choice(document["files"])
    text = rng.choice(["\x1b[2J", "\x9b1m", "a\nverified pass", "\u202egpj", "\u2066x", "\x00", "\x7f", "\u2028", "\r"])
    edits: list[Callable[[], object]] = [
        lambda: document["versions"].update({text: "1"}),
        lambda: document["versions"].update(torch=text),
        lambda: file.update(format=text),
        lambda: file.update(precision=text),
        lambda: file.update(machine=text),
    ]
    rng.choice(edits)()
    return _with_document(data, MANIFEST, document)


def wrong_type(data: bytes, rng: random.Random) -> Tampered:
    """A value of another type than the specification gives it, which a lenient reader would convert."""
    document = json.loads(files_of(data)[MANIFEST])
    file, contract = rng.choice(document["files"]), document["contract"]
    edits: list[Callable[[], object]] = [
        lambda: document["versions"].update(torch=2.13),
        lambda: document.update(versions=[["torch", "2.13"]]),
        lambda: document.update(provenance=[["config", 1]]),
        lambda: document.update(opset=True),
        lambda: document.update(opset="20"),
        lambda: file.update(beside=[]),
        lambda: file.update(size=str(file["size"])),
        lambda: contract.update(image_range=["0", "1"]),
        lambda: contract.update(image_range=[False, True]),
        lambda: contract.update(image_shape="abc"),
        lambda: contract.update(image_shape=[True, 28, 28]),
        lambda: contract.update(likelihood={"name": "gaussian-fixed"}),
        lambda: contract.update(likelihood={"name": "gaussian-fixed", "scale": "0.1"}),
        lambda: contract.update(likelihood="bernoulli"),
        lambda: document["golden"][0]["outputs"][0].update(bands=[["fp16", 1]]),
        lambda: document["golden"][0]["outputs"][0].update(band=True),
    ]
    rng.choice(edits)()
    return _with_document(data, MANIFEST, document)


def reserved_name(data: bytes, rng: random.Random) -> Tampered:
    """A model file that has the name of another entry."""
    document = json.loads(files_of(data)[MANIFEST])
    name = rng.choice(["LICENSE", "SHA256SUMS", "SHA256SUMS.sig", "manifest.json", "certificate.json", "license"])
    rng.choice(document["files"])["name"] = name
    return Tampered(_with_document(data, MANIFEST, document).data, ())


def text_that_is_none(data: bytes, rng: random.Random) -> Tampered:
    """A model card or a licence that is not UTF-8, or endless."""
    files = files_of(data)
    name = rng.choice(["MODEL_CARD.md", "LICENSE"])
    wrong = rng.choice([b"\xff", b"# caf\xe9\n", b"\xed\xa0\x80", b"\xc0\xaf", b"x" * ((1 << 20) + 1)])
    return Tampered(summed(files | {name: wrong}), (name,))


def _with_document(data: bytes, name: str, document: object) -> Tampered:
    return Tampered(summed(files_of(data) | {name: json.dumps(document).encode()}), (name,))


def _with_value(data: bytes, rng: random.Random, value: bytes) -> Tampered:
    """A manifest or a certificate with this JSON where readers ignore what they do not know, or in an open table."""
    files = files_of(data)
    name = rng.choice([MANIFEST, CERTIFICATE])
    place = rng.choice([b'{"later": %s,', b'{"more": {"inside": [%s]},'])
    text = files[name].lstrip()
    assert text.startswith(b"{")
    return Tampered(summed(files | {name: place % value + text[1:]}), (name,))
