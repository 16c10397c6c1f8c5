"""python main.py BUNDLE [PICTURE.png [SEED]] tests the bundle on this machine, then writes 16 new images to PICTURE."""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

started = time.perf_counter()
# Without it, ONNX Runtime reports the models that it opens to Microsoft. It reads it when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np  # noqa: E402 - the clock runs while these are loaded
import onnxruntime as ort  # noqa: E402
from bundle import Array, Bundle, Json, check_noise, self_test, to_levels  # noqa: E402

#: What the settings that a bundle recommends (section 3) are in ONNX Runtime.
LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
SWITCHES: dict[str, Callable[[ort.SessionOptions], None]] = {
    "no-spinning": lambda options: options.add_session_config_entry("session.intra_op.allow_spinning", "0"),
    "parallel": lambda options: setattr(options, "execution_mode", ort.ExecutionMode.ORT_PARALLEL),
    "no-arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no-pattern": lambda options: setattr(options, "enable_mem_pattern", False),
}


class Engine:
    """Runs the parts of a bundle, as it recommends for this machine. A session is opened when it is first used."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._advice = {part: bundle.recommendation(part) for part in bundle.parts}
        self._sessions: dict[str, ort.InferenceSession] = {}

    def run(self, part: str, inputs: dict[str, Array]) -> dict[str, Array]:
        if part not in self._sessions:
            self._sessions[part] = self._open(part)
        session = self._sessions[part]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def find(self, part: str) -> Json | None:
        """Return the manifest's entry for the file that runs a part."""
        file, _ = self._advice.get(part) or (None, None)
        return file or self._bundle.find_model(part)

    def options(self, part: str) -> ort.SessionOptions:
        """Return the session options of a part: those that the bundle recommends, or the defaults of ONNX Runtime."""
        options = ort.SessionOptions()
        _, advice = self._advice.get(part) or (None, None)
        if advice is not None:
            options.intra_op_num_threads = advice["threads"]
            options.graph_optimization_level = LEVELS[advice["optimisation"]]
            for switch in advice["switches"]:
                SWITCHES[switch](options)
        return options

    def _open(self, part: str) -> ort.InferenceSession:
        entry, options = self.find(part), self.options(part)
        if entry is None:
            raise ValueError(f"bundle has no {part} as onnx")
        beside = [(stored["name"], self._bundle.files[stored["name"]]) for stored in entry.get("beside", ())]
        if beside:  # weights that are too large for one file
            names, contents = zip(*beside, strict=True)
            options.add_external_initializers_from_files_in_memory(names, contents, [len(data) for data in contents])
        if entry.get("without_vnni") and not has_vnni():
            for key, value in entry["without_vnni"].items():
                options.add_session_config_entry(key, value)
            if options.graph_optimization_level in (LEVELS["disabled"], LEVELS["basic"]):
                options.graph_optimization_level = LEVELS["extended"]
        return ort.InferenceSession(self._bundle.files[entry["name"]], options, providers=["CPUExecutionProvider"])

    def draw(self, n: int, seed: int) -> Array:
        """Draw n new images as bytes, (n, H, W, C), with the decoder that gives bytes if there is one."""
        bundle, contract = self._bundle, self._bundle.contract
        inputs = contract.draw(n, seed) | bundle.conditions("decoder", n)
        for part in ("decoder-uint8-hwc", "decoder-uint8-chw"):
            if part in bundle.parts:
                pixels = contract.run(self.run, part, inputs)["pixels"]
                return pixels if part == "decoder-uint8-hwc" else np.moveaxis(pixels, 1, -1)
        image = contract.run(self.run, "decoder", inputs)["image"]
        low, high = contract.range or (0, 1)
        return np.moveaxis(to_levels(image, low, high), 1, -1)


def has_vnni() -> bool:
    """Whether an x86-64 processor multiplies bytes without overflow (section 3); other processors always do."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return platform.machine() not in ("x86_64", "AMD64") or re.search(r"\b(avx512_vnni|avx_vnni)\b", flags) is not None


def printable(text: str) -> str:
    """Return a stranger's text in a form that a terminal can show: it may hold control sequences."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def write_png(path: str, images: Array, columns: int) -> None:
    """Write images, bytes (N, H, W, C), as a grid of one PNG file; the last of 2 or 4 channels is opacity."""
    n, height, width, channels = images.shape
    grid = images.reshape(n // columns, columns, height, width, channels).swapaxes(1, 2)
    lines = grid.reshape(n // columns * height, columns * width * channels)
    unfiltered = np.insert(lines, 0, 0, axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", columns * width, len(lines), 8, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    chunks: list[tuple[bytes, Any]] = [(b"IHDR", header), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks))


def main(path: str, picture: str | None = None, text: str = "0") -> bool:
    if not text.isdecimal():
        raise ValueError(f"bad seed: {text}; expected 0 to 2^64 - 1")
    seed = int(text)
    bundle = Bundle(path)
    engine = Engine(bundle)
    if picture is not None:
        bundle.contract.check_drawable()
        engine.draw(1, seed)
        print(f"first image {time.perf_counter() - started:.3f} s after the start", flush=True)

    same, total = check_noise(bundle)
    print(f"noise: {same} of {total} golden latents bit for bit")
    comparisons = self_test(bundle, lambda part, inputs: bundle.contract.run(engine.run, part, inputs), engine.find)
    if not comparisons:
        raise ValueError("bundle has no part as onnx")
    print(*comparisons, sep="\n")

    if picture is not None:
        write_png(picture, engine.draw(16, seed), columns=4)
        print(f"wrote {picture}")
    passed = same == total and all(comparison.passed for comparison in comparisons)
    print("pass" if passed else "FAIL")
    return passed


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(f"usage: {sys.argv[0]} BUNDLE [PICTURE.png [SEED]]")
    try:
        sys.exit(0 if main(*sys.argv[1:]) else 1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable(str(error))}")
