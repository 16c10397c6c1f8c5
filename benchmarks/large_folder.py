"""Measure the memory that a training takes whose images are in a large folder, in memory and on the disk.

    python benchmarks/large_folder.py [--count 100000] [--side 32] [--folder FOLDER] [--in-memory no yes] [--limit 1800]

Writes so many crops of photographs (`crops.py`) as PNG files, unless the folder has them already, and trains a small
network for one epoch on a tenth of them and on all, in a process of its own. The peak of its memory is read from
/proc/PID/status every 20 ms: anonymous memory, which nothing but the process's end frees, and mapped files, which the
system drops and reads again where others need room. Linux only. Prints Markdown. Each training has `--limit` seconds.

Exits 1 if anonymous memory with images on the disk grows by more than 2 KB for each picture: so much their names and
the like take, whatever the size of the pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crops import crops
from PIL import Image

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
#: A network that takes little memory and time, so that the images are what is measured.
NETWORK = ["--family", "mlp", "--hidden-size", "64", "--latent-size", "8", "--epochs", "1", "--threads", "1"]
#: Bytes of memory that a picture on the disk may take.
BYTES_PER_PICTURE = 2048
#: Crops that are cut at a time, and files in a folder.
CHUNK = 5000


@dataclass(frozen=True)
class Measured:
    """One training.

    Attributes:
        anonymous, mapped: peaks of memory in bytes.
        seconds: of the whole command.
        images_per_second: of its steps.
    """

    anonymous: int
    mapped: int
    seconds: float
    images_per_second: float


def write_images(folder: Path, count: int, side: int) -> None:
    """Write crops of photographs, the first tenth to a subfolder of its own."""
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        dataset = crops(side, size, seed=start)
        images = [image for split in ("train", "validation", "test") for image in dataset.split(split)]
        for index, image in enumerate(images[:size], start=start):
            file = folder / ("first" if index < count // 10 else f"others-{start:06d}") / f"{index:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, compress_level=1)
        print(f"{min(count, start + CHUNK):,} of {count:,} files written", file=sys.stderr, flush=True)


def train(folder: Path, side: int, in_memory: str, limit: float) -> Measured:
    """Train on a folder and return the peaks of memory."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [*CLI, "train", "--dataset", "folder", "--data-dir", str(folder), "--image-size", str(side)]
        command += [*NETWORK, "--in-memory", in_memory, "--out", str(run), "--json"]
        started = time.perf_counter()
        anonymous = mapped = 0
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process,
        ):
            while process.poll() is None:
                now = _memory(process.pid)
                anonymous, mapped = max(anonymous, now["RssAnon"]), max(mapped, now["RssFile"])
                if time.perf_counter() - started > limit:
                    process.terminate()
                    raise SystemExit(f"no result after {limit:.0f} s: pass a smaller --count or a larger --limit")
                time.sleep(0.02)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(f"train ended with exit code {process.returncode}: {errors.read().strip()}")
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        return Measured(anonymous, mapped, time.perf_counter() - started, line["images_per_second"])


def _memory(pid: int) -> dict[str, int]:
    """Return the memory of a process in bytes, zeros after its end."""
    found = {"RssAnon": 0, "RssFile": 0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="keep the files there, or take those that are there")
    parser.add_argument("--in-memory", nargs="+", choices=("yes", "no"), default=["no", "yes"])
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that each training may take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        folder = options.folder or Path(scratch) / "images"
        if not folder.exists():
            write_images(folder, options.count, options.side)
        counts = {"first": options.count // 10, "": options.count}
        print(f"| pixels are | images of {options.side} x {options.side} | their pixels | peak, anonymous |", end="")
        print(" peak, mapped files | whole command | steps |\n|---|---|---|---|---|---|---|")
        failed = False
        for mode in options.in_memory:
            peaks = []
            for part, count in counts.items():
                found = train(folder / part, options.side, mode, options.limit)
                pixels = count * 3 * options.side**2
                peaks.append(found.anonymous)
                where = "in memory" if mode == "yes" else "on the disk"
                sizes = [f"{size / 1e6:,.0f} MB" for size in (pixels, found.anonymous, found.mapped)]
                speed = f"{found.images_per_second:,.0f} images/s"
                print(f"| {where} | {count:,} | {' | '.join(sizes)} | {found.seconds:.0f} s | {speed} |", flush=True)
            growth = (peaks[-1] - peaks[0]) / (counts[""] - counts["first"])
            failed |= mode == "no" and growth > BYTES_PER_PICTURE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
