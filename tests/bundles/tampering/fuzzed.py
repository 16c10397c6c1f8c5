"""Random changes of documents, with hashes that fit: whether they are refused or not, nothing else may happen."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.bundles.tampering.archives import CERTIFICATE, MANIFEST, Tampered, files_of, summed
from tests.bundles.tampering.harmless import CONTROLS

_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**53,
        2**63,
        2**64 - 1,
        -(2**64) + 1,
        10**30,
        0.0,
        -0.0,
        1.5,
        5e-324,
        1.7e308,
        "",
        "x",
    ),
    *(
        "1",
        "N",
        "8*h",
        "..",
        "/",
        "decoder.onnx",
        "\U0001f600",
        [],
        {},
        [[]],
        [None],
        [1, 2],
        {"a": 1},
        "y" * 10_000,
        [0] * 1_000,
    ),
)


def fuzzed_document(data: bytes, rng: random.Random) -> Tampered:
    """Some values of the manifest or the certificate are replaced, removed, repeated or exchanged."""
    files = files_of(data)
    name = rng.choice([MANIFEST, CERTIFICATE])
    document = json.loads(files[name])
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        places = [place for place in _places(document) if place[0]]
        inner, key = rng.choice(places)
        match rng.randrange(5):
            case 0 | 1:
                inner[key] = rng.choice([*_VALUES, *CONTROLS])
            case 2:
                del inner[key]
            case 3:
                other, there = rng.choice(places)
                inner[key] = json.loads(json.dumps(other[there])) if there in other or isinstance(other, list) else None
            case 4 if isinstance(inner, list):
                inner.append(inner[key])
            case _:
                inner[rng.choice(CONTROLS) if isinstance(inner, dict) else key] = rng.choice(_VALUES)
    return Tampered(summed(files | {name: json.dumps(document).encode()}), ())


def fuzzed_text(data: bytes, rng: random.Random) -> Tampered:
    """Bytes of a document are flipped, removed, repeated or replaced, wherever they stand."""
    files = files_of(data)
    name = rng.choice([MANIFEST, CERTIFICATE, "SHA256SUMS", "MODEL_CARD.md", "LICENSE"])
    text = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 3, 10])):
        at = rng.randrange(len(text)) if text else 0
        match rng.randrange(4):
            case 0:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del text[at : at + rng.choice([1, 2, 50, 5_000])]
            case 2:
                text[at:at] = text[at : at + rng.choice([1, 10, 500])]
            case 3:
                text[at:at] = rng.choice(
                    [b"\x1b[2J", b"\xe2\x80\xae", b"\\", b'"', b"{", b"]", b"9", b"e999", b"\\ud800", b"\xff"]
                )
    changed = files | {name: bytes(text)}
    return Tampered(summed(changed) if name != "SHA256SUMS" else _packed(changed), ())


def _packed(files: dict[str, bytes]) -> bytes:
    from vae_export.bundles.archive import write_archive

    return write_archive(files)


def _places(value: Any, inner: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """Every value in a JSON document, as the object or array that holds it and its key there; rows only in part."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(inner, key), *(place for there, below in items[:40] for place in _places(below, value, there))]
