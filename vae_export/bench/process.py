"""The parent's end of a child process: orders, answers, and one line of what became of one that died."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from vae_export.bench.subjects import Subject
from vae_export.errors import MachineError

#: For one order. Compilers take a minute on a busy machine; nothing takes this long.
SECONDS = 300.0


class SubjectError(MachineError):
    """A side that could not be measured: its engine refused, crashed or hung."""


class SubjectProcess:
    """A child process that has one side open. Use it as a block: it ends with it."""

    def __init__(self, subject: Subject, *, seconds: float = SECONDS, command: tuple[str, ...] = ()) -> None:
        self._subject = subject
        self._seconds = seconds
        self._scratch = tempfile.TemporaryDirectory(prefix="vae-export-bench-")
        self._said = open(Path(self._scratch.name) / "stderr", "w+b")
        environment = os.environ | {
            # The child finds packages where this process does, and none in the working folder.
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            # What an engine unpacks to load it stays behind when its process is killed: `close` removes it.
            "TMPDIR": self._scratch.name,
            # What torch.compile compiled before would make its load time another thing at the second run.
            "TORCHINDUCTOR_CACHE_DIR": self._scratch.name,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command or (sys.executable, "-P", "-m", "vae_export.bench.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
        )

    def __enter__(self) -> SubjectProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self) -> None:
        """Tell the child what it is; raises as `ask` does."""
        self.ask("begin", **self._subject.to_json())

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer; raises `SubjectError` where there is none."""
        if self._process.stdin is None or self._process.stdout is None:
            raise self._ended()  # never: both are pipes
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._seconds):
                raise SubjectError(f"no answer within {self._seconds:g} s", where=self._subject.side)
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SubjectError(answer["error"])
        return answer

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._scratch.cleanup()

    def _ended(self) -> SubjectError:
        """How the child ended, and its last word."""
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return SubjectError(f"its process {how}", got=last and last[:300])
