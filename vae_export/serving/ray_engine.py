"""Replicas on a Ray cluster: actors that hold every model of the server and compute batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from vae_export.contract import Array, Part
from vae_export.errors import MachineError, VaeExportError
from vae_export.pipeline.ray.driver import check_capacity, check_ray, connect, resources
from vae_export.pipeline.ray.worker import ModelPayload
from vae_export.runtime import Model
from vae_export.runtime.self_test import self_test
from vae_export.serving.engines import OpenedBundle
from vae_export.serving.models import ServedModel
from vae_export.serving.refusals import NotAcceptingError
from vae_export.session_options import CPU

#: How often a batch is started. A batch that kills its replica must not kill one after the other forever.
_ATTEMPTS = 3
#: How long a batch waits for a replica to be there again, and how often a lost one is asked.
_WAIT_SECONDS, _ASK_SECONDS = 60.0, 0.2


class Replica:
    """Holds the models in a process of its own, which Ray starts again if it dies."""

    def __init__(self, payloads: list[Any]) -> None:
        import ray

        self._models: list[Model] = [payload.open() for payload in ray.get(payloads)]

    def ask(self) -> None:
        """Answer, which says that the models are loaded."""

    def run(self, bundle: int, part: Part, inputs: Mapping[str, Array]) -> dict[str, Array] | VaeExportError:
        """Compute a batch; an error of ours is returned, because Ray would wrap it and lose its class."""
        try:
            return self._models[bundle].run(part, **inputs)
        except VaeExportError as error:
            return error


class ReplicaEngine:
    """Computes on replicas, each of which has one batch at a time.

    Args:
        bundles: the bundles.
        replicas: the number of replicas.
        address: HOST:PORT of a cluster that this machine has joined; None starts one here, which ends with the server.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the address is one of a Ray client.
    """

    def __init__(self, bundles: Sequence[OpenedBundle], replicas: int, address: str | None) -> None:
        check_ray(address)
        self._bundles, self.parallel, self._address = bundles, replicas, address
        self._idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        self._ray: Any = None
        self._payloads: list[Any] = []
        self._replicas: list[Any] = []
        self._reviving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the replicas and run the self-tests on each; see `BatchEngine`."""
        options = [bundle.model.running(part).options for bundle in self._bundles for part in bundle.model.parts]
        threads = max(option.threads or 1 for option in options)
        gpus = int(any(option.provider != CPU for option in options))
        ray = self._ray = _connect(self._address)
        have = resources(ray)
        check_capacity(self.parallel, threads, have["CPU"])
        check_capacity(self.parallel, gpus, have["GPU"], "GPUs")
        # Kept: a replica that is started again fetches them again.
        self._payloads = [ray.put(_payload(bundle)) for bundle in self._bundles]
        make = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=-1)(Replica)
        self._replicas = [make.remote(self._payloads) for _ in range(self.parallel)]
        for replica in self._replicas:
            for number, bundle in enumerate(self._bundles):
                self._test(replica, number, bundle)
            self._idle.put_nowait(replica)

    def _test(self, replica: Any, number: int, bundle: OpenedBundle) -> None:
        def run(part: Part, **inputs: Array) -> dict[str, Array]:
            return _result(self._ray.get(replica.run.remote(number, part, inputs)))

        precisions = {part: bundle.model.running(part).precision for part in bundle.model.parts}
        exceptions, deadline = self._ray.exceptions, time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                return self_test(bundle.package, run, precisions).require()
            except exceptions.ActorUnavailableError as error:  # it has died, and Ray starts it again
                if time.monotonic() > deadline:
                    raise _stopped(error) from error
                time.sleep(_ASK_SECONDS)
            except exceptions.RayError as error:
                raise _stopped(error) from error

    async def run(self, model: ServedModel, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute a batch on an idle replica; if the replica dies, on another one."""
        exceptions = self._ray.exceptions
        lost: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    replica = await self._idle.get()
            except TimeoutError:
                raise NotAcceptingError("no replica is there", do="see `ray status`") from lost
            try:
                found = await replica.run.remote(model.bundle, model.part, dict(inputs))
            except exceptions.RayActorError as error:
                # Ray retries no call whose outcome it does not know. A batch can be computed twice.
                lost = error
                task = asyncio.create_task(self._revive(replica))
                self._reviving.add(task)
                task.add_done_callback(self._reviving.discard)
                continue
            except exceptions.RayError as error:
                self._idle.put_nowait(replica)
                raise _stopped(error) from error
            self._idle.put_nowait(replica)
            return _result(found)
        raise _stopped(lost)

    async def _revive(self, replica: Any) -> None:
        """Take a replica back when Ray has started it again."""
        while True:
            try:
                await replica.ask.remote()
            except self._ray.exceptions.RayError:
                await asyncio.sleep(_ASK_SECONDS)
                continue
            self._idle.put_nowait(replica)
            return

    def stop(self) -> None:
        """End the replicas, and leave the cluster as it was."""
        # In a thread: calls to a cluster that is gone may never return, and the server must end.
        ending = threading.Thread(target=self._end_replicas, daemon=True)
        ending.start()
        ending.join(timeout=5)

    def _end_replicas(self) -> None:
        for replica in self._replicas:
            self._ray.kill(replica)


def _connect(address: str | None) -> Any:
    """Connect to a cluster in a thread that never ends; return the module `ray`.

    Linux kills the processes of a cluster that is started here when the thread ends that started them, not the process:
    see PR_SET_PDEATHSIG in prctl(2). The server would lose its cluster, and end a minute later.
    """
    connected: Future[Any] = Future()

    def run() -> None:
        try:
            connected.set_result(connect(address))
        except BaseException as error:
            connected.set_exception(error)
        threading.Event().wait()

    threading.Thread(target=run, name="ray", daemon=True).start()
    return connected.result()


def _payload(bundle: OpenedBundle) -> ModelPayload:
    model = bundle.model
    chosen = model.running(model.parts[0])
    return ModelPayload.of(bundle.package, model.parts, chosen.options, precision=chosen.precision)


def _result(found: dict[str, Array] | VaeExportError) -> dict[str, Array]:
    if isinstance(found, VaeExportError):
        raise found
    return found


def _stopped(error: Exception | None) -> MachineError:
    what = str(error).strip().splitlines()
    return MachineError("replica stopped", got=what[0] if what else type(error).__name__, do="see Ray's logs")
