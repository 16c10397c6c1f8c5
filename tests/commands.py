"""Run the command line as a user does: a process, its exit code, its two streams."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tests.conftest import Outcome

ROOT = Path(__file__).parent.parent
CLI = ROOT / "cli.py"
COMMANDS = (
    "train",
    "evaluate",
    "export",
    "verify",
    "tune",
    "sample",
    "decode",
    "encode",
    "reconstruct",
    "serve",
    "doctor",
)
#: The error of a failed command, and nothing else.
ONE_LINE = re.compile(r"vae-export: error: .+\n")
#: Type of the fixture `invoke`: the command line in this process.
Invoke: TypeAlias = "Callable[..., Outcome]"


def command(*arguments: object) -> list[str]:
    return [
        sys.executable,
        str(CLI),
        *(os.fsdecode(os.fspath(a)) if isinstance(a, Path) else str(a) for a in arguments),
    ]


def run_cli(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """`python cli.py …` in `cwd`; stdout and stderr as text."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
        **options,
    )


def run_python(code: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the checkout on its path and warnings as errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: bytes of files, None for folders and links."""
    found: Iterable[Path] = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in found
    }
