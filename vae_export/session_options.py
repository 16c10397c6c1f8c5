"""Options for opening an exported file: provider, threads, graph optimisation and other switches.

Formats open a file with `SessionOptions`, parity certifies them, `tune` recommends them, the manifest stores them and
the runtime applies them. All allowed names are listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: The format that `vae_export.runtime` runs, and therefore the only one that `tune` recommends.
RUNTIME_FORMAT = "onnx"

#: Execution providers of ONNX Runtime.
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = (CPU, CUDA, TENSORRT)
_LONG_END = "ExecutionProvider"

#: ONNX Runtime's graph optimisation levels; the last is its default.
OPTIMISATION_LEVELS = ("disabled", "basic", "extended", "all")
#: Changes of ONNX Runtime's defaults that change the run time and not the results.
SWITCHES = ("no-spinning", "parallel", "no-arena", "no-pattern")
#: Exact products of unsigned and signed bytes on every processor, at the optimisation levels `EXACT_LEVELS`. The
#: runtime sets it where the processor needs it; with it, the others are slower.
EXACT_INT8 = "exact-int8"
EXACT_LEVELS = ("extended", "all")
#: The entry of ONNX Runtime's session configuration for `EXACT_INT8`.
EXACT_INT8_ENTRY = ("session.x64quantprecision", "1")
#: The largest allowed number of threads, more than any processor has. ONNX Runtime handles larger numbers badly.
MAX_THREADS = 1024


def short_provider(name: str) -> str:
    """Return a provider's name without the end of ONNX Runtime's long names: CPU for CPUExecutionProvider."""
    return name.removesuffix(_LONG_END)


def find_provider(name: str, known: Iterable[str] = PROVIDERS) -> str:
    """Return the provider of `known` that a short name means in any case, such as cpu; other names are unchanged."""
    return next((provider for provider in known if short_provider(provider).lower() == name.lower()), name)


@dataclass(frozen=True)
class SessionOptions:
    """Options for opening a file. All of them change the speed, and some of them change the results.

    Attributes:
        provider: the engine's name of the device or provider: one of `PROVIDERS`, "cpu", "cuda", "CPU", "GPU".
        threads: number of threads within an operator, 1 to `MAX_THREADS`; None lets the engine choose.
        optimisation: level of graph optimisation, one of `OPTIMISATION_LEVELS`; None uses the engine's default.
        tf32: whether an NVIDIA GPU may round the factors of products to TF32 (10 bits).
        switches: names from `SWITCHES`, and `EXACT_INT8`.
    """

    provider: str = CPU
    threads: int | None = None
    optimisation: str | None = None
    tf32: bool = False
    switches: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return all options as text, such as "CPUExecutionProvider, 2 threads, no-spinning"."""
        return f"{self.provider}, {self.details}"

    @property
    def details(self) -> str:
        """All options except the provider as text; the default optimisation level is left out."""
        is_default = self.optimisation in (None, OPTIMISATION_LEVELS[-1])
        level = [] if is_default else [f"optimisation {self.optimisation}"]
        return ", ".join([self._threads, *level, *self.switches])

    @property
    def certificate_name(self) -> str:
        """The value of "setting" in a certificate's rows, such as "all, 2 threads" or "1 thread"."""
        return ", ".join(text for text in (self.optimisation, self._threads, *self.switches) if text)

    @property
    def is_extreme(self) -> bool:
        """Whether the optimisation level is the lowest, the highest or the default."""
        return self.optimisation in (None, OPTIMISATION_LEVELS[0], OPTIMISATION_LEVELS[-1])

    @property
    def _threads(self) -> str:
        if self.threads is None:
            return "default threads"
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"
