"""Batch commands on real Ray clusters on this machine, whose workers, drivers and machines are killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests import ray_starts
from tests.commands import ROOT, Invoke, command, run_cli, run_python, tree
from tests.pipeline.deadly import DeadlyPickle, DeadlyReader
from vae_export.errors import MachineError
from vae_export.pipeline import Chunks, Inputs, ModelPayload, Task
from vae_export.pipeline.ray.driver import start_or_join
from vae_export.pipeline.ray.engine import RayEngine
from vae_export.runtime import open_package
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow

#: Ray starts slowly where the cores are busy.
TIMEOUT_SECONDS = 400
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
ROWS, SHARD_ROWS = 40_000, 500


@dataclass(frozen=True)
class Cluster:
    """A cluster of two workers; see cluster.py."""

    address: str
    process: subprocess.Popen[str]

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests; a test that kills a machine adds another one."""
    script = Path(__file__).with_name("cluster.py")
    with open(tmp_path_factory.mktemp("cluster") / "cluster.log", "w") as log, ray_starts.alone() as end_of_start:
        process = subprocess.Popen(
            [sys.executable, script],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next(line.split()[1] for line in lines if line.startswith("cluster: "))
            end_of_start()
            yield Cluster(address, process)
        finally:
            process.communicate(timeout=TIMEOUT_SECONDS)


@pytest.fixture(scope="module")
def bundle(packed: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small.zip"
    path.write_bytes(packed)
    return path


@pytest.fixture(scope="module")
def expected(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """The files that one process writes for `sample`."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert run_cli(*sample(bundle, out), cwd=out.parent).returncode == 0
    return tree(out)


@pytest.fixture
def own_cluster() -> Iterator[None]:
    """For a test that starts a cluster of its own."""
    with ray_starts.alone():
        yield


def sample(bundle: Path, out: Path, *more: object) -> tuple[object, ...]:
    options = ("--shards", "npy", "--shard-rows", SHARD_ROWS, "--levels", "--threads", 1)
    return ("sample", "-n", ROWS, "--seed", 3, "--bundle", bundle, "--out", out, *options, *more)


def on_cluster(cluster: Cluster, actors: int = 2) -> tuple[object, ...]:
    return ("--engine", "ray", "--actors", actors, "--ray-address", cluster.address)


def start(*arguments: object, errors: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait while the process goes on."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def staged_shards(folder: Path) -> int:
    """Count the shards of an unfinished output."""
    return len(list(folder.glob(".partial-*/image-*.npy")))


def processes_below(ancestor: int, name: bytes) -> list[int]:
    """Return the descendants of a process with this text in their command line."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile

    def is_below(pid: int) -> bool:
        return pid in parents and (parents[pid] == ancestor or is_below(parents[pid]))

    return [pid for pid, command in commands.items() if name in command and is_below(pid)]


def actors_below(ancestor: int) -> list[int]:
    """Return the processes that hold a model, of the cluster that a process has started."""
    return processes_below(ancestor, b"ray::MapWorker")


def kill_driver(process: subprocess.Popen[str]) -> None:
    """Crash the driver of a command."""
    (driver, *_) = processes_below(process.pid, b"pipeline.ray.driver")
    os.kill(driver, signal.SIGSEGV)


def test_killed_driver_and_worker_change_nothing(
    bundle: Path, expected: dict[str, bytes], cluster: Cluster, tmp_path: Path
) -> None:
    home, messages = tmp_path / "home", tmp_path / "stderr"
    home.mkdir()
    with messages.open("w") as errors:
        process = start(*sample(bundle, home / "out", *on_cluster(cluster), "--json"), errors=errors)
        wait_until(lambda: staged_shards(home) > 0, process)
        kill_driver(process)
        wait_until(lambda: "Ray's driver died of SIGSEGV" in messages.read_text(), process)
        done = staged_shards(home)
        wait_until(lambda: staged_shards(home) > done and bool(actors_below(cluster.process.pid)), process)
        os.kill(actors_below(cluster.process.pid)[0], signal.SIGKILL)
        done = staged_shards(home)
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, messages.read_text()
    assert done < ROWS // SHARD_ROWS, "it was killed too late"
    assert json.loads(out)["engine"] == "ray"
    assert [path.name for path in home.iterdir()] == ["out"]
    assert tree(home / "out") == expected


def test_lost_machine_changes_nothing(
    bundle: Path, expected: dict[str, bytes], cluster: Cluster, tmp_path: Path, invoke: Invoke
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = start(*sample(bundle, home / "out", *on_cluster(cluster)))
    try:
        wait_until(lambda: staged_shards(home) > 0, process)
        cluster.tell("kill")
        done = staged_shards(home)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, err
        assert done < ROWS // SHARD_ROWS, "it was killed too late"
        assert [path.name for path in home.iterdir()] == ["out"]
        assert tree(home / "out") == expected
        few = invoke(*sample(bundle, home / "more", *on_cluster(cluster)))
        assert few.code == 6
        assert few.err.endswith("cluster is too small; expected 2 cores, got 1; choose fewer --actors or --threads\n")
    finally:
        cluster.tell("add")


def test_cluster_gives_the_bytes_of_one_process(
    bundle: Path, cluster: Cluster, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs that come back and outputs that workers write, on a cluster that RAY_ADDRESS names."""
    rows = 45_000  # three chunks
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (rows, 28, 28), np.uint8))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ray = ("--engine", "ray", "--actors", 2)
    common = ("--bundle", bundle, "--threads", 1)
    for engine, more in (("local", ()), ("ray", ray)):
        encoded, shards = tmp_path / f"{engine}.npz", tmp_path / f"{engine}-shards"
        for typed in (
            ("encode", tmp_path / "images.npy", "--out", encoded),
            ("decode", encoded, "--levels", "--shards", "parquet", "--out", shards),
        ):
            outcome = invoke(*typed, *common, *more)
            assert outcome.code == 0, outcome.err
    assert (tmp_path / "ray.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()
    assert len(tree(tmp_path / "ray-shards")) == 3
    assert tree(tmp_path / "ray-shards") == tree(tmp_path / "local-shards")
    latents = np.zeros((rows, 4), np.float32)
    latents[41_234, 2] = np.nan
    np.save(tmp_path / "nan.npy", latents)
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = invoke("decode", tmp_path / "nan.npy", *common, *ray, "--out", tmp_path / "out.npy")
    assert outcome.code == 3
    line = outcome.err.splitlines()[-1]
    assert line == f"vae-export: error: not finite: {tmp_path}/nan.npy, row 41234; expected finite numbers, got nan"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def ray_engine(bundle: Path, address: str | None) -> RayEngine:
    return RayEngine(ModelPayload.of(open_package(bundle), ("decoder",), SessionOptions()), actors=1, address=address)


def test_rows_that_kill_every_worker_are_named(bundle: Path, cluster: Cluster) -> None:
    done = 0
    with pytest.raises(
        MachineError,
        match="workers die while they compute these rows: deadly, row 20 to 29; got 4 dead; see Ray's logs",
    ):
        for outputs in ray_engine(bundle, cluster.address).run(Task("decode", Inputs(DeadlyReader())), Chunks(40, 10)):
            done += len(outputs["image"])
    assert done == 20


@pytest.mark.usefixtures("own_cluster")
def test_drivers_that_all_die_are_an_error(bundle: Path) -> None:
    with pytest.raises(MachineError, match="Ray's driver died of SIGKILL: 4 times in a row; see Ray's logs; "):
        list(ray_engine(bundle, None).run(Task("decode", Inputs(DeadlyPickle())), Chunks(40, 10)))


@pytest.mark.usefixtures("own_cluster")
def test_killed_driver_of_a_local_cluster_changes_nothing(
    bundle: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A second cluster is started here, and goes on after the last shard of the first one."""
    home, messages = tmp_path / "home", tmp_path / "stderr"
    home.mkdir()
    with messages.open("w") as errors:
        process = start(*sample(bundle, home / "out", "--engine", "ray", "--actors", 1, "--json"), errors=errors)
        wait_until(lambda: staged_shards(home) > 0, process)
        kill_driver(process)
        wait_until(lambda: "Ray's driver died of SIGSEGV" in messages.read_text(), process)
        done = staged_shards(home)
        out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, messages.read_text()
    assert done < ROWS // SHARD_ROWS, "it was killed too late"
    assert json.loads(out)["engine"] == "ray"
    assert [path.name for path in home.iterdir()] == ["out"]
    assert tree(home / "out") == expected


@pytest.mark.usefixtures("own_cluster")
def test_ctrl_c_ends_a_cluster_that_was_started_here(bundle: Path, tmp_path: Path) -> None:
    """The second such cluster: the first one died with its driver."""
    home, messages = tmp_path / "home", tmp_path / "stderr"
    home.mkdir()
    with messages.open("w") as errors:
        process = start(*sample(bundle, home / "out", "--engine", "ray", "--actors", 1), errors=errors)
        wait_until(lambda: staged_shards(home) > 0, process)
        actors = actors_below(process.pid)
        kill_driver(process)
        wait_until(lambda: "Ray's driver died of SIGSEGV" in messages.read_text(), process)
        done = staged_shards(home)
        wait_until(lambda: staged_shards(home) > done, process)
        actors += actors_below(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130, messages.read_text()
    assert re.search(r"^vae-export: interrupted$", messages.read_text(), re.MULTILINE)
    assert list(home.iterdir()) == []
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in actors):
        assert time.monotonic() < deadline, "the cluster was left behind"
        time.sleep(0.1)


class UnluckyRay:
    """Starts as Ray does on a machine where other processes take the ports that it has found."""

    def __init__(self, failures: int) -> None:
        self.failures, self.starts = failures, 0

    def init(self, **_: object) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None: ...


def test_cluster_here_is_started_again_where_ray_fails() -> None:
    ray = UnluckyRay(failures=2)
    start_or_join(ray, None)
    assert ray.starts == 3


def test_cluster_that_never_starts_is_an_error_of_the_machine() -> None:
    ray = UnluckyRay(failures=10)
    with pytest.raises(MachineError, match="Ray cannot be started; got The current node timed out"):
        start_or_join(ray, None)
    assert ray.starts < 10


def test_missing_cluster_is_exit_code_6(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    outcome = invoke(*sample(bundle, tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:9"))
    assert outcome.code == 6
    assert "Ray cannot be reached: 127.0.0.1:9" in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.usefixtures("own_cluster")
def test_more_actors_than_cores_are_refused(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    outcome = invoke(*sample(bundle, tmp_path / "out", "--engine", "ray", "--actors", 5000))
    assert outcome.code == 6
    assert "cluster is too small; expected 5000 cores" in outcome.err.splitlines()[-1]


def test_more_actors_than_gpus_are_refused(bundle: Path, cluster: Cluster, tmp_path: Path, invoke: Invoke) -> None:
    gpu = (*on_cluster(cluster), "--provider", "CUDAExecutionProvider")
    outcome = invoke(*sample(bundle, tmp_path / "out", *gpu))
    assert outcome.code == 6
    assert "cluster is too small; expected 2 GPUs, got 0" in outcome.err.splitlines()[-1]


def test_pipeline_imports_no_ray() -> None:
    assert run_python("import vae_export.pipeline, sys; print('ray' in sys.modules)").stdout == "False\n"
