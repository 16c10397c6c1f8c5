"""Time the random latents of each implementation in one run: 16 latents of 16,384 numbers, one thread.

    python benchmarks/noise.py

The fastest run of each counts, as in `timeit`: the others say how busy the machine was. Rounds alternate. Exits 1 if
the JavaScript package or the C++ library needs more than 25 ms, or the example in Python five times as long as the
library, or bits differ.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from vae_export import rng

ROOT = Path(__file__).resolve().parent.parent
ROWS, SIZE, ROUNDS, RUNS = 16, 16_384, 7, 9
#: The longest allowed time in milliseconds of JavaScript and C++, and of the example as a multiple of the library's.
LONGEST, MULTIPLE = 25.0, 5.0
_SCRIPT = f"""
import {{ createHash }} from "node:crypto";
import {{ sample }} from {json.dumps((ROOT / "js/src/index.js").as_uri())};
const times = [];
for (let run = 0; run <= {RUNS}; run += 1) {{
  const begin = performance.now();
  sample({ROWS}, {SIZE}, 0);
  times.push(performance.now() - begin);
}}
const bytes = new Uint8Array(sample({ROWS}, {SIZE}, 0).buffer);
console.log(JSON.stringify([times.slice(1), createHash("sha256").update(bytes).digest("hex")]));
"""
_PROGRAM = """
#include <chrono>
#include <cstdio>
#include <string>
#include <vae/noise.hpp>
int main(int, char** argv) {
  std::vector<float> numbers;
  for (int run = 0; run <= std::stoi(argv[3]); ++run) {
    const auto begin = std::chrono::steady_clock::now();
    numbers = vae::sample(std::stoul(argv[1]), std::stoul(argv[2]));
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin;
    if (run > 0) std::fprintf(stderr, "%f ", elapsed.count());
  }
  std::fwrite(numbers.data(), sizeof(float), numbers.size(), stdout);
}
"""


def main() -> int:
    engines = {
        "library": library,
        "python example": example,
        **({"javascript": javascript} if shutil.which("node") else {}),
        **({"c++": cpp} if shutil.which("g++") else {}),
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    digests = set()
    for _ in range(ROUNDS):
        for name, measure in engines.items():
            found, digest = measure()
            times[name] += found
            digests.add(digest)
    base = min(times["library"])
    for name, found in times.items():
        share = min(found) / base
        print(f"{name:16}{min(found):6.1f} ms, {share:.2f} of the library's time; median {median(found):.1f} ms")
    print("bits are equal" if len(digests) == 1 else "BITS DIFFER")
    limits = {"javascript": LONGEST, "c++": LONGEST, "python example": MULTIPLE * base}
    slow = [name for name, limit in limits.items() if name in times and min(times[name]) > limit]
    return 1 if slow or len(digests) > 1 else 0


def library() -> tuple[list[float], str]:
    return _timed(lambda: rng.sample((ROWS, SIZE), 0).tobytes())


def example() -> tuple[list[float], str]:
    specification = importlib.util.spec_from_file_location("example_bundle", ROOT / "examples/python/bundle.py")
    if specification is None or specification.loader is None:
        raise FileNotFoundError("examples/python/bundle.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # where dataclasses look it up
    specification.loader.exec_module(module)
    return _timed(lambda: module.sample(ROWS, SIZE, 0).tobytes())


def javascript() -> tuple[list[float], str]:
    done = subprocess.run(["node", "--input-type=module", "-e", _SCRIPT], capture_output=True, text=True, check=True)
    times, digest = json.loads(done.stdout)
    return times, digest


def cpp() -> tuple[list[float], str]:
    done = subprocess.run([cpp_program(), str(ROWS), str(SIZE), str(RUNS)], capture_output=True, check=True)
    return [float(word) for word in done.stderr.split()], hashlib.sha256(done.stdout).hexdigest()


@functools.cache
def cpp_program() -> str:
    """Return a program that writes times to stderr and the last latents to stdout, compiled as for a release."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    source, program = Path(folder, "noise.cpp"), Path(folder, "noise")
    source.write_text(_PROGRAM)
    subprocess.run(["g++", "-std=c++17", "-O2", f"-I{ROOT / 'cpp/include'}", source, "-o", program], check=True)
    return str(program)


def _timed(draw: Callable[[], bytes]) -> tuple[list[float], str]:
    """Return the milliseconds of some runs after a first one, and the hash of what was drawn."""
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        drawn = draw()
        times.append(1000 * (time.perf_counter() - begin))
    return times[1:], hashlib.sha256(drawn).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
