"""The door that a file of unknown origin comes in by: a cap on its size, then a trial in a child process.

A file of 108 bytes can ask for gigabytes, name a file of the machine as its weights, or crash whatever parses or runs
it. So this process does neither: it reads the bytes and hands them to a child that has little memory and little time.
What is wrong there is a one-line error here. What the trial passed are these very bytes, and no file that could be
replaced meanwhile.
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

#: Larger than any VAE decoder that we have seen, smaller than what protobuf can hold.
MAX_BYTES = 1 << 30
#: Of a trial. An ordinary one takes a second or two, most of them imports.
SECONDS = 60


def read_untrusted(path: Path, contract: Contract, part: Part, batch: int) -> bytes:
    """The bytes of an ONNX file of unknown origin, once it has passed every check.

    Args:
        path: a plain file.
        contract, part: names, dtypes and shapes that it must have.
        batch: the largest that this process is going to run; the trial runs it first.

    Raises:
        ModelError: whatever is wrong with it.
    """
    data = read_plain(path)
    _try(data, contract, part, batch, path)
    return data


def read_plain(path: Path) -> bytes:
    """The bytes of a plain file of at most `MAX_BYTES`; `ModelError` for a link, a pipe, a device, a larger one."""
    try:
        # Opened once and looked at through the handle: what is checked is what is read. A pipe would wait for ever.
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


def _try(data: bytes, contract: Contract, part: Part, batch: int, path: Path) -> None:
    """Let `trial.py` parse, check, open and run it; raise what it says, or of what it died."""
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
    raise _reason(child, path)


def _reason(child: subprocess.CompletedProcess[bytes], path: Path) -> InputError:
    """The child's own words; where it had none, how it ended."""
    if child.returncode < 0:
        return ModelError("trial run crashed", where=path, got=f"a process that {describe_exit(child.returncode)}")
    try:
        said = json.loads(child.stdout)
        where = ", ".join(str(place) for place in (path, said["where"]) if place)
        return ModelError(said["what"], where=where, expected=said["expected"], got=said["got"])
    except (ValueError, LookupError, TypeError):
        last = last_line(child.stderr) or "no output"
        return ModelError("trial run failed", where=path, got=f"exit code {child.returncode}, {last}")
