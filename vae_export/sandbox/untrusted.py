"""Read an ONNX file of unknown origin: limit its size, then let a child process parse, check and run it first.

A file of 108 bytes can request gigabytes of memory, name any file of this machine as its weights, or crash the parser.
Therefore this process only reads the bytes. A child with limited memory and time opens them, and its error becomes an
error of one line here. The file is read once, so that the checked bytes are the returned ones.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

from vae_export.contract import Contract, Part
from vae_export.errors import InputError, ModelError
from vae_export.system.child_process import child_environment, describe_exit, last_line, python_command

#: The largest file in bytes: larger than any known VAE, smaller than the largest protobuf message.
MAX_BYTES = 1 << 30
#: Timeout of a child. It usually takes a second or two, most of them for imports.
SECONDS = 60


def read_untrusted(path: Path, contract: Contract, part: Part, batch: int) -> bytes:
    """Read an ONNX file of unknown origin and check it in a child process.

    Args:
        path: a plain file.
        contract, part: names, dtypes and shapes that its inputs and outputs must have.
        batch: the largest batch that this process will run; the child runs it first.

    Returns:
        The bytes of the file, which passed every check.

    Raises:
        ModelError: the file is too large, malformed, not a plain graph of known operators, or cannot be run.
    """
    data = read_plain(path)
    _run_in_child(data, contract, part, batch, path)
    return data


def read_plain(path: Path) -> bytes:
    """Return the bytes of a plain file; raise `ModelError` for a link, a pipe, a device or more than `MAX_BYTES`."""
    try:
        # Opened once and checked through the handle, so that what is checked is what is read. A pipe must not block.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ModelError("not a plain file", where=path, expected="a model file", got=error.strerror) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ModelError("not a plain file", where=path, expected="a model file")
    with open(handle, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ModelError("file too large", where=path, expected=f"{MAX_BYTES:,} bytes at most")
    return data


def _run_in_child(data: bytes, contract: Contract, part: Part, batch: int, path: Path) -> None:
    """Let a child parse, check and run the file; raise what it reports, or how it ended."""
    from vae_export.sandbox import untrusted_child

    command = python_command(untrusted_child.__name__, [json.dumps(contract.to_json()), part, str(batch)])
    try:
        child = subprocess.run(
            command, input=data, capture_output=True, env=child_environment(), timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            "trial run took too long", where=path, expected=f"{SECONDS} s at most", do="try smaller batches (--quick)"
        ) from error
    if child.returncode == 0:
        return
    raise _child_error(child, path)


def _child_error(child: subprocess.CompletedProcess[bytes], path: Path) -> InputError:
    """Return the error that the child reported; without a report, how it ended."""
    if child.returncode < 0:
        return ModelError("trial run crashed", where=path, got=f"a process that {describe_exit(child.returncode)}")
    try:
        said = json.loads(child.stdout)
        where = ", ".join(str(place) for place in (path, said["where"]) if place)
        return ModelError(said["what"], where=where, expected=said["expected"], got=said["got"])
    except (ValueError, LookupError, TypeError):
        last = last_line(child.stderr) or "no output"
        return ModelError("trial run failed", where=path, got=f"exit code {child.returncode}, {last}")
