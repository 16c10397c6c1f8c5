"""`serve --engine ray`: replicas on a real Ray cluster, which may die."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ONE_LINE, run_cli
from tests.required import skip_or_fail
from tests.serving.running import PROTOCOLS, Running, latents, started
from vae_export import Model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_packages")]

ACTORS = 2
#: Replicas that were there before the server of these tests.
OTHERS: set[int] = set()


@pytest.fixture(scope="module")
def ray_server(_packages: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if find_spec("ray") is None:
        skip_or_fail("ray", "run: pip install -e '.[dev]'")
    OTHERS.update(replicas())
    arguments = [f"small:4={bundle}", "--engine", "ray", "--actors", ACTORS]
    with started(arguments, tmp_path_factory.mktemp("ray") / "log") as running:
        running.wait_until_ready(timeout=300)
        yield running


def replicas() -> set[int]:
    """Return the processes of new replicas, by the name that Ray gives them: ray::Replica."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if path.read_bytes().startswith(b"ray::Replica"):
                found.add(int(path.parent.name))
    return found - OTHERS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_replicas_compute_what_the_model_computes(ray_server: Running, model: Model, protocol: str) -> None:
    inputs = latents(3)
    result = ray_server.infer(protocol, "small-decoder", {"latent": inputs}, model_version="4")
    np.testing.assert_allclose(result.as_numpy("image"), model.decode(inputs), rtol=0, atol=1e-6)


def test_error_of_a_replica_is_refused_by_name(ray_server: Running) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="not finite: tensor 'image'"):
        ray_server.infer("http", "small-decoder", {"latent": np.full((1, 4), 3e38, np.float32)})


def test_death_of_a_replica_loses_no_request(ray_server: Running, model: Model) -> None:
    """A batch whose replica is killed is computed by another one."""
    before = replicas()
    assert len(before) == ACTORS

    def send(number: int) -> bool:
        inputs = latents(1, seed=number)
        image = ray_server.infer("grpc", "small-decoder", {"latent": inputs}).as_numpy("image")
        return bool(np.allclose(image, model.decode(inputs), rtol=0, atol=1e-6))

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(send, number) for number in range(60)]
        os.kill(min(before), signal.SIGKILL)
        assert all(answer.result(120) for answer in answers)


def test_signal_drains_and_ends_the_cluster(ray_server: Running) -> None:
    """The last test of this server: Ray's own handler of the signal would abort the process with a stack trace."""
    assert ray_server.stop() == 143
    assert "Traceback" not in ray_server.log.read_text()
    assert "SIGTERM received" not in ray_server.log.read_text()


def test_cluster_that_is_not_there_is_one_line(bundle: Path, tmp_path: Path) -> None:
    ports = ["--http-port", 0, "--grpc-port", 0]
    result = run_cli("serve", bundle, "--engine", "ray", "--ray-address", "127.0.0.1:1", *ports, cwd=tmp_path)
    assert result.returncode == 6
    assert ONE_LINE.fullmatch(result.stderr), result.stderr
    assert "Ray cannot be reached: 127.0.0.1:1" in result.stderr
