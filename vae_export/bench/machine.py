"""What was measured on: the figures of two machines do not compare."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vae_export import __version__

_PACKAGES = ("torch", "onnxruntime", "openvino", "executorch", "numpy")


def machine() -> dict[str, Any]:
    """JSON-able: processor, cores, memory, how busy it was, versions of what can run. No host name, no path."""
    try:
        busy: float | None = round(os.getloadavg()[0], 2)
    except OSError:
        busy = None
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": busy,
        "versions": {"vae-export": __version__, "python": platform.python_version()} | _versions(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    found = next((line.partition(":")[2].strip() for line in names if line.startswith("model name")), "")
    return found or platform.processor() or "not stated"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
