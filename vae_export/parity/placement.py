"""Which nodes of a graph ran where: ONNX Runtime gives what a provider cannot do to the CPU, without a word."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnxruntime

from vae_export.contract import Array
from vae_export.findings import Finding
from vae_export.runtime.session import CPU


def nodes_on_the_cpu(data: bytes, name: str, provider: str, inputs: Mapping[str, Array]) -> Iterator[Finding]:
    """A warning for each node of the ONNX file that ran on the CPU although `provider` was asked for."""
    for node, where in placement(data, provider, inputs).items():
        if where == CPU != provider:
            yield Finding("node-on-cpu", "warning", f"{name}, node '{node}'", f"ran on {where}, not on {provider}")


def placement(data: bytes, provider: str, inputs: Mapping[str, Array]) -> dict[str, str]:
    """The provider that each node ran on, read from the profile of one run."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
        session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    found: dict[str, str] = {}
    for event in events:
        where = event.get("args", {}).get("provider")
        if event.get("cat") == "Node" and where:
            found[event["name"].removesuffix("_kernel_time")] = where
    return found
