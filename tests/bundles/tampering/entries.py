"""Tampering with which files a bundle holds, and under which names."""

from __future__ import annotations

import random
import zipfile

from tests.bundles.tampering.archives import Tampered, files_of, picked, renamed_into, summed, with_modes, zipped
from vae_export.bundles.archive import write_archive


def extra_file(data: bytes, rng: random.Random) -> Tampered:
    files = files_of(data)
    name = rng.choice(["extra.txt", "decoder.onnx.data", "golden/more.f32", "readme", "golden/decoder.image.f32.bak"])
    return Tampered(summed(files | {name: rng.randbytes(9)}), (name,))


def hidden_file(data: bytes, rng: random.Random) -> Tampered:
    return renamed_into(data, rng, rng.choice([".hidden", "golden/.DS_Store", "._decoder.onnx", "..x"]))


def missing_file(data: bytes, rng: random.Random) -> Tampered:
    files, name = picked(data, rng)
    del files[name]
    whole = write_archive(files) if rng.random() < 0.5 else summed(files)
    return Tampered(whole, (name,))


def duplicate_name(data: bytes, rng: random.Random) -> Tampered:
    _, name = picked(data, rng)
    return Tampered(zipped([*files_of(data).items(), (name, b"again")]), (name,))


def colliding_case(data: bytes, rng: random.Random) -> Tampered:
    files, name = picked(data, rng)
    other = name.upper() if name != name.upper() else name.lower()
    return Tampered(zipped([*files.items(), (other, files[name])]), (name, other))


def colliding_unicode(data: bytes, rng: random.Random) -> Tampered:
    """Letters that look or fold like ASCII ones: full width, Cyrillic, the Kelvin sign, a combining accent."""
    name = rng.choice(["ｄecoder.onnx", "dеcoder.onnx", "K.onnx", "decoder\u0301.onnx", "decoder.onnx\u200b"])
    return Tampered(zipped([*files_of(data).items(), (name, b"x")]), ())


def outside_its_folder(data: bytes, rng: random.Random) -> Tampered:
    names = ["../decoder.onnx", "golden/../../x", "/etc/passwd", "..", "a//b", "./decoder.onnx", "golden/..", "a/b/c"]
    return renamed_into(data, rng, rng.choice(names))


def odd_separators(data: bytes, rng: random.Random) -> Tampered:
    return renamed_into(data, rng, rng.choice(["..\\x.onnx", "C:\\x", "golden\\x", "a\x00b", "decoder.onnx ", "con:"]))


def link_or_device(data: bytes, rng: random.Random) -> Tampered:
    """An entry whose mode says symbolic link, device, pipe or folder."""
    files, name = picked(data, rng)
    kind = rng.choice([0o120777, 0o020666, 0o060666, 0o010644, 0o040755])
    return Tampered(with_modes(files, {name: kind}), (name,))


def compressed(data: bytes, rng: random.Random) -> Tampered:
    """Pack the files as any ZIP tool would."""
    files, _ = picked(data, rng)
    return Tampered(zipped(list(files.items()), zipfile.ZIP_DEFLATED), tuple(files))


def reordered(data: bytes, rng: random.Random) -> Tampered:
    items = list(files_of(data).items())
    while (shuffled := rng.sample(items, len(items))) == items:
        pass
    if rng.random() < 0.5:
        return Tampered(summed(dict(shuffled)), ())
    return Tampered(write_archive(dict(shuffled)), ())


def swapped_files(data: bytes, rng: random.Random) -> Tampered:
    """Two files under each other's names, with hashes that fit."""
    files = files_of(data)
    golden = [name for name in files if name.startswith("golden/")]
    one, other = rng.sample(golden, 2)
    while files[one] == files[other]:
        one, other = rng.sample(golden, 2)
    files[one], files[other] = files[other], files[one]
    return Tampered(summed(files), (one, other))


def endless_list_of_hashes(data: bytes, rng: random.Random) -> Tampered:
    files = files_of(data)
    more = rng.choice([b"\n", b"0" * 64 + b"  decoder.onnx\n", b"\x00"]) * 100_000
    return Tampered(write_archive(files | {"SHA256SUMS": files["SHA256SUMS"] + more}), ("SHA256SUMS",))


def many_files(data: bytes, rng: random.Random) -> Tampered:
    """As many as a container can hold, or nearly; a reader that compares each with each takes for ever."""
    count = rng.choice([1_000, 20_000, 65_000])
    return Tampered(summed(files_of(data) | {f"golden/{number}": b"" for number in range(count)}), ("golden/0",))


def signature_of_another_size(data: bytes, rng: random.Random) -> Tampered:
    """With a key nobody could have made it, and without one no reader should guess."""
    sums, *rest = files_of(data).items()
    signature = rng.randbytes(rng.choice([0, 1, 63, 65, 128]))
    return Tampered(write_archive(dict([sums, ("SHA256SUMS.sig", signature), *rest])), ("SHA256SUMS.sig",))


def signature_elsewhere(data: bytes, rng: random.Random) -> Tampered:
    """Behind another file than the list of hashes."""
    items = list(files_of(data).items())
    items.insert(rng.randrange(2, len(items) + 1), ("SHA256SUMS.sig", rng.randbytes(64)))
    return Tampered(write_archive(dict(items)), ("SHA256SUMS.sig",))
