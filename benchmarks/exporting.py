"""Measure how long exports take and how exact they are, for every family, or for the checkpoints of runs.

    python benchmarks/exporting.py
    python benchmarks/exporting.py artifacts/mnist-mlp

The times are those of whole processes: `cli.py export --format all` with its verification, and `cli.py verify` of the
result with every batch size, setting and probe. The errors are the largest absolute difference between the outputs of
ONNX Runtime and PyTorch, by probe, over all parts, batch sizes and outputs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from untrained import initialised

from vae_export.models import FAMILIES

ROOT = Path(__file__).parent.parent
ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = {Path(run).name: Path(run) / "checkpoint.safetensors" for run in sys.argv[1:]} or {
            family: initialised(Path(scratch), family) for family in FAMILIES
        }
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        errors: dict[str, dict[str, float]] = {}
        for number in range(ROUNDS):
            for name, checkpoint in checkpoints.items():
                out = Path(scratch) / f"export-{name}-{number}"
                place = ["--checkpoint", str(checkpoint)]
                seconds[name, "export"].append(_seconds("export", "--format", "all", *place, "--out", str(out)))
                seconds[name, "verify"].append(_seconds("verify", *place, "--export", str(out)))
                errors[name] = _errors(out / "certificate.json")
    print(f"{'seconds, all formats':34}{'median':>8}{'min':>8}{'max':>8}")
    for (name, command), times in seconds.items():
        print(f"{name + ', ' + command:34}{statistics.median(times):8.1f}{min(times):8.1f}{max(times):8.1f}")
    probes = list(next(iter(errors.values())))
    print(f"\n{'ONNX against PyTorch, largest |Δ|':34}" + "".join(f"{probe:>15}" for probe in probes))
    for name, by_probe in errors.items():
        print(f"{name:34}" + "".join(f"{by_probe[probe]:15.1e}" for probe in probes))


def _seconds(*arguments: str) -> float:
    """Return how long a command takes, as a whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def _errors(certificate: Path) -> dict[str, float]:
    """Return the largest error of ONNX Runtime by probe."""
    worst: dict[str, float] = defaultdict(float)
    for row in json.loads(certificate.read_text())["rows"]:
        if row["target"].startswith("onnx/") and row["part"] != "metric":
            worst[row["probe"]] = max(worst[row["probe"]], row["max_abs"])
    return worst


if __name__ == "__main__":
    main()
