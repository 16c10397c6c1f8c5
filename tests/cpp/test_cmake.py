"""An empty CMake project finds the library after its installation, and builds it within its own tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.cpp.programs import LIBRARY, compiler, output_of
from tests.required import skip_or_fail

pytestmark = pytest.mark.slow

PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES CXX)
{find}
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE vae::vae)
"""
PROGRAM = r"""
#include <iostream>
#include <vae/hash.hpp>
#include <vae/noise.hpp>
int main() { std::cout << vae::sha256("abc") << '\n' << vae::sample(1, 4).size() << '\n'; }
"""
FIND = {
    "installed": "find_package(vae 0.1 REQUIRED)",
    "subdirectory": f"add_subdirectory({LIBRARY} vae)",
    "FetchContent": (
        f"include(FetchContent)\nFetchContent_Declare(vae SOURCE_DIR {LIBRARY})\nFetchContent_MakeAvailable(vae)"
    ),
}


def cmake(*arguments: object, cwd: Path) -> None:
    environment = os.environ | {"CXXFLAGS": "-O0", "CMAKE_BUILD_TYPE": "None"}
    command = ["cmake", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("way", FIND)
def test_consumer_builds_and_runs(way: str, tmp_path: Path) -> None:
    compiler()
    if subprocess.run(["which", "cmake"], capture_output=True, check=False).returncode != 0:
        skip_or_fail("cmake", "apt-get install cmake")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(find=FIND[way]))
    (tmp_path / "main.cpp").write_text(PROGRAM)
    prefix = tmp_path / "prefix"
    if way == "installed":
        cmake("-S", LIBRARY, "-B", "library", f"-DCMAKE_INSTALL_PREFIX={prefix}", cwd=tmp_path)
        cmake("--install", "library", cwd=tmp_path)
        assert (prefix / "include/vae/model.hpp").exists()
    cmake("-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}", cwd=tmp_path)
    cmake("--build", "build", cwd=tmp_path)
    assert output_of(tmp_path / "build/consumer") == f"{hashlib.sha256(b'abc').hexdigest()}\n4\n"
