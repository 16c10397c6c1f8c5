"""Opens and runs an ONNX file from standard input, in a process of its own with little memory; says how that went.

    python -m vae_export.runtime.trial CONTRACT PART < file.onnx

Exit code 0: it opened, has the contract's inputs and outputs, and ran a batch. Otherwise one line on stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np

from vae_export.contract import Contract, Part
from vae_export.runtime.session import Session

#: What a file may need beyond its own size, in bytes, and how many times its size.
_SPARE, _TIMES = 1 << 30, 8
_BATCH = 2


def run(data: bytes, contract: Contract, part: Part) -> None:
    """Open and run; whatever is wrong is raised."""
    _limit_memory(_SPARE + _TIMES * len(data))
    spec = contract.spec(part)
    session = Session(data, spec, threads=1)
    session.run({tensor.name: np.zeros((_BATCH, *tensor.item), np.float32) for tensor in spec.inputs})


def _limit_memory(spare: int) -> None:
    """Let this process grow by `spare` bytes and no more. Where the system knows no such limit, the caps must do."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _main(contract: str, part: Part) -> int:
    try:
        run(sys.stdin.buffer.read(), Contract.from_json(json.loads(contract)), part)
    except (Exception, MemoryError) as error:  # whatever it is, it is the file's doing
        sys.stderr.write(" ".join(f"{type(error).__name__}: {error}".split()) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))  # type: ignore[arg-type]
