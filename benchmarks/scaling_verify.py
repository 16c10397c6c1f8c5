"""Measure how export and verification follow the size of a network: seconds and peak memory of whole processes.

    python benchmarks/scaling_verify.py conv-64
    python benchmarks/scaling_verify.py kl-small kl

`conv-64` is the VAE of `conv_vae.py`; `kl` is diffusers' AutoencoderKL as in Stable Diffusion 1.x, with random weights,
and `kl-small` the same with a quarter of the channels. `torch.onnx.export` alone, of the encoder and the decoder with
fixed sizes, is measured beside them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHANNELS = {"kl": (128, 256, 512, 512), "kl-small": (32, 64, 128, 128)}

#: Saves the network for `--model diffusers:`.
SAVE = """
import sys, torch
from vae_export.system.torchvision_operators import import_torchvision
import_torchvision()
from diffusers import AutoencoderKL
torch.manual_seed(0)
channels = tuple(map(int, sys.argv[2].split(",")))
AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=channels, layers_per_block=2, latent_channels=4, norm_num_groups=32, sample_size=64,
).save_pretrained(sys.argv[1])
"""
#: Writes encoder and decoder with PyTorch's exporter, and checks nothing.
_ALONE = """
import sys, torch
from pathlib import Path
from vae_export.sources.load import load_source
source = load_source(sys.argv[1], data_shape=sys.argv[3] or None)
contract = source.contract.at()
inputs = {"encoder": contract.data, "decoder": contract.latents[0]}
for part, tensor in inputs.items():
    module = getattr(source.recognised, part).eval()
    example = (torch.zeros(1, *tensor.fixed_item),)
    torch.onnx.export(module, example, str(Path(sys.argv[2]) / f"{part}.onnx"), dynamo=True)
"""


def main() -> None:
    names = sys.argv[1:] or ["conv-64"]
    print(f"{'':42}{'seconds':>9}{'CPU s':>9}{'peak GB':>9}")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            _measure(name, Path(scratch))


def _measure(name: str, folder: Path) -> None:
    if name in CHANNELS:
        model, shape = f"diffusers:{folder / 'model'}", ""
        run_measured("-c", SAVE, str(folder / "model"), ",".join(map(str, CHANNELS[name])))
        parts = ["--part", "encoder", "--part", "decoder"]
    else:
        model, shape, parts = f"{ROOT / 'benchmarks' / 'conv_vae.py'}:conv_vae", "3x64x64", []
    given = ["--model", model, *(["--data-shape", shape] if shape else [])]
    out, cli = str(folder / "export"), str(ROOT / "cli.py")
    _print(f"{name}, torch.onnx.export alone", run_measured("-c", _ALONE, model, str(folder), shape))
    _print(f"{name}, export with certificate", run_measured(cli, "export", *given, *parts, "--out", out))
    _print(f"{name}, verify", run_measured(cli, "verify", *given, "--export", out))
    _print(f"{name}, bundle", run_measured(cli, "bundle", "--export", out, "--out", str(folder / "bundle.zip")))


def run_measured(*arguments: str) -> tuple[float, float, float]:
    """Run a command; return its seconds, its seconds of CPU time, and its peak memory in GB."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} failed")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, cpu, usage.ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def _print(what: str, figures: tuple[float, float, float]) -> None:
    seconds, cpu, memory = figures
    print(f"{what:42}{seconds:9.1f}{cpu:9.1f}{memory:9.2f}", flush=True)


if __name__ == "__main__":
    main()
