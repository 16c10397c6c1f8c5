"""The JavaScript package, run by Node, reads and computes what the specification and the Python package do."""

from __future__ import annotations

import json
import math
import random
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles.tampering import EXPENSIVE, KINDS
from tests.conftest import Exported
from tests.js.node import run_module
from vae_export import rng
from vae_export.artifact.certificate import read_certificate
from vae_export.artifact.golden import GoldenArray, compare_golden
from vae_export.bundles import open_bundle
from vae_export.bundles.archive import read_archive, write_archive
from vae_export.bundles.signature import public_key
from vae_export.bundles.writer import pack
from vae_export.io.atomic import sha256
from vae_export.pixels import to_levels
from vae_export.precision import PRECISIONS

pytestmark = pytest.mark.slow

SPECIFICATION = Path(__file__).parents[2] / "docs" / "bundle-format.md"


#: The bits of floats, which JSON cannot hold.
BITS = "const bits = (array) => Array.from(new Uint32Array(array.slice().buffer));"


def run(node: str, code: str, given: object = None) -> Any:
    """Run a module with `bundle`, `given` and `bits` in scope; return what it passes to `say`."""
    return run_module(node, BITS + code, given)


def test_philox_matches_the_specification(node: str) -> None:
    rows = re.findall(r"^\| `((?:[0-9a-f]{8} ?){4})` \| `(.*?)` \| `(.*?)` \|", SPECIFICATION.read_text(), re.MULTILINE)
    assert len(rows) == 3
    cases = [[[int(word, 16) for word in text.split()] for text in row] for row in rows]
    assert run(node, "say(given.map(([c, k]) => bundle.philox(c, k)))", [case[:2] for case in cases]) == [
        case[2] for case in cases
    ]


def test_normal_matches_python_bit_for_bit(node: str) -> None:
    edges = [
        0,
        1,
        0x13333333,
        0x13333334,
        0x20F8A25E,
        0xDF075DA1,
        0x7FFFFFFF,
        0x80000000,
        0xECCCCCCA,
        0xECCCCCD0,
        0xFFFFFFFE,
        0xFFFFFFFF,
    ]
    words = np.array([*edges, *range(0, 1 << 32, 86_243)], np.uint32)
    made = run(node, "say(bits(Float32Array.from(given, bundle.normal)))", words.tolist())
    assert made == rng.normal(words).view(np.uint32).tolist()


def test_sample_matches_python_bit_for_bit(node: str) -> None:
    cases = [
        (2000, 10, 0, 0),
        (3, 7, 1, 2),
        (2, 1, 2**64 - 1, 0),
        (4, 2, 7, 3),
        (2, 20, 12345, 10**6),
        (1, 3, 9, 2**36),
    ]
    cases += [(1000, 1, 2**32, 3), (100, 20, 2**64 - 1, 2**31), (3, 5, 7, (2**50 + 4) // 5)]
    code = "say(given.map(([n, size, seed, start]) => bits(bundle.sample(n, size, BigInt(seed), start))))"
    made = run(node, code, [(n, size, str(seed), start) for n, size, seed, start in cases])
    for (n, size, seed, start), bits in zip(cases, made, strict=True):
        assert bits == rng.sample((n, size), seed, start=start).view(np.uint32).reshape(-1).tolist()


@pytest.mark.parametrize(
    "call",
    [
        "1, 2, 0.5",
        "1, 2, 2 ** 53",
        "1, 2, -1",
        "1, 2, -1n",
        "1, 2, 2n ** 64n",
        "-1, 2, 0n",
        "1.5, 2, 0n",
        "1, 2, 0n, 2 ** 53",
    ],
)
def test_seed_or_count_out_of_range_is_refused(node: str, call: str) -> None:
    code = f"try {{ bundle.sample({call}); say('') }} catch (error) {{ say(error.name) }}"
    assert run(node, code) == "RangeError"


def test_to_level_matches_python(node: str) -> None:
    low, high = -1.0, 1.0
    pixels = np.concatenate([np.linspace(low - 0.1, high + 0.1, 4001), low + (np.arange(256) + 0.5) / 255 * 2])
    made = run(node, f"say(given.map((pixel) => bundle.toLevel(pixel, [{low}, {high}])))", pixels.tolist())
    assert made == to_levels(pixels, low, high).tolist()


def test_compare_matches_python(node: str) -> None:
    from vae_export.tensors import TensorSpec

    rng, band = np.random.default_rng(0), 1e-3
    exact = rng.uniform(0, 1, 4000).astype(np.float32)
    for scale in (0.0, 0.5, 0.999, 1.5, 20.0):
        got = (exact + np.float32(scale * band) * rng.uniform(-1, 1, 4000).astype(np.float32)).astype(np.float32)
        said = run(
            node,
            f"say(bundle.compare(Float32Array.from(given[0]), Float32Array.from(given[1]), {band}, [0, 1]))",
            [got.tolist(), exact.tolist()],
        )
        array = GoldenArray("image", "golden/x.f32", (10, 1, 20, 20), "", band)
        expected = compare_golden(
            "decoder", TensorSpec("image", (1, 20, 20), 0.0, 1.0), got, array, exact.astype(np.float64)
        )
        assert expected.grey is not None
        assert (said["error"], said["passed"]) == (expected.error, expected.passed)
        assert (said["differing"], said["unexplained"]) == (expected.grey.differing, expected.grey.unexplained)


@pytest.mark.parametrize("got", ["[0, NaN]", "[0, Infinity]", "[0]", "[0, 0, 0]", "[0, 0.2]"])
def test_compare_fails_infinite_short_and_distant_outputs(node: str, got: str) -> None:
    code = f"say(bundle.compare(Float32Array.from({got}), Float32Array.from([0, 0]), 0.1, [-1, 1]).passed)"
    assert run(node, code) is False


def test_find_model_takes_the_first_precision_with_its_tolerance(node: str) -> None:
    files = [{"part": "decoder", "format": "onnx", "precision": precision} for precision in ("fp2", *PRECISIONS)]
    code = """
    const output = { band: 1, bands: { fp16: 2, int8: 3 } };
    say(given.map((files) => {
      const file = bundle.findModel({ files }, "decoder");
      return file ? [file.precision ?? null, bundle.toleranceOf(output, file)] : null;
    }));
    """
    stated = {"fp32": 1, "fp16": 2, "int8": 3}
    cases = [list(reversed([files[0], *files[first:]])) for first in range(1, len(files))]
    assert run(node, code, cases) == [[precision, stated.get(precision, 0)] for precision in PRECISIONS]
    assert run(node, code, [[], files[:1], [{"part": "decoder", "format": "onnx"}]]) == [None, None, [None, 1]]
    compiled = files[1] | {"machine": "linux x86_64 AVX2"}
    assert run(node, code, [[compiled], [compiled, files[2]]]) == [None, ["fp16", 2]]


def test_open_bundle_reads_what_python_reads(node: str, bundle: Path, colour: Path) -> None:
    for path in (bundle, colour):
        opened = open_bundle(path)
        said = run(node, READ + "say([b.identity, b.card, [...b.files].map(([n, d]) => [n, d.length])])", [str(path)])
        assert said == [opened.identity, opened.card, [[name, len(data)] for name, data in opened.files.items()]]


ROWS = re.compile(rb'"shape": \[\s*16,')
CONTRACT = {"image_shape": [1, 28, 28], "latent_shape": [4], "image_range": [0, 1]}
READ = """
const read = async (path) => {
  const data = fs.readFileSync(path);
  return bundle.openBundle(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
};
const b = await read(given[0]);
"""
READ_ALL = """
const said = [];
for (const path of given[1]) {
  said.push(await read(path).then(() => ["", ""], (error) => [error.name, error.message]));
}
say(said);
"""


def test_altered_bundle_is_refused_and_the_file_named(node: str, bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    start = whole.index(bytes(read_archive(whole, bundle)["decoder.onnx"]))
    longer = ROWS.sub(b'"shape": [17,', bytes(read_archive(whole, bundle)["manifest.json"]))
    kinds = {
        "flipped": (_flip(whole, start + 999), "file was altered: decoder.onnx"),
        "header": (_flip(whole, whole.index(b"manifest.json{") - 20), "manifest.json"),
        "cut": (whole[:-7], "cut off"),
        "longer": (whole + b"x", "bytes after its end"),
        "empty": (b"", "not a bundle"),
        "other": (b"GIF89a" * 9, "not a bundle"),
        "extra": (_rewritten(whole, {"notes.txt": b"hello"}), "extra file: notes.txt"),
        "missing": (_rewritten(whole, {"LICENSE": None}), "file is missing: LICENSE"),
        "unlisted": (_rewritten(whole, {"decoder.onnx": b"other"}, sums=False), "file was altered: decoder.onnx"),
        "forged": (_rewritten(whole, {"decoder.onnx": b"other"}), "hash is not the manifest's: decoder.onnx"),
        "newer": (_manifest(whole, format="vae-export/3"), "another version"),
        "other version": (_manifest(whole, format="vae-export/2"), "contract is not of this version"),
        "range": (_manifest(whole, contract=CONTRACT | {"image_range": [1, 0]}), "range"),
        "prior": (_manifest(whole, contract=CONTRACT | {"prior": "uniform"}), "prior is not known"),
        "numbers": (_manifest(whole, precision="float16"), "expected float32, got float16"),
        "rows": (_rewritten(whole, {"manifest.json": longer}), "expected 2 to 16, got 17"),
        "golden": (_manifest(whole, golden=[]), "golden"),
        "nonsense": (_manifest(whole, files=[1, None]), "file name is not allowed"),
        "no json": (_rewritten(whole, {"manifest.json": b'{"a": NaN}'}), "JSON cannot be read: manifest.json"),
        "key twice": (_rewritten(whole, {"manifest.json": b'{"a": {"b": 1}, "a": 2}'}), 'duplicate key "a"'),
    }  # fmt: skip
    for name, (data, _) in kinds.items():
        (tmp_path / name).write_bytes(data)
    said = run(node, READ + READ_ALL, [str(bundle), [str(tmp_path / name) for name in kinds]])
    for (kind, (_, expected)), (name, message) in zip(kinds.items(), said, strict=True):
        assert name == "BundleError", kind
        assert expected in message, kind


def test_signature_is_checked_with_the_key_that_is_given(node: str, mlp: Exported, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    def private(seed: int) -> bytes:
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    certificate = read_certificate(mlp.artifact.certificate)
    whole = pack(mlp.artifact, certificate, name="x", formats=["onnx"], sign_key=private(1))
    key, other = public_key(private(1)).decode(), public_key(private(2)).decode()
    altered = read_archive(whole, "test")["SHA256SUMS.sig"].tobytes()[::-1]
    cases = [
        (whole, None, ""),
        (whole, key, ""),
        (whole, other, "signature is not valid"),
        (_rewritten(whole, {"SHA256SUMS.sig": altered}), None, ""),
        (_rewritten(whole, {"SHA256SUMS.sig": altered}), key, "signature is not valid"),
        (_rewritten(whole, {"LICENSE": b"mine"}), key, "signature is not valid"),
        (_rewritten(whole, {"SHA256SUMS.sig": None}), key, "not signed"),
        (
            _rewritten(whole, {"SHA256SUMS.sig": altered[1:]}),
            None,
            "signature cannot be read: SHA256SUMS.sig; expected 64",
        ),
        (whole, "x", "key cannot be read"),
        (whole, private(1).decode(), "key cannot be read"),
    ]
    for number, (data, _, _) in enumerate(cases):
        (tmp_path / str(number)).write_bytes(data)
    code = """
    const said = [];
    for (const [path, verifyKey] of given) {
      const opened = bundle.openBundle(fs.readFileSync(path), { verifyKey });
      said.push(await opened.then((b) => [b.signedBy, ""], (error) => [error.name, error.message]));
    }
    say(said);
    """
    said = run(node, code, [[str(tmp_path / str(number)), key] for number, (_, key, _) in enumerate(cases)])
    opened = open_bundle(tmp_path / "1", verify_key=key.encode())
    for (_, verify_key, expected), (name, message) in zip(cases, said, strict=True):
        assert name == ("BundleError" if expected else verify_key and opened.signed_by), message
        assert expected in message


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :]


def _rewritten(whole: bytes, changes: dict[str, bytes | None], *, sums: bool = True) -> bytes:
    """A bundle in the canonical form with other files; without `sums`, its list of hashes is the old one."""
    files = {name: bytes(data) for name, data in read_archive(whole, "test").items()} | changes
    kept = {name: data for name, data in files.items() if data is not None}
    if sums:
        listed = ((name, data) for name, data in kept.items() if not name.startswith("SHA256SUMS"))
        lines = [f"{sha256(data)}  {name}\n" for name, data in listed]
        kept["SHA256SUMS"] = "".join(lines).encode()
    return write_archive(kept)


def _manifest(whole: bytes, **changes: object) -> bytes:
    document = json.loads(bytes(read_archive(whole, "test")["manifest.json"])) | changes
    return _rewritten(whole, {"manifest.json": json.dumps(document).encode()})


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns of the duplicates it is asked to write
def test_every_kind_of_tampering_is_refused(node: str, packed: bytes, tmp_path: Path) -> None:
    cases = []
    for kind in KINDS:
        rng = random.Random(zlib.crc32(kind.__name__.encode()))
        cases += [(kind.__name__, kind(packed, rng)) for _ in range(1 if kind in EXPENSIVE else 8)]
    paths = [tmp_path / str(number) for number in range(len(cases))]
    for path, (_, tampered) in zip(paths, cases, strict=True):
        path.write_bytes(tampered.data)
    (tmp_path / "good").write_bytes(packed)
    said = run(node, READ + READ_ALL, [str(tmp_path / "good"), [str(path) for path in paths]])
    for (kind_name, tampered), (name, message) in zip(cases, said, strict=True):
        assert name == "BundleError", (kind_name, message)
        assert not tampered.named or any(file in message for file in tampered.named), (kind_name, message)


def test_any_flipped_bit_is_refused(node: str, bundle: Path) -> None:
    code = (
        READ
        + """
    const data = fs.readFileSync(given[0]);
    let accepted = 0;
    for (const [at, bit] of given[1]) {
      const copy = new Uint8Array(data);
      copy[at] ^= 1 << bit;
      const refused = (error) => (error.name === "BundleError" ? 0 : 1e9);
      accepted += await bundle.openBundle(copy.buffer).then(() => 1, refused);
    }
    say(accepted);
    """
    )
    size = bundle.stat().st_size
    places = [(math.floor(size * (index + 0.5) / 300), index % 8) for index in range(300)]
    places += [(size - 1 - index, index % 8) for index in range(600)]  # the central directory
    assert run(node, code, [str(bundle), places]) == 0


def test_usual_value_of_a_symbol_lies_within_its_bounds(node: str) -> None:
    bounds = [{"min": low, "max": high, "usual": None} for low, high in ((1, None), (16, None), (16, 64), (1, 4))]
    assert run(node, "say(given.map(bundle.usualValue));", bounds) == [8, 16, 16, 4]
