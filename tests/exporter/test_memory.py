"""Export and verification of a large network take a bounded multiple of the memory of its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: The peak of a process above what it holds after the export of a small network, as a multiple of the weights, which
#: the process made itself. Two of them are the float32 weights, and float64 weights of one of two parts.
_MOST = 3.0
_EXPORTS = """
import sys
from pathlib import Path
import torch
from torch import nn
from vae_export import Contract, Source, export
from vae_export.formats import FORMATS
from vae_export.formats.onnx import Onnx

def memory(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.mean, self.logvar = nn.Linear(width, 4), nn.Linear(width, 4)

    def forward(self, image):
        features = self.body(image)
        return self.mean(features), self.logvar(features)

def source(width):
    layers = [nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64), nn.Sigmoid()]
    return Source(Contract((1, 8, 8), (4,)), Encoder(width), nn.Sequential(*layers, nn.Unflatten(1, (1, 8, 8))))

def exported(width, out):
    export(source(width), out, parts=["encoder", "decoder"], minutes=0.05)

torch.manual_seed(0)
torch.set_num_threads(1)
FORMATS["onnx"] = Onnx(int(sys.argv[2]))
exported(16, Path(sys.argv[1]) / "small")
base, width = memory("VmRSS"), 4400
exported(width, Path(sys.argv[1]) / "large")
print((memory("VmHWM") - base) / (2 * 4 * width**2))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("max_inside", [1 << 30, 10_000_000], ids=["inside", "beside"])
def test_peak_memory_is_at_most_three_times_the_weights(max_inside: int, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _EXPORTS, str(tmp_path), str(max_inside)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= _MOST
