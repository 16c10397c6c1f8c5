"""A stand-in for `SubjectProcess` that starts no process and answers with times that the test gives."""

from __future__ import annotations

from typing import Any, ClassVar

from vae_export.bench.kernels import Kernel
from vae_export.bench.subjects import Subject


class ScriptedProcess:
    """Answers every request at once. Set `seconds` with monkeypatch.

    Attributes:
        seconds: the time of a call in each round, by subject; one that is not named takes 1 ms.
        kernel_seconds: the time of every product and read.
    """

    kernel_seconds: ClassVar[float] = 200e-6

    seconds: ClassVar[dict[str, list[float]]] = {}

    def __init__(self, subject: Subject) -> None:
        self.rounds = iter(self.seconds.get(subject.name, [1e-3] * 100))

    def __enter__(self) -> ScriptedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self) -> None:
        pass

    def ask(self, do: str, **asked: Any) -> dict[str, Any]:
        match do:
            case "open":
                return {"seconds": 0.1}
            case "warm":
                return {"bytes": 1 << 20}
            case "workload":
                kernel = Kernel("product", (1, 10), (10, 50)).to_json()
                return {"workloads": [{"products": [[kernel, 1]], "weight_bytes": 4000}] * len(asked["batches"])}
            case "time_kernel":
                return {"nanoseconds": round(self.kernel_seconds * 1e9)}
        return {"nanoseconds": [round(next(self.rounds) * 1e9)] * 5}

    def close(self) -> None:
        pass
