"""Measure `decode` of a million latents in one process, and on Ray with one actor and with two.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --rows 100000 --rounds 1

Every contender is the command as a user types it: a whole process with its start and, on Ray, that of a cluster. It
reads latents from an .npy file and writes 8-bit images into shards, which must be equal in all bytes. The contenders
take turns, so that a busy moment slows all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import vae_export

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "artifacts" / "reference" / "mnist.zip"
CONTENDERS = {
    "local, 1 thread": ("--threads", "1"),
    "local, 2 threads": ("--threads", "2"),
    "Ray, 1 actor": ("--threads", "1", "--engine", "ray", "--actors", "1"),
    "Ray, 2 actors": ("--threads", "1", "--engine", "ray", "--actors", "2"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Images per second of `decode`, local and on Ray.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="latents (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each of them runs (default: 3)")
    options = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    digests: dict[str, str] = {}
    with TemporaryDirectory(dir=ROOT / "artifacts") as folder:
        latents = Path(folder) / "latents.npy"
        np.save(latents, vae_export.load(BUNDLE).prior(options.rows))
        command = [sys.executable, str(ROOT / "cli.py"), "decode", str(latents), "--bundle", str(BUNDLE)]
        for _ in range(options.rounds):
            for name, more in CONTENDERS.items():
                out = Path(folder) / "out"
                started = time.perf_counter()
                typed = [*command, "--out", str(out), "--shards", "npy", "--levels", *more]
                subprocess.run(typed, check=True, capture_output=True, env=environment)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
                digests[name] = _digest(out)
                shutil.rmtree(out)
    print(f"{options.rows:,} latents{'median s':>14}{'min':>7}{'max':>7}{'images/s':>10}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:18}{median:12.1f}{min(times):7.1f}{max(times):7.1f}{options.rows / median:10,.0f}")
    same = len(set(digests.values())) == 1
    print("all wrote the same bytes" if same else f"they wrote different bytes: {digests}")
    return 0 if same else 1


def _digest(folder: Path) -> str:
    """Return a hash of the names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
