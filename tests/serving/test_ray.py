"""`serve --engine ray`: replicas on a real Ray cluster, which may die."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests import ray_starts
from tests.commands import ONE_LINE, run_cli
from tests.required import skip_or_fail
from tests.serving.running import PROTOCOLS, latents, started
from vae_export import Model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_packages")]

ACTORS = 2


def replicas() -> set[int]:
    """Return the processes of replicas, by the name that Ray gives them: ray::Replica."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if path.read_bytes().startswith(b"ray::Replica"):
                found.add(int(path.parent.name))
    return found


def test_replicas_answer_survive_a_death_and_drain(bundle: Path, model: Model, tmp_path: Path) -> None:
    """One test, because a cluster takes half a minute to start, and workers share the tests of a file."""
    from tritonclient.utils import InferenceServerException

    if find_spec("ray") is None:
        skip_or_fail("ray", "run: pip install -e '.[dev]'")
    others = replicas()
    arguments = [f"small:4={bundle}", "--engine", "ray", "--actors", ACTORS]
    with ray_starts.alone() as end_of_start, started(arguments, tmp_path / "log") as server:
        deadline = time.monotonic() + 300
        while not (first := replicas() - others):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(min(first), signal.SIGKILL)
        server.wait_until_ready(timeout=300)
        end_of_start()
        for protocol in PROTOCOLS:
            result = server.infer(protocol, "small-decoder", {"latent": latents(3)}, model_version="4")
            np.testing.assert_allclose(result.as_numpy("image"), model.decode(latents(3)), rtol=0, atol=1e-6)
        with pytest.raises(InferenceServerException, match="not finite: tensor 'image'"):
            server.infer("http", "small-decoder", {"latent": np.full((1, 4), 3e38, np.float32)})

        def send(number: int) -> bool:
            inputs = latents(1, seed=number)
            image = server.infer("grpc", "small-decoder", {"latent": inputs}).as_numpy("image")
            return bool(np.allclose(image, model.decode(inputs), rtol=0, atol=1e-6))

        own = replicas() - others
        assert len(own) == ACTORS, "the one that died at the start is back"
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(send, number) for number in range(60)]
            os.kill(min(own), signal.SIGKILL)
            assert all(answer.result(120) for answer in answers), "another replica computes the batch of the dead one"
        killed, deadline = min(own), time.monotonic() + 120
        while len(now := replicas() - others) < ACTORS or killed in now:
            assert time.monotonic() < deadline, "Ray starts the dead replica again, so the cluster must be there still"
            assert send(60)
            time.sleep(0.2)
        (lasting,) = own & now
        os.kill(lasting, signal.SIGKILL)
        assert send(61), "the new replica takes part"
        assert server.stop() == 143
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "SIGTERM received" not in said, "Ray's own handler of the signal aborts with a stack trace"


def test_cluster_that_is_not_there_is_one_line(bundle: Path, tmp_path: Path) -> None:
    ports = ["--http-port", 0, "--grpc-port", 0]
    result = run_cli("serve", bundle, "--engine", "ray", "--ray-address", "127.0.0.1:1", *ports, cwd=tmp_path)
    assert result.returncode == 6
    assert ONE_LINE.fullmatch(result.stderr), result.stderr
    assert "Ray cannot be reached: 127.0.0.1:1" in result.stderr
