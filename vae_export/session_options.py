"""The options that an exported file is opened with: provider, threads, graph optimisation and other switches.

Formats open a file with `SessionOptions`, parity certifies them, `tune` recommends them, the manifest stores them and
the runtime follows them. The names that they may hold are listed here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The format that `vae_export.runtime` runs, and so the one that can be recommended.
RUNTIME_FORMAT = "onnx"

#: Execution providers of ONNX Runtime.
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = (CPU, CUDA, TENSORRT)

#: ONNX Runtime's graph optimisation levels; the last is its default.
OPTIMISATION_LEVELS = ("disabled", "basic", "extended", "all")
#: Departures from ONNX Runtime's defaults that change the time and no result.
SWITCHES = ("no-spinning", "parallel", "no-arena", "no-pattern")
#: More threads than any processor has: ONNX Runtime answers larger numbers badly, or not at all.
MAX_THREADS = 1024


@dataclass(frozen=True)
class SessionOptions:
    """The options that a file is opened with. Some of them change what it computes, all of them how fast.

    Attributes:
        provider: what runs the file, as its engine calls it: one of `PROVIDERS`, "cpu", "cuda", "CPU", "GPU".
        threads: number of threads within an operator, 1 to `MAX_THREADS`; None lets the engine choose.
        optimisation: level of graph optimisation, one of `OPTIMISATION_LEVELS`; None takes the engine's default.
        tf32: let an NVIDIA GPU round the factors of products to 10 bits. Never the default here.
        switches: some of `SWITCHES`.
    """

    provider: str = CPU
    threads: int | None = None
    optimisation: str | None = None
    tf32: bool = False
    switches: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The provider and the other options, such as "CPUExecutionProvider, 2 threads, no-spinning"."""
        return f"{self.provider}, {self.details}"

    @property
    def details(self) -> str:
        """Everything but the provider, for a person; ONNX Runtime's default optimisation is not mentioned."""
        is_default = self.optimisation in (None, OPTIMISATION_LEVELS[-1])
        level = [] if is_default else [f"optimisation {self.optimisation}"]
        return ", ".join([self._threads, *level, *self.switches])

    @property
    def certificate_name(self) -> str:
        """The value of "setting" in a certificate's rows, such as "all, 2 threads" or "1 thread"."""
        return ", ".join(text for text in (self.optimisation, self._threads) if text)

    @property
    def is_extreme(self) -> bool:
        """Whether the engine leaves the graph as it is, or rewrites it as far as it can."""
        return self.optimisation in (None, OPTIMISATION_LEVELS[0], OPTIMISATION_LEVELS[-1])

    @property
    def _threads(self) -> str:
        if self.threads is None:
            return "default threads"
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"
