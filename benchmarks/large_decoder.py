"""Time the decoder of AutoencoderKL in every precision beside eager PyTorch and the file of `torch.onnx.export`.

    python benchmarks/large_decoder.py kl-small --pixels 256
    python benchmarks/large_decoder.py kl --pixels 256 --rounds 3

`kl` is diffusers' AutoencoderKL as in Stable Diffusion 1.x, with random weights, and `kl-small` the same with a quarter
of the channels. PyTorch's file has the sizes of the latent fixed, ours have them free. All sides take turns with one
thread, so that the time of the process is that of the computation. Ratios are medians over the rounds. Errors are in
grey levels of pictures in [-1, 1], against eager PyTorch.
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
import onnxruntime as ort
import torch
from scaling_verify import CHANNELS, ROOT, SAVE, run_measured

from vae_export import load
from vae_export.sources.load import load_source
from vae_export.system.hardware import describe_machine

#: The step of the network, and the levels of a picture in [-1, 1].
STEP, LEVELS = 8, 127.5
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(CHANNELS))
    parser.add_argument("--pixels", type=int, default=256, help="width and height of the picture")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder = Path(scratch)
        run_measured("-c", SAVE, str(folder / "model"), ",".join(map(str, CHANNELS[given.model])))
        size = given.pixels // STEP
        latent = np.random.default_rng(0).standard_normal((1, 4, size, size), dtype=np.float32)
        sides = _sides(folder, latent)
        print(f"{describe_machine()['processor']}, {given.model}, {given.pixels} x {given.pixels}, one thread")
        pictures = {name: run(latent) for name, run in sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, run in sides.items():
                started = time.process_time()
                run(latent)
                seconds[name].append(time.process_time() - started)
        print(f"{'':24}{'seconds':>9}{'times eager':>13}{'worst level':>13}{'mean level':>12}")
        for name, taken in seconds.items():
            error = np.abs(pictures[name].clip(-1, 1) - pictures["eager"].clip(-1, 1)) * LEVELS
            faster = statistics.median(eager / own for eager, own in zip(seconds["eager"], taken, strict=True))
            print(f"{name:24}{statistics.median(taken):9.2f}{faster:13.2f}{error.max():13.3f}{error.mean():12.4f}")


def _sides(folder: Path, latent: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return functions from a latent to a picture: eager, PyTorch's own file, and our files."""
    named = f"diffusers:{folder / 'model'}"
    module = load_source(named).recognised.decoder
    if module is None:
        raise SystemExit("the model has no decoder")
    module = module.eval()
    torch.onnx.export(module, (torch.from_numpy(latent),), str(folder / "alone.onnx"), dynamo=True, verbose=False)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    alone = ort.InferenceSession(folder / "alone.onnx", settings, providers=["CPUExecutionProvider"])
    name = alone.get_inputs()[0].name
    sides: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "eager": lambda latent: module(torch.from_numpy(latent)).numpy(),
        "torch.onnx.export": lambda latent: alone.run(None, {name: latent})[0],
    }
    for precision in PRECISIONS:
        out = folder / precision
        command = ["export", "--model", named, "--part", "decoder", "--precision", precision, "--out", str(out)]
        result = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *command, "--verify-minutes", "0.2"],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            print(f"{precision}: exit {result.returncode}, {result.stderr.splitlines()[-1]}")
            continue
        sides[f"ours, {precision}"] = load(out, threads=1).decode
    return sides


if __name__ == "__main__":
    main()
