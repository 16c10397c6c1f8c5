"""Compile the programs of cpp/tests, each once in a session."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

from tests.commands import ROOT
from tests.required import skip_or_fail

LIBRARY = ROOT / "cpp"
#: Warnings are errors, but not those of other libraries' headers.
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{LIBRARY / 'include'}"]
#: Stop at the first fault that a sanitizer finds.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiler(name: str = "g++") -> str:
    """Return the path of a compiler, after looking for the libraries that every program needs."""
    if not Path("/usr/include/sodium.h").exists() or not Path("/usr/include/nlohmann/json.hpp").exists():
        skip_or_fail("libsodium or nlohmann-json", "apt-get install libsodium-dev nlohmann-json3-dev")
    return shutil.which(name) or skip_or_fail(name, f"apt-get install {name.replace('clang++', 'clang')}")


def openvino() -> Path:
    """Return the folder of OpenVINO's wheel, which has its headers and libraries."""
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:
        skip_or_fail("openvino", "pip install openvino")
    return Path(found.origin).parent


def compile_program(source: Path, program: Path, *flags: str, name: str = "g++") -> None:
    """Compile a program; raises `RuntimeError` with what the compiler says."""
    command = [compiler(name), *WARNINGS, str(source), "-o", str(program), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def compile_reader(folder: Path) -> None:
    """Compile `reader` with sanitizers, and without optimisation, which would take three times as long."""
    compile_program(LIBRARY / "tests" / "reader.cpp", folder / "reader", "-O0", *SANITIZERS, "-lsodium")


def compile_verbs(folder: Path) -> None:
    """Compile `verbs`, which runs models with OpenVINO."""
    compile_with_openvino(LIBRARY / "tests" / "verbs.cpp", folder / "verbs")


def compile_with_openvino(source: Path, program: Path) -> None:
    """Compile a program that runs models with OpenVINO."""
    wheel = openvino()
    [library] = wheel.glob("libs/libopenvino.so.*")
    flags = ["-O0", "-isystem", str(wheel / "include"), str(library), f"-Wl,-rpath,{library.parent}", "-lsodium"]
    compile_program(source, program, *flags)


def output_of(*command: object) -> str:
    """Run a program; return what it writes, which nothing on stderr may accompany."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
