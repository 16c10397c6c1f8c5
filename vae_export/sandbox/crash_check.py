"""Files of engines that may take their whole process down: each is opened and run once in a child before it is here.

Machine code of another processor, a library that aborts, a file that its engine does not check: Python cannot catch
any of them. So one child process takes all such files in turn, runs each with a batch of one, and says before and after
each where it is. If it dies in one, that one is known, and another child goes on behind it. An exception is no crash:
whoever opens the file here meets it again, and says what it is.

    python -m vae_export.sandbox.crash_check < a line of JSON, then the contents of all files
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Contract, Part
from vae_export.system.child_process import child_environment, describe_exit, python_command
from vae_export.system.streams import private_stdout

#: Of one child. Most of an ordinary one's second or two are imports.
SECONDS = 120


@dataclass(frozen=True)
class Trial:
    """One file on one provider."""

    name: str
    part: Part
    format: str
    provider: str
    content: FileContent


def crash_check(scenes: Sequence[Trial], contract: Contract) -> dict[tuple[str, str], str]:
    """What became of the child that ran a file, by file name and provider; those that ended well are not in it."""
    ends: dict[tuple[str, str], str] = {}
    done = 0
    while done < len(scenes):
        finished, end = _child(scenes[done:], contract)
        done += finished
        if end is not None and done < len(scenes):
            ends[scenes[done].name, scenes[done].provider] = end
            done += 1
    return ends


def _child(scenes: Sequence[Trial], contract: Contract) -> tuple[int, str | None]:
    """How many scenes a child came through, and how it ended before the last of them, if it did."""
    try:
        child = subprocess.run(
            python_command(__name__),
            input=_packed(scenes, contract),
            capture_output=True,
            env=child_environment(),
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return len((error.stdout or b"").splitlines()), f"no answer within {SECONDS} s"
    finished = len(child.stdout.splitlines())
    if finished == len(scenes):
        return finished, None
    return finished, f"a process that {describe_exit(child.returncode)}"


def _packed(scenes: Iterable[Trial], contract: Contract) -> bytes:
    items: list[dict[str, object]] = []
    blobs: list[bytes] = []
    for scene in scenes:
        files = {"": scene.content.data, **scene.content.sidecars}
        sizes = {suffix: len(data) for suffix, data in files.items()}
        items.append({"part": scene.part, "format": scene.format, "provider": scene.provider, "sizes": sizes})
        blobs += files.values()
    return b"\n".join([json.dumps({"contract": contract.to_json(), "scenes": items}).encode(), b"".join(blobs)])


def _main(source: IO[bytes]) -> None:
    with private_stdout() as parent:
        head = json.loads(source.readline())
        contract = Contract.from_json(head["contract"])
        for item in head["scenes"]:
            files = {suffix: source.read(size) for suffix, size in item["sizes"].items()}
            with contextlib.suppress(Exception):  # no crash: see above
                _run(item, FileContent(files.pop(""), files), contract)
            parent.write("came through\n")
            parent.flush()


def _run(item: dict[str, Any], content: FileContent, contract: Contract) -> None:
    import numpy as np

    from vae_export.formats import FORMATS

    format, spec = FORMATS[item["format"]], contract.spec(item["part"])
    run = format.open(content, spec, format.session_options(item["provider"])[0])
    run({tensor.name: np.full((1, *tensor.item), max(tensor.low, 0.0), np.float32) for tensor in spec.inputs})


if __name__ == "__main__":
    # A core file would be as large as all that the engine had in memory.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _main(sys.stdin.buffer)
