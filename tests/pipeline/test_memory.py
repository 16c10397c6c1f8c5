"""Commands need no more memory for more rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT

PEAK = """if True:
    import re, sys
    from pathlib import Path
    from vae_export.cli.app import run
    code = run()
    # Not ru_maxrss, which includes the process that started this one.
    print(*re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()), file=sys.stderr)
    sys.exit(code)
"""


def peak(*arguments: object) -> int:
    """Return the peak memory of a command in MB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) // 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "out", "threads", "more"),
    [("npy", "out.npy", 1, ()), ("npz", "out", 2, ("--shards", "parquet"))],
    ids=["npy", "npz"],
)
def test_memory_does_not_grow_with_the_input(
    bundle: Path, tmp_path: Path, kind: str, out: str, threads: int, more: tuple[str, ...]
) -> None:
    """160 MB of levels, 630 MB as float32, take no more memory than an eighth of them."""
    noise = np.random.default_rng(0).integers(0, 256, (25_000, 28, 28), np.uint8)
    peaks = []
    for times in (1, 8):
        source = tmp_path / f"images-{times}.{kind}"
        if kind == "npy":
            np.save(source, np.tile(noise, (times, 1, 1)))
        else:
            np.savez_compressed(source, image=np.tile(noise, (times, 1, 1)))
        common = ("--bundle", bundle, "--threads", threads, "--levels", "--force")
        peaks.append(peak("reconstruct", source, *common, "--out", tmp_path / out, *more))
    assert peaks[1] < peaks[0] + 60, peaks
