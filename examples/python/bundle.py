"""Open a vae-export bundle, draw its random latents and test what an engine computes, with numpy alone.

This strict reader was written from docs/bundle-format.md, whose sections are named here. `vae_export` does the same
with better messages; copy this file if you cannot install it. `python bundle.py FOLDER` reads every bundle in a folder,
and says of each whether it is accepted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Json = dict[str, Any]
Run = Callable[[str, dict[str, Array]], dict[str, Array]]

FORMATS = ("vae-export/1", "vae-export/2")
CERTIFICATE_FORMATS = ("vae-export-certificate/1", "vae-export-certificate/2")
FLOAT_PARTS, BYTE_PARTS = ("encoder", "decoder", "autoencoder"), ("decoder-uint8-hwc", "decoder-uint8-chw")
#: A reader takes the first of these that a part has, and ignores files of any other precision.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights")
#: The types of golden arrays in their files.
DTYPES = {"float32": "<f4", "int32": "<i4", "int64": "<i8"}
LIKELIHOODS = {
    "bernoulli": "",
    "gaussian": "logvar",
    "gaussian-fixed": "",
    "discretised-logistic": "log_scale",
    "discretised-logistic-colour": "log_scale",
}
#: Optimisation levels and switches of ONNX Runtime that a bundle may recommend.
LEVELS, SWITCHES = ("disabled", "basic", "extended", "all"), ("no-spinning", "parallel", "no-arena", "no-pattern")
#: Instruction sets by which engines choose their kernels, as Linux names them.
FEATURES = {
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
}
TEXTS = ("certificate.json", "certificate.html", "MODEL_CARD.md", "LICENSE")
MAX_DEPTH, MAX_VALUES = 64, 1 << 22


class Bundle:
    """An opened bundle, of which every byte was checked.

    Raises ValueError if it is not what the specification says, and OSError if it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.files = _read_archive(Path(path).read_bytes(), str(path))
        hashes = _check_sums(self.files)
        self.manifest = _parse_json(self.files.get("manifest.json", b""), "manifest.json", 1 << 20)
        try:
            self.contract = Contract(self.manifest)
            _check_manifest(self.manifest, self.contract)
            _check_entries(self.manifest, self.files, hashes)
            _check_certificate(self.files["certificate.json"], self.manifest, self.files["manifest.json"])
            self._check_golden_numbers()
        except (AttributeError, IndexError, KeyError, TypeError) as error:  # a value of another type
            raise ValueError(f"manifest or certificate cannot be read: {error!r}") from error

    def find_model(self, part: str, format: str = "onnx") -> Json | None:
        """Return the manifest's entry for a part's model file, in float32 if there is one: see `PRECISIONS`.

        Files that were compiled for one kind of machine are passed over: nothing here can tell whether this is one.
        """
        files = [file for file in self.manifest["files"] if (file["part"], file["format"]) == (part, format)]
        files = [file for file in files if not file.get("machine")]
        for precision in PRECISIONS:
            for file in files:
                if file.get("precision", "fp32") == precision:
                    return {"precision": precision, **file}
        return None

    def recommendation(self, part: str) -> tuple[Json, Json] | None:
        """Return the file of a part and the settings that are the quickest on a machine like this one.

        None if there are none, or if they are not understood (section 3).
        """
        items = self.manifest.get("recommended")
        listed = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        advice = next((item for item in listed if item.get("part") == part), {})
        threads, level, switches = (advice.get(key) for key in ("threads", "optimisation", "switches"))
        machine = advice.get("machine")
        are_known = (
            advice.get("provider") == "CPUExecutionProvider",
            type(threads) is int and 0 <= threads < 1 << 16,
            level in LEVELS,
            isinstance(switches, list) and all(switch in SWITCHES for switch in switches),
            isinstance(machine, dict) and machine | describe_machine() == machine,
        )
        for file in self.manifest["files"] if all(are_known) else ():
            entry = {"precision": "fp32", **file}
            names = [entry[key] for key in ("name", "sha256", "part", "format")]
            is_usable = entry["precision"] in PRECISIONS and not entry.get("machine")
            if is_usable and names == [advice.get("file"), advice.get("sha256"), part, "onnx"]:
                return entry, advice
        return None

    @property
    def parts(self) -> list[str]:
        """The parts that there are as ONNX."""
        return [part for part in (*FLOAT_PARTS, *BYTE_PARTS) if self.find_model(part)]

    def golden(self, array: Json) -> Array:
        """Return a golden array (section 5)."""
        dtype = array.get("dtype", "float32")
        return np.frombuffer(self.files[array["file"]], DTYPES[dtype]).astype(dtype).reshape(array["shape"])

    def golden_inputs(self, part: str) -> dict[str, Array]:
        """Return the golden inputs of a part by name; none if the bundle has no golden vectors of it."""
        found = [golden for golden in self.manifest["golden"] if golden["part"] == part]
        return {array["tensor"]: self.golden(array) for golden in found for array in golden["inputs"]}

    def conditions(self, part: str, n: int) -> dict[str, Array]:
        """Return the conditions that a part takes, for n rows: those of its golden vectors, again and again."""
        inputs = self.golden_inputs(part)
        names = [item["name"] for item in self.contract.conditions if item["name"] in inputs]
        return {name: np.resize(inputs[name], (n, *inputs[name].shape[1:])) for name in names}

    def _check_golden_numbers(self) -> None:
        for golden in self.manifest["golden"]:
            for kind, tensors in zip(("inputs", "outputs"), self.contract.tensors(golden["part"]), strict=True):
                for array, tensor in zip(golden[kind], tensors, strict=True):
                    check_numbers(self.golden(array), tensor, exact=False, where=array["file"])


def check_numbers(values: Array, tensor: Json, *, exact: bool = True, where: str = "") -> None:
    """Raise ValueError for numbers that an engine must not get: not finite, or out of range (section 4).

    With `exact` false, floats may leave their range, as the outputs of an engine do.
    """
    where = where or tensor["name"]
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise ValueError(f"numbers are not finite: {where}")
    if tensor["range"] is None or (values.dtype == np.float32 and not exact):
        return
    low, high = tensor["range"]
    slack = 1e-6 * (high - low) if values.dtype == np.float32 else 0  # float32 arithmetic rounds
    if values.min() < low - slack or values.max() > high + slack:
        raise ValueError(f"numbers are out of range: {where}; expected {low:g} to {high:g}")


# ------------------------------------------------------------------------------------------------ the container (1, 2)

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?", re.ASCII)


def _read_archive(data: bytes, path: str) -> dict[str, bytes]:
    """Return the files of an archive in order. Nothing but the canonical form is accepted, byte by byte."""
    if len(data) < 22 or data[:4] != b"PK\x03\x04":
        raise ValueError(f"not a bundle: {path}")
    count, size, start = struct.unpack("<HII", data[-12:-2])
    if start + size + 22 != len(data):
        raise ValueError(f"bundle is cut off: {path}")
    files: dict[str, bytes] = {}
    stated: dict[str, int] = {}
    position, header = 0, start
    for _ in range(count):
        crc, length, _, name_length = struct.unpack_from("<IIIH", data[header : header + 46].ljust(46, b"\0"), 16)
        name = data[header + 46 : header + 46 + name_length].decode("latin-1")
        if not _NAME.fullmatch(name):
            raise ValueError(f"file name is not allowed: {name!a}")
        if name.lower() in {other.lower() for other in files}:
            raise ValueError(f"two files have one name: {name}")
        body = position + 30 + name_length
        files[name], stated[name] = data[body : body + length], crc
        position, header = body + length, header + 46 + name_length
    if position > len(data) or _write_archive(files, stated) != data:
        raise ValueError(f"bundle is not in the canonical form: {path}")
    listed = _listed(files)
    for name, content in files.items():
        found = hashlib.sha256(content).hexdigest()
        if listed.get(name, found) != found:
            raise ValueError(f"file was altered: {name}; expected SHA-256 {listed[name]}, got {found}")
        if zlib.crc32(content) != stated[name]:
            raise ValueError(f"file was altered: {name}; its CRC-32 is another")
    return files


def _write_archive(files: dict[str, bytes], checksums: dict[str, int]) -> bytes:
    """Return the archive of these files; a header has one form (section 1)."""
    local, central = bytearray(), bytearray()
    for name, content in files.items():
        sizes = struct.pack("<IIIHH", checksums[name], len(content), len(content), len(name), 0)
        central += struct.pack("<4s6H", b"PK\x01\x02", 0x0314, 20, 0, 0, 0, 0x21) + sizes
        central += struct.pack("<3H2I", 0, 0, 0, 0x81A40000, len(local)) + name.encode()
        local += struct.pack("<4s5H", b"PK\x03\x04", 20, 0, 0, 0, 0x21) + sizes + name.encode() + content
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(files), len(files), len(central), len(local), 0)
    return bytes(local + central + end)


def _listed(files: dict[str, bytes]) -> dict[str, str]:
    lines = files.get("SHA256SUMS", b"").decode("latin-1").split("\n")[:-1]
    return {line[66:]: line[:64] for line in lines}


def _check_sums(files: dict[str, bytes]) -> dict[str, str]:
    """Return the hash of each file after comparing the list of hashes with its only valid spelling."""
    if next(iter(files), "") != "SHA256SUMS":
        raise ValueError("not a bundle: its first file is not SHA256SUMS")
    if len(files.get("SHA256SUMS.sig", bytes(64))) != 64:
        raise ValueError("signature cannot be read: it has not 64 bytes")
    rest = [name for name in files if name not in ("SHA256SUMS", "SHA256SUMS.sig")]
    for name in _listed(files):
        if name not in rest:
            raise ValueError(f"file is missing: {name}")
    hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in rest}
    if files["SHA256SUMS"] != "".join(f"{hashes[name]}  {name}\n" for name in rest).encode():
        raise ValueError("list of hashes is not in the canonical form, or a file is not in it")
    return hashes


def _check_entries(manifest: Json, files: dict[str, bytes], hashes: dict[str, str]) -> None:
    """Check that the files are those that the manifest names, in the specified order, and that the texts are texts."""
    arrays = [array for golden in manifest["golden"] for array in (*golden["inputs"], *golden["outputs"])]
    named = [(item["name"], item["size"], item["sha256"]) for item in _stored(manifest)]
    for array in arrays:
        size = math.prod(array["shape"]) * np.dtype(DTYPES[array.get("dtype", "float32")]).itemsize
        named.append((array["file"], size, array["sha256"]))
    wanted = dict.fromkeys(["SHA256SUMS", "SHA256SUMS.sig", "manifest.json", *(name for name, _, _ in named), *TEXTS])
    optional = {"SHA256SUMS.sig", "certificate.html"}
    if list(files) != [name for name in wanted if name in files or name not in optional]:
        raise ValueError("files are missing, additional or out of order")
    for name, size, digest in named:
        if hashes[name] != digest or len(files[name]) != size:
            raise ValueError(f"manifest.json has another hash or size of {name}")
    for name in TEXTS[2:]:
        _need(len(files[name]) <= 1 << 20, f"text is too long: {name}")
        files[name].decode()


def _stored(manifest: Json) -> list[Json]:
    """Return the model files of a manifest, each followed by its sidecars."""
    return [stored for file in manifest["files"] for stored in (file, *file.get("beside", ()))]


def _check_certificate(data: bytes, manifest: Json, manifest_data: bytes) -> None:
    certificate = _parse_json(data, "certificate.json", 64 << 20)
    _need(
        isinstance(certificate, dict) and certificate.get("format") in CERTIFICATE_FORMATS,
        "certificate of another version",
    )
    files, rows, findings = certificate["files"], certificate["rows"], certificate.get("findings", [])
    tolerance = certificate.get("tolerance")
    is_first = certificate["format"] == CERTIFICATE_FORMATS[0]  # in which nothing is said about reproduction
    reproduction = certificate.get("reproduction", {}) if is_first else certificate["reproduction"]
    statements = certificate.get("manifest", {}) if is_first else certificate["manifest"]
    are_right = (
        isinstance(rows, list) and isinstance(findings, list),
        all(type(digest) is str for digest in files.values()),
        all(type(finding["severity"]) is str for finding in findings),
        tolerance is None or all(map(_is_number, tolerance.values())),
        isinstance(certificate.get("environment", {}), dict),
        all(type(item["state"]) is str for item in reproduction.values()),
        all(type(digest) is str for digest in statements.values()),
        type(certificate.get("unreproduced_allowed", True)) is bool,
        all(type(certificate[key]) is int for key in ("planned_rows", "failed_rows")),
    )
    _need(all(are_right), "certificate cannot be read")
    _need(certificate["verdict"] == "pass", "certificate did not pass")
    if not is_first:
        _need(reproduction.keys() >= {file["name"] for file in manifest["files"]}, "certificate is incomplete")
        for subject, digest in _statements(manifest_data):
            _need(statements.get(subject) == digest, f"certificate belongs to another manifest: {subject}")
    if not is_first and not certificate.get("unreproduced_allowed"):
        states = [item["state"] for item in reproduction.values()]
        _need(
            set(states) <= {"reproduced", "same structure"}, "certificate contradicts itself: a file was not reproduced"
        )
    for stored in _stored(manifest):
        _need(files.get(stored["name"]) == stored["sha256"], f"certificate belongs to another file: {stored['name']}")
    complete = certificate["planned_rows"] == len(rows) > 0 and certificate["failed_rows"] == 0
    passed = complete and all(map(_has_passed, rows)) and all(finding["severity"] != "error" for finding in findings)
    _need(passed, "certificate contradicts itself")


def _statements(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield each subject of a manifest, with the hash of what is said about it."""

    class Number(str):
        """A number as the manifest spells it."""

    def spelled(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{spelled(key)}: {spelled(value[key])}" for key in sorted(value)) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(spelled(item) for item in value) + "]"
        return value if isinstance(value, Number) else json.dumps(value)

    manifest = json.loads(data, parse_float=Number, parse_int=lambda text: Number("0" if text == "-0" else text))
    stated = {key: manifest[key] for key in ("contract", "opset", "versions", "provenance")}
    for file in manifest["files"]:
        stated[f"file {file['name']}"] = {key: file[key] for key in file if key not in ("inputs", "outputs")}
    stated |= {f"golden vectors of {part['part']}": part for part in manifest["golden"]}
    for subject, value in stated.items():
        yield subject, hashlib.sha256(spelled(value).encode()).hexdigest()


def _has_passed(row: Json) -> bool:
    """Whether a row of a certificate has passed, and has the figures of one that did."""
    pairs = [("error", "band")] + [("mean_error", "mean_band")] * ("mean_error" in row or "mean_band" in row)
    figures: list[tuple[Any, Any]] = [(row.get(error), row.get(band)) for error, band in pairs]
    within = all(_is_number(error) and _is_number(band) and bool(error <= band) for error, band in figures)
    grey = row.get("grey")
    _need(grey is None or isinstance(grey, dict), "certificate cannot be read")
    none = [row.get("outside"), None if grey is None else grey.get("unexplained")]
    counted = all(count is None or (_is_number(count) and count == 0) for count in none)
    return row["passed"] is True and within and row.get("fault") is None and counted


# ------------------------------------------------------------------------------------------------ the manifest (3)


def _need(is_right: object, what: str) -> None:
    if not is_right:
        raise ValueError(what)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_whole(value: object, lowest: int = 1) -> bool:
    """Whether a value is a whole number, written without a fraction, that a float64 holds exactly."""
    return type(value) is int and lowest <= value < 1 << 53


def _parse_json(data: bytes, name: str, limit: int) -> Any:
    """Parse JSON, and refuse what two parsers could read differently."""
    values = sum(map(data.count, (b",", b"[", b"{")))
    _need(len(data) <= limit and values <= MAX_VALUES, f"file is too large: {name}")

    def unique(pairs: list[tuple[str, Any]]) -> Json:
        _need(len(dict(pairs)) == len(pairs), "a key occurs twice")
        return dict(pairs)

    def finite(text: str) -> float:
        _need(math.isfinite(float(text)), "a number is too large")
        return float(text)

    def whole(text: str) -> float:
        _need(len(text) < 24 and abs(int(text)) < 1 << 64, "a number is too large")
        return int(text) if abs(int(text)) < 1 << 53 else float(text)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        document = json.loads(
            data.decode(), object_pairs_hook=unique, parse_float=finite, parse_int=whole, parse_constant=constant
        )
        json.dumps(document, ensure_ascii=False).encode()  # raises for half of a character
    except (ValueError, RecursionError) as error:
        raise ValueError(f"JSON cannot be read: {name}; {error}") from error
    level = [document]
    for _ in range(MAX_DEPTH):
        nodes = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [child for node in nodes for child in node]
    _need(not any(isinstance(node, dict | list) for node in level), f"JSON is nested too deep: {name}")
    return document


class Contract:
    """The contract of a manifest of either version (section 3), in the words of version 2.

    A tensor is an object with `name`, `dtype`, `shape` and `range`, where the first size of the shape is the batch.
    """

    def __init__(self, manifest: Json) -> None:
        _need(manifest["format"] in FORMATS, f"bundle of another version: {manifest['format']}")
        stated = dict(manifest["contract"])
        is_plain = manifest["format"] == FORMATS[0]
        if is_plain:
            stated = self._extended(
                **{key: stated[key] for key in ("image_shape", "image_range", "latent_shape", "prior")}
            ) | {"likelihood": stated.get("likelihood")}
        self.data: Json = stated["data"]
        self.output: Json = self.data if stated["output"] is None else stated["output"]
        self.latents: list[Json] = stated["latents"]
        self.conditions: list[Json] = stated["conditions"]
        self.symbols: dict[str, Json] = stated["symbols"]
        self.encoding, self.prior = stated["encoding"], stated["prior"]
        batch = self.symbols.get("N", {"min": 1, "max": None})
        self.fewest_rows, self.most_rows = batch["min"], batch["max"]
        self._batch = self.fewest_rows if self.fewest_rows == self.most_rows else "N"
        self._spread = self._check_likelihood(stated.get("likelihood"))
        self._check(stated)
        _need(is_plain == self._is_plain(stated), "contract is not of this version of the format")

    @staticmethod
    def _extended(image_shape: Any, image_range: Any, latent_shape: Any, prior: Any) -> Json:
        """Return a contract of version 1 in the form of version 2."""
        _need(
            type(image_shape) is list and len(image_shape) == 3 and type(latent_shape) is list, "shapes cannot be read"
        )
        _need(image_range is not None and prior == "standard normal", "range or prior cannot be read")
        data = {"name": "image", "dtype": "float32", "shape": ["N", *image_shape], "range": image_range}
        latent = {"name": "latent", "dtype": "float32", "shape": ["N", *latent_shape], "range": None}
        rest: Json = {"output": None, "conditions": [], "symbols": {}, "scaling_factor": 1, "shift_factor": 0}
        return {"data": data, "latents": [latent], "encoding": "gaussian", "prior": prior, **rest}

    @property
    def has_codes(self) -> bool:
        return bool(self.encoding == "codes")

    @property
    def range(self) -> list[float] | None:
        """The range of the pixels that are shown."""
        found: list[float] | None = self.output["range"] if self.output["range"] is not None else self.data["range"]
        return found

    def _check_likelihood(self, stated: Any) -> str:
        """Return the suffix of the decoder's second output; empty if there is none."""
        if stated is None:
            return ""
        name, is_fixed = stated["name"], stated["name"] == "gaussian-fixed"
        scale = stated["scale"] if is_fixed else stated.get("scale", 1)
        _need(
            name in LIKELIHOODS and _is_number(scale) and (scale > 0 if is_fixed else scale == 1),
            "likelihood cannot be read",
        )
        _need(name != "bernoulli" or self.data["range"] == [0, 1], "likelihood does not fit the range")
        return LIKELIHOODS[name]

    def _check(self, stated: Json) -> None:
        for bounds in self.symbols.values():
            low, high, usual = bounds["min"], bounds["max"], bounds["usual"]
            _need(_is_whole(low) and (high is None or _is_whole(high, low)), "bounds cannot be read")
            _need(usual is None or (_is_whole(usual, low) and (high is None or usual <= high)), "bounds cannot be read")
        tensors = [self.data, *([] if self.output is self.data else [self.output]), *self.latents, *self.conditions]
        used = {self._check_tensor(tensor, size) for tensor in tensors for size in (None, *tensor["shape"][1:])}
        _need(set(self.symbols) - {"N"} <= used, "a symbol is in no shape")
        data, output, latents = self.data, self.output, self.latents
        is_float = data["dtype"] == "float32"
        _need(output["dtype"] == "float32", "output cannot be read")
        for tensor in (data, output):
            bounds = tensor["range"]
            _need(len(tensor["shape"]) > 1 and (bounds is None or bounds[0] < bounds[1]), "data cannot be read")
        if not is_float:
            _need(data["range"][1] - data["range"][0] < 1 << 32, "integers as data cannot be read")
            _need(stated.get("likelihood") is None, "likelihood does not fit integers")
        if output is not data:
            is_same = is_float and output["shape"] == data["shape"]
            _need(output["name"] == (data["name"] if is_same else "output"), "output has another name")
            _need(not is_same or output["range"] != data["range"], "output does not differ from the data")
        _need(self.encoding in ("gaussian", "deterministic", "codes"), "encoding is not known")
        priors = ("uniform" if self.has_codes else "standard normal", "given by the user")
        _need(latents and self.prior in priors, "latents and prior do not fit")
        for latent in latents:
            kind = (latent["dtype"], latent["range"])
            _need(
                kind == (latents[0]["dtype"], latents[0]["range"]) and len(latent["shape"]) > 1, "latent cannot be read"
            )
            if self.has_codes:
                _need(kind[0] != "float32" and kind[1][0] == 0 and kind[1][1] < 1 << 32, "codes cannot be read")
            else:
                _need(kind == ("float32", None), "latent cannot be read")
        for item in self.conditions:
            parts = item["parts"]
            _need(
                type(parts) is list and parts and all(part in ("encoder", "decoder") for part in parts),
                "parts cannot be read",
            )
        _need(_is_number(stated["scaling_factor"]) and _is_number(stated["shift_factor"]), "scaling cannot be read")
        for part in FLOAT_PARTS:
            found = [tensor["name"] for tensors in self.tensors(part) for tensor in tensors]
            _need(len(set(found)) == len(found), "two tensors have one name")

    def _check_tensor(self, tensor: Json, size: object) -> str:
        """Check a tensor, or one of its sizes, and return the symbol in it; empty if there is none."""
        if size is None:
            name, dtype, bounds, batch = tensor["name"], tensor["dtype"], tensor["range"], tensor["shape"][0]
            _need(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) and dtype in DTYPES, "tensor cannot be read")
            _need(
                type(tensor["shape"]) is list and type(batch) is type(self._batch) and batch == self._batch,
                "batch cannot be read",
            )
            if bounds is not None:
                _need(
                    type(bounds) is list and len(bounds) == 2 and all(map(_is_number, bounds)), "range cannot be read"
                )
                _need(bounds[0] <= bounds[1], "range cannot be read")
            most = 1 << (31 if dtype == "int32" else 53)
            is_integer = bounds is not None and all(
                float(bound).is_integer() and max(1 - (1 << 53), -most) <= bound < most for bound in bounds
            )
            _need(dtype == "float32" or is_integer, "integers have no range")
        elif isinstance(size, str):
            factor, symbol, offset = _parse_size(size)
            _need(symbol in self.symbols and symbol != "N", f"size cannot be read: {size}")
            written = (f"{factor}*" if factor > 1 else "") + symbol + (f"{offset:+d}" if offset else "")
            _need(written == size, f"size cannot be read: {size}")
            return symbol
        else:
            _need(_is_whole(size), f"size cannot be read: {size}")
        return ""

    def _is_plain(self, stated: Json) -> bool:
        """Whether version 1 can express the contract."""
        data, latents = self.data, self.latents
        is_image = data["name"] == "image" and len(data["shape"]) == 4 and data["range"] is not None
        is_usual = [latent["name"] for latent in latents] == ["latent"] and self.encoding == "gaussian"
        scaling = (stated["scaling_factor"], stated["shift_factor"])
        return (
            is_image and is_usual and self.output is data and self.prior == "standard normal" and scaling == (1, 0)
            and not self.conditions and not self.symbols
        )  # fmt: skip

    def tensors(self, part: str) -> tuple[list[Json], list[Json]]:
        """Return the inputs and outputs of a part, in order."""
        only = "codes" if self.has_codes else "latent"
        alone = [latent["name"] for latent in self.latents] == [only]

        def each(name: str) -> list[Json]:
            return [latent | {"name": name if alone else f"{latent['name']}_{name}"} for latent in self.latents]

        def spread(name: str) -> list[Json]:
            second = {
                "name": f"{name}_{self._spread}",
                "dtype": "float32",
                "shape": self.output["shape"],
                "range": None,
            }
            return [second] if self._spread else []

        gaussian = self.encoding == "gaussian"
        encoded = (
            [tensor for pair in zip(each("mean"), each("logvar"), strict=True) for tensor in pair]
            if gaussian
            else self.latents
        )
        module = "decoder" if part in BYTE_PARTS else part
        given = [item for item in self.conditions if module == "autoencoder" or module in item["parts"]]
        batch, channels, *sizes = (
            (*self.output["shape"], None) if len(self.output["shape"]) == 1 else self.output["shape"]
        )
        layout = [batch, *sizes, channels] if part == BYTE_PARTS[0] else [batch, channels, *sizes]
        pixels = {"name": "pixels", "dtype": "uint8", "shape": layout, "range": [0, 255]}
        reconstruction = self.output | {"name": "reconstruction"}
        drawn = self.latents if gaussian else []
        everything = {
            "encoder": ([self.data, *given], encoded),
            "decoder": ([*self.latents, *given], [self.output, *spread(self.output["name"])]),
            "autoencoder": (
                [self.data, *(each("noise") if gaussian else []), *given],
                [reconstruction, *encoded, *drawn, *spread("reconstruction")],
            ),
        } | dict.fromkeys(BYTE_PARTS, ([*self.latents, *given], [pixels]))
        inputs, outputs = everything[part]
        return inputs, outputs

    def fits(self, shape: Sequence[int], tensor: Json, values: dict[str, int]) -> bool:
        """Whether sizes fit a tensor, with one value for each symbol, which is entered into `values`."""
        if len(shape) != len(tensor["shape"]):
            return False
        for found, size in zip(shape[1:], tensor["shape"][1:], strict=True):
            if isinstance(size, str):
                factor, symbol, offset = _parse_size(size)
                value, rest = divmod(found - offset, factor)
                if rest or value < 1 or values.setdefault(symbol, value) != value:
                    return False
            elif size != found:
                return False
        return True

    def item(self, tensor: Json) -> tuple[int, ...]:
        """Return the shape of one row of a tensor, with the usual value of each symbol."""
        return tuple(size if isinstance(size, int) else self._size(size) for size in tensor["shape"][1:])

    def _size(self, text: str) -> int:
        factor, symbol, offset = _parse_size(text)
        bounds = self.symbols[symbol]
        usual: int = bounds["usual"] or max(bounds["min"], min(8, bounds["max"] or 8))
        return factor * usual + offset

    def check_drawable(self) -> None:
        """Raise ValueError if no new images can be drawn: the data is no image, or the prior is not known."""
        name, shape = self.output["name"], self.output["shape"]
        if name != "image" or self.range is None or len(shape) != 4 or shape[1] not in (1, 2, 3, 4):
            raise ValueError(f"no images can be drawn: {name} {tuple(shape)} is no image of 1 to 4 channels")
        if self.prior == "given by the user":
            raise ValueError("no images can be drawn: the prior of the latents is not in the bundle")

    def draw(self, n: int, seed: int) -> dict[str, Array]:
        """Draw n latents or codes from the prior, by name (section 6). Several latents share one row."""
        items = [self.item(latent) for latent in self.latents]
        ends = np.cumsum([math.prod(item) for item in items])
        size = int(ends[-1])
        rows = sample_codes(n, size, self.latents[0]["range"][1] + 1, seed) if self.has_codes else sample(n, size, seed)
        pairs = zip(self.latents, np.split(rows, ends[:-1], axis=1), items, strict=True)
        return {latent["name"]: part.astype(latent["dtype"]).reshape(n, *item) for latent, part, item in pairs}

    def run(self, run: Run, part: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run a part on any number of rows. Larger batches than its bounds are cut, smaller ones repeat a row."""
        values: dict[str, int] = {}
        for tensor in self.tensors(part)[0]:
            _need(self.fits(inputs[tensor["name"]].shape, tensor, values), f"wrong shape: {tensor['name']}")
            check_numbers(inputs[tensor["name"]], tensor)
        rows = len(next(iter(inputs.values())))
        step = min(rows, self.most_rows or rows)
        pieces: list[dict[str, Array]] = []
        for start in range(0, rows, step):
            piece = {name: array[start : start + step] for name, array in inputs.items()}
            count = len(next(iter(piece.values())))
            index = np.minimum(np.arange(max(count, self.fewest_rows)), count - 1)
            outputs = run(part, {name: array[index] for name, array in piece.items()})
            pieces.append({name: array[:count] for name, array in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _parse_size(text: str) -> tuple[int, str, int]:
    """Parse a size such as "h", "8*h" or "4*t+1" into its factor, symbol and offset."""
    found = re.fullmatch(r"(?:([1-9]\d*)\*)?([A-Za-z][A-Za-z0-9_]*)([+-]\d+)?", text, re.ASCII)
    if found is None:
        raise ValueError(f"size cannot be read: {text}")
    factor, offset = int(found[1] or 1), int(found[3] or 0)
    _need(max(factor, abs(offset)) < 1 << 53, f"size cannot be read: {text}")
    return factor, found[2], offset


def _check_manifest(manifest: Json, contract: Contract) -> None:
    files, golden, versions, opset = (manifest[key] for key in ("files", "golden", "versions", "opset"))
    _need(manifest["precision"] == "float32", "inputs and outputs of another precision")
    _need(type(files) is list and files and type(golden) is list, "bundle has no model")
    _need(_is_whole(opset, 1 if any(file["format"] == "onnx" for file in files) else 0), "opset cannot be read")
    _need(isinstance(manifest["provenance"], dict), "provenance cannot be read")
    for text in (*versions.keys(), *versions.values()):
        _check_label(text)
    names, kinds = [], []
    for file in files:
        entries = file.get("without_vnni", {})
        for text in (
            file["format"],
            file.get("precision", "fp32"),
            file.get("machine", ""),
            *entries,
            *entries.values(),
        ):
            _check_label(text)
        beside = file.get("beside")
        _need("beside" not in file or (type(beside) is list and beside), "sidecars cannot be read")
        stem = file["name"].rpartition(".")[0] or file["name"]
        for stored in (file, *(beside or ())):
            name = stored["name"]
            _need(_NAME.fullmatch(name) and "/" not in name, f"file name is not allowed: {name!a}")
            _need(
                stored is file or ("." in name and name.rpartition(".")[0] == stem), f"sidecar has another name: {name}"
            )
            _need(
                _is_whole(stored["size"], 0) and type(stored["sha256"]) is str, f"size or hash cannot be read: {name}"
            )
            names.append(name.lower())
        _need(file["part"] in (*FLOAT_PARTS, *BYTE_PARTS), "part is not known")
        for kind, tensors in zip(("inputs", "outputs"), contract.tensors(file["part"]), strict=True):
            _need(type(file[kind]) is list and len(file[kind]) == len(tensors), f"{kind} do not match the contract")
            for found, tensor in zip(file[kind], tensors, strict=True):
                keys = ("name", "dtype", "shape", "range")
                _need(all(_equal(found[key], tensor[key]) for key in keys), f"{kind} do not match the contract")
                _need(all(type(size) in (int, str) for size in found["shape"]), f"{kind} do not match the contract")
        kinds.append((file["part"], file["format"], file.get("precision", "fp32")))
    reserved = [name.lower() for name in ("SHA256SUMS", "SHA256SUMS.sig", "manifest.json", *TEXTS)]
    _need(len({*names, *reserved}) == len(names) + len(reserved), "two files have one name")
    _need(len(set(kinds)) == len(kinds), "a part is there twice in one format and precision")
    parts = {"decoder" if file["part"] in BYTE_PARTS else file["part"] for file in files}
    _need(sorted(part["part"] for part in golden) == sorted(parts), "golden vectors do not match the files")
    for part in golden:
        _check_golden(part, contract)


def _equal(found: Any, expected: Any) -> bool:
    """Whether values are equal, where true is not 1."""
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_equal, found, expected))
    return isinstance(found, bool) == isinstance(expected, bool) and bool(found == expected)


def _check_label(text: Any) -> None:
    _need(type(text) is str and text.isprintable(), f"text cannot be shown: {text!a}")


def _check_golden(golden: Json, contract: Contract) -> None:
    """Check the golden vectors of a part (section 5)."""
    fewest, most = max(contract.fewest_rows, min(2, contract.most_rows or 2)), max(16, contract.fewest_rows)
    values: dict[str, int] = {}
    rows = golden["inputs"][0]["shape"][0]
    for kind, tensors in zip(("inputs", "outputs"), contract.tensors(golden["part"]), strict=True):
        _need(
            type(golden[kind]) is list and len(golden[kind]) == len(tensors), "golden vectors do not match the contract"
        )
        for array, tensor in zip(golden[kind], tensors, strict=True):
            shape, dtype, name = array["shape"], array.get("dtype", "float32"), array["file"]
            _need(type(shape) is list and shape and all(map(_is_whole, shape)), "golden shape cannot be read")
            _need(fewest <= shape[0] <= most and shape[0] == rows, "wrong number of golden rows")
            is_same = (array["tensor"], dtype) == (tensor["name"], tensor["dtype"])
            _need(
                dtype in DTYPES and is_same and contract.fits(shape, tensor, values),
                "golden vectors do not match the contract",
            )
            _need(_NAME.fullmatch(name) and name.startswith("golden/"), f"golden vector is elsewhere: {name}")
            for band in (array["band"], *array.get("bands", {}).values()) if kind == "outputs" else ():
                is_right = _is_number(band) and band > 0 if dtype == "float32" else _is_whole(band, 0)
                _need(is_right, f"tolerance cannot be read: {name}")


def describe_machine() -> Json:
    """Return the facts in which this machine and that of a recommendation must agree (section 3)."""
    info, stated = Path("/proc/cpuinfo"), dict[str, str]()
    for line in info.read_text("utf-8", "replace").splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        stated.setdefault(key.strip(), value.strip())
    flags = f"{stated.get('flags', '')} {stated.get('Features', '')}".split()  # Intel's, Arm's
    return {
        "processor": stated.get("model name") or platform.processor() or "not stated",
        "features": sorted(FEATURES & {*flags}),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


# ------------------------------------------------------------------------------------------------- random latents (6)


def sample(n: int, size: int, seed: int, start: int = 0) -> Array:
    """Draw n latents of `size` numbers from N(0, I), after skipping `start`; a seed gives the same bits everywhere."""
    return normal(_words(n * size, start * size, seed)).reshape(n, size)


def sample_codes(n: int, size: int, count: int, seed: int, start: int = 0) -> Array:
    """Draw n rows of `size` codes from 0 to count - 1, each equally likely."""
    words = _words(n * size, start * size, seed).astype(np.uint64)
    return (words * np.uint64(count) >> np.uint64(32)).astype(np.int64).reshape(n, size)


def _words(count: int, first: int, seed: int) -> Array:
    if not 0 <= seed < 2**64:
        raise ValueError(f"bad seed: {seed}; expected 0 to 2^64 - 1")
    blocks = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)
    zeros = np.zeros_like(blocks)
    words = philox((blocks & _LOW, blocks >> _HALF, zeros, zeros), seed)
    return np.stack(words, axis=1).ravel()[first % 4 : first % 4 + count]


_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: tuple[Array, Array, Array, Array], seed: int) -> tuple[Array, Array, Array, Array]:
    """Philox 4x32-10: encrypt counters of four words below 2^32 into random words (Salmon et al., SC'11)."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


# Wichura's AS 241, the coefficient of the highest power first.
A = (
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
    13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
)  # fmt: skip
B = (
    5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0,
)  # fmt: skip
C = (
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
)  # fmt: skip
D = (
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0,
)  # fmt: skip
ATANH = tuple(1 / odd for odd in range(23, 0, -2))


def normal(words: Array) -> Array:
    """Turn 32-bit words into standard normal numbers, as float32."""
    p = (words.astype(np.float64) + 0.5) / 4294967296
    q = p - 0.5
    r = 0.180625 - q * q
    numbers = (q * _horner(A, r)) / _horner(B, r)
    tail = np.abs(q) > 0.425
    r = np.sqrt(-_ln(np.where(q < 0, p, 1 - p)[tail])) - 1.6
    x = _horner(C, r) / _horner(D, r)
    numbers[tail] = np.where(q[tail] < 0, -x, x)
    return numbers.astype(np.float32)


def _ln(x: Array) -> Array:
    """The natural logarithm. numpy's would not do: no two libraries agree in the last bit."""
    x, k = x.copy(), np.zeros(len(x))
    while (small := x < 0.7071067811865476).any():
        x[small] *= 2
        k[small] += 1
    s = (x - 1) / (x + 1)
    return np.asarray((2 * s) * _horner(ATANH, s * s) - k * 0.6931471805599453)


def _horner(coefficients: tuple[float, ...], r: Array) -> Array:
    t = np.full_like(r, coefficients[0])
    for k in coefficients[1:]:
        t = t * r + k
    return t


# -------------------------------------------------------------------------------- pixels and the self-test (4, 5)


def to_levels(image: Array, low: float, high: float) -> Array:
    """Return the bytes that show pixels of the range [low, high]."""
    scaled = (image.astype(np.float64) - low) / (high - low) * 255
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Comparison:
    """The comparison of one output of an engine with its golden array.

    For integers `error` is the number of those that differ; for bytes, error and tolerance are in levels.
    `pixels` are the numbers of differing and of unexplained pixels; None for an output that is no image.
    """

    part: str
    output: str
    error: float
    tolerance: float
    pixels: tuple[int, int] | None

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance and (self.pixels is None or self.pixels[1] == 0)

    def __str__(self) -> str:
        grey = "" if self.pixels is None else ", {} pixels differ, {} unexplained".format(*self.pixels)
        return f"{self.part} {self.output}: worst error {self.error:.2e}, {self.tolerance:.2e} allowed{grey}"


def self_test(bundle: Bundle, run: Run, find: Callable[[str], Json | None] | None = None) -> list[Comparison]:
    """Run the golden inputs of every part that the bundle has as ONNX, and compare every output.

    `find(part)` returns the manifest's entry for the file that `run` runs, by default that of `Bundle.find_model`.
    """
    find, comparisons = find or bundle.find_model, []
    for golden in bundle.manifest["golden"]:
        inputs = {array["tensor"]: bundle.golden(array) for array in golden["inputs"]}
        if entry := find(golden["part"]):
            outputs = run(golden["part"], inputs)
            pairs = zip(golden["outputs"], entry["outputs"], strict=True)
            comparisons += [
                _compare(bundle, entry, item, outputs[item["tensor"]], tensor["range"]) for item, tensor in pairs
            ]
        for part in BYTE_PARTS if golden["part"] == "decoder" else ():
            if (entry := find(part)) and bundle.contract.range is not None:
                pixels = run(part, inputs)["pixels"]
                comparisons.append(_compare_bytes(bundle, entry, golden["outputs"][0], pixels, bundle.contract.range))
    return comparisons


def _compare(bundle: Bundle, entry: Json, item: Json, got: Array, bounds: list[float] | None) -> Comparison:
    part, name, tolerance, stored = (
        entry["part"],
        item["tensor"],
        tolerance_of(item, entry["precision"]),
        bundle.golden(item),
    )
    if got.shape != stored.shape:
        raise ValueError(f"wrong shape of {name}: expected {stored.shape}, got {got.shape}")
    if stored.dtype != np.float32:
        return Comparison(part, name, float((got != stored).sum()), tolerance, None)
    reference = stored.astype(np.float64)
    if not np.isfinite(got).all():
        return Comparison(part, name, math.inf, tolerance, None)
    error = float(np.abs(got - reference).max())
    pixels = _compare_levels(to_levels(got, *bounds), reference, tolerance, *bounds) if bounds else None
    return Comparison(part, name, error, tolerance, pixels)


def _compare_bytes(bundle: Bundle, entry: Json, item: Json, got: Array, bounds: list[float]) -> Comparison:
    """Compare the pixels of a decoder that gives bytes with the golden image."""
    low, high = bounds
    reference = bundle.golden(item).astype(np.float64)
    image = np.moveaxis(got, -1, 1) if entry["part"] == BYTE_PARTS[0] else got
    if image.shape != reference.shape:
        raise ValueError(f"wrong shape of pixels: got {got.shape}")
    tolerance = tolerance_of(item, entry["precision"])
    exact = np.clip((reference - low) / (high - low) * 255, 0, 255)
    error = float(np.maximum(np.abs(image - exact) - 0.5, 0).max())
    pixels = _compare_levels(image, reference, tolerance, low, high)
    return Comparison(entry["part"], "pixels", error, tolerance / (high - low) * 255, pixels)


def tolerance_of(output: Json, precision: str) -> float:
    """Return the largest error that a model file of this precision may have in a golden output; 0 if none is stated."""
    return float(output["band"] if precision == "fp32" else output.get("bands", {}).get(precision, 0))


def _compare_levels(level: Array, reference: Array, tolerance: float, low: float, high: float) -> tuple[int, int]:
    """Count the pixels of another level, and those that no value within the tolerance explains."""
    lowest, highest = (to_levels(reference + step, low, high) for step in (-tolerance, tolerance))
    unexplained = (level < lowest) | (level > highest)
    return int((level != to_levels(reference, low, high)).sum()), int(unexplained.sum())


def check_noise(bundle: Bundle) -> tuple[int, int]:
    """Return how many golden latents this reader draws bit for bit, and how many there are: those from row 2 on."""
    same = total = 0
    inputs = bundle.golden_inputs("decoder")
    for index, latent in enumerate(bundle.contract.latents if inputs else ()):
        array = inputs[latent["name"]]
        wanted = array.reshape(len(array), -1)[2:]
        n, size = wanted.shape
        seed = 2 * index
        has_codes = bundle.contract.has_codes
        drawn = sample_codes(n, size, latent["range"][1] + 1, seed) if has_codes else sample(n, size, seed)
        same += sum(
            row.tobytes() == other.tobytes() for row, other in zip(drawn.astype(wanted.dtype), wanted, strict=True)
        )
        total += n
    return same, total


def main(folder: str) -> None:
    """Say of every bundle in a folder whether this reader accepts it."""
    for path in sorted(Path(folder).glob("*.zip")):
        try:
            Bundle(path)
        except ValueError:
            print(f"{path.stem} refuse")
        else:
            print(f"{path.stem} accept")


if __name__ == "__main__":
    main(*sys.argv[1:])
