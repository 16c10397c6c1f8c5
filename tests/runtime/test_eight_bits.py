"""8 bits are right on every processor: QEMU runs ONNX Runtime on one without VNNI, where products overflow 16 bits."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT
from vae_export.artifact.folder import Artifact
from vae_export.runtime.session import adds_in_16_bits

#: A processor of 2013: it has AVX2, whose products of bytes are added in 16 bits.
HASWELL = "Haswell-v4"
#: Print whether the processor adds in 16 bits, and the verdict of the self-test with the runtime as it is and as it
#: would be if it did not look.
CODE = """
import json, sys
import vae_export
from vae_export.runtime import session
found = [session.adds_in_16_bits()]
for looks in (True, False):
    if not looks:
        session.adds_in_16_bits = lambda: False
    found.append(vae_export.load(sys.argv[1], precision="int8", threads=1).self_test().passed)
print(json.dumps(found))
"""


@pytest.mark.slow  # an emulated processor takes three seconds to import and run ONNX Runtime
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 processors add in 16 bits")
def test_runtime_is_exact_and_self_test_sees_a_host_that_is_not(mixed_precisions: Artifact) -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        assert not os.environ.get("CI"), "apt-get install qemu-user"
        pytest.skip("QEMU is missing: apt-get install qemu-user")
    command = [emulator, "-cpu", HASWELL, sys.executable, "-c", CODE, str(mixed_precisions.folder)]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [True, True, False]


@pytest.mark.slow
def test_manifest_says_what_8_bits_need_without_vnni(mixed_precisions: Artifact) -> None:
    said = {entry.name: entry.without_vnni for entry in mixed_precisions.manifest.files}
    exact = {"session.x64quantprecision": "1"}
    assert said["decoder.int8.onnx"] == exact
    assert {name for name, entries in said.items() if entries} == {name for name in said if "int8" in name}


def test_processor_is_asked_once() -> None:
    adds_in_16_bits()
    before = adds_in_16_bits.cache_info().misses
    assert adds_in_16_bits() in (True, False)
    assert adds_in_16_bits.cache_info().misses == before == 1
