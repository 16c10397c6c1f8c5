"""`evaluations.jsonl` of a run: a line for each time that it was scored, so that what took long is computed once.

    checkpoint      digest of the checkpoint that was scored, as its own header has it
    format          what was scored: "checkpoint", or "onnx", the files exported from it
    dataset         name and SHA-256 of the images
    …               protocol, likelihood, split and figures, as `cli.py evaluate --json` prints them

A run that is trained further gets another checkpoint; the lines of those before stay, and do not speak of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vae_export.errors import InputError
from vae_export.files import append_line
from vae_export.runs import Run


def record(run: Run, figures: Mapping[str, Any]) -> None:
    """Append one line. Raises `StorageError` where the folder cannot be written."""
    append_line(run.evaluations, json.dumps(figures, allow_nan=False))  # two that score one run do not mix theirs


def recorded(run: Run, digest: str) -> list[dict[str, Any]]:
    """The lines about one checkpoint, the oldest first. Raises `InputError` for a file that is none of ours."""
    return [line for line in read_lines(run.evaluations) if line.get("checkpoint") == digest]


def read_lines(path: Any) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none where there is no file. Raises `InputError`."""
    if not path.exists():
        return []
    lines = []
    try:
        for number, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError(f"line {number} is no object")
            lines.append(line)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("lines cannot be read", where=path, got=str(error)) from error
    return lines
