"""Compare what an application installs and how fast it starts: numpy and onnxruntime against torch.

python benchmarks/runtime_install.py

Sizes are those of the files that pip installed, with all requirements; torch is the one of this environment. Times are
those of whole processes, which take turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "artifacts" / "reference" / "mnist.zip"
RUNS = 15

RUNTIME = "import vae_export; vae_export.load(BUNDLE).sample(1)"
#: The same with torch, where the TorchScript file is on the disk already.
TORCH = "import torch; torch.jit.load(SCRIPT)(torch.zeros(1, 10))"


def closure(*names: str) -> set[str]:
    """Return the distributions of this environment that these need, including themselves."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # required on another platform or Python version
            continue
        found.add(name)
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in map(Requirement, requires)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


def installed(*names: str) -> tuple[int, int]:
    """Return the number of files and bytes of these distributions and their requirements."""
    paths = [Path(str(path.locate())) for name in closure(*names) for path in distribution(name).files or ()]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return len(sizes), sum(sizes)


def main() -> None:
    print(f"{'to install':24}{'files':>8}{'MB':>8}  distributions")
    for label, names in {"numpy and onnxruntime": ("numpy", "onnxruntime"), "torch": ("torch", "numpy")}.items():
        files, size = installed(*names)
        versions = ", ".join(f"{name} {distribution(name).version}" for name in sorted(closure(*names)))
        print(f"{label:24}{files:8,}{size / 1e6:8.0f}  {versions}")

    script = ROOT / "build" / "decoder.torchscript.pt"
    from vae_export.bundles import open_bundle

    script.parent.mkdir(exist_ok=True)
    opened = open_bundle(BUNDLE)
    script.write_bytes(opened.files["decoder.torchscript.pt"])
    programs = {
        "bare python": "pass",
        "runtime: first image": RUNTIME.replace("BUNDLE", repr(str(BUNDLE))),
        "import torch": "import torch",
        "torch: first image": TORCH.replace("SCRIPT", repr(str(script))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(RUNS):  # in turns, so that a busy moment slows all of them
        for name, code in programs.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    print(f"\n{'cold start, ms':24}{'median':>8}{'min':>8}{'max':>8}")
    for name, times in seconds.items():
        median, low, high = (1000 * value for value in (statistics.median(times), min(times), max(times)))
        print(f"{name:24}{median:8.0f}{low:8.0f}{high:8.0f}")


if __name__ == "__main__":
    main()
