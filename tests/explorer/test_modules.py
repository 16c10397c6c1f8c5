"""The page's own reader, noise and judge, run by Node: they do what the specification and Python do."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.explorer.conftest import PAGE
from vae_export import rng
from vae_export.artifact.golden import GoldenArray, judge
from vae_export.bundle import open_bundle
from vae_export.bundle.archive import read_archive, write_archive
from vae_export.io.atomic import sha256
from vae_export.pixels import to_levels
from vae_export.precision import PRECISIONS

SPECIFICATION = Path(__file__).parents[2] / "docs" / "bundle-format.md"


def run(node: str, code: str, given: object = None) -> Any:
    """What `code`, a module with `bundle`, `noise`, `judge` and `given` in scope, hands to `say`; one JSON value."""
    imports = "".join(f"import * as {name} from {json.dumps((PAGE / f'{name}.js').as_uri())};" for name in MODULES)
    prelude = f"{imports} import fs from 'node:fs'; const given = JSON.parse(fs.readFileSync(0));"
    say = "const say = (value) => process.stdout.write(JSON.stringify(value));"
    bits = "const bits = (array) => Array.from(new Uint32Array(array.slice().buffer));"
    result = subprocess.run(
        [node, "--input-type=module", "-e", prelude + say + bits + code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


MODULES = ("bundle", "noise", "judge")


def test_words_are_those_of_the_specification(node: str) -> None:
    rows = re.findall(r"^\| `((?:[0-9a-f]{8} ?){4})` \| `(.*?)` \| `(.*?)` \|", SPECIFICATION.read_text(), re.MULTILINE)
    assert len(rows) == 3
    cases = [[[int(word, 16) for word in text.split()] for text in row] for row in rows]
    assert run(node, "say(given.map(([c, k]) => noise.philox(c, k)))", [case[:2] for case in cases]) == [
        case[2] for case in cases
    ]


def test_normal_numbers_have_the_same_bits_as_in_python(node: str) -> None:
    edges = [0, 1, 0x13333333, 0x13333334, 0x7FFFFFFF, 0x80000000, 0xECCCCCCA, 0xECCCCCD0, 0xFFFFFFFE, 0xFFFFFFFF]
    words = np.array([*edges, *range(0, 1 << 32, 86_243)], np.uint32)
    made = run(node, "say(bits(Float32Array.from(given, noise.normal)))", words.tolist())
    assert made == rng.normal(words).view(np.uint32).tolist()


def test_samples_have_the_same_bits_as_in_python(node: str) -> None:
    cases = [(5, 20, 0, 0), (3, 7, 1, 2), (2, 1, 2**64 - 1, 0), (4, 2, 7, 3), (2, 20, 12345, 10**6), (1, 3, 9, 2**36)]
    code = "say(given.map(([n, size, seed, start]) => bits(noise.sample(n, size, BigInt(seed), start))))"
    made = run(node, code, [(n, size, str(seed), start) for n, size, seed, start in cases])
    for (n, size, seed, start), bits in zip(cases, made, strict=True):
        assert bits == rng.sample((n, size), seed, start=start).view(np.uint32).reshape(-1).tolist()


@pytest.mark.parametrize(
    "call", ["1, 2, 0", "1, 2, -1n", "1, 2, 2n ** 64n", "-1, 2, 0n", "1.5, 2, 0n", "1, 2, 0n, 2 ** 53"]
)
def test_seeds_and_counts_out_of_range_are_refused(node: str, call: str) -> None:
    code = f"try {{ noise.sample({call}); say('') }} catch (error) {{ say(error.name) }}"
    assert run(node, code) == "RangeError"


def test_levels_are_those_of_python(node: str) -> None:
    low, high = -1.0, 1.0
    pixels = np.concatenate([np.linspace(low - 0.1, high + 0.1, 4001), low + (np.arange(256) + 0.5) / 255 * 2])
    made = run(node, f"say(given.map((pixel) => judge.level(pixel, {low}, {high})))", pixels.tolist())
    assert made == to_levels(pixels, low, high).tolist()


def test_an_output_is_judged_as_python_judges_it(node: str) -> None:
    from vae_export.contract import TensorSpec

    rng, band = np.random.default_rng(0), 1e-3
    exact = rng.uniform(0, 1, 4000).astype(np.float32)
    for scale in (0.0, 0.5, 0.999, 1.5, 20.0):
        got = (exact + np.float32(scale * band) * rng.uniform(-1, 1, 4000).astype(np.float32)).astype(np.float32)
        said = run(
            node,
            f"say(judge.judge(Float32Array.from(given[0]), Float32Array.from(given[1]), {band}, [0, 1]))",
            [got.tolist(), exact.tolist()],
        )
        array = GoldenArray("image", "golden/x.f32", (4000,), "", band)
        expected = judge("decoder", TensorSpec("image", (), 0.0, 1.0), got, array, exact.astype(np.float64))
        assert expected.grey is not None
        assert (said["error"], said["passed"]) == (expected.error, expected.passed)
        assert (said["differing"], said["unexplained"]) == (expected.grey.differing, expected.grey.unexplained)


@pytest.mark.parametrize("got", ["[0, NaN]", "[0, Infinity]", "[0]", "[0, 0, 0]", "[0, 0.2]"])
def test_what_is_not_finite_too_short_or_too_far_fails(node: str, got: str) -> None:
    code = f"say(judge.judge(Float32Array.from({got}), Float32Array.from([0, 0]), 0.1, [-1, 1]).passed)"
    assert run(node, code) is False


def test_the_file_of_a_part_is_the_first_of_the_specification_and_has_its_own_band(node: str) -> None:
    files = [{"part": "decoder", "format": "onnx", "precision": precision} for precision in ("fp2", *PRECISIONS)]
    code = """
    const output = { band: 1, bands: { fp16: 2, int8: 3 } };
    say(given.map((files) => {
      const file = bundle.onnxFile({ files }, "decoder");
      return file ? [file.precision ?? null, bundle.allowed(output, file)] : null;
    }));
    """
    stated = {"fp32": 1, "fp16": 2, "int8": 3}
    cases = [list(reversed([files[0], *files[first:]])) for first in range(1, len(files))]
    assert run(node, code, cases) == [[precision, stated.get(precision, 0)] for precision in PRECISIONS]
    assert run(node, code, [[], files[:1], [{"part": "decoder", "format": "onnx"}]]) == [None, None, [None, 1]]


def test_a_bundle_is_read_as_python_reads_it(node: str, bundle: Path, colour: Path) -> None:
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


def test_a_change_of_any_kind_is_refused_with_the_file_named(node: str, bundle: Path, tmp_path: Path) -> None:
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
        "newer": (_manifest(whole, format="vae-export/2"), "another version"),
        "range": (_manifest(whole, contract=CONTRACT | {"image_range": [1, 0]}), "range"),
        "prior": (_manifest(whole, contract=CONTRACT | {"prior": "uniform"}), "prior is not known"),
        "numbers": (_manifest(whole, precision="float16"), "expected float32, got float16"),
        "rows": (_rewritten(whole, {"manifest.json": longer}), "expected 2 to 16, got 17"),
        "golden": (_manifest(whole, golden=[]), "golden"),
        "nonsense": (_manifest(whole, files=[1, None]), "cannot be read"),
        "no json": (_rewritten(whole, {"manifest.json": b'{"a": NaN}'}), "JSON cannot be read: manifest.json"),
    }  # fmt: skip
    for name, (data, _) in kinds.items():
        (tmp_path / name).write_bytes(data)
    code = (
        READ
        + """
    const said = [];
    for (const path of given[1]) {
      said.push(await read(path).then(() => ["", ""], (error) => [error.name, error.message]));
    }
    say(said);
    """
    )
    said = run(node, code, [str(bundle), [str(tmp_path / name) for name in kinds]])
    for (kind, (_, expected)), (name, message) in zip(kinds.items(), said, strict=True):
        assert name == "BundleError", kind
        assert expected in message, kind


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :]


def _rewritten(whole: bytes, changes: dict[str, bytes | None], *, sums: bool = True) -> bytes:
    """A bundle in the canonical form with other files; without `sums`, its list of hashes is the old one."""
    files = {name: bytes(data) for name, data in read_archive(whole, "test").items()} | changes
    kept = {name: data for name, data in files.items() if data is not None}
    if sums:
        lines = [f"{sha256(data)}  {name}\n" for name, data in kept.items() if name != "SHA256SUMS"]
        kept["SHA256SUMS"] = "".join(lines).encode()
    return write_archive(kept)


def _manifest(whole: bytes, **changes: object) -> bytes:
    document = json.loads(bytes(read_archive(whole, "test")["manifest.json"])) | changes
    return _rewritten(whole, {"manifest.json": json.dumps(document).encode()})


def test_a_file_with_one_bit_flipped_anywhere_is_refused(node: str, bundle: Path) -> None:
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
