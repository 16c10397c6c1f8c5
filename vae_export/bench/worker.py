"""The child process of one subject, which opens the subject and times its calls on request.

It reads a line of JSON from stdin for each request and writes a line of JSON to stdout for each answer. An engine that
crashes or hangs affects only this process, and the output that it prints goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.artifact.folder import open_artifact
from vae_export.bench.clock import time_calls
from vae_export.bench.kernels import Kernel, KernelTimer
from vae_export.bench.subjects import Subject, library_of, make_inputs
from vae_export.errors import VaeExportError
from vae_export.system.streams import private_stdout

if TYPE_CHECKING:
    from vae_export.contract import Array
    from vae_export.formats import Runner

#: Seconds of the warm-up before calls are timed, and calls before memory is read.
_WARM_SECONDS, _WARM_CALLS = 0.003, 2
#: Number of calls that are timed even if one takes longer than the measuring time.
_MIN_CALLS = 2


class SubjectServer:
    """The subject of this process, with a runner for each number of threads; its methods are the requests."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._timer = KernelTimer(library_of(subject.name))
        self._spec = open_artifact(subject.export).manifest.contract.spec(subject.part)
        self._bare = peak_memory()
        self._runners: dict[int, Runner] = {}

    def _inputs(self, batch: int) -> dict[str, Array]:
        return make_inputs(self._spec, batch, self._subject.sizes)

    def open(self, threads: int, batch: int) -> dict[str, Any]:
        """Load the subject and compute once; return how long that took, including the import of the engine."""
        inputs = self._inputs(batch)
        started = time.perf_counter()
        self._runners[threads] = self._subject.open(threads)
        with self._runners[threads].bind(inputs) as bound:
            bound.call()
        seconds = time.perf_counter() - started
        gc.freeze()  # loaded objects stay, so the garbage collector need not scan them again
        return {"seconds": seconds}

    def warm(self, threads: int, batch: int) -> dict[str, Any]:
        """Compute a batch, and return the peak memory of this process minus that of a bare Python with numpy."""
        with self._runners[threads].bind(self._inputs(batch)) as bound:
            for _ in range(_WARM_CALLS):
                bound.call()
        return {"bytes": peak_memory() - self._bare}

    def time(self, threads: int, batch: int, seconds: float) -> dict[str, Any]:
        """Time calls of the subject, after a warm-up.

        Args:
            threads: the number of threads.
            batch: the number of rows in each call.
            seconds: the measuring time; two calls are timed even if they take longer.

        Returns:
            The duration of each call in nanoseconds, as a list under "nanoseconds".
        """
        with self._runners[threads].bind(self._inputs(batch)) as bound:
            return {"nanoseconds": time_calls(bound.call, seconds, _MIN_CALLS, threads, _WARM_SECONDS)}

    def workload(self, batches: Sequence[int]) -> dict[str, Any]:
        """Return the products and the weights of the graph at each batch size, as JSON under "workloads"."""
        from vae_export.bench.workload import workload

        graph = self._subject.graph()
        return {"workloads": [workload(graph, self._inputs(batch)).to_json() for batch in batches]}

    def time_kernel(self, kernel: Mapping[str, Any], threads: int, seconds: float) -> dict[str, Any]:
        """Time a kernel with the library of this subject.

        Args:
            kernel: the kernel, as JSON.
            threads: the number of threads.
            seconds: the measuring time; it is called three times even if that takes longer.

        Returns:
            The shortest call in nanoseconds under "nanoseconds"; None where the library does not compute it.
        """
        return {"nanoseconds": self._timer.least_nanoseconds(Kernel.from_json(kernel), threads, seconds)}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes.

    On Linux it is read from /proc, because `ru_maxrss` includes the memory of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _main() -> None:
    # The parent handles Ctrl-C. This process ends when its input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = private_stdout()
    server: SubjectServer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        method = request.pop("do")
        try:
            if method == "begin":
                server, answer = SubjectServer(Subject.from_json(request)), {}
            else:
                answer = getattr(server, method)(**request)
        except VaeExportError as error:
            answer = {"error": error.line()}
        except Exception as error:  # an engine may raise anything
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
