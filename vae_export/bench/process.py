"""Control the child process of a subject: send requests, read answers, and report how the process died."""

from __future__ import annotations

import json
import selectors
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from vae_export.bench import worker
from vae_export.bench.subjects import Subject
from vae_export.errors import MachineError
from vae_export.system.child_process import child_environment, describe_exit, last_line, python_command

#: Timeout of one request. A compiler may take a minute on a busy machine, and no request takes as long as this.
TIMEOUT_SECONDS = 300.0


class SubjectError(MachineError):
    """A subject could not be measured, because its engine failed, crashed or hung."""


class SubjectProcess:
    """A child process that holds one subject open. Use it as a context manager: the process ends with the block.

    Args:
        subject: the subject that the process opens.
        seconds: timeout of one request, in seconds.
        command: command to run instead of `vae_export.bench.worker`, for tests.
    """

    def __init__(self, subject: Subject, *, seconds: float = TIMEOUT_SECONDS, command: tuple[str, ...] = ()) -> None:
        self.subject = subject
        self._seconds = seconds
        self._scratch = tempfile.TemporaryDirectory(prefix="vae-export-bench-")
        self._stderr = open(Path(self._scratch.name) / "stderr", "w+b")
        environment = child_environment() | {
            # An engine that is killed leaves the files that it unpacked. `close` removes them.
            "TMPDIR": self._scratch.name,
            # A compiler cache would make the load time of a second run shorter than that of the first.
            "TORCHINDUCTOR_CACHE_DIR": self._scratch.name,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            # NumPy's matrix products are measured with one thread; see `vae_export.bench.kernels`.
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command or python_command(worker.__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )

    def __enter__(self) -> SubjectProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    def begin(self) -> None:
        """Send the subject to the child process; raise `SubjectError` as `ask` does."""
        self.ask("begin", **self.subject.to_json())

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Args:
            do: name of a method of `vae_export.bench.worker.SubjectServer`.
            arguments: arguments of the method.

        Returns:
            The answer.

        Raises:
            SubjectError: the subject failed, its process died, or there was no answer in time.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise self._death()  # cannot happen: both are pipes
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._seconds):
                raise SubjectError(f"no answer within {self._seconds:g} s", where=self.subject.name)
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SubjectError(answer["error"])
        return answer

    def close(self) -> None:
        """Kill the child process and remove its files."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()
        self._scratch.cleanup()

    def _death(self) -> SubjectError:
        """Return an error that says how the child process ended, with the last line that it printed."""
        code = self._process.wait()
        self._stderr.seek(0)
        last = last_line(self._stderr.read())
        return SubjectError(f"its process {describe_exit(code)}", got=last and last[:300])
