"""Where batches are computed: in threads of the server, or by replicas on a Ray cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from vae_export.artifact.folder import Package
from vae_export.contract import EVERY_PART, Array
from vae_export.precision import PrecisionName
from vae_export.runtime import Model
from vae_export.serving.models import Catalogue, ServedBundle, ServedModel


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle that was read and checked, and the model that runs it.

    Attributes:
        served: its name and version.
        package: the bundle or export.
        model: the model; each part's session is opened by the self-test.
    """

    served: ServedBundle
    package: Package
    model: Model

    @classmethod
    def open(
        cls,
        served: ServedBundle,
        package: Package,
        *,
        precision: PrecisionName | None = None,
        provider: str | None = None,
        threads: int | None = None,
    ) -> OpenedBundle:
        """Choose the files and options of a bundle.

        Args:
            served: its name and version.
            package: the bundle or export.
            precision, provider, threads: as for `vae_export.load`. Without `threads`, recommended options are used, or
                else one thread: several batches at a time are quicker than several threads for one.
        """
        model = Model(package, precision=precision, provider=provider, threads=threads)
        if threads is None and all(model.running(part).options.threads is None for part in model.parts):
            model = Model(package, precision=precision, provider=provider, threads=1)
        return cls(served, package, model)


def catalogue_of(bundles: Sequence[OpenedBundle]) -> Catalogue:
    """Return the models of the bundles: each part that has an ONNX file, such as "mnist-decoder".

    Raises:
        UsageError: two models have the same name and version.
    """
    return Catalogue.of(
        ServedModel(
            f"{bundle.served.name}-{part}", bundle.served.version, number, part, bundle.model.contract.spec(part)
        )
        for number, bundle in enumerate(bundles)
        for part in EVERY_PART
        if part in bundle.model.parts
    )


class BatchEngine(Protocol):
    """Computes batches.

    Attributes:
        parallel: how many batches are computed at a time.
    """

    parallel: int

    def start(self) -> None:
        """Open every session and run the self-test of each bundle. This blocks.

        Raises:
            ParityError: this machine does not compute the right outputs.
            ModelError: a bundle has no golden vectors, or a file cannot be opened.
            MachineError: the cluster cannot be reached or is too small.
        """

    async def run(self, model: ServedModel, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute a batch of checked inputs."""

    def stop(self) -> None:
        """Release what `start` opened."""


class ThreadEngine:
    """Computes in threads of this process, which ONNX Runtime lets run side by side.

    Args:
        bundles: the bundles.
        parallel: how many batches are computed at a time.
    """

    def __init__(self, bundles: Sequence[OpenedBundle], parallel: int) -> None:
        self._bundles, self.parallel = bundles, parallel
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="batch")

    def start(self) -> None:
        """Run the self-tests; see `BatchEngine`."""
        for bundle in self._bundles:
            bundle.model.self_test().require()

    async def run(self, model: ServedModel, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute a batch in a thread."""
        bundle = self._bundles[model.bundle].model
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: bundle.run(model.part, **inputs))

    def stop(self) -> None:
        """End the threads when they are idle."""
        self._threads.shutdown(wait=False, cancel_futures=True)
