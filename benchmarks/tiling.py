"""Decode large pictures tile by tile: seconds, peak memory, and the deviation from decoding the whole.

    python benchmarks/tiling.py kl-small --pixels 512
    python benchmarks/tiling.py kl --pixels 2048 --no-whole

`kl` is diffusers' AutoencoderKL as in Stable Diffusion 1.x, with random weights, and `kl-small` the same with a quarter
of the channels. Our runtime and diffusers' own tiling take the same tiles of the same latent, each in a process of its
own, with one thread. Deviations are in grey levels of pictures in [-1, 1]; `--no-whole` leaves out what needs them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scaling_verify import CHANNELS, ROOT, SAVE, run_measured

#: The step of the network, and the levels of a picture in [-1, 1].
STEP, LEVELS = 8, 127.5

#: Decodes with our runtime.
_OURS = """
import sys
import numpy as np
import vae_export
folder, latent, out, tile, overlap = sys.argv[1:]
options = {} if tile == "0" else {"tile": int(tile), "overlap": int(overlap)}
np.save(out, vae_export.load(folder, threads=1).decode(np.load(latent), **options))
"""
#: Decodes with diffusers.
_DIFFUSERS = """
import sys
import numpy as np, torch
from vae_export.system.torchvision_operators import import_torchvision
import_torchvision()
from diffusers import AutoencoderKL
folder, latent, out, tile, overlap = sys.argv[1:]
torch.set_num_threads(1)
vae = AutoencoderKL.from_pretrained(folder).eval()
if tile != "0":
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = int(tile), 8 * int(tile)
    vae.tile_overlap_factor = int(overlap) / int(tile)
with torch.inference_mode():
    np.save(out, vae.decode(torch.from_numpy(np.load(latent))).sample.numpy())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(CHANNELS))
    parser.add_argument("--pixels", type=int, default=512, help="width and height of the picture")
    parser.add_argument("--tile", type=int, default=32, help="width and height of a tile of the latent")
    parser.add_argument("--overlap", type=int, default=8)
    parser.add_argument("--no-whole", action="store_true", help="do not decode the whole picture at once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, export, latent = folder / "model", folder / "export", folder / "latent.npy"
        run_measured("-c", SAVE, str(model), ",".join(map(str, CHANNELS[given.model])))
        command = ["export", "--model", f"diffusers:{model}", "--part", "decoder", "--verify-minutes", "0.2"]
        run_measured(str(ROOT / "cli.py"), *command, "--out", str(export))
        size = given.pixels // STEP
        np.save(latent, np.random.default_rng(0).standard_normal((1, 4, size, size), dtype=np.float32))
        print(f"{given.model}, {given.pixels} x {given.pixels}, tiles of {given.tile} with {given.overlap} shared")
        print(f"{'':22}{'seconds':>9}{'peak GB':>9}{'worst level':>13}{'mean level':>12}")
        for name, code, source in (("ours", _OURS, export), ("diffusers", _DIFFUSERS, model)):
            whole: np.ndarray | None = None
            for way in ("tiled",) if given.no_whole else ("whole", "tiled"):
                tile = given.tile if way == "tiled" else 0
                out = folder / f"{name}-{way}.npy"
                arguments = [str(source), str(latent), str(out), str(tile), str(given.overlap)]
                seconds, _, memory = run_measured("-c", code, *arguments)
                picture = np.load(out).clip(-1, 1)
                error = None if whole is None else np.abs(picture - whole) * LEVELS
                whole = picture if way == "whole" else whole
                deviation = f"{'-':>13}{'-':>12}" if error is None else f"{error.max():13.2f}{error.mean():12.3f}"
                print(f"{name + ', ' + way:22}{seconds:9.1f}{memory:9.2f}{deviation}", flush=True)


if __name__ == "__main__":
    main()
