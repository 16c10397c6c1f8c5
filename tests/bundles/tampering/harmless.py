"""Changes that a reader accepts, because they are allowed or change only texts: they must be shown without harm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tests.bundles.tampering.archives import CERTIFICATE, MANIFEST, Tampered, files_of, summed
from vae_export.artifact.certificate import manifest_digests
from vae_export.bundles.archive import write_archive

CARD = "MODEL_CARD.md"
#: Characters that a terminal obeys, or that hide or turn what is written.
CONTROLS = (
    *(
        "\x1b[2J\x1b[1;1Hverified",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1bP",
        "\x9b31m",
        "\x9d",
        "\x08\x08",
        "\x00",
    ),
    *("\x7f", "\r", "\x0b", "\x0c", "\x85", "\u202e", "\u2066", "\u200f", "\u2028", "\ufeff", "\u200b", "\U000e0041"),
)


def card_with_controls(data: bytes, rng: random.Random) -> Tampered:
    files = files_of(data)
    text = files[CARD].decode()
    for _ in range(rng.randrange(1, 5)):
        place = rng.choice([0, 2, text.find("\n"), rng.randrange(len(text))])
        text = text[:place] + rng.choice(CONTROLS) + text[place:]
    return Tampered(summed(files | {CARD: text.encode()}), ())


def odd_card(data: bytes, rng: random.Random) -> Tampered:
    texts = [
        "",
        "\n",
        "#",
        "# ",
        "[bold]x[/bold] :smile: [/]",
        "x" * 100_000,
        "# a\r\nb",
        "# \u05d0\u05d1",
        "\U0001f469\u200d\U0001f469",
    ]
    files = files_of(data)
    return Tampered(summed(files | {CARD: rng.choice(texts).encode(), "LICENSE": rng.choice([b"", b"\x1b[2J"])}), ())


def provenance_with_controls(data: bytes, rng: random.Random) -> Tampered:
    """Where texts are free: the provenance, and the environment and findings of the certificate."""
    control = rng.choice(CONTROLS)
    files = files_of(data)
    if rng.random() < 0.5:
        return _edited(data, MANIFEST, lambda document: document["provenance"].update({control: [control]}))
    finding = {"rule": control, "severity": "warning", "where": control, "detail": control}

    def edit(document: dict[str, Any]) -> None:
        document["environment"][control] = control
        document["findings"] = [finding]

    assert CERTIFICATE in files
    return _edited(data, CERTIFICATE, edit)


def unknown_keys(data: bytes, rng: random.Random) -> Tampered:
    """Keys of a later version, which readers must ignore, in every object of the manifest."""

    def add(value: Any) -> None:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            add(inner)
        if isinstance(value, dict) and rng.random() < 0.5:
            value["later"] = rng.choice([1, None, "x", [1.5], {"a": []}, 1e300, -0.0, 2**64 - 1])

    def edit(document: dict[str, Any]) -> None:
        open_tables = [document.pop("versions")] + [output.pop("bands", {}) for output in _outputs(document)]
        add(document)
        document["versions"] = open_tables[0]
        for output, bands in zip(_outputs(document), open_tables[1:], strict=True):
            output |= {"bands": bands} if bands else {}

    return _edited(data, MANIFEST, edit)


def unchecked_signature(data: bytes, rng: random.Random) -> Tampered:
    """Any 64 bytes: without a key, nobody can tell."""
    sums, *rest = files_of(data).items()
    return Tampered(write_archive(dict([sums, ("SHA256SUMS.sig", rng.randbytes(64)), *rest])), ())


def _outputs(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for part in document["golden"] for output in part["outputs"]]


def _edited(data: bytes, name: str, edit: Callable[[dict[str, Any]], object]) -> Tampered:
    """Edit a document; the certificate of an edited manifest fits it, as if it had been verified like that."""
    files = files_of(data)
    document = json.loads(files[name])
    edit(document)
    files |= {name: json.dumps(document).encode()}
    if name == MANIFEST:
        certificate = json.loads(files[CERTIFICATE])
        if "manifest" in certificate:  # the first version of certificates has no hashes of what it says
            certificate["manifest"] |= manifest_digests(files[MANIFEST])
        files |= {CERTIFICATE: json.dumps(certificate).encode()}
    return Tampered(summed(files), ())
