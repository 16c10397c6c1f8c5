"""python main.py BUNDLE [PICTURE [SEED]] tests the bundle on this machine, then writes 16 new images to PICTURE."""

from __future__ import annotations

import os
import sys
import time

started = time.perf_counter()
os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # must be set before the import: it reports the models that it opens to Microsoft

import onnxruntime as ort  # noqa: E402 - the clock runs while these are loaded
from bundle import Array, Bundle, check_noise, self_test, to_levels  # noqa: E402


class Engine:
    """Runs the parts of a bundle. A part's session is opened when it is first used."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._sessions: dict[str, ort.InferenceSession] = {}

    def run(self, part: str, inputs: dict[str, Array]) -> dict[str, Array]:
        if part not in self._sessions:
            self._sessions[part] = ort.InferenceSession(self._bundle.model(part), providers=["CPUExecutionProvider"])
        session = self._sessions[part]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def draw(self, n: int, seed: int) -> Array:
        """Draw n new images, (n, C, H, W)."""
        contract = self._bundle.contract
        inputs = contract.draw(n, seed) | self._bundle.conditions("decoder", n)
        return contract.run(self.run, "decoder", inputs)["image"]


def write_picture(path: str, images: Array, columns: int) -> None:
    """Write images, bytes (N, C, H, W), as a grid: PGM, PPM for three channels, PAM for two or four."""
    n, channels, height, width = images.shape
    grid = images.reshape(n // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    w, h = columns * width, n // columns * height
    header = f"{'P6' if channels == 3 else 'P5'}\n{w} {h}\n255\n"
    if channels in (2, 4):
        kind = "GRAYSCALE_ALPHA" if channels == 2 else "RGB_ALPHA"
        header = f"P7\nWIDTH {w}\nHEIGHT {h}\nDEPTH {channels}\nMAXVAL 255\nTUPLTYPE {kind}\nENDHDR\n"
    with open(path, "wb") as file:
        file.write(header.encode() + grid.tobytes())


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
    comparisons = self_test(bundle, engine.run)
    print(*comparisons, sep="\n")

    if picture is not None:
        write_picture(picture, to_levels(engine.draw(16, seed), *bundle.contract.output["range"]), columns=4)
        print(f"wrote {picture}")
    passed = same == total and bool(comparisons) and all(comparison.passed for comparison in comparisons)
    print("pass" if passed else "FAIL")
    return passed


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(f"usage: {sys.argv[0]} BUNDLE [PICTURE [SEED]]")
    try:
        sys.exit(0 if main(*sys.argv[1:]) else 1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
