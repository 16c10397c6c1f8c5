"""Noise of the hosts has the same bits as the library's, for far more numbers than a golden file holds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.hosts.conftest import require
from vae_export import rng

ROOT = Path(__file__).parent.parent.parent
#: n, size, seed, start: tails and middles, odd sizes, both words of the key, both words of the counter.
DRAWS = [
    (2000, 10, 0, 0),
    (7, 3, 12345, 5),
    (1000, 1, 2**32, 3),
    (100, 20, 2**64 - 1, 2**31),
    (3, 5, 7, (2**50 + 4) // 5),
]
#: Boundaries between the branches of the transform, and its ends.
WORDS = [0, 1, 0x13333333, 0x13333334, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xECCCCCCA, 0xECCCCCD0, 2**32 - 2, 2**32 - 1]
#: The two words whose bits fused multiply-add would change.
WORDS += [0x20F8A25E, 0xDF075DA1]


def bits(numbers: np.ndarray) -> list[int]:
    return np.ascontiguousarray(numbers, np.float32).view(np.uint32).ravel().tolist()


@pytest.mark.parametrize("draw", DRAWS)
def test_python_noise_matches_the_library(draw: tuple[int, int, int, int], example: ModuleType) -> None:
    n, size, seed, start = draw
    assert bits(example.sample(n, size, seed, start)) == bits(rng.sample((n, size), seed, start=start))


def test_python_normal_matches_the_library_at_branch_boundaries(example: ModuleType) -> None:
    expected = bits(rng.normal(np.array(WORDS, np.uint32)))
    assert bits(example.normal(np.array(WORDS, np.uint32))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("command", ["g++ -O0", "g++ -O3 -march=native", "clang++ -O3 -march=native"])
def test_cpp_noise_matches_the_library(command: str, tmp_path: Path) -> None:
    """Without optimisation, and with this machine's instructions, such as fused multiply-add."""
    require(command.split()[0])
    program = tmp_path / "bits.cpp"
    program.write_text("""
        #include <cstdio>
        #include <cstdlib>
        #include <cstring>
        #include <vae/noise.hpp>
        int main(int argc, char** argv) {
            std::vector<float> numbers;
            if (argc == 5) numbers = vae::sample(std::atoi(argv[1]), std::atoi(argv[2]), std::strtoull(argv[3], 0, 10),
                                                 std::strtoull(argv[4], 0, 10));
            else for (int i = 1; i < argc; ++i) numbers.push_back(vae::normal(std::strtoul(argv[i], 0, 10)));
            for (float number : numbers) {
                unsigned bits;
                std::memcpy(&bits, &number, 4);
                std::printf("%u ", bits);
            }
        }
    """)
    compiler, *options = command.split()
    flags = ["-std=gnu++17", "-Wall", "-Wextra", "-Werror", *options, f"-I{ROOT / 'cpp/include'}"]
    subprocess.run([compiler, *flags, str(program), "-o", str(tmp_path / "bits")], check=True)

    def printed(*numbers: int) -> list[int]:
        command = [str(tmp_path / "bits"), *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    for n, size, seed, start in DRAWS:
        assert printed(n, size, seed, start) == bits(rng.sample((n, size), seed, start=start))
    assert printed(*WORDS) == bits(rng.normal(np.array(WORDS, np.uint32)))
