"""The conformance corpus: bundles that every reader must accept, and bundles that every strict reader must refuse.

`cases` makes them from the reference bundle. Model files are stand-ins of a few bytes, because a reader does not look
into them. `benchmarks/conformance.py` writes the corpus into a folder and runs any reader against it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vae_export.artifact.certificate import manifest_digests

Json = dict[str, Any]
#: A change of one of the objects in a draft.
Change = Callable[[SimpleNamespace], object]
SUMS, SIGNATURE, MANIFEST, CERTIFICATE = "SHA256SUMS", "SHA256SUMS.sig", "manifest.json", "certificate.json"
PAGE, CARD, LICENCE = "certificate.html", "MODEL_CARD.md", "LICENSE"
REFERENCE = Path(__file__).parents[2] / "artifacts" / "reference" / "mnist.zip"
#: The list of the bundles with the expected answers, beside them.
EXPECTED = "expected.tsv"
#: The formats of certificates.
FIRST, SECOND = "vae-export-certificate/1", "vae-export-certificate/2"
#: Rows of the reference certificate that are kept.
ROWS = 3
#: The largest number of commas and opening brackets in a document, and its largest depth.
VALUES, DEPTH = 1 << 22, 64


@dataclass(frozen=True)
class Case:
    """One bundle of the corpus.

    Attributes:
        name: the name of its file, without the suffix.
        accept: whether a reader must accept it; otherwise a strict reader must refuse it.
        reason: what is special about it, and the section of the specification.
        data: its bytes.
    """

    name: str
    accept: bool
    reason: str
    data: bytes = field(repr=False)


@dataclass
class Draft:
    """A bundle in pieces, whose hashes are made last."""

    manifest: Json
    #: Without `reproduction` and `manifest`, which are made to fit; see `certified`.
    certificate: Json
    #: Model files, golden arrays and texts by name.
    files: dict[str, bytes]

    def copy(self) -> Draft:
        return Draft(copy.deepcopy(self.manifest), copy.deepcopy(self.certificate), dict(self.files))

    def store(self, name: str, data: bytes) -> Json:
        """Keep a file; return its entry in a manifest."""
        self.files[name] = data
        return {"name": name, "size": len(data), "sha256": sha256(data)}

    def entries(self, manifest: bytes | None = None, certificate: bytes | None = None) -> list[tuple[str, bytes]]:
        """Return the entries in order, with the list of hashes.

        Args:
            manifest, certificate: bytes in place of those that the documents give.
        """
        files, parts = (self.manifest.get(key) or [] for key in ("files", "golden"))
        models = [stored for file in tables(files) for stored in (file, *tables(file.get("beside")))]
        arrays = [array for part in tables(parts) for kind in ("inputs", "outputs") for array in tables(part.get(kind))]
        named = [item.get("name") for item in models] + [item.get("file") for item in arrays]
        manifest = dumped(self.manifest) if manifest is None else manifest
        certificate = dumped(self.certified(manifest)) if certificate is None else certificate
        texts = {MANIFEST: manifest, CERTIFICATE: certificate}
        order = [MANIFEST, *dict.fromkeys(name for name in named if name in self.files)]
        order += [name for name in self.files if name.startswith("golden/") and name not in order]
        order += [CERTIFICATE, *(name for name in (PAGE, CARD, LICENCE) if name in self.files)]
        return summed([(name, texts.get(name) or self.files.get(name, b"")) for name in order])

    def certified(self, manifest: bytes | None = None) -> Json:
        """Return the certificate with what it says of the manifest.

        Args:
            manifest: bytes in place of those of the document.
        """
        names = [file.get("name") for file in tables(self.manifest.get("files"))]
        try:
            statements = manifest_digests(dumped(self.manifest) if manifest is None else manifest)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):  # a manifest that cannot be read
            statements = {}
        reproduction = {str(name): {"state": "reproduced"} for name in names}
        return {"reproduction": reproduction, "manifest": statements} | self.certificate

    def data(self, manifest: bytes | None = None, certificate: bytes | None = None) -> bytes:
        return archive(self.entries(manifest, certificate))


def write_corpus(folder: Path) -> dict[str, str]:
    """Write the corpus.

    Args:
        folder: where the bundles and their list are written; bundles of an earlier corpus are replaced.

    Returns:
        `accept` or `refuse` by the name of the bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.zip"):
        old.unlink()
    lines, answers = [], {}
    for case in cases(REFERENCE):
        (folder / f"{case.name}.zip").write_bytes(case.data)
        answers[case.name] = "accept" if case.accept else "refuse"
        lines.append(f"{case.name}\t{answers[case.name]}\t{case.reason}\n")
    (folder / EXPECTED).write_text("".join(lines), "utf-8")
    return answers


def read_by(command: Sequence[str], folder: Path) -> dict[str, str]:
    """Run a reader on a corpus; return its answer by the name of the bundle."""
    done = subprocess.run([*command, str(folder)], stdout=subprocess.PIPE, text=True, check=False)
    return dict(words for line in done.stdout.splitlines() if len(words := line.split(" ")) == 2)


def cases(reference: Path) -> Iterator[Case]:
    """Yield the corpus.

    Args:
        reference: the reference bundle, artifacts/reference/mnist.zip.
    """
    base = shortened(reference)
    yield Case("reference", True, "the reference bundle as it is", reference.read_bytes())
    yield Case("base", True, "the bundle from which most others are made", base.data())
    for section in (
        container,
        contents,
        json_rules,
        manifest_types,
        plain_contract,
        extended,
        golden,
        certificates,
        statements,
    ):
        yield from section(base)


def shortened(reference: Path) -> Draft:
    """Return the reference bundle with stand-ins for its ONNX files, no others, and few rows in its certificate."""
    with zipfile.ZipFile(reference) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    manifest, certificate = json.loads(files[MANIFEST]), json.loads(files[CERTIFICATE])
    kept = {name: data for name, data in files.items() if name.startswith("golden/") or name in (CARD, LICENCE)}
    draft = Draft(manifest, certificate, kept)
    manifest["files"] = [file for file in manifest["files"] if file["format"] == "onnx"]
    for file in manifest["files"]:
        file |= draft.store(file["name"], f"stand-in for {file['name']}".encode())
    certificate["rows"] = certificate["rows"][:ROWS]
    certificate |= {"format": SECOND, "planned_rows": ROWS, "files": hashes(manifest)}
    for key in ("reproduction", "manifest"):
        certificate.pop(key, None)
    return draft


def tables(value: Any) -> list[Json]:
    """Return the objects in a list; none if it is something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def hashes(manifest: Json) -> Json:
    return {
        stored["name"]: stored["sha256"] for file in manifest["files"] for stored in (file, *file.get("beside", ()))
    }


# ------------------------------------------------------------------------------------------------------- the container


_RECORDS = {"local": "a local header", "central": "a central header", "end": "an end record"}


def container(base: Draft) -> Iterator[Case]:
    """Section 1: the canonical ZIP file, and names."""
    good, entries = base.data(), base.entries()
    start, end = good.index(b"PK\x01\x02"), len(good) - 22

    def patched(place: int, value: bytes) -> bytes:
        return good[:place] + value + good[place + len(value) :]

    def headers(kind: str, where: int, fields: Mapping[str, tuple[int, str, int]]) -> Iterator[Case]:
        for name, (offset, form, value) in fields.items():
            data = patched(where + offset, struct.pack(form, value))
            yield refused(f"zip-{kind}-{name}", f"1: {_RECORDS[kind]} that is not canonical", data)

    local = {
        "version": (4, "<H", 45),
        "flags": (6, "<H", 8),
        "utf8": (6, "<H", 0x800),
        "method": (8, "<H", 8),
        "time": (10, "<H", 1),
        "date": (12, "<H", 0x22),
        "crc": (14, "<I", 1),
        "extra": (28, "<H", 1),
    }
    central = {
        "made-by": (4, "<H", 20),
        "version": (6, "<H", 10),
        "flags": (8, "<H", 8),
        "method": (10, "<H", 8),
        "date": (14, "<H", 0x22),
        "comment": (32, "<H", 1),
        "disk": (34, "<H", 1),
        "internal": (36, "<H", 1),
        "attributes": (38, "<I", 0o120777 << 16),
        "executable": (38, "<I", 0o100755 << 16),
        "offset": (42, "<I", 1),
    }
    last = {
        "disk": (4, "<H", 1),
        "entries": (8, "<H", 3),
        "size": (12, "<H", 46),
        "offset": (16, "<H", 0),
        "comment": (20, "<H", 1),
    }
    for kind, where, fields in (("local", 0, local), ("central", start, central), ("end", end, last)):
        yield from headers(kind, where, fields)
    yield refused("zip-bytes-before", "1: bytes before the first entry", b"MZ" + good)
    yield refused("zip-bytes-after", "1: bytes after the end record", good + b"\n")
    yield refused("zip-bytes-between", "1: bytes between data and directory", good[:start] + b"\0" + good[start:])
    yield refused("zip-cut", "1: the file is cut off", good[: end // 2])
    yield refused("zip-empty", "1: an empty file", b"")
    yield refused("zip-end-alone", "1: an archive without entries", archive([]))
    yield refused("zip-comment", "1: an archive comment", good[:-2] + struct.pack("<H", 2) + b"hi")
    compressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = compressed.compress(entries[-1][1]) + compressed.flush()
    yield refused(
        "zip-compressed",
        "1: a compressed entry",
        archive([*entries[:-1], (LICENCE, packed)], {LICENCE: (8, entries[-1][1])}),
    )
    yield refused("zip-two-of-one-name", "1: two entries of one name", archive([*entries, entries[-1]]))
    yield refused("zip-folder-entry", "1: an entry for a folder", archive([*entries, ("golden/", b"")]))
    reordered = archive(entries, directory=[*entries[1:], entries[0]])
    yield refused("zip-directory-order", "1: central headers in another order than the entries", reordered)
    for label, name in {
        "parent": "../x",
        "absolute": "/x",
        "drive": "C:x",
        "backslash": "a\\b",
        "hidden": ".x",
        "dot-at-end": "x.",
        "three-parts": "a/b/c",
        "space": "a b",
        "nul": "a\0b",
        "accent": "caf\xe9",
        "empty": "",
        "empty-part": "a//b",
        "long": "x" * 101,
    }.items():
        extra = summed([*entries[1:], (name, b"x")])
        yield refused(f"name-{label}", "1: a name that is not allowed", archive(extra))
    for name in ("license", "Golden/latent.f32", "DECODER.ONNX"):
        extra = summed([*entries[1:], (name, b"x")])
        yield refused(f"name-case-{name.lower().replace('/', '-')}", "1: two names that differ in case", archive(extra))
    for label, length, accept in (("longest", 100, True), ("too-long", 101, False)):
        draft = base.copy()
        array = draft.manifest["golden"][0]["inputs"][0]
        name = "golden/" + "x" * length
        draft.files[name] = draft.files.pop(array["file"])
        array["file"] = name
        yield Case(f"name-golden-{label}", accept, f"1: a part of a name of {length} characters", draft.data())


def contents(base: Draft) -> Iterator[Case]:
    """Section 2: entries, hashes, texts, signature."""
    entries = base.entries()
    names = [name for name, _ in entries]
    for name in names:
        rest = [entry for entry in entries if entry[0] != name]
        without = archive(rest if name == SUMS else summed(rest[1:]))
        yield refused(f"missing-{name.replace('/', '-')}", "2: an entry is missing", without)
    for name in ("notes.txt", "golden/more.f32", "README.md"):
        yield refused(
            f"extra-{name.replace('/', '-')}",
            "2: an entry that is not listed",
            archive(summed([*entries[1:], (name, b"x")])),
        )
    unsummed = [*entries, ("notes.txt", b"x")]
    yield refused("extra-unlisted", "2: an entry that SHA256SUMS does not name", archive(unsummed))
    for one, other in ((1, 2), (2, 3), (4, 5), (len(names) - 2, len(names) - 1)):
        swapped = list(entries[1:])
        swapped[one - 1], swapped[other - 1] = swapped[other - 1], swapped[one - 1]
        yield refused(f"order-{one}-{other}", "2: entries in another order", archive(summed(swapped)))
    yield refused("order-sums-last", "2: SHA256SUMS is not the first entry", archive([*entries[1:], entries[0]]))
    sums = entries[0][1]
    for label, altered in {
        "wrong-hash": sums.replace(sums[:4], b"0000", 1),
        "upper-case": sums.upper(),
        "crlf": sums.replace(b"\n", b"\r\n"),
        "no-last-line-feed": sums[:-1],
        "one-space": sums.replace(b"  ", b" "),
        "binary-mark": sums.replace(b"  ", b" *"),
        "empty": b"",
        "twice": sums + sums.splitlines(keepends=True)[-1],
        "comment": b"# hashes\n" + sums,
        "reversed": b"".join(reversed(sums.splitlines(keepends=True))),
        "names-itself": sums + b"0" * 64 + b"  SHA256SUMS\n",
        "bom": b"\xef\xbb\xbf" + sums,
        "line-short": b"".join(sums.splitlines(keepends=True)[:-1]),
    }.items():
        yield refused(
            f"sums-{label}", "2: a list of hashes that is not canonical", archive([(SUMS, altered), *entries[1:]])
        )
    for size in (0, 63, 65):
        signed = [entries[0], (SIGNATURE, b"s" * size), *entries[1:]]
        yield refused(f"signature-{size}", f"2: a signature of {size} bytes", archive(signed))
    yield accepted(
        "signature-64", "2: a signature that nobody checks", archive([entries[0], (SIGNATURE, b"s" * 64), *entries[1:]])
    )
    yield refused("signature-last", "2: a signature in another place", archive([*entries, (SIGNATURE, b"s" * 64)]))
    summed_signature = summed([(SIGNATURE, b"s" * 64), *entries[1:]])
    yield refused("signature-summed", "2: SHA256SUMS names the signature", archive(summed_signature))
    yield accepted("page", "2: a certificate as a page", with_files(base, {PAGE: b"<p>"}).data())
    for name in (CARD, LICENCE):
        label = name.partition(".")[0].lower().replace("_", "-")
        texts = {
            "empty": (b"", True),
            "emoji": ("# \U0001f469\u200d\U0001f469\n".encode(), True),
            "controls": (b"# a\x1b[2J\0\n", True),
            "largest": (b"x" * (1 << 20), True),
            "too-large": (b"x" * ((1 << 20) + 1), False),
            "bom": (b"\xef\xbb\xbf# x\n", True),
            "latin-1": (b"# caf\xe9\n", False),
            "surrogate": (b"\xed\xa0\x80", False),
            "overlong": (b"\xc0\xaf", False),
        }
        for kind, (text, accept) in texts.items():
            yield Case(
                f"text-{label}-{kind}",
                accept,
                "2: texts are UTF-8 of at most 1 MiB",
                with_files(base, {name: text}).data(),
            )


# ---------------------------------------------------------------------------------------------------------- documents


def json_rules(base: Draft) -> Iterator[Case]:
    """Section 3: the JSON that is allowed, in the manifest and in the certificate."""
    text, certificate = dumped(base.manifest), dumped(base.certified())

    def valued(value: bytes) -> bytes:
        return b'{"later": ' + value + b", " + text[1:]

    good = {
        "unknown-key": b"1",
        "nested": b"[" * (DEPTH - 1) + b"]" * (DEPTH - 1),
        "largest-integer": b"18446744073709551615",
        "lowest-integer": b"-18446744073709551615",
        "large-float": b"18446744073709551616.0",
        "exponent": b"1e308",
        "tiny": b"1e-999",
        "minus-zero": b"-0",
        "escaped-pair": rb'"\ud83d\ude00"',
        "escapes": rb'"\"\\\/\b\f\n\r\t\u0000"',
        "proto": b'{"__proto__": 1}',
        "empty-key": b'{"": 1}',
        "line-separator": '"\u2028\x7f"'.encode(),
        "brackets-in-text": b'"' + b"[{,]}" * 99 + b'"',
        "white": b" \t\r\n1\n",
    }
    bad = {
        "too-deep": b"[" * DEPTH + b"]" * DEPTH,
        "too-deep-objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
        "deep-900": b"[" * 900 + b"]" * 900,
        "deep-100000": b"[" * 100_000 + b"]" * 100_000,
        "integer-2-64": b"18446744073709551616",
        "integer-minus-2-64": b"-18446744073709551616",
        "integer-endless": b"9" * 5000,
        "overflow": b"1e999",
        "overflow-negative": b"-1e999",
        "overflow-long": b"9" * 400 + b".0",
        "nan": b"NaN",
        "infinity": b"Infinity",
        "minus-infinity": b"-Infinity",
        "half-character": rb'"\ud800"',
        "half-reversed": rb'"\ude00\ud83d"',
        "half-in-key": rb'{"\udc80": 1}',
        "duplicate": b'{"a": 1, "a": 1}',
        "duplicate-escaped": rb'{"a": 1, "\u0061": 1}',
        "duplicate-proto": b'{"__proto__": 1, "__proto__": 2}',
        "trailing-comma": b"[1,]",
        "comment": b"1 /* one */",
        "single-quotes": b"'a'",
        "leading-zero": b"01",
        "plus": b"+1",
        "bare-point": b".5",
        "point-at-end": b"1.",
        "hexadecimal": b"0x10",
        "control-in-text": b'"a\nb"',
        "bad-escape": rb'"\x41"',
        "short-escape": rb'"\u12"',
        "form-feed": b"\x0c1",
        "bad-utf8": b'"\xff"',
        "utf8-surrogate": b'"\xed\xa0\x80"',
        "no-value": b"",
        "word": b"nil",
        "true-word": b"truely",
    }
    for label, value in good.items():
        yield accepted(f"json-{label}", "3: JSON that is allowed", base.data(manifest=valued(value)))
    for label, value in bad.items():
        yield refused(f"json-{label}", "3: JSON that is not allowed", base.data(manifest=valued(value)))
        if label in ("too-deep", "duplicate", "overflow", "half-character", "integer-2-64", "nan", "bad-utf8"):
            wrong = b'{"later": ' + value + b", " + certificate[1:]
            yield refused(
                f"json-certificate-{label}",
                "2: the rules of JSON hold for the certificate",
                base.data(certificate=wrong),
            )
    for label, document in {
        "bom": b"\xef\xbb\xbf" + text,
        "utf16": text.decode().encode("utf-16"),
        "null": b"null",
        "list": b"[]",
        "empty": b"",
        "text": b'"x"',
        "two-documents": text + b"{}",
        "cut": text[:-2],
        "key-twice": b'{"format": "vae-export/1", ' + text[1:],
    }.items():
        yield refused(
            f"json-document-{label}", "3: a manifest that is no JSON object", base.data(manifest=document or b" ")
        )
    limit = 1 << 20
    yield accepted("json-largest", "3: a manifest of 1 MiB", base.data(manifest=text + b" " * (limit - len(text))))
    yield refused(
        "json-too-large", "3: a manifest of more than 1 MiB", base.data(manifest=text + b" " * (limit + 1 - len(text)))
    )
    have = sum(map(certificate.count, (b",", b"[", b"{"))) + 2
    for label, count in (("most", VALUES - have), ("too-many", VALUES - have + 1)):
        wide = b'{"later": [0' + b",0" * count + b"]," + certificate[1:]
        yield Case(
            f"json-values-{label}",
            label == "most",
            "3: at most 2^22 commas and opening brackets",
            base.data(certificate=wide),
        )
    brackets = b'{"later": "' + b"," * (VALUES + 1) + b'",' + certificate[1:]
    yield refused("json-values-in-text", "3: commas in texts count, too", base.data(certificate=brackets))


def manifest_types(base: Draft) -> Iterator[Case]:
    """Section 3: keys, types, files, sidecars, recommendations."""

    def changed(change: Callable[[Json], object]) -> bytes:
        draft = base.copy()
        change(draft.manifest)
        return draft.data()

    def file(manifest: Json) -> Json:
        found: Json = manifest["files"][1]
        return found

    for key in ("format", "contract", "files", "golden", "precision", "opset", "versions", "provenance"):
        if key not in ("files", "golden"):
            yield refused(f"manifest-without-{key}", "3: a key is missing", changed(methodcaller("pop", key)))
        draft = base.copy()
        text = dumped({other: value for other, value in draft.manifest.items() if other != key} | {key: None})
        yield refused(f"manifest-null-{key}", "3: a value of another type", draft.data(manifest=text))
    values: dict[str, tuple[Callable[[Json], object], bool]] = {
        "format-3": (lambda m: m.update(format="vae-export/3"), False),
        "format-2-plain": (lambda m: m.update(format="vae-export/2"), False),
        "precision-float16": (lambda m: m.update(precision="float16"), False),
        "opset-fraction": (lambda m: m.update(opset=20.0), False),
        "opset-text": (lambda m: m.update(opset="20"), False),
        "opset-true": (lambda m: m.update(opset=True), False),
        "opset-0": (lambda m: m.update(opset=0), False),
        "opset-2-53": (lambda m: m.update(opset=1 << 53), False),
        "opset-negative": (lambda m: m.update(opset=-1), False),
        "versions-empty": (lambda m: m.update(versions={}), True),
        "versions-number": (lambda m: m["versions"].update(torch=2.13), False),
        "versions-list": (lambda m: m.update(versions=[["torch", "2"]]), False),
        "versions-line-feed": (lambda m: m["versions"].update(torch="2\nverified"), False),
        "versions-escape": (lambda m: m["versions"].update({"\x1b[2J": "1"}), False),
        "versions-direction": (lambda m: m["versions"].update(torch="\u202e2"), False),
        "versions-no-break-space": (lambda m: m["versions"].update(torch="2\xa0"), False),
        "versions-spaces-and-accents": (lambda m: m["versions"].update({"caf\xe9 au lait": "2.0 β"}), True),
        "provenance-list": (lambda m: m.update(provenance=[1]), False),
        "provenance-anything": (lambda m: m.update(provenance={"\x1b": [None, {"x": 1e300}]}), True),
        "files-empty": (lambda m: m.update(files=[]), False),
        "files-number": (lambda m: m["files"].append(1), False),
        "file-unknown-key": (lambda m: file(m).update(later=[1]), True),
        "file-size-text": (lambda m: file(m).update(size=str(file(m)["size"])), False),
        "file-size-fraction": (lambda m: file(m).update(size=float(file(m)["size"])), False),
        "file-size-wrong": (lambda m: file(m).update(size=1), False),
        "file-hash-wrong": (lambda m: file(m).update(sha256="0" * 64), False),
        "file-hash-upper-case": (lambda m: file(m).update(sha256=file(m)["sha256"].upper()), False),
        "file-part-unknown": (lambda m: file(m).update(part="discriminator"), False),
        "file-part-null": (lambda m: file(m).update(part=None), False),
        "file-format-null": (lambda m: file(m).update(format=None), False),
        "file-format-escape": (lambda m: file(m).update(format="\x1b[2J"), False),
        "file-precision-null": (lambda m: file(m).update(precision=None), False),
        "file-precision-fp32": (lambda m: file(m).update(precision="fp32"), True),
        "file-precision-unknown": (lambda m: file(m).update(precision="fp2"), True),
        "file-precision-line-feed": (lambda m: file(m).update(precision="fp32\n"), False),
        "file-machine": (lambda m: file(m).update(machine="linux x86_64 AVX2"), True),
        "file-machine-number": (lambda m: file(m).update(machine=64), False),
        "file-without-vnni": (lambda m: file(m).update(without_vnni={"session.x64quantprecision": "1"}), True),
        "file-without-vnni-number": (lambda m: file(m).update(without_vnni={"session.x64quantprecision": 1}), False),
        "file-without-vnni-list": (lambda m: file(m).update(without_vnni=[]), False),
        "file-without-vnni-line-feed": (lambda m: file(m).update(without_vnni={"a\n": "1"}), False),
        "file-beside-empty": (lambda m: file(m).update(beside=[]), False),
        "file-beside-null": (lambda m: file(m).update(beside=None), False),
        "tensor-unknown-key": (lambda m: file(m)["inputs"][0].update(later=1), True),
        "tensor-without-range": (lambda m: file(m)["inputs"][0].pop("range"), False),
        "tensor-other-name": (lambda m: file(m)["inputs"][0].update(name="z"), False),
        "tensor-other-type": (lambda m: file(m)["inputs"][0].update(dtype="float64"), False),
        "tensor-other-shape": (lambda m: file(m)["inputs"][0].update(shape=["N", 11]), False),
        "tensor-fixed-batch": (lambda m: file(m)["inputs"][0].update(shape=[1, 10]), False),
        "tensor-size-fraction": (lambda m: file(m)["inputs"][0].update(shape=["N", 10.0]), False),
        "tensor-other-range": (lambda m: file(m)["outputs"][0].update(range=[-1.0, 1.0]), False),
        "tensor-range-of-integers": (lambda m: file(m)["outputs"][0].update(range=[0, 1]), True),
        "tensor-range-of-truths": (lambda m: file(m)["outputs"][0].update(range=[False, True]), False),
        "tensor-missing": (lambda m: file(m).update(outputs=[]), False),
        "tensor-additional": (lambda m: file(m)["outputs"].append(file(m)["outputs"][0]), False),
        "tensors-null": (lambda m: file(m).update(inputs=None), False),
    }
    for label, (change, accept) in values.items():
        yield Case(f"manifest-{label}", accept, "3: keys and types of the manifest", changed(change))
    yield from renamed(base)
    yield from several_files(base)
    yield from recommendations(base)


def renamed(base: Draft) -> Iterator[Case]:
    """Model files under other names."""
    for name, accept in {
        "model.onnx": True,
        "model": True,
        "a.b.c": True,
        "models/decoder.onnx": False,
        "LICENSE": False,
        "license": False,
        "MANIFEST.json": False,
        "SHA256SUMS.sig": False,
        "sha256sums.SIG": False,
        "certificate.html": False,
        "Certificate.HTML": False,
        "certificate.json": False,
        "decoder onnx": False,
        "../decoder.onnx": False,
        ".onnx": False,
        "decoder.": False,
        "ENCODER.onnx": False,
    }.items():
        draft = base.copy()
        entry = draft.manifest["files"][1]
        entry |= draft.store(name, draft.files.pop(entry["name"]))
        draft.certificate["files"] = hashes(draft.manifest)
        entries = [(file, data) for file, data in draft.entries() if file != name]
        place = 1 + next(i for i, (file, _) in enumerate(entries) if file == "encoder.onnx")
        entries.insert(place, (name, draft.files[name]))
        label = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
        case = "-in-another-case" if name in ("license", "sha256sums.SIG", "Certificate.HTML") else ""
        yield Case(f"file-named-{label}{case}", accept, "3: names of model files", archive(summed(entries[1:])))


def several_files(base: Draft) -> Iterator[Case]:
    """Several formats, precisions and parts, and sidecars."""

    def added(change: Callable[[Draft, Json], Json | None], *, remove: bool = False) -> bytes:
        draft = base.copy()
        entry = dict(draft.manifest["files"][1])
        if remove:
            draft.manifest["files"].pop()
        new = change(draft, entry)
        if new is not None:
            draft.manifest["files"].append(new)
        draft.certificate["files"] = hashes(draft.manifest)
        return draft.data()

    pixels = {"name": "pixels", "dtype": "uint8", "range": [0, 255]}
    hwc, chw = ({**pixels, "shape": shape} for shape in (["N", 28, 28, 1], ["N", 1, 28, 28]))

    def more(draft: Draft, entry: Json, **keys: Any) -> Json:
        return entry | keys | draft.store("more.onnx", b"more")

    files: dict[str, tuple[Callable[[Draft, Json], Json | None], bool]] = {
        "other-format": (lambda d, e: more(d, e, format="torchscript"), True),
        "unknown-format": (lambda d, e: more(d, e, format="safetensors"), True),
        "other-precision": (lambda d, e: more(d, e, precision="int8"), True),
        "same-kind": (more, False),
        "same-kind-spelt-out": (lambda d, e: more(d, e, precision="fp32"), False),
        "bytes-hwc": (lambda d, e: more(d, e, part="decoder-uint8-hwc", outputs=[hwc]), True),
        "bytes-chw": (lambda d, e: more(d, e, part="decoder-uint8-chw", outputs=[chw]), True),
        "bytes-wrong-layout": (lambda d, e: more(d, e, part="decoder-uint8-hwc", outputs=[chw]), False),
        "bytes-as-floats": (lambda d, e: more(d, e, part="decoder-uint8-hwc"), False),
        "autoencoder-without-golden": (lambda d, e: more(d, e, part="autoencoder"), False),
    }
    for label, (change, accept) in files.items():
        yield Case(f"files-{label}", accept, "3: formats, precisions and parts", added(change))
    yield accepted(
        "files-bytes-only",
        "3: a decoder to bytes has the golden vectors of the decoder",
        added(lambda d, e: more(d, e, part="decoder-uint8-hwc", outputs=[hwc]), remove=True),
    )
    for part in ("encoder", "decoder"):
        draft = base.copy()
        for kind in ("files", "golden"):
            draft.manifest[kind] = [item for item in draft.manifest[kind] if item["part"] == part]
        names = {item["name"] for item in draft.manifest["files"]} | {CARD, LICENCE}
        names |= {array["file"] for item in draft.manifest["golden"] for array in (*item["inputs"], *item["outputs"])}
        draft.files = {name: data for name, data in draft.files.items() if name in names}
        yield accepted(f"files-{part}-only", "3: a bundle with one part; the certificate may have more", draft.data())
    spent = base.copy()
    spent.manifest["files"] = [file | {"format": "torchscript"} for file in spent.manifest["files"]]
    spent.manifest["opset"] = 0
    yield accepted("opset-0-without-onnx", "3: opset 0 where there are no ONNX files", spent.data())
    for label, name, accept in (
        ("data", "decoder.data", True),
        ("other-stem", "encoder.data", False),
        ("suffix-behind", "decoder.onnx.data", False),
        ("no-suffix", "decoder", False),
        ("same-name", "decoder.onnx", False),
        ("case", "Decoder.data", False),
        ("folder", "golden/decoder.data", False),
    ):
        draft = base.copy()
        entry = draft.manifest["files"][1]
        old = draft.files[entry["name"]]
        entry["beside"] = [draft.store(name, b"weights")]
        draft.files.setdefault(entry["name"], old)
        draft.certificate["files"] = hashes(draft.manifest)
        yield Case(
            f"sidecar-{label}", accept, "3: a sidecar has the name of its file with another last suffix", draft.data()
        )
        if label == "data":
            unproven = draft.copy()
            del unproven.certificate["files"][name]
            yield refused("sidecar-not-certified", "2: the certificate names the sidecars", unproven.data())
            extra = draft.copy()
            extra.manifest["files"][1]["beside"][0]["later"] = 1
            yield accepted("sidecar-unknown-key", "3: unknown keys are ignored", extra.data())
            wrong = draft.copy()
            wrong.manifest["files"][1]["beside"][0]["sha256"] = "0" * 64
            wrong.certificate["files"] = hashes(wrong.manifest)
            yield refused("sidecar-wrong-hash", "3: the hash of a sidecar", wrong.data())


def recommendations(base: Draft) -> Iterator[Case]:
    """`recommended` is advice: a reader that does not understand it ignores it."""
    file = base.manifest["files"][1]
    advice = {
        "part": "decoder",
        "file": file["name"],
        "sha256": file["sha256"],
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "optimisation": "all",
        "switches": ["no-spinning"],
        "batch": 1,
        "p50_seconds": 1e-3,
        "speedup": 1.5,
        "budget": {"max_grey_levels": None, "max_nats": None},
        "machine": {"processor": "x", "features": [], "system": "y", "cores": 2},
    }
    answers: dict[str, Any] = {
        "good": [advice],
        "none": [],
        "null": None,
        "text": "all of them",
        "object": {"decoder": advice},
        "numbers": [1, None],
        "unknown-switch": [advice | {"switches": ["warp"]}],
        "unknown-level": [advice | {"optimisation": "most"}],
        "unknown-part": [advice | {"part": "prior"}],
        "unknown-provider": [advice | {"provider": "a/b"}],
        "unknown-key": [advice | {"later": 1}],
        "other-file": [advice | {"file": "other.onnx"}],
        "other-hash": [advice | {"sha256": "0" * 64}],
        "threads-text": [advice | {"threads": "many"}],
        "switches-text": [advice | {"switches": "no-spinning"}],
        "empty-object": [{}],
        "twice": [advice, advice],
    }
    for label, recommended in answers.items():
        draft = base.copy()
        draft.manifest["recommended"] = recommended
        yield accepted(f"recommended-{label}", "3: what is not understood of `recommended` is ignored", draft.data())


def plain_contract(base: Draft) -> Iterator[Case]:
    """Section 3: the contract of version 1."""
    values: dict[str, tuple[Json, bool]] = {
        "unknown-key": ({"later": 1}, True),
        "key-of-version-2": ({"data": 1, "symbols": []}, True),
        "range-of-integers": ({"image_range": [0, 1]}, True),
        "range-reversed": ({"image_range": [1, 0]}, False),
        "range-empty": ({"image_range": [0, 0]}, False),
        "range-text": ({"image_range": ["0", "1"]}, False),
        "range-null": ({"image_range": None}, False),
        "range-truths": ({"image_range": [False, True]}, False),
        "range-three": ({"image_range": [0, 1, 2]}, False),
        "range-other": ({"image_range": [-1.0, 1.0]}, False),
        "image-two-sizes": ({"image_shape": [28, 28]}, False),
        "image-negative": ({"image_shape": [-1, 28, 28]}, False),
        "image-zero": ({"image_shape": [0, 28, 28]}, False),
        "image-fraction": ({"image_shape": [1.0, 28, 28]}, False),
        "image-true": ({"image_shape": [True, 28, 28]}, False),
        "image-text": ({"image_shape": "abc"}, False),
        "image-other": ({"image_shape": [3, 28, 28]}, False),
        "latent-other": ({"latent_shape": [99]}, False),
        "latent-empty": ({"latent_shape": []}, False),
        "latent-number": ({"latent_shape": 10}, False),
        "latent-maps": ({"latent_shape": [10, 1]}, False),
        "latent-2-53": ({"latent_shape": [1 << 53]}, False),
        "prior-uniform": ({"prior": "uniform"}, False),
        "prior-null": ({"prior": None}, False),
        "likelihood-null": ({"likelihood": None}, True),
        "likelihood-bernoulli": ({"likelihood": {"name": "bernoulli"}}, True),
        "likelihood-scale-1": ({"likelihood": {"name": "bernoulli", "scale": 1}}, True),
        "likelihood-unknown-key": ({"likelihood": {"name": "bernoulli", "later": 1}}, True),
        "likelihood-scale-2": ({"likelihood": {"name": "bernoulli", "scale": 2}}, False),
        "likelihood-scale-null": ({"likelihood": {"name": "bernoulli", "scale": None}}, False),
        "likelihood-fixed": ({"likelihood": {"name": "gaussian-fixed", "scale": 0.1}}, True),
        "likelihood-fixed-integer": ({"likelihood": {"name": "gaussian-fixed", "scale": 2}}, True),
        "likelihood-fixed-without-scale": ({"likelihood": {"name": "gaussian-fixed"}}, False),
        "likelihood-fixed-scale-0": ({"likelihood": {"name": "gaussian-fixed", "scale": 0}}, False),
        "likelihood-fixed-text": ({"likelihood": {"name": "gaussian-fixed", "scale": "0.1"}}, False),
        "likelihood-gaussian-without-logvar": ({"likelihood": {"name": "gaussian"}}, False),
        "likelihood-unknown": ({"likelihood": {"name": "cauchy"}}, False),
        "likelihood-text": ({"likelihood": "bernoulli"}, False),
    }
    for label, (change, accept) in values.items():
        draft = base.copy()
        draft.manifest["contract"] |= change
        yield Case(f"contract-{label}", accept, "3: the contract of version 1", draft.data())
    for key in ("image_shape", "image_range", "latent_shape", "prior"):
        draft = base.copy()
        del draft.manifest["contract"][key]
        yield refused(f"contract-without-{key}", "3: a key of the contract is missing", draft.data())
    for likelihood, second in (
        ("gaussian", "image_logvar"),
        ("discretised-logistic", "image_log_scale"),
        ("discretised-logistic-colour", "image_log_scale"),
    ):
        spread = base.copy()
        spread.manifest["contract"]["likelihood"] = {"name": likelihood}
        decoder, golden = spread.manifest["files"][1], spread.manifest["golden"][1]
        decoder["outputs"].append(tensor(second, ["N", 1, 28, 28]))
        golden["outputs"].append(golden["outputs"][0] | {"tensor": second})
        yield accepted(
            f"contract-likelihood-{likelihood}", "3: a second output; two golden arrays share a file", spread.data()
        )
    wide = base.copy()
    wide.manifest["contract"] |= {"image_range": [-1, 1], "likelihood": {"name": "bernoulli"}}
    for file in wide.manifest["files"]:
        for item in (*file["inputs"], *file["outputs"]):
            item["range"] = item["range"] and [-1, 1]
    yield refused("contract-bernoulli-beyond-0-1", "3: bernoulli needs values in [0, 1]", wide.data())
    wide.manifest["contract"]["likelihood"] = None
    yield accepted("contract-range-minus-1", "3: an image in [-1, 1]", wide.data())
    maps = base.copy()
    maps.manifest["contract"]["latent_shape"] = [5, 2, 1]
    for file, part in zip(maps.manifest["files"], maps.manifest["golden"], strict=True):
        for item in (*file["inputs"], *file["outputs"]):
            item["shape"] = ["N", 5, 2, 1] if item["shape"] == ["N", 10] else item["shape"]
        for array in (*part["inputs"], *part["outputs"]):
            array["shape"] = [16, 5, 2, 1] if array["shape"] == [16, 10] else array["shape"]
    yield accepted("contract-feature-maps", "3: latents that are feature maps", maps.data())


# ---------------------------------------------------------------------------------------------- contracts of version 2


def tensor(name: str, shape: list[Any], dtype: str = "float32", range: list[float] | None = None) -> Json:
    return {"name": name, "dtype": dtype, "shape": shape, "range": range}


def decoding(base: Draft, contract: Json, rows: int = 2, **sizes: int) -> Draft:
    """Return a bundle of version 2 with a decoder only.

    Args:
        contract: the contract; keys that are missing have the usual values.
        rows: of the golden arrays.
        sizes: the value of each symbol in the golden arrays.
    """
    usual: Json = {
        "output": None,
        "conditions": [],
        "encoding": "gaussian",
        "prior": "standard normal",
        "symbols": {},
        "likelihood": None,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    contract = copy.deepcopy(usual | contract)
    draft = base.copy()
    draft.files = {name: data for name, data in draft.files.items() if name in (CARD, LICENCE)}
    taken = [
        {key: item[key] for key in item if key != "parts"}
        for item in contract["conditions"]
        if "decoder" in item["parts"]
    ]
    inputs, outputs = [*contract["latents"], *taken], [contract["output"] or contract["data"]]

    def array(kind: str, index: int, item: Json) -> Json:
        shape = [rows] + [size if isinstance(size, int) else solved(size, sizes) for size in item["shape"][1:]]
        width = {"float32": 4, "int32": 4, "int64": 8}[item["dtype"]]
        name = f"golden/{kind}{index}"
        stored = draft.store(name, bytes(width * math.prod(shape)))
        dtype = {} if item["dtype"] == "float32" else {"dtype": item["dtype"]}
        return {"tensor": item["name"], "file": name, "shape": shape, "sha256": stored["sha256"], **dtype}

    golden = {
        "part": "decoder",
        "inputs": [array("input", *pair) for pair in enumerate(inputs)],
        "outputs": [array("output", *pair) | {"band": 1e-6} for pair in enumerate(outputs)],
    }
    file = {
        "part": "decoder",
        "format": "onnx",
        "inputs": inputs,
        "outputs": outputs,
        **draft.store("decoder.onnx", b"stand-in"),
    }
    draft.manifest |= {"format": "vae-export/2", "contract": contract, "files": [file], "golden": [golden]}
    draft.certificate["files"] = hashes(draft.manifest)
    return draft


def solved(size: str, values: dict[str, int]) -> int:
    factor, _, rest = size.rpartition("*")
    symbol, sign, offset = rest.partition("+")
    return int(factor or 1) * values[symbol] + int((sign and offset) or 0)


def extended(base: Draft) -> Iterator[Case]:
    """Section 3: contracts of version 2."""
    image, latent = tensor("image", ["N", 1, 4, 4], range=[0.0, 1.0]), tensor("latent", ["N", 3])
    label = tensor("label", ["N"], "int64", [0, 9]) | {"parts": ["encoder", "decoder"]}
    codes = tensor("codes", ["N", 2, 2], "int32", [0, 31])
    h = {"h": {"min": 1, "max": 8, "usual": 2}}
    open_image, open_latent = (
        tensor("image", ["N", 1, "8*h", "4*h+1"], range=[0.0, 1.0]),
        tensor("latent", ["N", 3, "h"]),
    )
    labelled = {"data": image, "latents": [latent], "conditions": [label]}
    coded = {"data": image, "latents": [codes], "encoding": "codes", "prior": "uniform"}
    sized = {"data": open_image, "latents": [open_latent], "symbols": h}
    z1, z2 = tensor("z1", ["N", 2]), tensor("z2", ["N", 3, 1])
    batch = {"N": {"min": 3, "max": 3, "usual": None}}
    fixed = {
        "data": tensor("image", [3, 1, 4, 4], range=[0.0, 1.0]),
        "latents": [tensor("latent", [3, 3])],
        "symbols": batch,
    }
    table = {"data": tensor("data", ["N", 7]), "latents": [latent]}
    words, logits = tensor("data", ["N", 12], "int64", [0, 49]), tensor("output", ["N", 12, 50])
    tokens = {"data": words, "output": logits, "latents": [latent]}
    good: dict[str, tuple[Json, dict[str, int]]] = {
        "condition": (labelled, {}),
        "codes": (coded, {}),
        "sizes": (sized, {"h": 2}),
        "sizes-other-golden": (sized, {"h": 3}),
        "several-latents": ({"data": image, "latents": [z1, z2]}, {}),
        "fixed-batch": (fixed, {"rows": 3}),
        "largest-batch": (
            {"data": image, "latents": [latent], "symbols": {"N": {"min": 1, "max": 64, "usual": None}}},
            {},
        ),
        "table": (table, {}),
        "table-in-a-range": ({"data": tensor("data", ["N", 7], range=[0, 1]), "latents": [latent]}, {}),
        "tokens": (tokens, {}),
        "tokens-to-one-number-each": (tokens | {"output": tensor("output", ["N", 12], range=[0, 49])}, {}),
        "tokens-from-1-of-int32": (tokens | {"data": words | {"dtype": "int32", "range": [1, 50]}}, {}),
        "most-tokens": (tokens | {"data": words | {"range": [1, 1 << 32]}}, {}),
        "deterministic": ({"data": image, "latents": [latent], "encoding": "deterministic"}, {}),
        "prior-given": ({"data": image, "latents": [latent], "prior": "given by the user"}, {}),
        "codes-prior-given": (coded | {"prior": "given by the user"}, {}),
        "one-latent-of-another-name": ({"data": image, "latents": [tensor("z", ["N", 3])]}, {}),
        "scaled": ({"data": image, "latents": [latent], "scaling_factor": 0.18215, "shift_factor": -1}, {}),
        "output-without-range": ({"data": image, "output": tensor("image", ["N", 1, 4, 4]), "latents": [latent]}, {}),
        "output-of-another-shape": ({"data": image, "output": tensor("output", ["N", 2]), "latents": [latent]}, {}),
        "condition-of-floats": (labelled | {"conditions": [tensor("style", ["N", 2]) | {"parts": ["decoder"]}]}, {}),
        "condition-of-the-encoder": (labelled | {"conditions": [label | {"parts": ["encoder"]}]}, {}),
        "unknown-keys": (
            labelled | {"later": 1, "data": image | {"later": 1}, "conditions": [label | {"later": []}]},
            {},
        ),
        "keys-of-version-1": (labelled | {"image_shape": "x"}, {}),
        "likelihood": (labelled | {"likelihood": {"name": "bernoulli", "scale": 1.0}}, {}),
        "symbol-unknown-key": (sized | {"symbols": {"h": h["h"] | {"later": 1}}}, {"h": 2}),
        "names-of-every-object": (
            {
                "data": tensor("image", ["N", 1, "constructor", "toString"], range=[0.0, 1.0]),
                "latents": [latent | {"name": "valueOf"}],
                "symbols": {"constructor": h["h"], "toString": h["h"]},
            },
            {"constructor": 2, "toString": 3},
        ),
        "range-that-rounds": (labelled | {"data": image | {"range": [0, (1 << 53) + 1]}}, {}),
        "scaling-that-rounds": (labelled | {"scaling_factor": (1 << 64) - 1}, {}),
        "lowest-integers": (labelled | {"conditions": [label | {"range": [1 - (1 << 53), (1 << 53) - 1]}]}, {}),
        "lowest-integers-of-int32": (
            labelled | {"conditions": [label | {"dtype": "int32", "range": [-1 << 31, (1 << 31) - 1]}]},
            {},
        ),
        "largest-offset": (
            sized
            | {"data": tensor("image", ["N", 1, f"h-{(1 << 53) - 1}", 1], range=[0.0, 1.0])}
            | {"output": tensor("output", ["N", "h"])},
            {"h": 2},
        ),
        "most-codes": (coded | {"latents": [codes | {"dtype": "int64", "range": [0, (1 << 32) - 1]}]}, {}),
        "symbol-without-bounds": (sized | {"symbols": {"h": {"min": 1, "max": None, "usual": None}}}, {"h": 2}),
    }
    for name, (contract, sizes) in good.items():
        yield accepted(f"extended-{name}", "3: a contract of version 2", decoding(base, contract, **sizes).data())
    without = decoding(base, labelled)
    del without.manifest["contract"]["likelihood"]
    yield accepted("extended-without-likelihood", "3: the likelihood may be absent", without.data())
    for key in (
        "data",
        "output",
        "latents",
        "conditions",
        "encoding",
        "prior",
        "symbols",
        "scaling_factor",
        "shift_factor",
    ):
        draft = decoding(base, labelled)
        del draft.manifest["contract"][key]
        yield refused(f"extended-without-{key}", "3: a key of the contract is missing", draft.data())
    bad: dict[str, tuple[Json, dict[str, int]]] = {
        "plain": ({"data": image, "latents": [latent]}, {}),
        "no-latents": (labelled | {"latents": []}, {}),
        "encoding-unknown": (labelled | {"encoding": "vector"}, {}),
        "prior-unknown": (labelled | {"prior": "flat"}, {}),
        "uniform-over-numbers": (labelled | {"prior": "uniform"}, {}),
        "normal-over-codes": (coded | {"prior": "standard normal"}, {}),
        "codes-of-floats": (coded | {"latents": [codes | {"dtype": "float32"}]}, {}),
        "codes-without-range": (coded | {"latents": [codes | {"range": None}]}, {}),
        "codes-with-an-empty-range": (coded | {"latents": [codes | {"range": []}]}, {}),
        "codes-from-1": (coded | {"latents": [codes | {"range": [1, 31]}]}, {}),
        "codes-in-fractions": (coded | {"latents": [codes | {"range": [0, 30.5]}]}, {}),
        "too-many-codes": (coded | {"latents": [codes | {"dtype": "int64", "range": [0, 1 << 32]}]}, {}),
        "codes-that-differ": (coded | {"latents": [codes | {"name": "a"}, codes | {"name": "b", "range": [0, 7]}]}, {}),
        "latent-of-integers": (labelled | {"latents": [latent | {"dtype": "int64", "range": [0, 1]}]}, {}),
        "latent-with-range": (labelled | {"latents": [latent | {"range": [0, 1]}]}, {}),
        "latent-without-sizes": (labelled | {"latents": [tensor("latent", ["N"])]}, {}),
        "latents-of-one-name": ({"data": image, "latents": [z1, z1]}, {}),
        "data-of-integers": (labelled | {"data": image | {"dtype": "int32"}}, {}),
        "tokens-without-range": (tokens | {"data": words | {"range": None}}, {}),
        "tokens-of-one-kind": (tokens | {"data": words | {"range": [3, 3]}}, {}),
        "tokens-in-fractions": (tokens | {"data": words | {"range": [0, 49.5]}}, {}),
        "tokens-too-many": (tokens | {"data": words | {"range": [0, 1 << 32]}}, {}),
        "tokens-with-a-likelihood": (tokens | {"likelihood": {"name": "gaussian-fixed", "scale": 1}}, {}),
        "tokens-to-tokens": (tokens | {"output": logits | {"dtype": "int64", "range": [0, 49]}}, {}),
        "tokens-to-data": (tokens | {"output": tensor("data", ["N", 12])}, {}),
        "data-range-empty": (labelled | {"data": image | {"range": [1, 1]}}, {}),
        "name-with-dash": (labelled | {"data": image | {"name": "an-image"}}, {}),
        "name-of-digits": ({"data": image, "latents": [z1, z2 | {"name": "2"}]}, {}),
        "name-empty": ({"data": image, "latents": [z1, z2 | {"name": ""}]}, {}),
        "names-collide": (labelled | {"conditions": [label | {"name": "latent"}]}, {}),
        "names-collide-of-input-and-output": ({"data": image, "latents": [z1, z2 | {"name": "image"}]}, {}),
        "names-collide-with-the-noise": ({"data": image, "latents": [z1, z2 | {"name": "z1_noise"}]}, {}),
        "names-collide-with-the-reconstruction": (labelled | {"conditions": [label | {"name": "reconstruction"}]}, {}),
        "codes-beyond-int32": (coded | {"latents": [codes | {"range": [0, 1 << 31]}]}, {}),
        "integers-beyond-int32": (labelled | {"conditions": [label | {"dtype": "int32", "range": [0, 1 << 40]}]}, {}),
        "integers-2-53": (labelled | {"conditions": [label | {"range": [0, 1 << 53]}]}, {}),
        "integers-of-int64": (labelled | {"conditions": [label | {"range": [-1 << 63, (1 << 63) - 1]}]}, {}),
        "integers-1e300": (labelled | {"conditions": [label | {"range": [0, 1e300]}]}, {}),
        "names-collide-with-mean": (labelled | {"conditions": [label | {"name": "noise"}]}, {}),
        "output-equal-to-data": (labelled | {"output": image}, {}),
        "output-of-another-name": (labelled | {"output": tensor("output", ["N", 1, 4, 4])}, {}),
        "output-with-the-name-of-data": (labelled | {"output": tensor("image", ["N", 2])}, {}),
        "condition-without-parts": (labelled | {"conditions": [label | {"parts": []}]}, {}),
        "condition-of-an-unknown-part": (labelled | {"conditions": [label | {"parts": ["decoder", "prior"]}]}, {}),
        "integers-without-range": (labelled | {"conditions": [label | {"range": None}]}, {}),
        "integers-in-fractions": (labelled | {"conditions": [label | {"range": [0, 9.5]}]}, {}),
        "condition-range-reversed": (labelled | {"conditions": [label | {"range": [9, 0]}]}, {}),
        "fixed-batch-as-N": (fixed | {"data": image}, {"rows": 3}),
        "batch-without-symbol": ({"data": tensor("image", [3, 1, 4, 4]), "latents": [latent]}, {}),
        "symbol-unknown": (sized | {"symbols": {}}, {"h": 2}),
        "symbol-unused": (sized | {"symbols": h | {"w": h["h"]}}, {"h": 2}),
        "symbol-min-0": (sized | {"symbols": {"h": h["h"] | {"min": 0}}}, {"h": 2}),
        "symbol-max-below-min": (sized | {"symbols": {"h": {"min": 4, "max": 2, "usual": None}}}, {"h": 2}),
        "symbol-usual-beyond": (sized | {"symbols": {"h": h["h"] | {"usual": 9}}}, {"h": 2}),
        "symbol-fraction": (sized | {"symbols": {"h": h["h"] | {"min": 1.0}}}, {"h": 2}),
        "symbol-2-53": (sized | {"symbols": {"h": h["h"] | {"max": 1 << 53}}}, {"h": 2}),
        "symbol-text": (sized | {"symbols": {"h": h["h"] | {"max": "8"}}}, {"h": 2}),
        "symbol-without-usual": (sized | {"symbols": {"h": {"min": 1, "max": 8}}}, {"h": 2}),
        "symbols-list": (labelled | {"symbols": []}, {}),
        "batch-as-size": ({"data": tensor("data", ["N", "N"]), "latents": [latent]}, {"N": 2}),
        "scaling-text": (labelled | {"scaling_factor": "1.0"}, {}),
        "scaling-null": (labelled | {"scaling_factor": None}, {}),
        "scaling-true": (labelled | {"scaling_factor": True}, {}),
        "bernoulli-without-range": (table | {"likelihood": {"name": "bernoulli"}}, {}),
    }
    for name, (contract, sizes) in bad.items():
        yield refused(
            f"extended-{name}",
            "3: a contract of version 2 that is not allowed",
            decoding(base, contract, **sizes).data(),
        )
    for name, size in {
        "space": "8 * h",
        "factor-1": "1*h",
        "factor-0": "0*h",
        "offset-0": "4*h+0",
        "leading-zero": "08*h",
        "two-symbols": "h*w",
        "factor-2-53": f"{1 << 53}*h",
        "offset-2-53": f"h+{1 << 53}",
        "offset-minus-2-53": f"h-{1 << 53}",
        "factor-endless": "9" * 400 + "*h",
        "fraction": 8.0,
    }.items():
        draft = decoding(base, sized, h=2)
        shapes = (draft.manifest["contract"]["data"], draft.manifest["files"][0]["outputs"][0])
        for item in shapes:
            item["shape"] = [*item["shape"][:2], size, item["shape"][3]]
        draft.manifest["golden"][0]["outputs"][0]["shape"][2] = 16 if name != "factor-1" else 2
        yield refused(f"extended-size-{name}", "3: a size that is not written in its one form", draft.data())
    unequal = decoding(base, sized, h=2)
    array = unequal.manifest["golden"][0]["inputs"][0]
    array |= {"shape": [2, 3, 4], "sha256": unequal.store(array["file"], bytes(96))["sha256"]}
    yield refused(
        "extended-golden-sizes-differ", "5: open sizes have one value for all tensors of a part", unequal.data()
    )


# ---------------------------------------------------------------------------------------------- golden and certificate


def golden(base: Draft) -> Iterator[Case]:
    """Section 5: golden vectors."""

    def changed(change: Change) -> bytes:
        draft = base.copy()
        part = draft.manifest["golden"][1]
        change(SimpleNamespace(part=part, output=part["outputs"][0]))
        return draft.data()

    values: dict[str, tuple[Change, bool]] = {
        "unknown-keys": (lambda at: (at.part.update(later=1), at.output.update(later={})), True),
        "dtype-spelt-out": (lambda at: at.output.update(dtype="float32"), True),
        "dtype-null": (lambda at: at.output.update(dtype=None), False),
        "dtype-float64": (lambda at: at.output.update(dtype="float64"), False),
        "dtype-int32": (lambda at: at.output.update(dtype="int32", band=1), False),
        "band-0": (lambda at: at.output.update(band=0), False),
        "band-negative": (lambda at: at.output.update(band=-1e-6), False),
        "band-text": (lambda at: at.output.update(band="1"), False),
        "band-true": (lambda at: at.output.update(band=True), False),
        "band-integer": (lambda at: at.output.update(band=1), True),
        "band-missing": (lambda at: at.output.pop("band"), False),
        "bands": (lambda at: at.output.update(bands={"fp16": 1e-3, "later": 1}), True),
        "bands-empty": (lambda at: at.output.update(bands={}), True),
        "bands-null": (lambda at: at.output.update(bands=None), False),
        "bands-list": (lambda at: at.output.update(bands=[["fp16", 1]]), False),
        "bands-0": (lambda at: at.output.update(bands={"fp16": 0}), False),
        "tensor-other": (lambda at: at.output.update(tensor="picture"), False),
        "shape-other": (lambda at: at.output.update(shape=[16, 1, 14, 56]), False),
        "shape-fraction": (lambda at: at.output.update(shape=[16.0, 1, 28, 28]), False),
        "shape-negative": (lambda at: at.output.update(shape=[-16, -1, 28, 28]), False),
        "rows-differ": (lambda at: at.part["inputs"][0].update(shape=[8, 10]), False),
        "hash-wrong": (lambda at: at.output.update(sha256="f" * 64), False),
        "file-outside": (lambda at: at.output.update(file="golden/../x.f32"), False),
        "file-of-a-model": (lambda at: at.output.update(file="decoder.onnx"), False),
        "file-number": (lambda at: at.output.update(file=1), False),
        "part-other": (lambda at: at.part.update(part="autoencoder"), False),
        "part-null": (lambda at: at.part.update(part=None), False),
        "inputs-null": (lambda at: at.part.update(inputs=None), False),
        "inputs-empty": (lambda at: at.part.update(inputs=[]), False),
        "outputs-empty": (lambda at: at.part.update(outputs=[]), False),
        "outputs-twice": (lambda at: at.part["outputs"].append(at.output), False),
    }
    for label, (change, accept) in values.items():
        yield Case(f"golden-{label}", accept, "5: keys and types of golden vectors", changed(change))
    draft = base.copy()
    draft.manifest["golden"].append(draft.manifest["golden"][1])
    yield refused("golden-part-twice", "5: one object for each part", draft.data())
    draft = base.copy()
    draft.manifest["golden"] = draft.manifest["golden"][:1]
    draft.files = {
        name: data
        for name, data in draft.files.items()
        if name not in ("golden/latent.f32", "golden/decoder.image.f32")
    }
    yield refused("golden-part-missing", "5: one object for each part", draft.data())
    for rows, accept in ((1, False), (2, True), (16, True), (17, False)):
        draft = base.copy()
        for part in draft.manifest["golden"]:
            for array in (*part["inputs"], *part["outputs"]):
                size = len(base.files[array["file"]]) // 16
                data = (base.files[array["file"]] * 2)[: size * rows]
                array |= {"shape": [rows, *array["shape"][1:]], "sha256": draft.store(array["file"], data)["sha256"]}
        yield Case(f"golden-rows-{rows}", accept, "5: 2 to 16 rows", draft.data())
    for label, number in {"nan": float("nan"), "infinite": float("inf"), "minus-infinite": float("-inf")}.items():
        for kind in ("inputs", "outputs"):
            draft = base.copy()
            array = draft.manifest["golden"][1][kind][0]
            data = draft.files[array["file"]][:-4] + struct.pack("<f", number)
            array["sha256"] = draft.store(array["file"], data)["sha256"]
            yield refused(f"golden-{label}-{kind}", "5: golden numbers are finite", draft.data())
    codes = tensor("codes", ["N", 2], "int32", [0, 31])
    contract = {
        "data": tensor("image", ["N", 1, 4, 4], range=[0.0, 1.0]),
        "latents": [codes],
        "encoding": "codes",
        "prior": "uniform",
    }
    for label, code, accept in (("highest", 31, True), ("too-high", 32, False), ("negative", -1, False)):
        draft = decoding(base, contract)
        array = draft.manifest["golden"][0]["inputs"][0]
        array["sha256"] = draft.store(array["file"], struct.pack("<4i", 0, 0, 0, code))["sha256"]
        yield Case(f"golden-code-{label}", accept, "5: golden integers lie in their range", draft.data())


def certificates(base: Draft) -> Iterator[Case]:
    """Section 2: the certificate."""

    def changed(change: Change) -> bytes:
        document = copy.deepcopy(base.certified())
        change(SimpleNamespace(document=document, row=document["rows"][0]))
        return base.data(certificate=dumped(document))

    def first(at: SimpleNamespace, **others: Any) -> None:
        del at.document["reproduction"], at.document["manifest"]
        at.document.update(format=FIRST, **others)

    def reproduce(at: SimpleNamespace, state: str, **others: Any) -> None:
        at.document["reproduction"]["decoder.onnx"]["state"] = state
        at.document.update(others)

    def unstate(at: SimpleNamespace, key: str, item: str) -> None:
        at.document[key].pop(item)

    def restate(at: SimpleNamespace, digests: Json) -> None:
        at.document["manifest"].update(digests)

    stated = base.certified()["manifest"]
    finding = {"rule": "x", "severity": "warning", "where": "x", "detail": "x"}
    values: dict[str, tuple[Change, bool]] = {
        "unknown-keys": (lambda at: (at.document.update(later=1), at.row.update(later=1)), True),
        "other-version": (lambda at: at.document.update(format="vae-export-certificate/3"), False),
        "first-version": (first, True),
        "first-version-with-others": (lambda at: first(at, reproduction={}, manifest={"contract": "0"}), True),
        "without-reproduction": (lambda at: at.document.pop("reproduction"), False),
        "without-reproduction-of-a-file": (lambda at: unstate(at, "reproduction", "encoder.onnx"), False),
        "without-manifest": (lambda at: at.document.pop("manifest"), False),
        "manifest-list": (lambda at: at.document.update(manifest=list(stated)), False),
        "manifest-of-numbers": (lambda at: restate(at, {"later": 1}), False),
        "manifest-of-more": (lambda at: restate(at, {"file more.onnx": "0", "later": ""}), True),
        **{
            f"without-{subject.replace(' ', '-')}": (partial(unstate, key="manifest", item=subject), False)
            for subject in stated
        },
        **{
            f"other-{subject.replace(' ', '-')}": (partial(restate, digests={subject: "0" * 64}), False)
            for subject in stated
        },
        "hash-in-upper-case": (lambda at: restate(at, {"contract": stated["contract"].upper()}), False),
        "hash-of-another-subject": (lambda at: restate(at, {"contract": stated["provenance"]}), False),
        "reproduced": (lambda at: reproduce(at, "reproduced"), True),
        "same-structure": (lambda at: reproduce(at, "same structure"), True),
        "not-reproduced": (lambda at: reproduce(at, "differs"), False),
        "not-reproduced-allowed": (lambda at: reproduce(at, "differs", unreproduced_allowed=True), True),
        "not-reproduced-in-version-1": (lambda at: first(at, reproduction={"x": {"state": "differs"}}), True),
        "reproduction-text": (lambda at: at.document.update(reproduction="all"), False),
        "reproduction-without-state": (lambda at: at.document.update(reproduction={"x": {}}), False),
        "unreproduced-allowed-1": (lambda at: at.document.update(unreproduced_allowed=1), False),
        "failed": (lambda at: at.document.update(verdict="fail"), False),
        "verdict-true": (lambda at: at.document.update(verdict=True), False),
        "no-verdict": (lambda at: at.document.pop("verdict"), False),
        "other-hash": (lambda at: at.document["files"].update({"decoder.onnx": "0" * 64}), False),
        "file-missing": (lambda at: at.document["files"].pop("decoder.onnx"), False),
        "file-more": (lambda at: at.document["files"].update(other="0" * 64), True),
        "file-number": (lambda at: at.document["files"].update(other=1), False),
        "files-null": (lambda at: at.document.update(files=None), False),
        "no-rows": (lambda at: at.document.update(rows=[], planned_rows=0), False),
        "rows-null": (lambda at: at.document.update(rows=None), False),
        "rows-dropped": (lambda at: at.document["rows"].pop(), False),
        "row-null": (lambda at: at.document["rows"].append(None), False),
        "planned-text": (lambda at: at.document.update(planned_rows="3"), False),
        "planned-fraction": (lambda at: at.document.update(planned_rows=3.0), False),
        "planned-more": (lambda at: at.document.update(planned_rows=4), False),
        "failed-1": (lambda at: at.document.update(failed_rows=1), False),
        "failed-negative": (lambda at: at.document.update(failed_rows=-1), False),
        "failed-missing": (lambda at: at.document.pop("failed_rows"), False),
        "row-failed": (lambda at: at.row.update(passed=False), False),
        "row-passed-1": (lambda at: at.row.update(passed=1), False),
        "row-without-passed": (lambda at: at.row.pop("passed"), False),
        "error-at-band": (lambda at: at.row.update(error=at.row["band"]), True),
        "error-beyond": (lambda at: at.row.update(error=at.row["band"] * 2), False),
        "error-null": (lambda at: at.row.update(error=None), False),
        "error-true": (lambda at: at.row.update(error=False), False),
        "error-text": (lambda at: at.row.update(error="0"), False),
        "error-missing": (lambda at: at.row.pop("error"), False),
        "error-and-band-missing": (lambda at: (at.row.pop("error"), at.row.pop("band")), False),
        "mean-within": (lambda at: at.row.update(mean_error=0, mean_band=1e-9), True),
        "mean-beyond": (lambda at: at.row.update(mean_error=2, mean_band=1), False),
        "mean-missing": (lambda at: (at.row.pop("mean_error"), at.row.pop("mean_band")), True),
        "mean-without-band": (lambda at: at.row.pop("mean_band"), False),
        "mean-null": (lambda at: at.row.update(mean_error=None, mean_band=None), False),
        "fault": (lambda at: at.row.update(fault="not finite"), False),
        "fault-empty": (lambda at: at.row.update(fault=""), False),
        "fault-missing": (lambda at: at.row.pop("fault"), True),
        "outside-0": (lambda at: at.row.update(outside=0), True),
        "outside-null": (lambda at: at.row.update(outside=None), True),
        "outside-1": (lambda at: at.row.update(outside=1), False),
        "outside-list": (lambda at: at.row.update(outside=[]), False),
        "grey-differing": (lambda at: at.row.update(grey={"differing": 3, "unexplained": 0, "worst": 1}), True),
        "grey-empty": (lambda at: at.row.update(grey={}), True),
        "grey-unexplained": (lambda at: at.row.update(grey={"differing": 1, "unexplained": 1, "worst": 1}), False),
        "grey-number": (lambda at: at.row.update(grey=0), False),
        "grey-list": (lambda at: at.row.update(grey=[]), False),
        "grey-pairs": (lambda at: at.row.update(grey=[["a", 1]]), False),
        "grey-text": (lambda at: at.row.update(grey=""), False),
        "error-that-rounds": (lambda at: at.row.update(error=(1 << 53) + 1, band=1 << 53), True),
        "finding-warning": (lambda at: at.document.update(findings=[finding]), True),
        "finding-error": (lambda at: at.document.update(findings=[finding | {"severity": "error"}]), False),
        "finding-without-severity": (lambda at: at.document.update(findings=[{"rule": "x"}]), False),
        "findings-missing": (lambda at: at.document.pop("findings"), True),
        "findings-null": (lambda at: at.document.update(findings=None), False),
        "findings-text": (lambda at: at.document.update(findings="none"), False),
        "tolerance": (lambda at: at.document.update(tolerance={"atol": 1, "rtol": 0.0}), True),
        "tolerance-null": (lambda at: at.document.update(tolerance=None), True),
        "tolerance-text": (lambda at: at.document.update(tolerance={"atol": "1"}), False),
        "tolerance-number": (lambda at: at.document.update(tolerance=1), False),
        "environment-missing": (lambda at: at.document.pop("environment"), True),
        "environment-list": (lambda at: at.document.update(environment=[]), False),
    }
    for label, (change, accept) in values.items():
        yield Case(
            f"certificate-{label}",
            accept,
            "2: the certificate passed, fits, and does not contradict itself",
            changed(change),
        )
    for label, document in {"null": b"null", "list": b"[]", "cut": dumped(base.certificate)[:-9]}.items():
        yield refused(
            f"certificate-{label}", "2: a certificate that is no JSON object", base.data(certificate=document)
        )


def statements(base: Draft) -> Iterator[Case]:
    """Section 2: the certificate has the hash of what the manifest says, in one spelling."""
    certificate = dumped(base.certified())

    def after(change: Callable[[Json], object]) -> bytes:
        """Change the manifest after it was certified."""
        manifest = copy.deepcopy(base.manifest)
        change(manifest)
        return dumped(manifest)

    def last(manifest: Json) -> Json:
        output: Json = manifest["golden"][1]["outputs"][0]
        return output

    text = dumped(base.manifest)
    band = last(base.manifest)["band"]
    digits, exponent = f"{band:e}".split("e")
    respelled = f"{digits.replace('.', '')}e{int(exponent) - 6}".encode()
    changes: dict[str, tuple[bytes, bool]] = {
        "provenance": (after(lambda m: m["provenance"].update(epochs=41)), False),
        "provenance-more": (after(lambda m: m["provenance"].update(later=1)), False),
        "versions": (after(lambda m: m["versions"].update(torch="2.0.0")), False),
        "opset": (after(lambda m: m.update(opset=m["opset"] + 1)), False),
        "contract-unknown-key": (after(lambda m: m["contract"].update(later=1)), False),
        "file-machine": (after(lambda m: m["files"][0].update(machine="linux x86_64 AVX2")), False),
        "file-unknown-key": (after(lambda m: m["files"][0].update(later=1)), False),
        "golden-band": (after(lambda m: last(m).update(band=2 * band)), False),
        "golden-bands": (after(lambda m: last(m).update(bands={"later": 1})), False),
        "golden-unknown-key": (after(lambda m: m["golden"][1].update(later=1)), False),
        "number-respelled": (text.replace(json.dumps(band).encode(), respelled), False),
        "recommended": (after(lambda m: m.update(recommended=[])), True),
        "unknown-key": (after(lambda m: m.update(later=1)), True),
        "unknown-key-of-an-input": (after(lambda m: m["files"][0]["inputs"][0].update(later=1)), True),
        "keys-in-another-order": (dumped(_reversed(base.manifest)), True),
        "indented": (json.dumps(base.manifest, indent=2).encode(), True),
        "letters-escaped": (text.replace(b'"provenance"', rb'"\u0070rovenance"').replace(b"/", rb"\/"), True),
    }
    for label, (manifest, accept) in changes.items():
        yield Case(
            f"statement-{label}",
            accept,
            "2: the certificate has the hash of what the manifest says",
            base.data(manifest, certificate),
        )
    # Each is a value whose spelling is another in at least one language.
    values = {
        "floats": b"[1.50, 1E5, 1e-07, 1.0, -0.0, 1e22, 123456789012345678901234.5, 5e-324, 0.1e1]",
        "whole-numbers": b"[-0, 9007199254740993, 18446744073709551615, -9223372036854775809, -18446744073709551614]",
        "texts": rb'["/\/", "\b\f\n\r\t\u0000\u001f\u001F\"\\", "\u007f\u0080\u00E9", "\uD83D\uDE00"]',
        "texts-unescaped": '["é\x7f", "\u2028", "\U0001f600"]'.encode(),
        "key-order": rb'{"\uffff": 1, "\ud83d\ude00": 2, "b": 3, "B": 4, "": 5, "10": 6, "9": 7, "ab": 8, "a": 9}',
        "proto": b'{"__proto__": {"a": 1}, "constructor": [], "toString": {}, "length": null}',
        "nothing": b"[[], {}, [[]], [{}], null, true, false]",
        "white": b'{ "a" :\t[ 1 ,\r\n2 ] }',
    }
    for label, value in values.items():
        odd = text.replace(b'"provenance": {', b'"provenance": {"odd": ' + value + b", ", 1)
        yield accepted(f"statement-of-{label}", "2: the one spelling that is hashed", base.data(odd))
        other = text.replace(b'"provenance": {', b'"provenance": {"odd": [' + value + b"], ", 1)
        fitting = dumped(base.certified(odd))
        yield refused(f"statement-of-other-{label}", "2: the one spelling that is hashed", base.data(other, fitting))


def _reversed(value: Any) -> Any:
    """Return a document with the keys of its objects in the opposite order."""
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------------------- writing


def accepted(name: str, reason: str, data: bytes) -> Case:
    return Case(name, True, reason, data)


def refused(name: str, reason: str, data: bytes) -> Case:
    return Case(name, False, reason, data)


def with_files(base: Draft, files: dict[str, bytes]) -> Draft:
    draft = base.copy()
    draft.files |= files
    return draft


def dumped(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def summed(entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Put a list of hashes before these entries."""
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in entries)
    return [(SUMS, sums.encode()), *entries]


def archive(
    entries: list[tuple[str, bytes]],
    compressed: dict[str, tuple[int, bytes]] | None = None,
    directory: list[tuple[str, bytes]] | None = None,
) -> bytes:
    """Write an archive as section 1 says, whatever the names are.

    Args:
        entries: name and bytes of each entry.
        compressed: the method and the original bytes of entries that are compressed.
        directory: the entries in the order of the central headers, if that is another.
    """
    data, headers = bytearray(), {}
    for name, content in entries:
        method, original = (compressed or {}).get(name, (0, content))
        path, crc = name.encode(), zlib.crc32(original)
        sizes = struct.pack("<IIIHH", crc, len(content), len(original), len(path), 0)
        headers[name] = (
            struct.pack("<4sHHHHHH", b"PK\x01\x02", 0x0314, 20, 0, method, 0, 0x21)
            + sizes
            + struct.pack("<HHHII", 0, 0, 0, 0x81A40000, len(data))
            + path
        )
        data += struct.pack("<4sHHHHH", b"PK\x03\x04", 20, 0, method, 0, 0x21) + sizes + path + content
    central = b"".join(headers[name] for name, _ in directory or entries)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(central), len(data), 0)
    return bytes(data) + central + end
