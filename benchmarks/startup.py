"""Measure how fast the command line and the library start, as whole processes.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS = 15


def main() -> None:
    commands = {
        "python -c pass": ["-c", "pass"],
        "python cli.py --help": [str(ROOT / "cli.py"), "--help"],
        "import vae_export": ["-c", "import vae_export"],
        "vae_export.load": ["-c", "import vae_export; vae_export.load"],
        "import torch": ["-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):  # in turns, so that a busy moment slows all of them
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    bare = statistics.median(seconds["python -c pass"])
    print(f"{'':24}{'median ms':>10}{'min':>8}{'max':>8}{'less bare python':>18}")
    for name, times in seconds.items():
        median, low, high = (1000 * value for value in (statistics.median(times), min(times), max(times)))
        print(f"{name:24}{median:10.0f}{low:8.0f}{high:8.0f}{median - 1000 * bare:18.0f}")


if __name__ == "__main__":
    main()
