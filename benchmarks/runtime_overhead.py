"""Measure what the runtime adds to ONNX Runtime: `load(...).decode` beside `InferenceSession.run` on the same arrays.

    python benchmarks/runtime_overhead.py
    python benchmarks/runtime_overhead.py artifacts/mnist.zip --precision int8

The calls alternate, so that both sides meet the same load. With one thread all work is done by the caller's, so that
the time of its processor is measured, without the waits of a busy machine. The ratio is that of the medians over all
pairs; beside it stands the ratio of the lowest tenths.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vae_export import load
from vae_export.precision import PrecisionName
from vae_export.runtime.model import open_package
from vae_export.session_options import CPU
from vae_export.system.hardware import describe_machine

ROOT = Path(__file__).parent.parent
BATCHES = (1, 8, 64, 256, 1024, 4096)
#: Calls that are not timed before each one that is.
WARM = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", nargs="?", type=Path, default=ROOT / "artifacts" / "reference" / "mnist.zip")
    parser.add_argument("--precision", help="precision of the file")
    given = parser.parse_args()
    model = load(given.export, precision=given.precision, threads=1)
    session = bare_session(given.export, model.running("decoder").precision)
    (latent,), output = model.contract.latents, model.contract.output.name
    machine = describe_machine()
    print(f"{machine['processor']}, load average {machine['load_average']}")
    print(f"{'batch':>6}{'decode, µs':>14}{'session, µs':>14}{'ratio':>8}{'of lowest tenths':>18}")
    for batch in BATCHES:
        array = latent.draw(batch, np.random.default_rng(0))
        sides = partial(model.decode, array), partial(session.run, [output], {latent.name: array})
        ours, bare = seconds_in_turn(*sides, pairs=max(40, min(4000, 60_000 // batch)))
        (ours_low, ours_mid), (bare_low, bare_mid) = (np.percentile(side, [10, 50]) for side in (ours, bare))
        print(
            f"{batch:>6}{ours_mid * 1e6:>14,.1f}{bare_mid * 1e6:>14,.1f}{ours_mid / bare_mid:>8.2f}"
            f"{ours_low / bare_low:>18.2f}"
        )


def bare_session(export: Path, precision: PrecisionName) -> ort.InferenceSession:
    """Open the decoder's file as an application without this library does, with one thread."""
    package = open_package(export)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    data = package.read(package.manifest.entry("decoder", precision=precision))
    return ort.InferenceSession(data, settings, providers=[CPU])


def seconds_in_turn(*sides: Callable[[], object], pairs: int) -> list[list[float]]:
    """Time each side in turn, `pairs` times, after calls that bring its data into the cache."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(pairs):
        for side, seconds in zip(sides, taken, strict=True):
            for _ in range(WARM):
                side()
            started = time.thread_time()
            side()
            seconds.append(time.thread_time() - started)
    return taken


if __name__ == "__main__":
    main()
