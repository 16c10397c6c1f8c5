"""Run files of engines that can crash in a child process before this process opens them.

Python cannot catch a crash of the engine. Causes are machine code for another processor, a library that aborts, or a
damaged file that the engine does not check. One child runs all files in turn, each with a batch of one, and reports
after each. If the child dies, the current file is known, and a new child continues with the next file. An exception is
not a crash: it is raised again when this process opens the file.

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

#: Timeout of a child. It usually takes a second or two, most of them for imports.
SECONDS = 120


@dataclass(frozen=True)
class Trial:
    """One file to run on one provider."""

    name: str
    part: Part
    format: str
    provider: str
    content: FileContent


def crash_check(trials: Sequence[Trial], contract: Contract) -> dict[tuple[str, str], str]:
    """Run files in child processes; return the crashes, by file name and provider.

    Args:
        trials: the files to run.
        contract: the contract of the parts in these files.

    Returns:
        The end of the child for each crash, such as "a process that died of SIGSEGV".
    """
    crashes: dict[tuple[str, str], str] = {}
    done = 0
    while done < len(trials):
        finished, end = _run_in_child(trials[done:], contract)
        done += finished
        if end is not None and done < len(trials):
            crashes[trials[done].name, trials[done].provider] = end
            done += 1
    return crashes


def _run_in_child(trials: Sequence[Trial], contract: Contract) -> tuple[int, str | None]:
    """Run trials in one child; return how many it finished, and how it ended if it did not finish all."""
    try:
        child = subprocess.run(
            python_command(__name__),
            input=_serialize(trials, contract),
            capture_output=True,
            env=child_environment(),
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return len((error.stdout or b"").splitlines()), f"no answer within {SECONDS} s"
    finished = len(child.stdout.splitlines())
    if finished == len(trials):
        return finished, None
    return finished, f"a process that {describe_exit(child.returncode)}"


def _serialize(trials: Iterable[Trial], contract: Contract) -> bytes:
    items: list[dict[str, object]] = []
    blobs: list[bytes] = []
    for trial in trials:
        files = {"": trial.content.data, **trial.content.sidecars}
        sizes = {suffix: len(data) for suffix, data in files.items()}
        items.append({"part": trial.part, "format": trial.format, "provider": trial.provider, "sizes": sizes})
        blobs += files.values()
    return b"\n".join([json.dumps({"contract": contract.to_json(), "trials": items}).encode(), b"".join(blobs)])


def _main(source: IO[bytes]) -> None:
    with private_stdout() as parent:
        head = json.loads(source.readline())
        contract = Contract.from_json(head["contract"])
        for item in head["trials"]:
            files = {suffix: source.read(size) for suffix, size in item["sizes"].items()}
            with contextlib.suppress(Exception):  # an exception is not a crash
                _run(item, FileContent(files.pop(""), files), contract)
            parent.write("finished\n")
            parent.flush()


def _run(item: dict[str, Any], content: FileContent, contract: Contract) -> None:
    import numpy as np

    from vae_export.formats import FORMATS

    format, spec = FORMATS[item["format"]], contract.spec(item["part"])
    run = format.open(content, spec, format.session_options(item["provider"])[0])
    sized = contract.at().spec(item["part"])
    run(
        {
            tensor.name: np.full((1, *tensor.fixed_item), max(tensor.low, 0.0), np.dtype(tensor.dtype))
            for tensor in sized.inputs
        }
    )


if __name__ == "__main__":
    # A core file would be as large as the memory of the engine.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _main(sys.stdin.buffer)
