"""Start Python child processes, and describe how they ended.

Engines can crash, hang or print. In a child process they cannot affect this process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def python_command(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs a module as a program.

    Args:
        module: `__name__` of an imported module, which stays correct when the file is moved.
        arguments: the arguments of the program.
    """
    # -P: the working folder, which may hold anything, is not searched for packages.
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment, extended so that a child finds packages where this process finds them."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def describe_exit(code: int) -> str:
    """Return how a process ended: "died of SIGSEGV" or "ended with exit code 3"."""
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def last_line(output: bytes) -> str | None:
    """Return the last line of an output that is not blank, or None."""
    lines = output.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
