"""Measure how much memory export, verification and bundle of a large network take, step by step.

    python benchmarks/memory.py                              # 400 MB of weights
    python benchmarks/memory.py --megabytes 1100
    python benchmarks/memory.py --max-inside 100             # the weights beside the files, as above 2 GB
    python benchmarks/memory.py --part encoder --part decoder --part autoencoder

Each part of the network has two large linear layers. Memory is read from `/proc` (Linux) a hundred times a second: all
of it, and the anonymous part of it, which leaves out mapped files. A multiple of the weights counts all of it, with the
400 MB that Python takes with PyTorch and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
SIDE, LATENT = 28, 16
PARTS = ("encoder", "decoder")
#: The variable by which a child process knows the size of the network.
_MEGABYTES = "VAE_EXPORT_MEGABYTES"
#: Runs the command line with another limit of weights inside.
_RUN = """
import sys
from vae_export.formats import FORMATS
from vae_export.formats.onnx import Onnx
if int(sys.argv[1]):
    FORMATS["onnx"] = Onnx(int(sys.argv[1]) * 10**6)
from vae_export.cli.app import main
sys.argv[:2] = ["vae-export"]
sys.exit(main())
"""


class Encoder(nn.Module):
    """Images (N, 1, 28, 28) → mean and logvar, each (N, 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.ReLU()]
        layers += [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.mean, self.logvar = nn.Linear(width, LATENT), nn.Linear(width, LATENT)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """Latents (N, 16) → images (N, 1, 28, 28) in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(LATENT, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, SIDE * SIDE),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, SIDE, SIDE)),
        )

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.body(latent)
        return image


def large_vae() -> tuple[Encoder, Decoder]:
    """Return the encoder and the decoder with PyTorch's first weights, which take the given megabytes in all."""
    torch.manual_seed(0)
    width = int((float(os.environ[_MEGABYTES]) * 1e6 / 4 / 4) ** 0.5)
    return Encoder(width), Decoder(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=400, help="Weights of the encoder and the decoder.")
    parser.add_argument("--part", action="append", help="Parts to export: encoder and decoder, unless given.")
    parser.add_argument("--max-inside", type=int, default=0, help="Megabytes above which weights lie beside the file.")
    given = parser.parse_args()
    os.environ[_MEGABYTES] = str(given.megabytes)
    model = f"{Path(__file__).absolute()}:large_vae"
    weights = sum(tensor.nbytes for module in large_vae() for tensor in module.parameters())
    print(f"{weights / 1e6:,.0f} MB of weights")
    source = ["--model", model, "--data-shape", f"1x{SIDE}x{SIDE}"]
    with tempfile.TemporaryDirectory() as scratch:
        out = str(Path(scratch) / "export")
        parts = [argument for part in given.part or PARTS for argument in ("--part", part)]
        commands = {
            "export": ["export", *source, *parts, "--out", out],
            "verify": ["verify", *source, "--export", out],
            "bundle": ["bundle", "--export", out, "--out", str(Path(scratch) / "bundle.zip")],
        }
        for name, arguments in commands.items():
            _measure(name, [sys.executable, "-c", _RUN, str(given.max_inside), *arguments], weights)


def _measure(name: str, command: list[str], weights: int) -> None:
    """Run a command, and print the peak memory of each of its steps, which begin with a line of its progress."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1, env=environment
    )
    steps = ["start"]

    def follow() -> None:
        steps.extend(text for line in process.stderr or () if (text := line.strip()))

    reader = threading.Thread(target=follow)
    reader.start()
    peaks: dict[str, tuple[int, int]] = {}
    while process.poll() is None:
        rss, anonymous = _memory(process.pid)
        step = f"{len(steps):3} {steps[-1][:56]}"
        before = peaks.get(step, (0, 0))
        peaks[step] = max(rss, before[0]), max(anonymous, before[1])
        time.sleep(0.01)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{name} failed: {steps[-1]}")
    peaks["peak"] = max(rss for rss, _ in peaks.values()), max(anonymous for _, anonymous in peaks.values())
    print(f"\n{f'{name}, {time.perf_counter() - started:.0f} s':62}{'MB':>8}{'anonymous':>11}{'x weights':>11}")
    for step, (rss, anonymous) in peaks.items():
        print(f"{step:62}{rss / 1e6:8,.0f}{anonymous / 1e6:11,.0f}{rss / weights:11.2f}", flush=True)


def _memory(pid: int) -> tuple[int, int]:
    """Return the resident and the anonymous bytes of a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    found = [int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]
    return found[0], found[1]


if __name__ == "__main__":
    main()
