"""The roofline of a graph: the least time in which this machine has computed its products, or read its weights.

No float32 engine can avoid either. Each product counts with the library that is the fastest at it, in the shortest of
all calls of all rounds, because other programs can only make a call longer. Where an engine is faster still, for
example because results stay in the cache between two layers, its shortest call shows that less time is needed, and is
the roofline. Beside it stand the peaks of the processor: multiply-adds in registers, and reads of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vae_export.bench.kernels import COMPILED, Kernel, multiply_adds

#: Reads of this many floats, 128 MiB, come from memory and not from a cache.
MEMORY = Kernel("read", (1 << 25,))
#: Multiply-adds without any memory, and a product that comes near to them where there is no C compiler.
PEAK, SQUARE = Kernel("multiply-add"), Kernel("product", (512, 512), (512, 512))
#: The kernels that are measured for the peaks of the processor.
PEAKS = (MEMORY, PEAK, SQUARE)


@dataclass(frozen=True)
class Workload:
    """The work in one call of a graph that every engine has to do.

    Attributes:
        products: the number of times that each product and convolution occurs.
        weight_bytes: size of the weights in float32.
    """

    products: Mapping[Kernel, int]
    weight_bytes: int

    @property
    def operations(self) -> int:
        """Additions and multiplications in the products."""
        return sum(count * kernel.operations for kernel, count in self.products.items())

    @property
    def weights(self) -> Kernel:
        """The reading of all weights."""
        return Kernel("read", (self.weight_bytes // 4,))

    def to_json(self) -> dict[str, Any]:
        """Return the workload as JSON, which a child process sends."""
        products = [[kernel.to_json(), count] for kernel, count in self.products.items()]
        return {"products": products, "weight_bytes": self.weight_bytes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Workload:
        """Return the workload that `to_json` wrote."""
        products = {Kernel.from_json(kernel): count for kernel, count in data["products"]}
        return cls(products, data["weight_bytes"])


@dataclass(frozen=True)
class ProductTime:
    """The least time of one product or convolution.

    Attributes:
        product: its kind and shapes, as text.
        count: the number of times that it occurs in the graph.
        seconds: the time of one.
        library: the library that was the fastest.
    """

    product: str
    count: int
    seconds: float
    library: str


@dataclass(frozen=True)
class Peak:
    """The most that this machine did with a number of threads.

    Attributes:
        threads: the number of threads.
        operations_per_second: additions and multiplications in float32.
        operations_source: "multiply-adds" in registers, or the product that reached it where there is no C compiler.
        bytes_per_second: bytes read from memory.
    """

    threads: int
    operations_per_second: float
    operations_source: str
    bytes_per_second: float


@dataclass(frozen=True)
class Roofline:
    """The least time that this machine needs for one part, batch size and thread count.

    Attributes:
        part, batch, threads: the measured case.
        products_seconds: sum of the least times of all products and convolutions, one by one.
        weights_seconds: least time of reading the weights.
        fastest_call_seconds: shortest call of any float32 subject, or None if there is none.
        peak_seconds: time of the products at the peak of the processor, which no direct algorithm can be faster than.
        operations: additions and multiplications in the products.
        weight_bytes: size of the weights in float32.
        products: the least time of each product.
    """

    part: str
    batch: int
    threads: int
    products_seconds: float
    weights_seconds: float
    fastest_call_seconds: float | None
    peak_seconds: float
    operations: int
    weight_bytes: int
    products: tuple[ProductTime, ...] = ()

    @property
    def libraries_seconds(self) -> float:
        """The least time according to the libraries: the longer of the products and of reading the weights."""
        return max(self.products_seconds, self.weights_seconds)

    @property
    def seconds(self) -> float:
        """The roofline: the libraries' time, or the shortest call of a float32 subject if that is shorter."""
        return min(self.libraries_seconds, self.fastest_call_seconds or self.libraries_seconds)

    @property
    def exceeded(self) -> float:
        """The libraries' time divided by the roofline: above 1 where a subject is faster than their products."""
        return self.libraries_seconds / self.seconds


@dataclass
class LeastTimes:
    """The shortest call of each kernel so far, with its library, by number of threads."""

    found: dict[tuple[Kernel, int], tuple[float, str]] = field(default_factory=dict)

    def add(self, kernel: Kernel, threads: int, library: str, seconds: float) -> None:
        """Record the shortest call of one measurement."""
        known = self.found.get((kernel, threads))
        if known is None or seconds < known[0]:
            self.found[kernel, threads] = seconds, library

    def least(self, kernel: Kernel, threads: int) -> tuple[float, str]:
        """Return the shortest call in seconds and its library; who may use two threads may also use one."""
        return min(found for (known, used), found in self.found.items() if known == kernel and used <= threads)

    def peak(self, threads: int) -> Peak:
        """Return the peaks of the processor for a number of threads.

        A loop in registers is measured with one thread, and counts once for each.
        """
        measured = {kernel for kernel, used in self.found if used <= threads and kernel.operations}
        rates = [(kernel.operations / self.least(kernel, threads)[0], str(kernel)) for kernel in measured]
        seconds, library = self.found.get((PEAK, 1), (0.0, ""))
        if library == COMPILED:
            rates.append((threads * multiply_adds() / seconds, str(PEAK)))
        rate, source = max(rates)
        return Peak(threads, rate, source, MEMORY.read_bytes / self.least(MEMORY, threads)[0])

    def roofline(
        self, case: tuple[str, int, int], workload: Workload, peak: Peak, fastest_call_seconds: float | None
    ) -> Roofline:
        """Return the roofline of a part, batch size and thread count."""
        threads = case[2]
        products = tuple(
            ProductTime(str(kernel), count, *self.least(kernel, threads)) for kernel, count in workload.products.items()
        )
        return Roofline(
            *case,
            products_seconds=sum(item.count * item.seconds for item in products),
            weights_seconds=self.least(workload.weights, threads)[0],
            fastest_call_seconds=fastest_call_seconds,
            peak_seconds=workload.operations / peak.operations_per_second,
            operations=workload.operations,
            weight_bytes=workload.weight_bytes,
            products=products,
        )
