"""Kinds of tampering: each turns the bytes of a good bundle into others, and says which file must be named.

The benchmark `benchmarks/tampering.py` draws thousands of each; the tests draw a few.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from vae_export.bundle.archive import read_archive, write_archive
from vae_export.files import sha256

SUMS, MANIFEST, CERTIFICATE = "SHA256SUMS", "manifest.json", "certificate.json"


@dataclass(frozen=True)
class Tampered:
    """Attributes:
    data: the bytes of the bundle.
    named: what the error must name one of; empty where the file as a whole is wrong.
    """

    data: bytes
    named: tuple[str, ...]


Kind = Callable[[bytes, random.Random], Tampered]


def _files(data: bytes) -> dict[str, bytes]:
    return {name: bytes(view) for name, view in read_archive(data, "good").items()}


def _summed(files: dict[str, bytes]) -> bytes:
    """An archive with a list of hashes that fits its files: what somebody makes who knows the format."""
    rest = {name: data for name, data in files.items() if name != SUMS}
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in rest.items())
    return write_archive({SUMS: sums.encode(), **rest})


def _picked(data: bytes, rng: random.Random) -> tuple[dict[str, bytes], str]:
    files = _files(data)
    return files, rng.choice([name for name in files if name != SUMS])


def _flip(data: bytes, position: int, rng: random.Random) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def flipped_bit(data: bytes, rng: random.Random) -> Tampered:
    """Anywhere: in a file, in a header, in the directory."""
    position = rng.randrange(len(data))
    return Tampered(_flip(data, position, rng), _at(data, position))


def flipped_bit_in_headers(data: bytes, rng: random.Random) -> Tampered:
    """In a byte that belongs to no file's data: most of a bundle is data, and these are few."""
    spans = []
    for name, view in read_archive(data, "good").items():
        start = data.index(bytes(view)) if len(view) > 64 else data.index(name.encode())
        spans.append((start, start + len(view)))
    positions = [*range(data.rindex(b"PK\x01\x02") - 500, len(data)), *range(40), *(span[0] - 3 for span in spans)]
    position = rng.choice(positions)
    return Tampered(_flip(data, position, rng), _at(data, position))


def flipped_bit_with_new_crc(data: bytes, rng: random.Random) -> Tampered:
    """The container is whole again; only the hashes show it."""
    files, name = _picked(data, rng)
    files[name] = _flip(files[name], rng.randrange(len(files[name])), rng)
    return Tampered(write_archive(files), (name,))


def cut_off(data: bytes, rng: random.Random) -> Tampered:
    return Tampered(data[: rng.randrange(len(data))], ())


def bytes_added(data: bytes, rng: random.Random) -> Tampered:
    extra = rng.randbytes(rng.randrange(1, 100))
    return Tampered(extra + data if rng.random() < 0.5 else data + extra, ())


def extra_file(data: bytes, rng: random.Random) -> Tampered:
    files = _files(data)
    name = rng.choice(["extra.txt", "decoder.onnx.data", "golden/more.f32", "readme", "golden/decoder.image.f32.bak"])
    return Tampered(_summed(files | {name: rng.randbytes(9)}), (name,))


def hidden_file(data: bytes, rng: random.Random) -> Tampered:
    return _renamed_into(data, rng, rng.choice([".hidden", "golden/.DS_Store", "._decoder.onnx", "..x"]))


def missing_file(data: bytes, rng: random.Random) -> Tampered:
    files, name = _picked(data, rng)
    del files[name]
    whole = write_archive(files) if rng.random() < 0.5 else _summed(files)
    return Tampered(whole, (name,))


def duplicate_name(data: bytes, rng: random.Random) -> Tampered:
    _, name = _picked(data, rng)
    return Tampered(_zip([*_files(data).items(), (name, b"again")]), (name,))


def colliding_case(data: bytes, rng: random.Random) -> Tampered:
    files, name = _picked(data, rng)
    other = name.upper() if name != name.upper() else name.lower()
    return Tampered(_zip([*files.items(), (other, files[name])]), (name, other))


def colliding_unicode(data: bytes, rng: random.Random) -> Tampered:
    """Letters that look or fold like ASCII ones: full width, Cyrillic, the Kelvin sign, a combining accent."""
    name = rng.choice(["ｄecoder.onnx", "dеcoder.onnx", "K.onnx", "decoder\u0301.onnx", "decoder.onnx\u200b"])
    return Tampered(_zip([*_files(data).items(), (name, b"x")]), ())


def outside_its_folder(data: bytes, rng: random.Random) -> Tampered:
    names = ["../decoder.onnx", "golden/../../x", "/etc/passwd", "..", "a//b", "./decoder.onnx", "golden/..", "a/b/c"]
    return _renamed_into(data, rng, rng.choice(names))


def odd_separators(data: bytes, rng: random.Random) -> Tampered:
    return _renamed_into(data, rng, rng.choice(["..\\x.onnx", "C:\\x", "golden\\x", "a\x00b", "decoder.onnx ", "con:"]))


def link_or_device(data: bytes, rng: random.Random) -> Tampered:
    """An entry whose mode says symbolic link, device, pipe or folder."""
    files, name = _picked(data, rng)
    kind = rng.choice([0o120777, 0o020666, 0o060666, 0o010644, 0o040755])
    return Tampered(_with_modes(files, {name: kind}), (name,))


def compressed(data: bytes, rng: random.Random) -> Tampered:
    """What any ZIP tool makes of the same files."""
    files, _ = _picked(data, rng)
    return Tampered(_zip(list(files.items()), zipfile.ZIP_DEFLATED), tuple(files))


def reordered(data: bytes, rng: random.Random) -> Tampered:
    items = list(_files(data).items())
    while (shuffled := rng.sample(items, len(items))) == items:
        pass
    if rng.random() < 0.5:
        return Tampered(_summed(dict(shuffled)), ())
    return Tampered(write_archive(dict(shuffled)), ())


def swapped_files(data: bytes, rng: random.Random) -> Tampered:
    """Two files under each other's names, with hashes that fit."""
    files = _files(data)
    golden = [name for name in files if name.startswith("golden/")]
    one, other = rng.sample(golden, 2)
    while files[one] == files[other]:
        one, other = rng.sample(golden, 2)
    files[one], files[other] = files[other], files[one]
    return Tampered(_summed(files), (one, other))


def malformed_json(data: bytes, rng: random.Random) -> Tampered:
    files = _files(data)
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
    return Tampered(_summed(files | {name: broken}), (name,))


def huge_json(data: bytes, _rng: random.Random) -> Tampered:
    files = _files(data)
    return Tampered(_summed(files | {MANIFEST: files[MANIFEST] + b" " * (1 << 20)}), (MANIFEST,))


def newer_version(data: bytes, rng: random.Random) -> Tampered:
    files = _files(data)
    name, version = rng.choice([(MANIFEST, b"vae-export/1"), (CERTIFICATE, b"vae-export-certificate/1")])
    newer = files[name].replace(version, version[:-1] + b"2", 1)
    return Tampered(_summed(files | {name: newer}), (name,))


def changed_manifest(data: bytes, rng: random.Random) -> Tampered:
    """A value of the manifest replaced by another, with hashes that fit."""
    files = _files(data)
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
    return Tampered(_summed(files | {MANIFEST: json.dumps(document).encode()}), ())


def certificate_of_another(data: bytes, rng: random.Random) -> Tampered:
    """A certificate that failed, or one of other files."""
    files = _files(data)
    document = json.loads(files[CERTIFICATE])
    if rng.random() < 0.5:
        document["verdict"] = "fail"
    else:
        name = rng.choice([name for name in document["files"] if name in files])  # it may be of more than was packed
        document["files"][name] = rng.randbytes(32).hex()
    return Tampered(_summed(files | {CERTIFICATE: json.dumps(document).encode()}), (CERTIFICATE,))


def changed_directory(data: bytes, rng: random.Random) -> Tampered:
    """Counts, sizes and offsets in the end record."""
    end = bytearray(data)
    offset = rng.choice([4, 6, 8, 10, 12, 16, 20])
    (value,) = struct.unpack_from("<H", end, len(end) - 22 + offset)
    struct.pack_into("<H", end, len(end) - 22 + offset, (value + rng.randrange(1, 65535)) % 65536)
    return Tampered(bytes(end), ())


def noise(data: bytes, rng: random.Random) -> Tampered:
    """No bundle at all."""
    return Tampered(
        rng.choice([b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), rng.randbytes(1000), data[4:]]), ()
    )


def _renamed_into(data: bytes, rng: random.Random, name: str) -> Tampered:
    """One more entry, under a name that no writer of ours lets through."""
    files = _files(data)
    return Tampered(_zip([*files.items(), (name, rng.randbytes(3))]), ())


def _zip(items: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """As close to the canonical form as a ZIP library gets."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in items:
            info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
            info.filename = name  # the constructor would cut it at a NUL
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data, method)
    return buffer.getvalue()


def _with_modes(files: dict[str, bytes], modes: dict[str, int]) -> bytes:
    data = bytearray(write_archive(files))
    for name, mode in modes.items():
        position = data.rindex(name.encode()) - 46
        while data[position : position + 4] != b"PK\x01\x02":
            position = data.rindex(name.encode(), 0, position + 46) - 46
        struct.pack_into("<I", data, position + 38, mode << 16)
    return bytes(data)


def _at(data: bytes, position: int) -> tuple[str, ...]:
    """The file whose header or data a byte is part of; none for the first four, which say what kind of file it is, and
    for a byte of the directory."""
    if position < 4:
        return ()
    offset = 0
    for name, view in read_archive(data, "good").items():
        offset += 30 + len(name) + len(view)
        if position < offset:
            return (name,)
    return ()


KINDS: tuple[Kind, ...] = (
    flipped_bit,
    flipped_bit_in_headers,
    flipped_bit_with_new_crc,
    cut_off,
    bytes_added,
    extra_file,
    hidden_file,
    missing_file,
    duplicate_name,
    colliding_case,
    colliding_unicode,
    outside_its_folder,
    odd_separators,
    link_or_device,
    compressed,
    reordered,
    swapped_files,
    malformed_json,
    huge_json,
    newer_version,
    changed_manifest,
    certificate_of_another,
    changed_directory,
    noise,
)
