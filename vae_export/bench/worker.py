"""The child process of one side: opens it, and times calls of it when told to.

A line of JSON in, a line of JSON out, over the streams that it was started with. Engines that crash, hang or print take
nothing with them but this process. What an engine prints goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vae_export.artifact.folder import open_artifact
from vae_export.bench.subjects import Subject, make_inputs
from vae_export.errors import VaeExportError

if TYPE_CHECKING:
    from vae_export.formats import Runner

#: The first calls of a slot fill caches, and wake threads that went to sleep while others were measured.
_WARM_SECONDS, _WARM_CALLS = 0.003, 2
#: Even a slot that is shorter than one call has these.
_LEAST_CALLS = 2


class Child:
    """One side, and what it has open: a runner for each number of threads."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._spec = open_artifact(subject.export).manifest.contract.spec(subject.part)
        self._bare = peak_memory()
        self._runners: dict[int, Runner] = {}

    def open(self, threads: int, batch: int) -> dict[str, Any]:
        """Load, and compute once: what an application waits for at its start, the engine's own import included."""
        inputs = make_inputs(self._spec, batch)
        started = time.perf_counter()
        self._runners[threads] = self._subject.open(threads)
        with self._runners[threads].bind(inputs) as bound:
            bound.call()
        seconds = time.perf_counter() - started
        gc.freeze()  # what is loaded stays: nobody needs to look through it again
        return {"seconds": seconds}

    def warm(self, threads: int, batch: int) -> dict[str, Any]:
        """Compute a batch; the most memory that this process ever had, above a bare Python with numpy."""
        with self._runners[threads].bind(make_inputs(self._spec, batch)) as bound:
            for _ in range(_WARM_CALLS):
                bound.call()
        return {"bytes": peak_memory() - self._bare}

    def time(self, threads: int, batch: int, seconds: float) -> dict[str, Any]:
        """Nanoseconds of each call."""
        with self._runners[threads].bind(make_inputs(self._spec, batch)) as bound:
            _calls(bound.call, _WARM_SECONDS, _WARM_CALLS)
            return {"nanoseconds": _calls(bound.call, seconds, _LEAST_CALLS)}

    def count(self, batch: int) -> dict[str, Any]:
        """What there is to do; asked of a side that is the limit."""
        from vae_export.bench.roofline import operations, weight_bytes

        graph = self._subject.graph()
        inputs = make_inputs(self._spec, batch)
        return {"operations": operations(graph, inputs), "weight_bytes": weight_bytes(graph)}


def _calls(call: Callable[[], object], seconds: float, least: int) -> list[int]:
    clock, taken = time.perf_counter_ns, []
    gc.disable()
    try:
        until = clock() + int(seconds * 1e9)
        while True:
            started = clock()
            call()
            stopped = clock()
            taken.append(stopped - started)
            if stopped >= until and len(taken) >= least:
                return taken
    finally:
        gc.enable()


def peak_memory() -> int:
    """The most bytes that this process had in memory.

    On Linux `ru_maxrss` would not do: a process that was started by a larger one begins with the larger one's figure.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _main() -> None:
    # Ctrl-C is the parent's to handle: this process ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _private_stdout()
    child: Child | None = None
    for line in sys.stdin:
        order = json.loads(line)
        verb = order.pop("do")
        try:
            if verb == "begin":
                child, answer = Child(Subject.from_json(order)), {}
            else:
                answer = getattr(child, verb)(**order)
        except VaeExportError as error:
            answer = {"error": error.line()}
        except Exception as error:  # whatever an engine raises
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def _private_stdout() -> IO[str]:
    """The stream that was stdout; whatever is printed from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    _main()
