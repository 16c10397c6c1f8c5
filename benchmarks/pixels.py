"""Compare a decoder that returns bytes with decoding to float32 and rounding with numpy.

    python benchmarks/pixels.py
    python benchmarks/pixels.py artifacts/mnist-mlp --rounds 50

Exports the decoder of a run, or of a freshly initialised `mlp`, with `--pixels uint8-hwc`. Both ways end with the
bytes of a canvas, (N, H, W, C) uint8. ONNX Runtime has one thread; where its file returns float32, numpy rounds in the
fastest way that it has. They take turns, and ratios are taken within a round: the median, with quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from untrained import initialised

from vae_export import open_artifact
from vae_export.contract import MAX_LEVEL, PIXELS, Array
from vae_export.runtime.session import Session
from vae_export.session_options import SessionOptions

ROOT = Path(__file__).parent.parent
BATCHES = (1, 64, 4096)
FUSED = PIXELS["uint8-hwc"]
#: Duration of one measurement: shorter calls are repeated.
SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder; default: a freshly initialised mlp")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = given.run / "checkpoint.safetensors" if given.run else initialised(folder)
        _export(checkpoint, folder / "export")
        artifact = open_artifact(folder / "export")
        contract = artifact.manifest.contract
        floats, fused = (
            Session(artifact.read(artifact.entry(part)), contract.spec(part), SessionOptions(threads=1))
            for part in ("decoder", FUSED)
        )
    print(f"{'batch':>6}{'decode':>12}{'and round':>12}{'fused':>12}{'saved':>12}   times as fast")
    for batch in BATCHES:
        latent = np.random.default_rng(0).standard_normal((batch, *contract.latent_shape)).astype(np.float32)
        ways = (
            lambda latent=latent: floats.run({"latent": latent})["image"],
            lambda latent=latent: rounded(floats.run({"latent": latent})["image"], *contract.image_range),
            lambda latent=latent: fused.run({"latent": latent})["pixels"],
        )
        _check(ways[1](), ways[2]())
        print(_line(batch, *_measured(ways, given.rounds)))


def rounded(image: Array, low: float, high: float) -> Array:
    """Return (N, H, W, C) uint8 for an image (N, C, H, W) float32; it works in place and allocates only the bytes."""
    scaled = image - np.float32(low) if low else image
    scaled *= np.float32(MAX_LEVEL / (high - low))
    scaled += np.float32(0.5)
    np.clip(scaled, 0, MAX_LEVEL, out=scaled)
    return np.ascontiguousarray(np.moveaxis(scaled.astype(np.uint8), 1, -1))


def _measured(ways: tuple[Callable[[], Array], ...], rounds: int) -> list[list[float]]:
    """Return the seconds of a call of each way in each round."""
    calls = []
    for way in ways:  # the first call of a batch size sets up memory
        way()
        started = time.perf_counter()
        way()
        calls.append(max(1, round(SECONDS / (time.perf_counter() - started))))
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):  # in turns, so that a busy moment slows all of them
        for way, times, found in zip(ways, calls, seconds, strict=True):
            started = time.perf_counter()
            for _ in range(times):
                way()
            found.append((time.perf_counter() - started) / times)
    return seconds


def _line(batch: int, decode: list[float], both: list[float], fused: list[float]) -> str:
    ratios = [one / other for one, other in zip(both, fused, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    saved = statistics.median(one - other for one, other in zip(both, fused, strict=True))
    shown = (statistics.median(decode), statistics.median(both), statistics.median(fused), saved)
    figures = "".join(f"{seconds * 1e6:9,.1f} µs" for seconds in shown)
    return f"{batch:6}{figures}   {middle:.2f} ({low:.2f} to {high:.2f})"


def _check(one: Array, other: Array) -> None:
    """Exit unless both ways give the same bytes, but for pixels on the boundary of two levels."""
    difference = np.abs(one.astype(int) - other)
    if one.shape != other.shape or difference.max() > 1 or (difference > 0).mean() > 1e-3:
        sys.exit("the two ways give different bytes")


def _export(checkpoint: Path, out: Path) -> None:
    options = ["--part", "decoder", "--pixels", "uint8-hwc", "--out", out]
    command = [sys.executable, ROOT / "cli.py", "export", "--checkpoint", checkpoint, *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


if __name__ == "__main__":
    main()
