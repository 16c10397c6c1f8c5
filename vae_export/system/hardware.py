"""Describe the machine of a measurement, because figures of different machines cannot be compared."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vae_export._version import __version__

#: Instruction sets by which engines choose their kernels, as Linux names them.
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
_PACKAGES = ("torch", "onnxruntime", "openvino", "executorch", "ai-edge-litert", "ncnn", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores, memory, load and versions of packages, JSON-able, without host name and paths."""
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


def available_memory() -> int:
    """Return the bytes of memory that a new program can take without swapping, within the limit of a container."""
    free = [_memory_line("MemAvailable")]
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        free.append(int(limit.read_text()) - int(used.read_text()))
    known = [size for size in free if size is not None]
    return max(0, min(known)) if known else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _memory_line(name: str) -> int | None:
    """Return an entry of /proc/meminfo in bytes, or None where there is none."""
    info = Path("/proc/meminfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def identity() -> dict[str, Any]:
    """Return the facts, JSON-able, in which two machines must agree to share a recommendation of `tune`.

    Clouds give different processors one name, so the instruction sets by which kernels are chosen are included.
    """
    return {
        "processor": _processor(),
        "features": sorted({*_FEATURES} & {*_line("flags").split(), *_line("Features").split()}),  # Intel's, Arm's
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    return _line("model name") or platform.processor() or "not stated"


def _line(name: str) -> str:
    """Return the entry of /proc/cpuinfo with this name for the first processor; empty where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
